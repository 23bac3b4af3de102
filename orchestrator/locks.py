"""Locks between processes, on files that only their owner can open. The kernel drops a lock with its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

_LOCK = ".lock"
_LOCK_TICK_S = 0.05


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str], *, exclusive: bool, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a folder; yields False where the folder is gone, or the lock is taken and not waited for.

    It is on a file in the folder that its owner alone can open: on the folder itself, all who can read it could lock us
    out. What is not ours, or cannot be written to, is used without a lock, and never had for ourselves.
    """
    path = os.path.join(folder, _LOCK)
    try:
        descriptor = _open_lock(path)
    except OSError:
        yield os.path.isdir(folder) and not exclusive
        return
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
            # Who removed the folder held the lock: then it is no longer what its name leads to.
            taken = os.path.samestat(os.stat(path), os.fstat(descriptor))
        except (BlockingIOError, FileNotFoundError):
            taken = False
        yield taken
    finally:
        os.close(descriptor)


def _open_lock(path: str) -> int:
    ours = os.stat(os.path.dirname(path)).st_uid == os.geteuid()
    return open_lock(path, make=ours)


def open_lock(path: str | os.PathLike[str], *, make: bool = True) -> int:
    """Return a descriptor of a file to lock, which nobody but its owner can open, and so keep us waiting for."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if make else 0)
    descriptor = os.open(path, flags, 0o600)
    with contextlib.suppress(OSError):  # another's, or a file system without modes
        os.fchmod(descriptor, 0o600)
    return descriptor


def take_file(path: str | os.PathLike[str]) -> int:
    """Return the descriptor of a lock file that is ours until it is closed; who removes such a file holds it.

    :raise BlockingIOError: it is another's.
    :raise OSError: it cannot be made.
    """
    while True:
        descriptor = open_lock(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextlib.contextmanager
def locked_file(path: str | os.PathLike[str], *, seconds: float = float("inf")) -> Iterator[bool]:
    """Hold the lock of a file, which is made where it is missing; yields False where it is not to be had in time.

    :raise OSError: the file cannot be made.
    """
    descriptor = open_lock(path)
    try:
        yield _locked_within(descriptor, seconds)
    finally:
        os.close(descriptor)


def _locked_within(descriptor: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_LOCK_TICK_S)


def holders(folder: str | os.PathLike[str]) -> str:
    """Return who holds the lock of a folder, for people: "pid 12, 15", or that nobody can be seen (proc_locks(5))."""
    try:
        status = os.stat(os.path.join(folder, _LOCK))
        with open("/proc/locks", encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        lines = []
    else:
        place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        lines = [fields for fields in lines if fields[1] == "FLOCK" and fields[5] == place]
    pids = sorted({int(fields[4]) for fields in lines if int(fields[4]) > 0})
    return f"pid {', '.join(map(str, pids))}" if pids else "by whom cannot be seen"
