"""Keeps what a guest says on its serial console in a file, of which it never becomes more than a given size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.errors import CapabilityError

MOST_BYTES = 64 << 20


class ConsoleFile:
    """A file of a console's bytes, unchanged; a context manager.

    When it holds half of what it may, it is put aside as FILE.1, in place of the one before, and begun anew: so the
    last half at least is always there, on disk, whatever becomes of us. A character device, as /dev/null, takes all.

    :param most_bytes: of both together.
    :raise CapabilityError: it cannot be written.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._half = path, most_bytes // 2
        self._size, self._broken, self._is_file = 0, False, True
        self._descriptor = self._open()

    @staticmethod
    def names(path: Path | None) -> list[tuple[str, Path]]:
        """Return the files that are written, with the option that names them; none for no path."""
        return [] if path is None else [("--console", path), ("--console", _aside(path))]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def _open(self) -> int:
        try:
            return self._opened()
        except OSError as error:
            raise CapabilityError("cannot write the console's file", self._path, error.strerror or error) from error

    def _opened(self) -> int:
        """Open it, and what was in it is gone; a pipe that nobody reads is not waited for.

        :raise OSError: it cannot be written, or is neither a file nor a character device.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        kind = os.fstat(descriptor).st_mode
        self._is_file = stat.S_ISREG(kind)
        if self._is_file:
            os.ftruncate(descriptor, 0)
        elif not stat.S_ISCHR(kind):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is neither a file nor a character device")
        os.set_blocking(descriptor, True)
        return descriptor

    def write(self, block: bytes) -> None:
        """Add what the guest said. A disk that is full takes nothing more, and fails no run."""
        try:
            while block and not self._broken:
                if self._is_file and self._size >= self._half:
                    self._turn()
                written = os.write(self._descriptor, block[: self._half - self._size] if self._is_file else block)
                self._size += written
                block = block[written:]
        except (OSError, CapabilityError):
            self._broken = True

    def _turn(self) -> None:
        self._path.replace(_aside(self._path))
        begun = self._open()
        os.close(self._descriptor)
        self._descriptor, self._size = begun, 0


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")
