"""Kernel and initrd of an installation: which are trusted, and for what they are taken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError, LocationError
from orchestrator.install import media
from orchestrator.install.digest import Verification, digest, read_sums
from orchestrator.install.request import InstallRequest
from orchestrator.install.source import TreeFolder
from orchestrator.launch.stop import Stop

ARM64 = bytes(0x38) + b"ARM\x64" + bytes(0x800)
INITRD = b"\x1f\x8b" + bytes(100)


@pytest.fixture
def stop() -> Iterator[Stop]:
    """A stop that nobody asks for."""
    with Stop() as one:
        yield one


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of Debian's installer, with their list of checksums."""
    boot = tmp_path / "images/netboot/debian-installer/arm64"
    boot.mkdir(parents=True)
    lines = []
    for name, content in (("linux", ARM64), ("initrd.gz", INITRD)):
        (boot / name).write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  ./netboot/debian-installer/arm64/{name}\n")
    (tmp_path / "images/SHA256SUMS").write_text("".join(lines))
    return tmp_path / "images"


def got(where: Path | str, stop: Stop, **more: object) -> media.Media:
    """Return the media at a location."""
    request = replace(InstallRequest(location=str(where), disks=(Path("/d"),)), **more)  # type: ignore[arg-type]
    return media.get_media(request, Path(where).parent / "cache", lambda _: None, stop)


def test_checksums_speak_for_files(images: Path, stop: Stop) -> None:
    """A file of another content is refused, be it told to verify or not."""
    found = got(images, stop)
    assert (found.verification, found.tree.arch) == (Verification.CHECKSUMS, Arch.AARCH64)
    assert found.kernel.read_bytes() == ARM64
    (images / "netboot/debian-installer/arm64/initrd.gz").write_bytes(INITRD + b"x")
    for verify in (True, False):
        with pytest.raises(LocationError, match=r"not what its tree says: netboot.*initrd\.gz"):
            got(images, stop, verify=verify)


def test_what_nothing_speaks_for(images: Path, stop: Stop) -> None:
    """It is refused unless the user says otherwise."""
    (images / "SHA256SUMS").unlink()
    with pytest.raises(LocationError, match="no checksums.*--unverified"):
        got(images, stop)
    assert got(images, stop, verify=False).verification is Verification.NONE


def test_checksums_that_came_unprotected(images: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    """By plain http, who changes a file changes its checksum, too."""
    monkeypatch.setattr(TreeFolder, "direct", False)
    with pytest.raises(LocationError, match="not signed"):
        got(images, stop)
    monkeypatch.setattr(media, "is_signed", lambda *_: True)
    assert got(images, stop).verification is Verification.SIGNATURE


def test_a_signature_that_is_asked_for(images: Path, stop: Stop) -> None:
    """By naming keys."""
    with pytest.raises(LocationError, match="no signature"):
        got(images, stop, keyrings=(Path("/k"),))


def test_a_package_speaks_for_its_files(images: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apt has checked it."""
    boot = images / "netboot"
    monkeypatch.setattr(media, "unpacked", lambda name, _: TreeFolder(boot, f"deb:{name}", vouched="p.deb"))
    assert got("deb:some", stop).verification is Verification.PACKAGE


def test_a_kernel_of_another_architecture(images: Path, stop: Stop) -> None:
    """A tree whose kernel is not what it says is none."""
    x86 = bytes(0x202) + b"HdrS" + bytes(0x800)
    (images / "netboot/debian-installer/arm64/linux").write_bytes(x86)
    (images / "SHA256SUMS").unlink()
    with pytest.raises(LocationError, match="its kernel is for x86_64, and by .* it is for aarch64"):
        got(images, stop, verify=False)


def test_files_that_the_user_names(tmp_path: Path, stop: Stop) -> None:
    """Their architecture is the kernel's own."""
    kernel, initrd = tmp_path / "k", tmp_path / "i"
    kernel.write_bytes(ARM64)
    initrd.write_bytes(INITRD)
    request = InstallRequest(files=(kernel, initrd), disks=(Path("/d"),))
    found = media.get_media(request, tmp_path, lambda _: None, stop)
    assert (found.tree.arch, found.verification) == (Arch.AARCH64, Verification.NAMED)
    with pytest.raises(LocationError, match="for aarch64, and not for x86_64"):
        media.get_media(replace(request, arch=Arch.X86_64), tmp_path, lambda _: None, stop)
    initrd.write_bytes(b"nonsense")
    with pytest.raises(ApplianceError, match="cannot use the initrd"):
        media.get_media(request, tmp_path, lambda _: None, stop)


@pytest.mark.parametrize("where", ["/nowhere", "ftp://example.org/", "deb:Bad Name"])
def test_locations_that_are_none(where: str, stop: Stop) -> None:
    """Each says why."""
    with pytest.raises(LocationError, match="cannot use the location"):
        media.get_media(InstallRequest(location=where, disks=(Path("/d"),)), Path("/nowhere"), lambda _: None, stop)


def test_which_checksums_prove_anything() -> None:
    """Whole ones, of which nobody can make two alike."""
    assert digest("sha256", "ab" * 32) is not None
    assert digest("SHA-512", "AB" * 64) is not None
    for algorithm, value in (("md5", "ab" * 16), ("sha256", "ab" * 31), ("sha256", "zz" * 32)):
        assert digest(algorithm, value) is None
    assert read_sums(f"{'ab' * 32} *./a b\nnonsense\n", "sha256").keys() == {"a b"}
