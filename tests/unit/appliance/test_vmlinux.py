"""Unpacking an x86 kernel: every compression, whatever follows the data, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.appliance.vmlinux import startable, unpack_kernel
from orchestrator.errors import ApplianceError

SETUP_SECTORS = 3


def elf(note: int = 18, name: bytes = b"Xen\0") -> bytes:
    """Return the start of an x86_64 ELF image with a segment of notes: one of somebody else's, then the one given."""
    other = struct.pack("<III", 4, 5, 1) + b"GNU\0" + b"12345\0\0\0"
    notes = other + struct.pack("<III", len(name), 4, note) + name.ljust(-(-len(name) // 4) * 4, b"\0") + bytes(4)
    header = bytearray(64 + 56)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<H", header, 0x12, 62)
    struct.pack_into("<Q", header, 0x20, 64)
    struct.pack_into("<HH", header, 0x36, 56, 1)
    struct.pack_into("<IIQQQQ", header, 64, 4, 4, len(header), 0, 0, len(notes))
    return bytes(header) + notes + bytes(5000)


def bzimage(payload: bytes, *, version: int = 0x20F) -> bytes:
    """Return a bzImage around a payload: setup sectors, some code, the payload, and its size as the linker adds it."""
    setup = bytearray(512 * (SETUP_SECTORS + 1))
    setup[0x1F1] = SETUP_SECTORS
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, 100, len(payload) + 4)
    return bytes(setup) + bytes(100) + payload + struct.pack("<I", 12345) + b"more code"


def by_program(*command: str) -> Callable[[bytes], bytes]:
    return lambda data: subprocess.run(command, input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    "pack",
    [
        lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
        lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
        gzip.compress,
        bz2.compress,
        by_program("zstd", "-cq"),
        by_program("lz4", "-lcq"),
    ],
    ids=["xz", "lzma", "gzip", "bzip2", "zstd", "lz4"],
)
def test_every_compression(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """What was packed comes out, byte for byte."""
    (tmp_path / "kernel").write_bytes(bzimage(pack(elf())))
    assert unpack_kernel(tmp_path / "kernel") == elf()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"MZ" + bytes(4096), "not a bzImage"),
        (bzimage(gzip.compress(elf()), version=0x207), "not a bzImage that says where"),
        (bzimage(b"LZO!" + bytes(100)), "unknown compression: 4c5a4f21"),
        (bzimage(gzip.compress(b"no kernel")), "no ELF image"),
        (bzimage(lzma.compress(elf())[:60] + bytes(100)), "[Cc]orrupt"),
        (bzimage(b"\x28\xb5\x2f\xfd" + bytes(100)), "damaged"),
    ],
    ids=["no bzImage", "old protocol", "unknown", "no ELF", "damaged", "damaged zstd"],
)
def test_refused(data: bytes, why: str, tmp_path: Path) -> None:
    """What is no packed kernel is named, with the reason."""
    (tmp_path / "kernel").write_bytes(data)
    with pytest.raises(ApplianceError, match=rf"cannot unpack the kernel: {tmp_path}/kernel: .*{why}"):
        unpack_kernel(tmp_path / "kernel")


def test_startable() -> None:
    """Only an image that says where QEMU is to enter it can be started as it is."""
    assert startable(elf())
    assert not startable(elf(note=17))
    assert not startable(elf(name=b"GNU\0"))
