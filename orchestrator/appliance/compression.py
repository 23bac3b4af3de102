"""Unpacks what kernels are packed in, on the host: the formats that Linux's build knows, told by their first bytes."""

from __future__ import annotations

import bz2
import lzma
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.appliance.command import require

LARGEST = 1 << 30  # a kernel's image is smaller than this
_LZ4_LEGACY = b"\x02\x21\x4c\x18"


class CompressionError(ValueError):
    """Data cannot be unpacked; says why."""


def _whole(begin: Callable[[], Any]) -> Callable[[bytes], bytes]:
    """Return what unpacks by a module of Python's, and takes nothing that has no end."""

    def unpack(data: bytes) -> bytes:
        stream = begin()
        image: bytes = stream.decompress(data, LARGEST + 1)
        if not stream.eof and len(image) <= LARGEST:
            raise CompressionError("truncated: what is packed in it is not all there")
        return image

    return unpack


def _filtered(*command: str) -> Callable[[bytes], bytes]:
    """Return what unpacks by a program of the host; what follows the data is no error."""

    def unpack(data: bytes) -> bytes:
        program = [require(command[0], command[0], what="cannot unpack a kernel"), *command[1:]]
        with tempfile.TemporaryFile() as packed:
            packed.write(data)
            packed.seek(0)
            with subprocess.Popen(program, stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                assert process.stdout is not None
                try:
                    return process.stdout.read(LARGEST + 1)
                finally:
                    process.kill()

    return unpack


def _lz4_blocks(data: bytes) -> bytes:
    """Return a legacy LZ4 stream without what follows its last block.

    The kernel's build appends the image's size. lz4 1.10 and later, which write in a thread of their own, stop at such
    bytes before all is written that they have unpacked.
    """
    end = len(_LZ4_LEGACY)
    while end + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, end)
        if size > len(data) - end - 4:
            break
        end += 4 + size
    return data[:end]


_UNPACK: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"\xfd7zXZ\x00": _whole(lzma.LZMADecompressor),
    b"]\x00\x00": _whole(lzma.LZMADecompressor),
    b"\x1f\x8b": _whole(lambda: zlib.decompressobj(wbits=31)),
    b"BZh": _whole(bz2.BZ2Decompressor),
    b"\x28\xb5\x2f\xfd": _filtered("zstd", "-dcq"),
    _LZ4_LEGACY: lambda data: _filtered("lz4", "-dcq")(_lz4_blocks(data)),
}


def unpacked(data: bytes) -> bytes:
    """Return what is packed in data; bytes that follow it do no harm.

    :raise CompressionError: the format is not known, the data are damaged, or there is too much of it.
    :raise CapabilityError: the host lacks the program for it.
    """
    unpack = next((how for magic, how in _UNPACK.items() if data.startswith(magic)), None)
    if unpack is None:
        raise CompressionError(f"unknown compression: {data[:4].hex()}")
    try:
        image = unpack(data)
    except (lzma.LZMAError, zlib.error, OSError) as error:
        raise CompressionError(str(error)) from error
    if not image:
        raise CompressionError("what is packed in it is damaged")
    if len(image) > LARGEST:
        raise CompressionError(f"it unpacks to more than {LARGEST} bytes")
    return image
