"""The version of the host's libguestfs: asked of the package manager, once for as long as nothing changes."""

from __future__ import annotations

import os
import subprocess
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
    monkeypatch.setattr(version, "library_package", lambda: "libguestfs0")
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


def test_dpkgs_answer_outlives_a_process(packages: Path, tmp_path: Path) -> None:
    """What dpkg did not say is asked again: a program's own version changes without it."""
    remembered = tmp_path / "cache" / "libguestfs.json"

    def asked_by_processes() -> list[str | None]:
        found = []
        for _ in range(2):
            version._ask.cache_clear()
            found.append(version.host_version(remembered))
        return found

    for text, count in (("installed 1.48.6", 1), ("installed 1.50.1", 2), ("config-files 1.50.1", 4)):
        say(packages, text)
        known = None if text.startswith("config") else text.split()[1]
        assert asked_by_processes() == [known] * 2
        assert len((packages / "asked").read_text().split()) == count
    guestfish = packages / "guestfish"
    guestfish.write_text("#!/bin/sh\necho guestfish 1.52.0\n")
    guestfish.chmod(0o755)
    assert asked_by_processes() == ["1.52.0"] * 2
    assert len((packages / "asked").read_text().split()) == 6


def test_not_installed(packages: Path) -> None:
    """A library that was removed, and no guestfish either: there is no version."""
    say(packages, "config-files 1.48.6")
    assert version.host_version() is None


@pytest.mark.parametrize("name", ["libguestfs0", "libguestfs0t64"])
def test_library_is_found_by_its_soname(name: str, tmp_path: Path) -> None:
    """The package with libguestfs.so.0 is the library's, whatever it is called; its plug-ins are not."""
    (tmp_path / "libguestfs-gobject-1.0-0:amd64.shlibs").write_text("libguestfs-gobject-1.0 0 other\n")
    assert version.library_package(str(tmp_path)) is None
    (tmp_path / f"{name}:amd64.shlibs").write_text(f"libguestfs 0 {name} (>= 1:1.54.1)\n")
    assert version.library_package(str(tmp_path)) == name


def test_library_of_this_host() -> None:
    """What dpkg notes of sonames agrees with its lists of files."""
    if not Path("/var/lib/dpkg").is_dir():
        pytest.skip("no dpkg here")
    owner = subprocess.run(
        ["dpkg-query", "--search", "*/libguestfs.so.0"], capture_output=True, text=True, check=False
    ).stdout.partition(":")[0]
    assert version.library_package() == (owner or None)
