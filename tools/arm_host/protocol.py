"""What the two ends of the virtio-serial port say to each other: frames of a kind, a length and so many bytes.

The agent in the emulated host has a copy of this file, so it is standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

_HEADER = struct.Struct(">BI")
LONGEST = 1 << 20
# Of the command's input, so much is on its way and not yet taken: what a command does not read stays with its sender.
WINDOW = 1 << 18


class Kind(IntEnum):
    """What a frame holds. The first five go to the agent, the others come from it."""

    START = 1  # JSON: argv, environ, cwd, clock_s, seed, terminal
    INPUT = 2
    INPUT_END = 3
    SIGNAL = 4  # its number in decimal
    SIZE = 5  # of the terminal: JSON, rows and columns
    READY = 16
    OUTPUT = 17
    ERRORS = 18
    TAKEN = 19  # so many bytes of input, in decimal
    EXIT = 20  # status in decimal; negative for the signal that ended the command


def frame(kind: Kind, data: bytes = b"") -> bytes:
    """Return a frame as it is sent."""
    return _HEADER.pack(kind, len(data)) + data


class Frames:
    """Cuts what comes into frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """Yield the frames that are whole with these bytes.

        :raise ValueError: this is no frame.
        """
        self._held += data
        while len(self._held) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._held)
            if length > LONGEST:
                raise ValueError(f"a frame of {length} bytes")
            end = _HEADER.size + length
            if len(self._held) < end:
                return
            body = bytes(self._held[_HEADER.size : end])
            del self._held[:end]
            yield Kind(kind), body
