"""Files that a command is given have to be different ones where it writes: by whatever names they go."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from orchestrator.errors import UsageError

Named = tuple[str, Path]


def check_apart(written: Iterable[Named], read: Iterable[Named] = ()) -> None:
    """Refuse a file that is to be written for two purposes, or read while it is.

    :param written: what it is for, as the option that names it, and its path.
    :param read: the same of what is only read, which may be the same file.
    :raise UsageError: names both.
    """
    taken: dict[tuple[int, int] | str, str] = {}
    for what, path in written:
        identity = _identity(path)
        if identity is None:
            continue
        if identity in taken:
            _refuse(path, taken[identity], what)
        taken[identity] = what
    for what, path in read:
        identity = _identity(path)
        if identity is not None and identity in taken:
            _refuse(path, taken[identity], what)


def _refuse(path: Path, first: str, second: str) -> None:
    both = f"both as {first}" if first == second else f"as {first} and as {second}"
    raise UsageError("one file is named for two purposes", path, both, "name two files")


def _identity(path: Path) -> tuple[int, int] | str | None:
    """Return what stays the same whatever a file is called; None for what any number may write to."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return os.path.realpath(path)
    if stat.S_ISCHR(status.st_mode):
        return None
    return (-1, status.st_rdev) if stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino)
