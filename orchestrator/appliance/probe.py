"""Looks at the first bytes of kernels, initrds and roots: kind, arch, UUID. Cheap enough for every launch."""

from __future__ import annotations

import contextlib
import os
import struct
import uuid
import zlib
from pathlib import Path

from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError
from orchestrator.files import open_image

_HEAD = 0x700  # reaches past the ext superblock's UUID and the kernel headers
_PE_MACHINES = {0xAA64: Arch.AARCH64, 0x8664: Arch.X86_64}
_ELF_X86_64 = (62).to_bytes(2, "little")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"]\x00\x00": "lzma",
    b"\x89LZO": "lzo",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def _head(path: Path, what: str) -> bytes:
    """Return the start of a file.

    :raise ApplianceError: it cannot be read, is not a regular file, or is empty.
    """
    try:
        with os.fdopen(open_image(path), "rb") as file:
            data = file.read(_HEAD)
    except OSError as error:
        raise ApplianceError(f"cannot read the {what}", path, error.strerror or error) from error
    if not data:
        raise ApplianceError(f"cannot use the {what}", path, "the file is empty")
    return data


def kernel_arch(path: Path) -> Arch:
    """Return the arch that a kernel image is for.

    Knows arm64 `Image`, x86 `bzImage` and `vmlinux`, EFI images (zboot, unified kernel images) of both, and gzip.

    :raise ApplianceError: unreadable, empty, or not a Linux kernel of an arch we know.
    """
    data = _head(path, "kernel")
    if data.startswith(b"\x1f\x8b"):
        data = _beginning(data)
    if data[0x38:0x3C] == b"ARM\x64":
        return Arch.AARCH64
    if data[0x202:0x206] == b"HdrS":
        return Arch.X86_64
    if data[:6] == b"\x7fELF\x02\x01" and data[0x12:0x14] == _ELF_X86_64:  # an unpacked one
        return Arch.X86_64
    if data[:2] == b"MZ" and len(data) > 0x40:
        offset = int.from_bytes(data[0x3C:0x40], "little")
        if data[offset : offset + 4] == b"PE\0\0":
            machine = int.from_bytes(data[offset + 4 : offset + 6], "little")
            if machine in _PE_MACHINES:
                return _PE_MACHINES[machine]
    raise ApplianceError("cannot use the kernel", path, "not an aarch64 or x86_64 Linux kernel")


def _beginning(packed: bytes) -> bytes:
    """Return as much as there is in the beginning of a gzip file."""
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(wbits=31).decompress(packed, _HEAD)
    return b""


def require_kernel_arch(path: Path, arch: Arch) -> None:
    """Check that a kernel is for `arch`.

    :raise ApplianceError: it is for another: says both.
    """
    found = kernel_arch(path)
    if found is not arch:
        raise ApplianceError(
            "cannot use the kernel",
            path,
            f"{found} kernel on {arch}",
            f"give an {arch} kernel, or a profile for {found}",
        )


def _cpio_ends(path: Path) -> bool:
    """Say whether the end of an uncompressed cpio archive is there. Padding may follow it."""
    with os.fdopen(open_image(path), "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8192))
        return b"TRAILER!!!" in file.read()


def check_initrd(path: Path) -> str:
    """Return the initrd's kind: cpio, gzip, xz, zstd, ...

    :raise ApplianceError: unreadable, empty, no initrd, or visibly cut off.
    """
    data = _head(path, "initrd")
    if data[:6] in {b"070701", b"070702"}:
        # An early microcode archive may be followed by a compressed one: then the end says nothing.
        if not _cpio_ends(path) and not data[110:].startswith((b"kernel", b"early", b".\0")):
            raise ApplianceError("cannot use the initrd", path, "truncated: the archive has no end", "make it again")
        return "cpio"
    for magic, kind in _COMPRESSED.items():
        if data.startswith(magic):
            return kind
    raise ApplianceError("cannot use the initrd", path, "not a cpio archive, compressed or not")


def root_format(path: Path) -> tuple[str, str | None]:
    """Return the format of a root image (raw, qcow2) and the UUID of its ext file system.

    The UUID is None for qcow2: it cannot be read without unpacking.

    :raise ApplianceError: unreadable, empty, or neither.
    """
    from orchestrator.images.header import qcow_format  # here: tools that a daemon serves need none of it

    data = _head(path, "root")
    if qcow_format(data) == "qcow2":
        return "qcow2", None
    if len(data) >= 0x478 and struct.unpack_from("<H", data, 0x438)[0] == 0xEF53:
        return "raw", str(uuid.UUID(bytes=data[0x468:0x478]))
    raise ApplianceError("cannot use the root", path, "neither an ext file system nor qcow2")
