"""The version of the host's libguestfs: asked of the package manager, once for as long as nothing changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.appliance import version


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a package manager on PATH that says what is in a file, and notes that it was asked."""
    program = tmp_path / "dpkg-query"
    program.write_text(f"#!/bin/sh\necho asked >>{tmp_path}/asked\nread -r line <{tmp_path}/status; echo $line\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    monkeypatch.setattr(version, "_PACKAGES", str(tmp_path / "status"))
    version._ask.cache_clear()
    return tmp_path


def say(packages: Path, text: str) -> None:
    """Change the packages' state, as a package manager does: by a new file."""
    (packages / "new").write_text(f"{text}\n")
    (packages / "new").rename(packages / "status")
    os.utime(packages / "status", ns=(1, hash(text) & 0xFFFFFFFF))


def test_asked_once_for_a_state_of_the_system(packages: Path) -> None:
    """A second question is answered without starting anything, until a package changes."""
    say(packages, "installed 1.48.6")
    assert [version.host_version() for _ in range(3)] == ["1.48.6"] * 3
    say(packages, "installed 1.50.1")
    assert [version.host_version() for _ in range(2)] == ["1.50.1"] * 2
    assert (packages / "asked").read_text().split() == ["asked"] * 2


def test_not_installed(packages: Path) -> None:
    """A library that was removed, and no guestfish either: there is no version."""
    say(packages, "config-files 1.48.6")
    assert version.host_version() is None
