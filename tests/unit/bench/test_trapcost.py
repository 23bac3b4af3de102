"""The modelled trap cost: what is accepted, what it is built of, and the clear line when it cannot be built."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import pytest

from orchestrator.bench import trapcost
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError, UsageError


def qemu(path: Path, version: str) -> str:
    """Write a program that says it takes plugins, as QEMU does."""
    return program(path, f"printf 'QEMU emulator version {version}\\n-plugin [file=]<file>\\n'")


@pytest.fixture
def emulator(tmp_path: Path) -> str:
    """A QEMU of Debian 12's version."""
    return qemu(tmp_path / "qemu", "7.2.22")


def program(path: Path, script: str) -> str:
    """Write a shell program."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "cost_ns"), [("5.9us", 5900), (" 5.9 µs", 5900), ("250ns", 250), ("1ms", 1_000_000), ("10ms", 10_000_000)]
)
def test_costs(text: str, cost_ns: int) -> None:
    """A time with its unit."""
    assert trapcost.parse_cost(text) == cost_ns


@pytest.mark.parametrize("text", ["", "5.9", "us", "-1us", "0us", "0.1ns", "11ms", "1s", "5.9us x"])
def test_bad_costs(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(UsageError, match="5.9us"):
        trapcost.parse_cost(text)


@pytest.mark.parametrize(
    ("profile", "accel"),
    [("aarch64-bare", "tcg"), ("x86_64-ovmf", "tcg"), ("x86_64-seabios", "tcg"), ("aarch64-uefi", "kvm")],
)  # fmt: skip
def test_what_the_model_does_not_hold_for(profile: str, accel: str) -> None:
    """Other guests, and KVM, whose traps are real."""
    with pytest.raises(CapabilityError, match="cannot model"):
        trapcost.check_profile(load_profile(profile), accel)
    trapcost.check_profile(load_profile("aarch64-uefi"), "tcg")


def test_built_once_from_source(emulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin is compiled on first use, is a plugin to QEMU, and needs no compiler the next time."""
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler is installed")
    cache = tmp_path / "cache"
    plugin = trapcost.build(cache, emulator)
    library = ctypes.CDLL(str(plugin), mode=os.RTLD_LAZY)
    assert ctypes.c_int.in_dll(library, "qemu_plugin_version").value == 1
    assert library.qemu_plugin_install is not None
    assert [path.name for path in cache.iterdir()] == [plugin.name]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert trapcost.build(cache, emulator) == plugin


@pytest.mark.parametrize(
    ("version", "interface"), [("7.2.22", 1), ("8.2.2", 1), ("9.0.2", 2), ("9.1.0", 3), ("10.0.13", 3)]
)
def test_each_qemu_gets_the_interface_that_it_serves(tmp_path: Path, version: str, interface: int) -> None:
    """QEMU 9 and later refuse a plugin of the first interface; what was built for another QEMU is not taken."""
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler is installed")
    before = trapcost.build(tmp_path / "cache", qemu(tmp_path / "other", "7.2.22"))
    plugin = trapcost.build(tmp_path / "cache", qemu(tmp_path / "qemu", version))
    library = ctypes.CDLL(str(plugin), mode=os.RTLD_LAZY)
    assert ctypes.c_int.in_dll(library, "qemu_plugin_version").value == interface
    assert (plugin == before) is (interface == 1)


def test_no_compiler(emulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler the line says what to install."""
    monkeypatch.setenv("CC", "no-such-cc")
    with pytest.raises(CapabilityError, match=r"no C compiler 'no-such-cc'.*install gcc"):
        trapcost.build(tmp_path / "cache", emulator)


def test_compiler_that_fails(emulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first error is passed on, and nothing is left in the cache."""
    monkeypatch.setenv("CC", program(tmp_path / "cc", "echo 'x.c:1: error: no stdio.h' >&2; exit 1"))
    with pytest.raises(CapabilityError, match="no stdio.h"):
        trapcost.build(tmp_path / "cache", emulator)
    assert list((tmp_path / "cache").iterdir()) == []


def test_qemu_without_plugins(tmp_path: Path) -> None:
    """A QEMU that takes no plugins is named before anything is compiled."""
    with pytest.raises(CapabilityError, match="built without TCG plugins"):
        trapcost.build(tmp_path / "cache", program(tmp_path / "qemu", "echo usage"))
    assert not (tmp_path / "cache").exists()


def test_plugin_value(tmp_path: Path) -> None:
    """QEMU's option names file, cost and register; a comma in the path would end it."""
    assert trapcost.plugin_value(Path("/p.so"), 5900) == "/p.so,cost_ns=5900,base=0x9020000"
    with pytest.raises(UsageError, match="comma"):
        trapcost.plugin_value(tmp_path / "a,b.so", 5900)
