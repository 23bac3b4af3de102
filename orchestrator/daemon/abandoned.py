"""Removes what libguestfs itself leaves when its process is killed: its folders with a socket and overlays.

libguestfs removes them when a handle is closed. A tool that dies of a signal closes none, and its folders would
stay for ever; they are named in the launch it asked for, so whoever carried that out can tell when nobody needs
them any more. Nothing here knows how a launch is done.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.domain.model import FileSource
from orchestrator.launch.request import LaunchRequest

# The names that libguestfs gives (lib/tmpdirs.c, lib/launch-direct.c, lib/drives.c).
_FOLDER = re.compile(r"libguestfs[A-Za-z0-9]{6}")
_OVERLAY = re.compile(r"overlay\d+\.qcow2")
_SOCKET = "guestfsd.sock"


class Tool:
    """The process that uses libguestfs, by the hv wrapper that it started; a context manager.

    :param wrapper_pid: the wrapper, while it runs.
    """

    def __init__(self, wrapper_pid: int) -> None:
        self._pidfd = _open_parent(wrapper_pid)
        self._request: LaunchRequest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)

    def asks_for(self, request: LaunchRequest) -> None:
        """Note what the tool wants launched."""
        self._request = request

    def clear(self) -> list[Path]:
        """Remove the tool's folders if it is dead and nobody took them over; return those that were removed.

        To be called when the guest is gone. A tool that went into the background (guestmount) is another process than
        the one that launched; it holds its end of guestfsd's connection for as long as it lives.
        """
        if self._request is None or not self._is_dead() or _is_held(self._request.guestfsd_path):
            return []
        removed = []
        for folder in sorted(set(_folders(self._request))):
            with contextlib.suppress(OSError):  # gone, or not ours to remove
                status = folder.lstat()
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                    shutil.rmtree(folder)
                    removed.append(folder)
        return removed

    def _is_dead(self) -> bool:
        """Tell whether it has ended; one that was not there to be seen counts as alive."""
        return self._pidfd >= 0 and bool(select.select([self._pidfd], [], [], 0)[0])


def _open_parent(pid: int) -> int:
    """Return a descriptor of a process's parent, -1 when it has none of its own any more."""
    try:
        # The name in the second field may itself hold spaces and parentheses.
        parent = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        return os.pidfd_open(parent) if parent > 1 else -1
    except (OSError, ValueError, IndexError):
        return -1


def _is_held(path: str | None) -> bool:
    """Tell whether a process still holds a socket of that name: accepted ones bear their listener's."""
    if path is None:
        return False
    lines = Path("/proc/self/net/unix").read_text(errors="surrogateescape").splitlines()
    return any(line.endswith(f" {path}") for line in lines)


def _folders(request: LaunchRequest) -> Iterator[Path]:
    """Yield the folders in a launch that only libguestfs can have made."""
    sources = (disk.source for disk in request.disks)
    files = [Path(source.path) for source in sources if isinstance(source, FileSource)]
    files = [path for path in files if _OVERLAY.fullmatch(path.name)]
    if request.guestfsd_path is not None and Path(request.guestfsd_path).name == _SOCKET:
        files.append(Path(request.guestfsd_path))
    for path in files:
        if path.is_absolute() and _FOLDER.fullmatch(path.parent.name):
            yield path.parent
