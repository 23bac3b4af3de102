"""The disk for cloud-init: a file system that others know as what it is, with what it was given."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from orchestrator.images.cidata import make_cidata

FILES = {
    "user-data": b"#cloud-config\n" * 1000,
    "meta-data": b"instance-id: 1\n",
    "vendor-data": b"",
    "thirteen-long": b"x",
}


def read(disk: bytes) -> dict[str, bytes]:
    """Return the files of a FAT16 file system by their long names, following its table."""
    sector, cluster, reserved, fats, entries, _, _, fat = struct.unpack_from("<HBHBHHBH", disk, 11)
    table = struct.unpack_from(f"<{fat * sector // 2}H", disk, reserved * sector)
    root = (reserved + fats * fat) * sector
    data = root + entries * 32
    found, name = {}, b""
    for at in range(root, data, 32):
        entry = disk[at : at + 32]
        if entry[11] == 0x0F:
            name = entry[1:11] + entry[14:26] + entry[28:32]
        elif entry[11] == 0x20:
            number, size = struct.unpack_from("<HI", entry, 26)
            content = []
            while number and number < 0xFFF8:
                begin = data + (number - 2) * cluster * sector
                content.append(disk[begin : begin + cluster * sector])
                number = table[number]
            found[name.decode("utf-16-le").partition("\0")[0]] = b"".join(content)[:size]
    return found


def test_a_disk(tmp_path: Path) -> None:
    """Its label and type are what blkid sees, and so cloud-init; each file is whole, under its name."""
    disk = make_cidata(FILES)
    path = tmp_path / "seed.img"
    path.write_bytes(disk)
    command = ["/sbin/blkid", "-p", "-o", "export", str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert {"LABEL=cidata", "TYPE=vfat", "VERSION=FAT16"} <= set(said)
    assert read(disk) == FILES


def test_what_is_too_much() -> None:
    """It is said, not cut off."""
    large = {"user-data": bytes(8 << 20)}
    assert read(make_cidata(large)) == large
    with pytest.raises(ValueError, match="at most 8 MiB"):
        make_cidata({"user-data": bytes((8 << 20) + 1)})
    with pytest.raises(ValueError, match="at most 13 letters"):
        make_cidata({"a-name-too-long": b""})
