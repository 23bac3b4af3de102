"""The disk by which cloud-init's NoCloud source is told what to do: a FAT file system called cidata with a few files.

Written as it is laid down in Microsoft's "FAT: General Overview of On-Disk Format" (2000), as FAT16, with long names,
for no tool on the host is needed for that, and no guest.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

LABEL = b"cidata     "
_SECTOR, _RESERVED, _ROOT_ENTRIES, _END = 512, 1, 512, 0xFFFF
_SECTORS = 8192  # 4 MiB: enough clusters for FAT16, whose least number of them is 4085
_MOST = 8 << 20
_LONG, _VOLUME, _FILE = 0x0F, 0x08, 0x20
_LONG_LETTERS = 13


def make_cidata(files: Mapping[str, bytes]) -> bytes:
    """Return the disk.

    :param files: content by name; a name has at most 13 letters, all of them of ASCII.
    :raise ValueError: it is too much, or a name is too long.
    """
    total = sum(map(len, files.values()))
    if total > _MOST:
        raise ValueError(f"at most {_MOST >> 20} MiB")
    sectors = _SECTORS + 2 * -(-total // _SECTOR)
    fat_sectors = -(-(sectors + 2) * 2 // _SECTOR)
    table, entries, data = [0xFFF8, _END], _entry(LABEL, _VOLUME), b""
    for number, (name, content) in enumerate(files.items()):
        first, count = len(table), -(-len(content) // _SECTOR)
        table += [*range(first + 1, first + count), _END][:count]
        short = f"FILE{number}".encode().ljust(11)
        entries += _long_name(name, short) + _entry(short, _FILE, first if count else 0, len(content))
        data += content.ljust(count * _SECTOR, b"\0")
    boot = struct.pack(
        "<3s8sHBHBHHBHHHII", b"\xeb\x3c\x90", b"MSDOS5.0", _SECTOR, 1, _RESERVED, 1, _ROOT_ENTRIES,
        sectors, 0xF8, fat_sectors, 32, 64, 0, 0,
    )  # fmt: skip
    boot += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 1, LABEL, b"FAT16   ")
    fat = struct.pack(f"<{len(table)}H", *table).ljust(fat_sectors * _SECTOR, b"\0")
    root = entries.ljust(_ROOT_ENTRIES * 32, b"\0")
    return (boot.ljust(510, b"\0") + b"\x55\xaa" + fat + root + data).ljust(sectors * _SECTOR, b"\0")


def _entry(short: bytes, attributes: int, first: int = 0, size: int = 0) -> bytes:
    """Return an entry of the directory; its date is the first there is."""
    return struct.pack("<11sB10xHHHI", short, attributes, 0, 0x21, first, size)


def _long_name(name: str, short: bytes) -> bytes:
    """Return the entry that gives a name to the one behind it."""
    if not name.isascii() or not 0 < len(name) <= _LONG_LETTERS:
        raise ValueError(f"names of at most {_LONG_LETTERS} letters, not {name}")
    letters = name.encode("utf-16-le") + (b"\0\0" if len(name) < _LONG_LETTERS else b"")
    letters = letters.ljust(2 * _LONG_LETTERS, b"\xff")
    checksum = 0
    for byte in short:
        checksum = (((checksum & 1) << 7) + (checksum >> 1) + byte) & 0xFF
    first, second, third = letters[:10], letters[10:22], letters[22:]
    return struct.pack("<B10sBBB12sH4s", 0x41, first, _LONG, 0, checksum, second, 0, third)
