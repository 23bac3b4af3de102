"""Folders that appear whole: made aside, renamed into place, removed unless in use, swept where a build was killed.

Who makes, uses or removes one holds its lock, which the kernel drops with its holder. The stores of appliances and of
templates keep theirs so; what is in them is not known here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from orchestrator import files, locks

# So begins the name of what is not, or no longer, in place.
ASIDE = ".building-"


@contextlib.contextmanager
def staging(home: Path) -> Iterator[Path]:
    """Give a new folder in which to make something; it is gone afterwards, unless it was renamed.

    :param home: an existing folder on the file system where the finished thing is to be.
    :raise OSError: it cannot be made.
    """
    with aside(home, ASIDE) as folder:
        yield folder


@contextlib.contextmanager
def aside(home: Path, prefix: str) -> Iterator[Path]:
    """Give a new folder that no sweeper takes while its context lasts, and that is gone afterwards.

    :param prefix: what its name begins with.
    :raise OSError: it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
            stack.callback(_erase, folder)
            # Shared, as users of what it becomes may come before it is left.
            if stack.enter_context(locks.locked(folder, exclusive=False)):
                break  # else a sweeper met it in the instant before the lock
        yield folder


def sweep(folders: Iterable[Path], is_left: Callable[[Path], bool]) -> list[Path]:
    """Remove folders that nobody holds and that are left over; return those that are gone."""
    swept = []
    for folder in folders:
        if is_left(folder):
            with locks.locked(folder, exclusive=True) as lock:
                if lock:
                    _erase(folder)
                    swept.append(folder)
    return swept


def is_aside(folder: Path) -> bool:
    """Tell whether a folder is one that is being made, or was when its maker was killed."""
    return folder.name.startswith(ASIDE)


def remove(folder: Path) -> bool:
    """Remove a folder that is in place unless somebody holds it; tell whether it is gone.

    :raise OSError: it is another user's, or on a file system that is not to be written to: nobody has to hold it.
    """
    with locks.locked(folder, exclusive=True) as lock:
        if lock:
            withdraw(folder)
        gone = lock or not folder.exists()
    if not gone and not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(folder))
    return gone


def withdraw(folder: Path) -> None:
    """Take a folder out of its place at once, whoever holds it, and remove it: nobody meets it half-removed."""
    doomed = folder.with_name(f"{ASIDE}gone-{os.urandom(4).hex()}")
    folder.rename(doomed)
    _erase(doomed)


def _erase(folder: Path) -> None:
    """Remove a folder that others may be removing as well; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        home = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            files.remove_tree(folder.name, home)
        finally:
            os.close(home)
