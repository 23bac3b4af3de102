"""Trees, by what they say of themselves: their family, architecture, kernel, initrd and checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.domain.model import Arch
from orchestrator.errors import LocationError
from orchestrator.install.source import TreeFolder, checked, suite_of
from orchestrator.install.tree import Family, Tree, recognise

SUM = hashlib.sha256(b"x").hexdigest()
TREEINFO = f"""[general]
family = Fedora
version = 40
arch = aarch64
[images-aarch64]
kernel = images/pxeboot/vmlinuz
initrd = images/pxeboot/initrd.img
[checksums]
images/pxeboot/vmlinuz = sha256:{SUM}
images/pxeboot/initrd.img = sha256:{SUM}
images/install.img = md5:0123
"""
BOOT = "netboot/debian-installer"


def debian(arch: str) -> str:
    return "".join(f"{SUM}  ./{BOOT}/{arch}/{name}\n" for name in ("linux", "initrd.gz"))


def tree(folder: Path, files: Mapping[str, str], arch: Arch | None = None, where: str | None = None) -> Tree:
    """Return what a folder with these files is taken for."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return recognise(TreeFolder(folder, where or str(folder)), arch)


@pytest.mark.parametrize("name", [".treeinfo", "treeinfo"])
def test_treeinfo(tmp_path: Path, name: str) -> None:
    """It says everything; checksums that prove nothing are left out."""
    found = tree(tmp_path, {name: TREEINFO})
    assert (found.family, found.name, found.arch) == (Family.ANACONDA, "Fedora 40", Arch.AARCH64)
    assert (found.kernel, found.initrd) == ("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img")
    assert found.digests.keys() == {found.kernel, found.initrd}
    assert found.listed_in == name


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("arch = aarch64", "arch = s390x"), "it is for s390x"),
        (("arch = aarch64", ""), "does not say which architecture"),
        (("kernel = images/pxeboot/vmlinuz\n", ""), "names no kernel and initrd"),
        (("kernel = images", "kernel = ../images"), "the path leads out of it"),
        (("kernel = images", "kernel = /images"), "the path leads out of it"),
        (("[general]", "nonsense"), "cannot read"),
    ],
)
def test_treeinfo_of_no_use(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    """Each is refused, and says why."""
    with pytest.raises(LocationError, match=why):
        tree(tmp_path, {".treeinfo": TREEINFO.replace(*change)})


@pytest.mark.parametrize("top", ["", "current/images/"])
def test_debians_images(tmp_path: Path, top: str) -> None:
    """The list of checksums tells of them, in their folder and in that of an installer."""
    found = tree(tmp_path, {f"{top}SHA256SUMS": debian("arm64")})
    assert (found.family, found.arch, found.kernel) == (Family.DEBIAN, Arch.AARCH64, f"{top}{BOOT}/arm64/linux")
    assert found.digests[found.initrd].value == SUM


def test_a_suite_of_several_architectures(tmp_path: Path) -> None:
    """The user says which; it must be one of them."""
    lists = {f"main/installer-{name}/current/images/SHA256SUMS": debian(name) for name in ("arm64", "amd64")}
    where = "https://example.org/debian/dists/bookworm/"
    with pytest.raises(LocationError, match="for aarch64 and x86_64.*--arch"):
        tree(tmp_path, lists, where=where)
    found = tree(tmp_path, lists, Arch.X86_64, where)
    assert found.kernel == f"main/installer-amd64/current/images/{BOOT}/amd64/linux"
    one = tree(tmp_path, {}, where=f"{where}main/installer-arm64/current/images/netboot/")
    assert one.arch is Arch.AARCH64
    with pytest.raises(LocationError, match="for aarch64, and not for x86_64"):
        tree(tmp_path, {}, Arch.X86_64, f"{where}main/installer-arm64/")


@pytest.mark.parametrize(
    ("kernel", "initrd", "arch"),
    [
        ("install.a64/vmlinuz", "install.a64/initrd.gz", Arch.AARCH64),
        ("install.amd/vmlinuz", "install.amd/initrd.gz", Arch.X86_64),
        ("debian-installer/arm64/linux", "debian-installer/arm64/initrd.gz", Arch.AARCH64),
    ],
)
def test_debians_discs_and_packages(tmp_path: Path, kernel: str, initrd: str, arch: Arch) -> None:
    """They have no list: nothing speaks for their files."""
    found = tree(tmp_path, {kernel: "k", initrd: "i"})
    assert (found.family, found.arch, found.kernel, found.initrd) == (Family.DEBIAN, arch, kernel, initrd)
    assert not found.digests


def test_content_of_opensuse(tmp_path: Path) -> None:
    """Its sums name kernel and initrd, by architecture."""
    lines = [f"HASH SHA256 {SUM}  boot/aarch64/{name}" for name in ("linux", "initrd", "root")]
    found = tree(tmp_path, {"content": "\n".join(["LABEL openSUSE 15", *lines, ""])})
    assert (found.family, found.name, found.arch) == (Family.SUSE, "openSUSE 15", Arch.AARCH64)
    assert found.digests[found.kernel].value == SUM


@pytest.mark.parametrize(("name", "arch"), [("arm64", Arch.AARCH64), ("amd64", Arch.X86_64)])
def test_ubuntus_live_discs(tmp_path: Path, name: str, arch: Arch) -> None:
    """By what the disc says of itself; its checksums are none that prove anything."""
    info = f'Ubuntu-Server 24.04.1 LTS "Noble Numbat" - Release {name} (20240827)\n'
    found = tree(tmp_path, {".disk/info": info, "casper/vmlinuz": "k", "casper/initrd": "i", "md5sum.txt": ""})
    assert (found.family, found.arch, found.kernel) == (Family.UBUNTU, arch, "casper/vmlinuz")
    assert (found.name, found.digests) == ('Ubuntu-Server 24.04.1 LTS "Noble Numbat"', {})
    (tmp_path / ".disk/info").write_text("Ubuntu - Release riscv64 (1)")
    with pytest.raises(LocationError, match="no tree that is known"):
        tree(tmp_path, {})


def test_no_tree(tmp_path: Path) -> None:
    """What says nothing of itself is none."""
    with pytest.raises(LocationError, match="no tree that is known"):
        tree(tmp_path, {"vmlinuz": "k"})


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\nb"])
def test_paths_stay_in_their_tree(path: str) -> None:
    """What a tree names lies in it."""
    with pytest.raises(LocationError):
        checked(path)


def test_suites() -> None:
    """Where a location's suite begins, and which images it means."""
    found = suite_of("http://x/debian/dists/sid/main/installer-arm64/20230607/images/")
    assert found is not None
    assert (found.top, found.arch, found.version) == ("http://x/debian/dists/sid", "arm64", "20230607")
    assert suite_of("http://x/fedora/") is None
