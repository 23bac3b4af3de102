"""A /run for the embedded driver to start with, where root may not write to the real one.

Run as root, libvirt makes folders below /run/libvirt, whatever root the driver has. In a user namespace /run belongs to
the host; in a container it may be read-only. So the thread that starts the driver is given a mount namespace of its
own: a /run in memory, with all that is in the real one bound into it. Threads that libvirt starts meanwhile share it,
QEMU does not (2026-11-26). Namespaces are a thread's own, and this one goes with its last thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from orchestrator import files
from orchestrator.hypervisor import bounded

_T = TypeVar("_T")

_MADE = Path("/run/libvirt/hostdevmgr")  # the one that starting the driver takes
_CLONE_NEWNS = 0x0002_0000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x4_0000


def is_lacking(folder: Path = _MADE) -> bool:
    """Tell whether root cannot make libvirt's folder."""
    if os.path.isdir(folder):  # noqa: PTH112 - pathlib raises what stands in the way
        return False
    above = next(parent for parent in folder.parents if os.path.exists(parent))  # noqa: PTH110 - likewise
    return not os.access(above, os.W_OK | os.X_OK)


def call(function: Callable[[], _T], folder: Path = _MADE) -> _T:
    """Return what function returns, called on a thread for which libvirt's folder can be made.

    Where no namespace is to be had, the function is called all the same: it says what it lacks.

    :raise BaseException: what function raised.
    """

    def call_there() -> _T:
        with contextlib.suppress(OSError):
            _replace(folder.parent)
        return function()

    return bounded.call(call_there, None, name="start-driver")


def _replace(folder: Path) -> None:
    """Have a folder below /run that can be written to, for this thread alone."""
    _check(_libc().unshare(_CLONE_NEWNS))
    _mount(None, Path("/"), None, _MS_REC | _MS_PRIVATE)
    if folder.is_dir():
        _mount("tmpfs", folder, "tmpfs", 0)
        return
    before = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _mount("tmpfs", folder.parent, "tmpfs", 0)
        for name in files.entries(before):
            with contextlib.suppress(OSError):
                _bind(before, name, folder.parent / name)
    finally:
        os.close(before)


def _bind(folder: int, name: str, place: Path) -> None:
    """Put what a folder has under a name in another place."""
    kind = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if stat.S_ISLNK(kind):
        place.symlink_to(os.readlink(name, dir_fd=folder))
        return
    if stat.S_ISDIR(kind):
        place.mkdir()
    else:
        place.touch()
    _mount(f"/proc/self/fd/{folder}/{name}", place, None, _MS_BIND | _MS_REC)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str | None, place: Path, kind: str | None, flags: int) -> None:
    names = [None if name is None else os.fsencode(name) for name in (source, place, kind)]
    _check(_libc().mount(*names, ctypes.c_ulong(flags), None))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
