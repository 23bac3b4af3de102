"""QEMU is found on the path, and asked for its version once for each state of its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError
from orchestrator.hypervisor import emulator


def program(path: Path, script: str) -> str:
    """Write a shell program and return its path."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first QEMU of the arch on PATH is taken."""
    expected = program(tmp_path / "qemu-system-aarch64", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert emulator.find_emulator(Arch.AARCH64) == expected


def test_missing_emulator_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, the error says what to install; the native-only QEMU serves no foreign arch."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(emulator, "_BIN_DIRS", (str(tmp_path),))
    native = program(tmp_path / "qemu-kvm", "exit 0")
    monkeypatch.setattr(emulator, "_NATIVE_ONLY", native)
    assert emulator.find_emulator(Arch.X86_64, native=Arch.X86_64) == native
    with pytest.raises(CapabilityError, match="install qemu-system-arm"):
        emulator.find_emulator(Arch.AARCH64, native=Arch.X86_64)


def test_version_is_asked_once_for_each_state_of_the_file(tmp_path: Path) -> None:
    """A second question is answered without starting QEMU; a new QEMU is asked again."""
    path = tmp_path / "qemu"
    starts = tmp_path / "starts"
    program(path, f"echo x >> {starts}; echo 'QEMU emulator version 7.2.22 (Debian 1:7.2)'")
    assert [emulator.emulator_version(str(path)) for _ in range(3)] == ["7.2.22"] * 3
    assert starts.read_text() == "x\n"
    program(path, "echo 'QEMU emulator version 10.0.0'")
    assert emulator.emulator_version(str(path)) == "10.0.0"


@pytest.mark.parametrize("script", ["echo hello", "echo broken >&2; exit 3"])
def test_program_that_is_no_qemu(tmp_path: Path, script: str) -> None:
    """What does not answer as QEMU does is an error that names it."""
    path = program(tmp_path / "qemu", script)
    with pytest.raises(CapabilityError, match=path):
        emulator.emulator_version(path)


def test_missing_program(tmp_path: Path) -> None:
    """A program that is not there is an error that names it."""
    with pytest.raises(CapabilityError, match="No such file"):
        emulator.emulator_version(str(tmp_path / "none"))
