"""The variables of UEFI firmware for Arm, as the firmware itself would write them (edk2: VariableFormat.h)."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from pathlib import Path

_GLOBALS = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_FILE_SYSTEM = uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
_AUTHENTICATED = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792")
_REGION = 0x40000  # of variables; two more follow, for its own transactions
_FLASH_BYTES = 64 << 20
_HEADER_BYTES = 0x48


def write_boot_entry(path: Path, number: int, entry: bytes) -> Path:
    """Write variables with one boot entry, the first in order."""
    return _write(path, {f"Boot{number:04X}": entry, "BootOrder": struct.pack("<H", number)})


def _write(path: Path, variables: Mapping[str, bytes]) -> Path:
    body = _AUTHENTICATED.bytes_le + struct.pack("<IBBHI", _REGION - _HEADER_BYTES, 0x5A, 0xFE, 0, 0)
    for name, data in variables.items():
        text = f"{name}\0".encode("utf-16-le")
        head = struct.pack("<HBBIQ16xIII", 0x55AA, 0x3F, 0, 7, 0, 0, len(text), len(data)) + _GLOBALS.bytes_le
        one = head + text + data
        body += one.ljust(-(-len(one) // 4) * 4, b"\xff")
    header = bytearray(16) + _FILE_SYSTEM.bytes_le
    header += struct.pack("<Q4sIHHHBB", 3 * _REGION, b"_FVH", 0x4FEFF, _HEADER_BYTES, 0, 0, 0, 2)
    header += struct.pack("<IIII", 3, _REGION, 0, 0)
    total = sum(struct.unpack(f"<{len(header) // 2}H", header)) & 0xFFFF
    header[50:52] = struct.pack("<H", (0x10000 - total) & 0xFFFF)
    with path.open("wb") as out:
        out.write((bytes(header) + body).ljust(3 * _REGION, b"\xff"))
        out.truncate(_FLASH_BYTES)
    return path
