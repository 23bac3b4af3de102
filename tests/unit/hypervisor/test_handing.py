"""Which files an image is made of, as far as its headers say so plainly."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from orchestrator.domain.model import Disk, FileSource, Handed, NetworkSource
from orchestrator.domain.passthrough import drive_option
from orchestrator.hypervisor.handing import chain_of


def qcow2(path: Path, backing: str | None = None, backing_format: str | None = None, *, incompatible: int = 0) -> Path:
    """Write the header of a qcow2 image (version 3)."""
    extension = b""
    if backing_format is not None:
        name = backing_format.encode()
        extension = struct.pack(">II", 0xE2792ACA, len(name)) + name.ljust((len(name) + 7) // 8 * 8, b"\0")
    extension += bytes(8)
    name = (backing or "").encode()
    offset = 104 + len(extension) if backing else 0
    head = b"QFI\xfb" + struct.pack(">IQII", 3, offset, len(name), 16)
    head = head.ljust(72, b"\0") + struct.pack(">Q", incompatible)
    path.write_bytes(head.ljust(100, b"\0") + struct.pack(">I", 104) + extension + name)
    return path


def disk(path: Path, image_format: str | None) -> Disk:
    """Return a disk with that image."""
    return Disk(source=FileSource(path=str(path)), format=image_format)


@pytest.mark.parametrize("image_format", ["raw", "vdi", "luks"])
def test_images_of_one_file(tmp_path: Path, image_format: str) -> None:
    """Formats that refer to nothing: whatever is in them."""
    file = qcow2(tmp_path / "a", "/etc/passwd")
    assert chain_of(disk(file, image_format)).files == (str(file),)


@pytest.mark.parametrize("image_format", ["qcow2", None])
def test_a_chain(tmp_path: Path, image_format: str | None) -> None:
    """Names are relative to the image that holds them; a format that is said is believed, another is looked for."""
    (tmp_path / "sub").mkdir()
    base = tmp_path / "sub" / "base"
    base.write_bytes(b"QFI\xfb, but it is said to be raw")
    middle = qcow2(tmp_path / "sub" / "middle", "base", "raw")
    top = qcow2(tmp_path / "top", "sub/middle")
    assert chain_of(disk(top, image_format)).files == (str(top), str(middle), str(base))


@pytest.mark.parametrize(
    "backing", ["nbd://host/x", "json:{}", "file:base", "https://host/x", "x:y"], ids=lambda name: name.split(":")[0]
)
def test_backing_files_that_are_no_paths(tmp_path: Path, backing: str) -> None:
    """They may be anywhere."""
    chain = chain_of(disk(qcow2(tmp_path / "top", backing), "qcow2"))
    assert "not named by a path alone" in str(chain.obstacle)


@pytest.mark.parametrize("head", [b"KDMV", b"# Disk DescriptorFile\nversion=1\n", b"QED\0", b"QFI\xfb\0\0\0\1"])
def test_images_of_other_formats(tmp_path: Path, head: bytes) -> None:
    """Formats that refer to other files in ways that are not looked into, said or found."""
    file = tmp_path / "a"
    file.write_bytes(head.ljust(600, b"\0"))
    for said in (None, "vmdk"):
        assert str(file) in str(chain_of(disk(file, said)).obstacle)


def test_other_obstacles(tmp_path: Path) -> None:
    """Data in another file, a chain without end, a header that is cut, the network."""
    data = chain_of(disk(qcow2(tmp_path / "a", incompatible=4), "qcow2"))
    loop = chain_of(disk(qcow2(tmp_path / "b", "b"), "qcow2"))
    (tmp_path / "c").write_bytes(b"QFI\xfb\0\0\0\3")
    cut = chain_of(disk(tmp_path / "c", "qcow2"))
    away = chain_of(Disk(source=NetworkSource(driver="nbd", options=())))
    reasons = [str(chain.obstacle) for chain in (data, loop, cut, away)]
    for reason, part in zip(reasons, ("another file", "too long", "cut", "over the network"), strict=True):
        assert part in reason


def test_what_cannot_be_read_is_no_obstacle(tmp_path: Path) -> None:
    """It is an error, and who opens the file reports it."""
    assert chain_of(disk(tmp_path / "none", None)).obstacle is None


def test_a_handed_chain_to_qemu() -> None:
    """QEMU is told each file of the chain, and opens one that is written to at once for that."""
    handed = (Handed(path="/a", name="/dev/fdset/0"), Handed(path="/dev/b", name="/dev/fdset/1", block_device=True))
    given = Disk(source=FileSource(path="/a"), format="qcow2", shared_read=True)
    assert drive_option(given, 0, handed) == (
        "id=drive0,if=none,file.driver=file,file.filename=/dev/fdset/0,backing.file.driver=host_device,"
        "backing.file.filename=/dev/fdset/1,format=qcow2,backing.file.locking=off,file.auto-read-only=off"
    )
