"""The forms in which distributions pack a kernel, and the plain image out of each.

A kernel packed by gzip cannot be started by firmware or QEMU; one in a zboot image unpacks itself in the guest, slowly
where that is emulated; a unified kernel image brings an initrd and a command line that are not ours. So each is
unpacked on the host, once. Sources: Linux's drivers/firmware/efi/libstub/zboot-header.S, the UAPI group's
specification of unified kernel images, Microsoft's of PE.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from orchestrator import files
from orchestrator.errors import ApplianceError

_HEAD = 0x1000
_LARGEST = 1 << 30
_SECTION = struct.Struct("<8sIIII")
_SECTION_SIZE, _SECTIONS_MAX = 40, 96
_KEPT = "kernel-"
_KEPT_UNUSED_S = 30 * 86400
_NESTED_MAX = 4  # a unified image with a zboot image in it, at most, has been seen


class KernelFormError(ValueError):
    """A kernel's file is damaged; says how."""


class Form(StrEnum):
    """What a kernel's file is."""

    PLAIN = "plain"  # arm64 Image, x86 bzImage, vmlinux, or what is left to others to judge
    GZIP = "gzip"
    ZBOOT = "zboot"
    UNIFIED = "unified kernel image"


def form(data: bytes) -> Form:
    """Return the form of a kernel by its first 4 KiB."""
    if data.startswith(b"\x1f\x8b"):
        return Form.GZIP
    if data[0x38:0x3C] == b"ARM\x64" or data[0x202:0x206] == b"HdrS":
        return Form.PLAIN
    if not data.startswith(b"MZ") or len(data) < 0x40:
        return Form.PLAIN
    if data[4:8] == b"zimg":
        return Form.ZBOOT
    return Form.UNIFIED if any(name == b".linux" for name, _, _ in _sections(data)) else Form.PLAIN


def form_of(path: Path) -> Form:
    """Return the form of a kernel's file.

    :raise ApplianceError: it cannot be read.
    """
    try:
        with os.fdopen(files.open_image(path), "rb") as file:
            return form(file.read(_HEAD))
    except OSError as error:
        raise ApplianceError("cannot read the kernel", path, error.strerror or error) from error


def _sections(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, offset and size of each section of a PE image; none where it is no such image."""
    (begin,) = struct.unpack_from("<I", data, 0x3C)
    if data[begin : begin + 4] != b"PE\0\0" or len(data) < begin + 24:
        return
    count, optional = struct.unpack_from("<H", data, begin + 6)[0], struct.unpack_from("<H", data, begin + 20)[0]
    table = begin + 24 + optional
    for at in range(table, table + min(count, _SECTIONS_MAX) * _SECTION_SIZE, _SECTION_SIZE):
        if at + _SECTION.size > len(data):
            return
        name, size, _, stored, offset = _SECTION.unpack_from(data, at)
        # The stored size is rounded up; the other one is in memory, and may have more that is zero.
        yield name.rstrip(b"\0"), offset, min(size, stored)


def plain_image(data: bytes) -> bytes:
    """Return the plain image in a kernel of any form.

    :raise ValueError: it is damaged, or packed in a way that is not known.
    """
    from orchestrator.appliance.compression import unpacked  # here: few kernels are packed

    for _ in range(_NESTED_MAX):
        match form(data[:_HEAD]):
            case Form.PLAIN:
                return data
            case Form.GZIP:
                data = unpacked(data)
            case Form.ZBOOT:
                data = _from_zboot(data)
            case Form.UNIFIED:
                data = _section(data, b".linux")
    raise KernelFormError(f"packed more than {_NESTED_MAX} times")


def _from_zboot(data: bytes) -> bytes:
    offset, size = struct.unpack_from("<II", data, 8)
    kind = data[24:56].split(b"\0")[0].decode("ascii", "replace")
    payload = data[offset : offset + size]
    if not size or len(payload) < size:
        raise KernelFormError("truncated: its packed image is not all there")
    from orchestrator.appliance.compression import CompressionError, unpacked  # here: few kernels are packed

    try:
        return unpacked(payload)
    except CompressionError as error:
        raise KernelFormError(f"{error} (it says {kind})") from error


def _section(data: bytes, wanted: bytes) -> bytes:
    offset, size = next((offset, size) for name, offset, size in _sections(data[:_HEAD]) if name == wanted)
    found = data[offset : offset + size]
    if not size or len(found) < size:
        raise KernelFormError(f"truncated: its section {wanted.decode()} is not all there")
    return found


def unified_section(path: Path, wanted: bytes) -> bytes:
    """Return a section of a unified kernel image's file, `.initrd` or `.cmdline`; nothing where it has none.

    :raise ApplianceError: it cannot be read, or the section is cut off.
    """
    try:
        with os.fdopen(files.open_image(path), "rb") as file:
            data = file.read(_LARGEST)
        if not any(name == wanted for name, _, _ in _sections(data[:_HEAD])):
            return b""
        return _section(data, wanted)
    except OSError as error:
        raise ApplianceError("cannot read the kernel", path, error.strerror or error) from error
    except ValueError as error:
        raise ApplianceError("cannot unpack the kernel", path, error) from error


def read_plain(path: Path) -> bytes | None:
    """Return the plain image out of a kernel's file; None where the file is one already, which is told by its head.

    :raise ApplianceError: it cannot be read or unpacked.
    """
    try:
        with os.fdopen(files.open_image(path), "rb") as file:
            if form(file.read(_HEAD)) is Form.PLAIN:
                return None
            if os.fstat(file.fileno()).st_size > _LARGEST:
                raise KernelFormError(f"it has more than {_LARGEST} bytes")
            file.seek(0)
            return plain_image(file.read())
    except OSError as error:
        raise ApplianceError("cannot read the kernel", path, error.strerror or error) from error
    except ValueError as error:
        raise ApplianceError("cannot unpack the kernel", path, error) from error


def plain_kernel(path: Path, cache: Path) -> Path:
    """Return a file with the plain image of a kernel: itself, or one in `cache`, unpacked once.

    :raise ApplianceError: it cannot be read or unpacked, or there is no room for it.
    """
    try:
        status = path.stat()
        key = f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
        kept = cache / f"{_KEPT}{key}"
        if _used(kept):
            return kept
        image = read_plain(path)
        if image is None:
            return path
        cache.mkdir(parents=True, exist_ok=True)
        _forget_unused(cache)
        files.write_whole(kept, image)
    except OSError as error:
        raise ApplianceError("cannot unpack the kernel", path, error.strerror or error) from error
    return kept


def _used(kept: Path) -> bool:
    """Tell whether a kept image is there, and note on it that it was used now, whatever its file system notes."""
    try:
        os.utime(kept, ns=(time.time_ns(), kept.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _forget_unused(cache: Path) -> None:
    """Remove the images that no launch has used for long: their kernels have gone, or are used no more."""
    for kept in cache.glob(f"{_KEPT}*"):
        with contextlib.suppress(OSError):
            if kept.stat().st_atime < time.time() - _KEPT_UNUSED_S:
                kept.unlink()
