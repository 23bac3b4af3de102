"""The headers of QEMU's own images: qcow, qcow2 and QED; and of VDI, whose layout is as simple."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.images.header import NAME_BYTES, BadImageError, Header, Read, fields, name_of

_QCOW2_HEADER_BYTES = 64 * 1024
_BACKING_FORMAT, _DATA_FILE = 0xE2792ACA, 0x44415441
_HAS_DATA_FILE = 1 << 2
_QED_BACKING, _QED_BACKING_RAW = 1, 4
_VDI_DIFFERENCING = 4


def _name(read: Read, offset: int, length: int) -> str | None:
    """Return the name at a place of the image, None where there is none."""
    if offset == 0 or length == 0:
        return None
    if length > NAME_BYTES:
        raise BadImageError("a file name in its header is too long")
    data = read(offset, length)
    if len(data) < length:
        raise BadImageError("a file name in its header is cut off")
    return name_of(data.split(b"\0", 1)[0])


def qcow(read: Read, _size: int) -> Header:
    """Return the header of a qcow image, version 1."""
    data = read(0, 48)
    _magic, _version, offset, length, _mtime, size = fields(">4sIQIIQ", data)
    return Header(format="qcow", size=size, backing=_name(read, offset, length))


def qcow2(read: Read, _size: int) -> Header:
    """Return the header of a qcow2 image, version 2 or 3.

    :raise BadImageError: it is damaged.
    """
    data = read(0, _QCOW2_HEADER_BYTES)
    _magic, version, offset, length, cluster_bits, size = fields(">4sIQIIQ", data)
    if version not in {2, 3}:
        raise BadImageError(f"qcow2 version {version} is unknown")
    if not 9 <= cluster_bits <= 21:
        raise BadImageError("its cluster size is unsupported")
    features, header_length = 0, 72
    if version == 3:
        (features,) = fields(">Q", data, 72)
        (header_length,) = fields(">I", data, 100)
    end = min(offset or 1 << cluster_bits, len(data))
    extensions = _extensions(data, header_length, end)
    backing_format, named = extensions.get(_BACKING_FORMAT), extensions.get(_DATA_FILE)
    external = bool(features & _HAS_DATA_FILE)
    if external and named is None:
        raise BadImageError("its data is in another file, and it does not say in which")
    return Header(
        format="qcow2",
        size=size,
        backing=_name(read, offset, length),
        backing_format=None if backing_format is None else name_of(backing_format),
        data=name_of(named) if external and named is not None else None,
    )


def _extensions(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """Return the header extensions between two places, by type."""
    found: dict[int, bytes] = {}
    while start + 8 <= end:
        kind, length = fields(">II", data, start)
        if kind == 0:
            break
        if start + 8 + length > end:
            raise BadImageError("a header extension is too long")
        found[kind] = data[start + 8 : start + 8 + length]
        start += 8 + (length + 7) // 8 * 8
    return found


def qed(read: Read, _size: int) -> Header:
    """Return the header of a QED image."""
    data = read(0, 64)
    (features,) = fields("<Q", data, 16)
    size, offset, length = fields("<QII", data, 48)
    backing = _name(read, offset, length) if features & _QED_BACKING else None
    raw = bool(features & _QED_BACKING_RAW)
    return Header(format="qed", size=size, backing=backing, backing_format="raw" if raw and backing else None)


def vdi(read: Read, _size: int) -> Header:
    """Return the header of a VDI image."""
    data = read(0, 512)
    (kind,) = fields("<I", data, 0x4C)
    (size,) = fields("<Q", data, 0x170)
    parent = data[0x1B8:0x1C8]
    differs = kind == _VDI_DIFFERENCING or any(parent)
    return Header(format="vdi", size=size, parent=f"image {parent.hex()}" if differs else None)


READERS: Mapping[str, Callable[[Read, int], Header]] = {"qcow": qcow, "qcow2": qcow2, "qed": qed, "vdi": vdi}
