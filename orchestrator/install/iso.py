"""Reads files out of an ISO 9660 image, by their Rock Ridge names or, without those, by ISO's own. Nothing is mounted.

After ECMA-119 (ISO 9660), and IEEE P1282 (Rock Ridge) for the `NM` entries of names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from orchestrator.errors import LocationError
from orchestrator.files import open_image

_SECTOR = 2048
_FIRST_DESCRIPTOR = 16
_PRIMARY, _LAST = 1, 255
_ROOT_AT, _FIXED_BYTES = 156, 33
_DIRECTORY, _MORE_FOLLOWS = 0x02, 0x80
_DIRECTORY_BYTES = 16 << 20  # of the largest that is read
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoEntry:
    """A file or folder: where its bytes are."""

    name: str
    at: int
    size: int
    is_folder: bool


class Iso:
    """An image that is open; a context manager.

    :raise LocationError: the file cannot be read, or is no ISO 9660 image.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: BinaryIO = os.fdopen(open_image(path), "rb")
        except OSError as error:
            raise LocationError("cannot open the image", path, error.strerror or error) from error
        try:
            self._root = self._find_root()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def find(self, path: str) -> IsoEntry | None:
        """Return what is at a path; None if there is nothing."""
        here: IsoEntry | None = self._root
        for part in path.strip("/").split("/"):
            if here is None or not here.is_folder:
                return None
            entries = list(self._entries(here))
            exact = (entry for entry in entries if entry.name == part)
            here = next(exact, None) or next((e for e in entries if e.name.lower() == part.lower()), None)
        return here

    def read(self, entry: IsoEntry) -> Iterator[bytes]:
        """Yield a file's bytes.

        :raise LocationError: the image ends before them.
        """
        self._file.seek(entry.at)
        left = entry.size
        while left:
            block = self._file.read(min(left, _BLOCK))
            if not block:
                raise LocationError("the image is cut off", self._path, f"in {entry.name}", "fetch it again")
            left -= len(block)
            yield block

    def _find_root(self) -> IsoEntry:
        for number in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + 64):
            self._file.seek(number * _SECTOR)
            sector = self._file.read(_SECTOR)
            if len(sector) < _SECTOR or sector[1:6] != b"CD001" or sector[0] == _LAST:
                break
            if sector[0] == _PRIMARY:
                return _entry(sector[_ROOT_AT : _ROOT_AT + 34])
        raise LocationError("cannot use the image", self._path, "it is no ISO 9660 image")

    def _entries(self, folder: IsoEntry) -> Iterator[IsoEntry]:
        if folder.size > _DIRECTORY_BYTES:
            raise LocationError("cannot use the image", self._path, f"folder {folder.name} has {folder.size} bytes")
        content = b"".join(self.read(folder))
        for begin in range(0, len(content), _SECTOR):  # no record crosses a sector's end
            at, sector = 0, content[begin : begin + _SECTOR]
            while at < len(sector) and (length := sector[at]) > _FIXED_BYTES:
                record = sector[at : at + length]
                at += length
                if len(record) == length and record[_FIXED_BYTES] not in {0, 1}:  # itself, and its parent
                    yield _entry(record)


def _entry(record: bytes) -> IsoEntry:
    extent, size = (int.from_bytes(record[at : at + 4], "little") for at in (2, 10))
    flags, length = record[25], record[32]
    if flags & _MORE_FOLLOWS:
        size = 0  # of several extents: larger than any kernel or initrd
    own = record[_FIXED_BYTES : _FIXED_BYTES + length].decode("ascii", "replace").split(";")[0].rstrip(".")
    after = _FIXED_BYTES + length + (length + 1) % 2
    name = _rock_ridge_name(record[after:]) or own
    return IsoEntry(name=name, at=extent * _SECTOR, size=size, is_folder=bool(flags & _DIRECTORY))


def _rock_ridge_name(area: bytes) -> str:
    """Return the name in a record's system use area; empty if it has none."""
    name, at = b"", 0
    while at + 4 <= len(area) and (length := area[at + 2]) >= 4:
        if area[at : at + 2] == b"NM":
            name += area[at + 5 : at + length]
        at += length
    return name.decode("utf-8", "replace")
