"""dpkg's database of packages that were unpacked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.appliance.version import library_package
from orchestrator.errors import ApplianceError
from tools.arm_host.registry import info_name, installed, register

CONTROL = """Package: {name}
Version: 1.2-3
Architecture: {arch}
Maintainer: Nobody <nobody@example.org>
Description: nothing
"""


def package(folder: Path, name: str, arch: str, extra: str = "", **files: str) -> Path:
    """Build a package with its control files and one file with an odd name."""
    tree = folder / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/lib").mkdir(parents=True)
    (tree / f"usr/lib/.{name} é").write_text("")
    (tree / "DEBIAN/control").write_text(CONTROL.format(name=name, arch=arch) + extra)
    for file, text in files.items():
        (tree / "DEBIAN" / file).write_text(text)
        (tree / "DEBIAN" / file).chmod(0o755)
    out = folder / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, out], check=True, capture_output=True)
    return out


def test_dpkg_finds_what_was_unpacked(tmp_path: Path) -> None:
    """Its queries answer, the library's package is found as launches look for it, and no script can be run."""
    root = tmp_path / "root"
    ours = package(tmp_path, "libguestfs0", "arm64", "Multi-Arch: same\n", shlibs="libguestfs 0 libguestfs0\n")
    other = package(tmp_path, "tool", "all", postinst="#!/bin/sh\n")
    register([ours, other], root)
    query = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show", "--showformat=${db:Status-Status} ${Version}\n"]
    done = subprocess.run([*query, "libguestfs0:arm64", "tool"], capture_output=True, text=True, check=True)
    assert done.stdout == "installed 1.2-3\n" * 2
    files = subprocess.run([*query[:2], "--listfiles", "tool"], capture_output=True, text=True, check=True)
    assert files.stdout.splitlines() == ["/.", "/usr", "/usr/lib", "/usr/lib/.tool é"]
    info = root / "var/lib/dpkg/info"
    assert library_package(str(info)) == "libguestfs0"
    assert not list(info.glob("*.postinst"))


@pytest.mark.parametrize(
    ("extra", "name"), [("", "p"), ("Multi-Arch: same\n", "p:arm64"), ("Multi-Arch: foreign\n", "p")]
)
def test_files_of_a_package_of_several_archs_name_theirs(extra: str, name: str) -> None:
    """As dpkg does it."""
    assert info_name(CONTROL.format(name="p", arch="arm64") + extra) == name


def test_the_status_stands_behind_the_name() -> None:
    """A paragraph ends with an empty line between it and the next."""
    assert installed("Package: p\nVersion: 1\n") == "Package: p\nStatus: install ok installed\nVersion: 1\n"


@pytest.mark.parametrize("kept", [100, -20])
def test_a_damaged_package_is_named(tmp_path: Path, kept: int) -> None:
    """Whatever of it is there."""
    whole = package(tmp_path, "tool", "all")
    whole.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(ApplianceError, match=r"cannot read a package: tool\.deb: damaged"):
        register([whole], tmp_path / "root")
