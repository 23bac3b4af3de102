"""Remembers what was found out about files at some cost, such as their digest, for as long as they do not change.

A file is known as the kernel knows it, with the time of its last change, which no program can set back. What is
remembered is believed only where nobody else can have written it.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from orchestrator import files

_MOST = 100
_LONGEST_BYTES = 1 << 16


class Remembered:
    """One fact about each of the last files that it was found out of, kept in a file of our own.

    :param file: made, with its folder, when there is something to remember.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def of(self, status: os.stat_result) -> str | None:
        """Return what is known of the file with this status, None where nothing is, or it has changed since."""
        return self._load().get(_identity(status))

    def note(self, status: os.stat_result, fact: str) -> None:
        """Remember a fact; where that cannot be written down, it is to be found out again the next time."""
        known = self._load() | {_identity(status): fact}
        text = json.dumps(dict(list(known.items())[-_MOST:]))
        with contextlib.suppress(OSError):
            os.close(files.open_folder(self._file.parent, make=True))
            files.write_whole(self._file, text.encode())

    def _load(self) -> dict[str, str]:
        try:
            folder = files.open_folder(self._file.parent)
            try:
                descriptor = os.open(
                    self._file.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
                )
            finally:
                os.close(folder)
            with os.fdopen(descriptor, "rb") as file:
                if os.fstat(descriptor).st_uid != os.geteuid():
                    return {}
                read = json.loads(file.read(_LONGEST_BYTES))
        except (OSError, ValueError):
            return {}
        if not isinstance(read, dict):
            return {}
        return {str(key): value for key, value in read.items() if isinstance(value, str)}


def _identity(status: os.stat_result) -> str:
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
