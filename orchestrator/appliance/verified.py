"""Remembers which files had their digest: a copied appliance looks touched at each launch, and is read whole only once.

What is remembered is the file as the kernel knows it, with the time of its last change, which no program can set back.
It is believed only where nobody else can have written it.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from orchestrator import files

NAME = "verified.json"
_MOST = 100
_LONGEST_BYTES = 1 << 16


class Verified:
    """What was verified, kept in a file below a folder of ours.

    :param folder: made when there is something to remember.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME

    def knows(self, status: os.stat_result, digest: str) -> bool:
        """Tell whether a file with this status once had this digest, and is unchanged since."""
        return self._load().get(_identity(status)) == digest

    def note(self, status: os.stat_result, digest: str) -> None:
        """Remember it; where that cannot be written down, it is verified again the next time."""
        known = self._load() | {_identity(status): digest}
        text = json.dumps(dict(list(known.items())[-_MOST:]))
        with contextlib.suppress(OSError):
            os.close(files.open_folder(self._file.parent, make=True))
            files.write_whole(self._file, text.encode())

    def _load(self) -> dict[str, str]:
        try:
            folder = files.open_folder(self._file.parent)
            try:
                descriptor = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
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
