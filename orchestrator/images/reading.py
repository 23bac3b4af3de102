"""The header of a disk image, read without QEMU: its format, its virtual size, and the files that it names.

Reading is total and bounded: whatever the bytes are, the answer is a header or `BadImageError`, and at most about a
megabyte of an image is read. Layouts are those that QEMU's block drivers read (docs/interop/qcow2.txt, qed_spec.txt,
block/{qcow,vdi,vhdx,vpc,vmdk}.c). What a name means is in `names`.
"""

from __future__ import annotations

import os

from orchestrator.images import native
from orchestrator.images.header import BadImageError, Header, Read, qcow_format

_PROBE_BYTES = 2048
_VDI_SIGNATURE = 0xBEDA107F
_FOREIGN = frozenset({"vpc", "vhdx", "vmdk"})


def read_header(descriptor: int, image_format: str | None = None) -> Header:
    """Return the header of an open image.

    :param image_format: what it is to be read as; None for what it claims to be.
    :raise BadImageError: it is none of that format, or damaged.
    :raise OSError: it cannot be read.
    """
    size = os.lseek(descriptor, 0, os.SEEK_END)

    def read(offset: int, length: int) -> bytes:
        if not 0 <= offset < 1 << 62:
            return b""
        return os.pread(descriptor, length, offset)

    return parse_header(read, size, image_format)


def parse_header(read: Read, size: int, image_format: str | None = None) -> Header:
    """Return the header of an image of `size` bytes whose bytes `read(offset, length)` returns; see `read_header`."""
    if image_format == "raw":
        return Header(format="raw", size=size)
    claimed = claimed_format(read(0, _PROBE_BYTES), read, size)
    if image_format not in {None, claimed}:
        raise BadImageError(f"its header is no {image_format} header")
    readers = native.READERS
    if claimed in _FOREIGN:
        from orchestrator.images import foreign  # here: few disks are another hypervisor's

        readers = foreign.READERS
    reader = readers.get(claimed)
    return reader(read, size) if reader is not None else Header(format=claimed, size=size)


def claimed_format(start: bytes, read: Read, size: int) -> str:
    """Return the format that an image's first bytes claim, by the marks that QEMU probes for; "raw" for none.

    Marks at the end of the file (VHD's footer, DMG's trailer) count as well.
    """
    qcow = qcow_format(start)
    if qcow is not None:
        return qcow
    marks = (
        (b"QED\0", "qed"),
        (b"KDMV", "vmdk"),
        (b"COWD", "vmdk"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vpc"),
        (b"LUKS\xba\xbe", "luks"),
        (b"WithoutFreeSpace", "parallels"),
        (b"WithouFreSpacExt", "parallels"),
        (b"Bochs Virtual HD Image", "bochs"),
        (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
    )
    for mark, name in marks:
        if start.startswith(mark):
            return name
    if start[64:68] == _VDI_SIGNATURE.to_bytes(4, "little"):
        return "vdi"
    if _is_descriptor(start):
        return "vmdk"
    tail = read(size - 512, 512) if size >= 512 else b""
    if tail.startswith(b"koly"):
        return "dmg"
    return "vpc" if tail.startswith(b"conectix") else "raw"


def _is_descriptor(start: bytes) -> bool:
    """Whether a text is a VMDK descriptor: comments and blank lines, then its version."""
    for line in start.split(b"\n"):
        word = line.strip()
        if not word or word.startswith(b"#"):
            continue
        return word.startswith(b"version=")
    return False
