"""The headers of VMware's and Microsoft's images: VMDK with its descriptor, VHD (QEMU's vpc), VHDX."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from orchestrator.images.header import BadImageError, Header, Read, fields, name_of

_SECTOR = 512
# QEMU reads this much of a descriptor, and looks for a parent in this much of an image with a descriptor inside.
_DESCRIPTOR_BYTES = (1 << 20) - 1
_PARENT_BYTES = 20 * _SECTOR
# All that a line of a descriptor may be. QEMU reads extents by sscanf from the start of each line, with signs and
# across line ends, and skips what does not match: no reader as lenient would see the same as it does.
_EXTENT = re.compile(
    rb'RW[ \t]+(\d{1,19})[ \t]+(FLAT|SPARSE|VMFS|VMFSSPARSE|SESPARSE)[ \t]+"([^\n\r"]{1,511})"'
    rb"(?:[ \t]+\d{1,19})?[ \t\r]*"
)
_NO_EXTENT = re.compile(rb"(?:#[^\n]*|[A-Za-z][\w.]*[ \t]*=[^\n]*|[ \t\r]*)")
_HINT = b"parentFileNameHint"
_MAX_EXTENTS = 64

_VHD_DIFFERENCING = 4
_VHDX_REGIONS = 192 * 1024
_VHDX_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_VHDX_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_VHDX_FILE = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_VHDX_HAS_PARENT = 2
_VHDX_MAX_ENTRIES = 2047


def vmdk(read: Read, _size: int) -> Header:
    """Return the header of a VMDK image: one file, or a descriptor that names others.

    :raise BadImageError: it is damaged.
    """
    start = read(0, 512)
    if start.startswith(b"COWD"):
        (sectors,) = fields("<I", start, 12)
        return Header(format="vmdk", size=sectors * _SECTOR, backing=_parent(read(_SECTOR, _PARENT_BYTES)))
    if not start.startswith(b"KDMV"):
        return _descriptor(read(0, _DESCRIPTOR_BYTES))
    (sectors,) = fields("<Q", start, 12)
    (offset,) = fields("<Q", start, 28)
    if sectors == 0 and offset:
        found = _descriptor(read(offset * _SECTOR, _DESCRIPTOR_BYTES))
        # QEMU looks for the parent here all the same.
        return replace(found, backing=_parent(read(_SECTOR, _PARENT_BYTES)))
    return Header(format="vmdk", size=sectors * _SECTOR, backing=_parent(read(_SECTOR, _PARENT_BYTES)))


def _descriptor(text: bytes) -> Header:
    text = text.split(b"\0", 1)[0]
    size, extents = 0, []
    for number, line in enumerate(text.split(b"\n"), start=1):
        found = _EXTENT.fullmatch(line)
        if found is not None:
            size += int(found[1]) * _SECTOR
            extents.append((b"SPARSE" in found[2], name_of(found[3])))
        elif _NO_EXTENT.fullmatch(line) is None:
            raise BadImageError(f"line {number} of its descriptor is not understood")
    if not extents:
        raise BadImageError("its descriptor names no extent")
    if len(extents) > _MAX_EXTENTS:
        raise BadImageError(f"its descriptor names more than {_MAX_EXTENTS} extents")
    return Header(format="vmdk", size=size, extents=tuple(extents), backing=_parent(text[:_PARENT_BYTES]))


def _parent(text: bytes) -> str | None:
    """Return the parent that a descriptor names, as QEMU finds it: by the word alone, wherever it stands."""
    _, found, rest = text.split(b"\0", 1)[0].partition(_HINT)
    if not found:
        return None
    name, end, _ = rest[2:].partition(b'"')
    if not end:
        raise BadImageError("its descriptor's parent is damaged")
    return name_of(name) if name else None


def vpc(read: Read, size: int) -> Header:
    """Return the header of a VHD: its footer, which images that grow repeat at their start.

    :raise BadImageError: it is damaged.
    """
    footer = read(0, 512)
    if not footer.startswith(b"conectix"):
        footer = read(max(0, size - 512), 512)
    (offset,) = fields(">Q", footer, 16)
    (current,) = fields(">Q", footer, 48)
    (kind,) = fields(">I", footer, 60)
    parent = None
    if kind == _VHD_DIFFERENCING:
        named = read(offset, 1024)[64:576].decode("utf-16-be", "replace").split("\0", 1)[0]
        parent = named or "a file"
    return Header(format="vpc", size=current, parent=parent)


def vhdx(read: Read, _size: int) -> Header:
    """Return the header of a VHDX: two entries of its metadata.

    :raise BadImageError: it is damaged.
    """
    regions = read(_VHDX_REGIONS, 64 * 1024)
    if not regions.startswith(b"regi"):
        raise BadImageError("its region table is damaged")
    (count,) = fields("<I", regions, 8)
    metadata = None
    for i in range(min(count, _VHDX_MAX_ENTRIES)):
        entry = 16 + i * 32
        if regions[entry : entry + 16] == _VHDX_METADATA:
            (metadata,) = fields("<Q", regions, entry + 16)
    if metadata is None:
        raise BadImageError("its region table names no metadata")
    table = read(metadata, 64 * 1024)
    if not table.startswith(b"metadata"):
        raise BadImageError("its metadata is damaged")
    (entries,) = fields("<H", table, 10)
    size = flags = None
    for i in range(min(entries, _VHDX_MAX_ENTRIES)):
        entry = 32 + i * 32
        kind = table[entry : entry + 16]
        if kind in {_VHDX_SIZE, _VHDX_FILE}:
            (offset,) = fields("<I", table, entry + 16)
            item = read(metadata + offset, 8)
            if kind == _VHDX_SIZE:
                (size,) = fields("<Q", item)
            else:
                _block, flags = fields("<II", item)
    if size is None or flags is None:
        raise BadImageError("its metadata gives no size")
    return Header(format="vhdx", size=size, parent="a file" if flags & _VHDX_HAS_PARENT else None)


READERS: Mapping[str, Callable[[Read, int], Header]] = {"vpc": vpc, "vhdx": vhdx, "vmdk": vmdk}
