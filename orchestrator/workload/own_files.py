"""Files that guestlaunch writes where other programs keep theirs, recognised by their first line.

What they say is not known here. Nothing is read or written through a symbolic link, or where others could put one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator import files
from orchestrator.errors import GuestlaunchError, UsageError

MARK = "# Written by guestlaunch enable; guestlaunch disable takes it away."
_LARGEST = 1 << 20


class Deed(StrEnum):
    """What became of a file."""

    WRITTEN = "written"
    LINE_ADDED = "a line added"
    OPENED = "opened for others to pass through"
    UNCHANGED = "as it was"
    REMOVED = "removed"
    LINE_REMOVED = "our line removed"
    CLOSED = "closed to others again"
    SKIPPED = "left alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One file or folder, what became of it, and why if that is not obvious."""

    path: Path
    deed: Deed
    why: str = ""


class NotOursError(UsageError):
    """There is a file that guestlaunch did not write."""


@contextlib.contextmanager
def opened_folder(path: Path, *, make: bool = False) -> Iterator[int]:
    """Open a path's folder, if nobody else can change what its names mean."""
    try:
        folder = files.open_folder(path.parent, make=make, of_root=True)
    except FileNotFoundError:
        raise
    except OSError as error:
        hint = " (chmod go-w takes that from them)" if error.strerror == files.WRITABLE else ""
        why = f"{error.strerror or error}{hint}"
        raise UsageError("cannot use the folder", error.filename or path.parent, why) from error
    try:
        yield folder
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise GuestlaunchError("cannot change the file", path, error.strerror or error) from error
    finally:
        os.close(folder)


def read(path: Path) -> tuple[str, int] | None:
    """Return a file's text and mode; None where there is none.

    :raise NotOursError: it is a symbolic link, no file, or no text.
    """
    try:
        with opened_folder(path) as folder:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                descriptor = os.open(path.name, flags, dir_fd=folder)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise _not_ours(path, "a symbolic link") from error
                raise
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise _not_ours(path, "no file")
                return file.read(_LARGEST).decode("utf-8"), stat.S_IMODE(status.st_mode)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _not_ours(path, "no text") from error


def _not_ours(path: Path, what: str) -> NotOursError:
    return NotOursError("not written by guestlaunch", path, what, "move it away")


def read_own(path: Path) -> str | None:
    """Return the text of a file of ours; None where there is none.

    :raise NotOursError: what is there is not ours.
    """
    there = read(path)
    if there is None:
        return None
    if not there[0].startswith(MARK + "\n"):
        raise _not_ours(path, "it is somebody else's file")
    return there[0]


def write(path: Path, text: str, mode: int) -> None:
    """Write a file as a whole; a folder that is missing is made, as open to others as the one above it."""
    missing = not path.parent.exists()
    with opened_folder(path, make=True) as folder:
        if missing:
            os.fchmod(folder, stat.S_IMODE(path.parent.parent.stat().st_mode) & 0o755)
        files.write_whole(f"/proc/self/fd/{folder}/{path.name}", text.encode(), mode=mode)
