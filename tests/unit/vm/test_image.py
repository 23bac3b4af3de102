"""What an image is: its format is told or refused, never guessed; its architecture is that of its loaders."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError, DiskError
from orchestrator.vm.image import Loaders, VmImage, architecture, read_image, read_loaders

PATH = Path("/images/one.img")
BOTH = {"/EFI/BOOT/BOOTAA64.EFI": "aarch64", "/EFI/BOOT/BOOTX64.EFI": "x86_64"}


def gpt() -> bytes:
    """Return the beginning of a disk with a GPT."""
    return bytes(512) + b"EFI PART" + bytes(4096)


def mbr(kind: int) -> bytes:
    """Return the beginning of a disk with one partition of a kind."""
    return bytes(450) + bytes([kind]) + bytes(59) + b"\x55\xaa" + bytes(4096)


def qcow2(backing: bytes = b"") -> bytes:
    """Return a qcow2 header."""
    offset = 200 if backing else 0
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, offset, len(backing), 16, 1 << 30).ljust(100, b"\0")
    return (head + struct.pack(">I", 104)).ljust(200, b"\0") + backing + bytes(400)


@pytest.mark.parametrize(
    ("content", "expected"), [(gpt(), "raw"), (mbr(0xEF), "raw"), (mbr(0xEE), "raw"), (qcow2(), "qcow2")]
)
def test_formats_that_are_certain(tmp_path: Path, content: bytes, expected: str) -> None:
    """A partition table, or a header."""
    path = tmp_path / "image"
    path.write_bytes(content)
    assert read_image(path, None, copied=False).format == expected


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (bytes(4096), "nothing in it tells its format"),
        (mbr(0x83), "nothing in it tells its format"),
        (qcow2(b"/etc/shadow"), "its header names another file, /etc/shadow"),
        (b"QFI\xfb" + bytes(3), "cut off"),
    ],
)
def test_formats_that_are_not(tmp_path: Path, content: bytes, why: str) -> None:
    """The user has to say it; what names other files is believed only then."""
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(DiskError, match=why):
        read_image(path, None, copied=False)


def test_a_format_that_is_given(tmp_path: Path) -> None:
    """It counts, whatever the header says; one that lies is refused."""
    path = tmp_path / "image"
    path.write_bytes(qcow2(b"/images/base"))
    assert read_image(path, "raw", copied=False) == VmImage(path=path, format="raw", size=path.stat().st_size)
    assert read_image(path, "qcow2", copied=False).size == 1 << 30
    path.write_bytes(bytes(4096))
    with pytest.raises(DiskError, match="no qcow2 header"):
        read_image(path, "qcow2", copied=False)
    with pytest.raises(DiskError, match="No such file"):
        read_image(tmp_path / "gone", None, copied=False)


def test_loaders_are_remembered(tmp_path: Path) -> None:
    """An appliance looks once, until the image changes."""
    path, looks = tmp_path / "image", []
    path.write_bytes(gpt())

    def look(script: Path, of: Path, image_format: str) -> object:
        looks.append((script.name, of, image_format))
        return json.loads('{"partitions": 1, "programs": {"/EFI/BOOT/BOOTAA64.EFI": "aarch64"}}')

    image = VmImage(path=path, format="raw", size=1)
    for _ in range(2):
        assert read_loaders(image, tmp_path / "state", look).partitions == 1
    assert looks == [("inspect_loaders.py", path, "raw")]


def loaders(*names: str, others: tuple[str, ...] = ()) -> Loaders:
    """Return what is on a disk: loaders where firmware looks, and other programs."""
    found = {name: arch for name, arch in BOTH.items() if arch in names}
    return Loaders(partitions=1, programs=found | {f"/linux{number}": arch for number, arch in enumerate(others)})


def test_architectures() -> None:
    """Of the loaders where firmware looks; of any program where the variables name one; or what is wanted."""
    assert architecture(PATH, loaders("aarch64"), None, by_entry=False) is Arch.AARCH64
    assert architecture(PATH, loaders("x86_64", others=("aarch64",)), None, by_entry=True) is Arch.X86_64
    assert architecture(PATH, loaders(others=("aarch64",)), None, by_entry=True) is Arch.AARCH64
    assert architecture(PATH, loaders("aarch64", "x86_64"), Arch.X86_64, by_entry=False) is Arch.X86_64


@pytest.mark.parametrize(
    ("found", "wanted", "why"),
    [
        (loaders("x86_64"), Arch.AARCH64, "its UEFI loader is for x86_64, and not for aarch64"),
        (loaders(others=("riscv64",)), Arch.AARCH64, "for riscv64, and not for aarch64"),
        (loaders("aarch64", "x86_64"), None, "it boots on aarch64 and x86_64"),
        (Loaders(partitions=0, programs={}), None, "no EFI system partition"),
        (Loaders(partitions=1, programs={}), None, "holds no EFI program"),
        (loaders(others=("aarch64",)), None, "at the place where firmware looks"),
    ],
)
def test_images_that_do_not_boot(found: Loaders, wanted: Arch | None, why: str) -> None:
    """Each says what is there instead."""
    with pytest.raises((CapabilityError, DiskError), match=why):
        architecture(PATH, found, wanted, by_entry=False)
