"""What an image is: its format and size by its header, and by an appliance what firmware could start from it.

A format is never guessed: raw is what has a partition table and no other mark, or what the user says; an image that
names other files is believed only if its format is given. An architecture is read of the EFI programs that are there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError, DiskError
from orchestrator.images.header import BadImageError, Header, Read
from orchestrator.images.reading import parse_header
from orchestrator.remembered import Remembered

LOOK = Path(__file__).with_name("inspect_loaders.py")
BACKING_FORMATS = ("raw", "qcow2")
_PURPOSE = "cannot use the image"
_REMOVABLE = {Arch.AARCH64: "/efi/boot/bootaa64.efi", Arch.X86_64: "/efi/boot/bootx64.efi"}
_SECTOR = 512
_ESP_TYPES = {0xEE, 0xEF}  # of a GPT's protective table, and of an EFI system partition


@dataclass(frozen=True, slots=True, kw_only=True)
class VmImage:
    """An image that a VM can be made of. Sizes are in bytes; `size` is the virtual one.

    :ivar here: it is a file of this host's that can be read, so that an appliance can look into it.
    """

    path: Path
    format: str
    size: int
    here: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaders:
    """What firmware could start from an image: each EFI program's path and architecture."""

    partitions: int
    programs: Mapping[str, str]


def read_image(path: Path, image_format: str | None, *, copied: bool) -> VmImage:
    """Return what an image's header says.

    :param copied: a copy is made of it, so that it may be of any format that QEMU reads.
    :raise DiskError: it cannot be read, is damaged, or its format cannot be told.
    """
    try:
        descriptor = files.open_image(path)
        try:
            size = os.lseek(descriptor, 0, os.SEEK_END)
            header = told_header(path, _reading(descriptor), size, image_format, copied=copied)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DiskError(_PURPOSE, path, error.strerror or error) from error
    return VmImage(path=path, format=header.format, size=header.size)


def _reading(descriptor: int) -> Read:
    """Return what reads a file's bytes, wherever it is asked to."""

    def read(offset: int, length: int) -> bytes:
        return os.pread(descriptor, length, offset) if 0 <= offset < 1 << 62 else b""

    return read


def told_header(subject: Path | str, read: Read, size: int, image_format: str | None, *, copied: bool) -> Header:
    """Return the header of an image of `size` bytes as it is stored, which `read(offset, length)` returns.

    :raise DiskError: as `read_image`.
    """
    try:
        header = parse_header(read, size, image_format)
    except BadImageError as error:
        raise DiskError(_PURPOSE, subject, error) from error
    if image_format is None:
        _check_told(subject, header, read(0, 2 * _SECTOR) if header.format == "raw" else b"")
    if header.format not in BACKING_FORMATS and not copied:
        raise DiskError(_PURPOSE, subject, f"no overlay goes over {header.format}", "--copy makes a copy")
    return header


def _check_told(path: Path | str, header: Header, start: bytes) -> None:
    """Refuse what a header alone cannot decide.

    :raise DiskError: the user has to give the format.
    """
    if header.format == "raw" and not _has_partitions(start):
        why = "nothing in it tells its format: it has no header, and no partition table"
        raise DiskError(_PURPOSE, path, why, "--image-format says it")
    named = [header.backing, header.data, header.parent, *(name for _, name in header.extents)]
    for name in filter(None, named):
        why = f"its header names another file, {name}"
        raise DiskError(_PURPOSE, path, why, f"--image-format {header.format} says that this is meant")


def _has_partitions(start: bytes) -> bool:
    """Tell whether a disk begins as one with a GPT, or with an EFI system partition in an MBR."""
    if start[_SECTOR : _SECTOR + 8] == b"EFI PART":
        return True
    types = {start[offset] for offset in range(450, 514, 16) if offset < len(start)}
    return start[510:512] == b"\x55\xaa" and not _ESP_TYPES.isdisjoint(types)


def read_loaders(image: VmImage, state_dir: Path, look: Callable[[Path, Path, str], Any]) -> Loaders:
    """Return what firmware could start, which is looked up once and remembered until the image changes.

    :param look: runs a file's `run(g)` on an image of a format, in an appliance.
    :raise GuestlaunchError: the appliance cannot read it.
    """
    known = Remembered(state_dir / "cache" / "loaders.json")
    status = image.path.stat()
    text = known.of(status)
    if text is None:
        text = json.dumps(look(LOOK, image.path, image.format))
        known.note(status, text)
    found = json.loads(text)
    return Loaders(partitions=int(found["partitions"]), programs=dict(found["programs"]))


def architecture(path: Path, loaders: Loaders, wanted: Arch | None, *, by_entry: bool) -> Arch:
    """Return which architecture's firmware can boot an image.

    :param wanted: what the user asks for, which has to be there.
    :param by_entry: the firmware's variables come with it, and may name any program.
    :raise DiskError: there is no UEFI loader.
    :raise CapabilityError: it is for another architecture, or for several.
    """
    removable = {arch for arch, name in _REMOVABLE.items() if name in map(str.lower, loaders.programs)}
    others = sorted(set(loaders.programs.values()))
    bootable = removable or ({arch for arch in Arch if arch in others} if by_entry else set())
    if wanted is not None and wanted in bootable:
        return wanted
    if wanted is not None and (bootable or others):
        there = ", ".join(sorted(bootable) or others)
        hint = "leave --profile out, and the image decides" if bootable else ""
        raise CapabilityError(_PURPOSE, path, f"its UEFI loader is for {there}, and not for {wanted}", hint)
    if len(bootable) > 1:
        raise CapabilityError(_PURPOSE, path, f"it boots on {' and '.join(sorted(bootable))}", "--arch chooses")
    if bootable:
        return bootable.pop()
    raise _without_loader(path, loaders, others)


def _without_loader(path: Path, loaders: Loaders, others: list[str]) -> DiskError:
    if not loaders.partitions:
        return DiskError(_PURPOSE, path, "it has no UEFI loader: no EFI system partition")
    if not loaders.programs:
        return DiskError(_PURPOSE, path, "it has no UEFI loader: its EFI system partition holds no EFI program")
    why = f"it has no UEFI loader at the place where firmware looks, \\EFI\\BOOT; programs for {', '.join(others)}"
    return DiskError(_PURPOSE, path, why, "--nvram gives the variables that name one")
