"""Which files an image is made of, as far as its headers say so plainly."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import pytest

from orchestrator.domain.model import Disk, FileSource, Handed, NetworkSource
from orchestrator.domain.passthrough import drive_option
from orchestrator.hypervisor.guest import Guest
from orchestrator.hypervisor.handing import chain_of, hand_over
from orchestrator.images.policy import ImagePolicyError, Policy, confine


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


def checked(path: Path) -> Disk:
    """Return a disk with an image that is not trusted, and was checked."""
    found = confine(str(path), "qcow2", "/", Policy(max_bytes=1 << 40))
    source = FileSource(path=str(path))
    return Disk(source=source, format="qcow2", graph=found.graph, identities=tuple(found.identities))


def test_an_image_that_was_checked(tmp_path: Path) -> None:
    """Its files are those of the check, whatever its headers say since; not all are known where QEMU finds some."""
    (tmp_path / "base").write_bytes(bytes(512))
    image = checked(qcow2(tmp_path / "top", "base", "raw"))
    qcow2(tmp_path / "top", "nbd://host/x")
    assert chain_of(image).files == (str(tmp_path / "top"), str(tmp_path / "base"))
    assert chain_of(image).obstacle is None
    file = {"driver": "file", "filename": "/b"}
    for below, why in (
        ({"driver": "vmdk", "file": file}, "/b: an image of format vmdk may refer to other files"),
        ({"driver": "qcow2", "file": file, "data-file": file}, "/b: its data are in another file"),
    ):
        graph = {"driver": "qcow2", "file": {"driver": "file", "filename": "/a"}, "backing": below}
        assert chain_of(Disk(source=FileSource(path="/a"), graph=json.dumps(graph))).obstacle == why


def test_a_file_that_was_exchanged_since_is_not_handed_over(tmp_path: Path) -> None:
    """QEMU is given what was checked, by its names; never another file that has such a name now."""
    (tmp_path / "base").write_bytes(bytes(512))
    image = checked(qcow2(tmp_path / "top", "base", "raw"))
    qmp = Mock(side_effect=[{"fdset-id": 0}, {"fdset-id": 1}, {"fdset-id": 2}])
    guest = cast("Guest", Mock(qmp=qmp))
    assert [file.name for file in hand_over(guest, image)] == ["/dev/fdset/0", "/dev/fdset/1"]
    (tmp_path / "base").rename(tmp_path / "old")
    (tmp_path / "secret").write_bytes(bytes(512))
    (tmp_path / "base").symlink_to("secret")
    with pytest.raises(ImagePolicyError, match="base: image policy untrusted: it was exchanged after it was checked"):
        hand_over(guest, image)
    assert qmp.call_count == 3  # no second file
