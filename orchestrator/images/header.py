"""What an image's header says, as values, and how to take its bytes apart safely."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from orchestrator.values import dataclass

# A name in a header is at most this long, as in QEMU.
NAME_BYTES = 1023
_QCOW = b"QFI\xfb"

Read = Callable[[int, int], bytes]


class BadImageError(ValueError):
    """A header that cannot be read; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an image says of itself. Names are as they stand there.

    :ivar format: QEMU's name of the format that the header claims; "raw" where it claims none.
    :ivar size: virtual size in bytes.
    :ivar backing: the file below this image; `backing_format` None where it is not recorded.
    :ivar data: the file that holds a qcow2 image's data.
    :ivar extents: the files that a VMDK descriptor is made of: whether one has a header of its own, and its name.
    :ivar parent: a parent that QEMU does not follow (VHD, VHDX, VDI).
    """

    format: str
    size: int
    backing: str | None = None
    backing_format: str | None = None
    data: str | None = None
    extents: tuple[tuple[bool, str], ...] = ()
    parent: str | None = None


def qcow_format(start: bytes) -> str | None:
    """Return "qcow2", or "qcow", its predecessor, when that is what an image's first eight bytes claim."""
    if not start.startswith(_QCOW):
        return None
    return "qcow" if start[4:8] == b"\0\0\0\1" else "qcow2"


def fields(layout: str, data: bytes, offset: int = 0) -> tuple[int, ...]:
    """Return the integers of a structure.

    :raise BadImageError: the data ends before it does.
    """
    try:
        return struct.unpack_from(layout, data, offset)
    except struct.error:
        raise BadImageError("its header is cut off") from None


def name_of(data: bytes) -> str:
    """Return a name as Python holds file names.

    :raise BadImageError: it is empty, too long, or holds a NUL.
    """
    if not data or len(data) > NAME_BYTES or b"\0" in data:
        raise BadImageError("a file name in its header is damaged")
    return os.fsdecode(data)
