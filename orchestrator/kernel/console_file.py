"""Keeps what a guest says on its serial console in a file, of which it never becomes more than a given size."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.errors import CapabilityError

MOST_BYTES = 64 << 20


class ConsoleFile:
    """A file of a console's bytes, unchanged; a context manager.

    When it holds half of what it may, it is put aside as FILE.1, in place of the one before, and begun anew: so the
    last half at least is always there, on disk, whatever becomes of us.

    :param most_bytes: of both together.
    :raise CapabilityError: it cannot be written.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._half = path, most_bytes // 2
        self._size, self._broken = 0, False
        self._descriptor = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CapabilityError("cannot write the console's file", self._path, error.strerror or error) from error

    def write(self, block: bytes) -> None:
        """Add what the guest said. A disk that is full takes nothing more, and fails no run."""
        try:
            while block and not self._broken:
                if self._size >= self._half:
                    self._turn()
                written = os.write(self._descriptor, block[: self._half - self._size])
                self._size += written
                block = block[written:]
        except (OSError, CapabilityError):
            self._broken = True

    def _turn(self) -> None:
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        begun = self._open()
        os.close(self._descriptor)
        self._descriptor, self._size = begun, 0
