"""Unpacks an x86 kernel on the host: takes the ELF image out of a bzImage, so that no guest has to unpack it.

An emulated guest takes seconds for that at each start, the host less than one, once; QEMU can start such an image
(2026-11-24).
See Linux's Documentation/arch/x86/boot.rst for the header; PVH is the name of the way in.
"""

from __future__ import annotations

import struct
from pathlib import Path

from orchestrator.errors import ApplianceError

_SETUP_SECTORS, _VERSION, _PAYLOAD_OFFSET, _PAYLOAD_LENGTH = 0x1F1, 0x206, 0x248, 0x24C
_SECTOR = 512
_WITH_PAYLOAD = 0x208  # the first version of the boot protocol that says where the payload is
_PROGRAM_HEADERS, _HEADER_SIZE, _HEADER_COUNT = 0x20, 0x36, 0x38
_PT_NOTE = 4
_PHYS32_ENTRY = 18  # Xen's note with the address at which such an image is entered


def unpack_kernel(path: Path) -> bytes:
    """Return the ELF image in a bzImage.

    :raise ApplianceError: it is no bzImage, or packed in a way that is not known.
    """
    from orchestrator.appliance.compression import CompressionError, unpacked  # here: no launch unpacks one

    data = path.read_bytes()
    if data[0x202:0x206] != b"HdrS" or struct.unpack_from("<H", data, _VERSION)[0] < _WITH_PAYLOAD:
        raise ApplianceError("cannot unpack the kernel", path, "not a bzImage that says where its payload is")
    begin = (data[_SETUP_SECTORS] + 1) * _SECTOR + struct.unpack_from("<I", data, _PAYLOAD_OFFSET)[0]
    payload = data[begin : begin + struct.unpack_from("<I", data, _PAYLOAD_LENGTH)[0]]
    try:
        image = unpacked(payload)
    except CompressionError as error:
        raise ApplianceError("cannot unpack the kernel", path, error) from error
    if not image.startswith(b"\x7fELF"):
        raise ApplianceError("cannot unpack the kernel", path, "what is in it is no ELF image")
    return image


def startable(image: bytes) -> bool:
    """Tell whether an x86_64 ELF image can be started as it is: has PVH's entry in its notes."""
    (table,) = struct.unpack_from("<Q", image, _PROGRAM_HEADERS)
    (size,) = struct.unpack_from("<H", image, _HEADER_SIZE)
    (count,) = struct.unpack_from("<H", image, _HEADER_COUNT)
    for header in range(table, table + size * count, size):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", image, header)
        if kind == _PT_NOTE and _has_entry(image[offset : offset + length]):
            return True
    return False


def _has_entry(notes: bytes) -> bool:
    at = 0
    while at + 12 <= len(notes):
        name, value, kind = struct.unpack_from("<III", notes, at)
        if kind == _PHYS32_ENTRY and notes[at + 12 : at + 12 + name].rstrip(b"\0") == b"Xen":
            return True
        at += 12 + (name + 3) // 4 * 4 + (value + 3) // 4 * 4
    return False
