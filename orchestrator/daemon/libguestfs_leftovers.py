"""Notices that the tool which uses libguestfs has died, and removes what libguestfs itself leaves then.

When a handle is closed, libguestfs ends its hypervisor and removes its folders, with a socket, overlays and, on
aarch64, a copy of the firmware's variables. A tool that dies of a signal closes none; its recovery process ends the
hypervisor, but may have been killed with it. Tool and folders are known from the launch that was asked for, so whoever
carries that out can tell when nobody needs them any more. Nothing here knows how a launch is done.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator import files, sockets
from orchestrator.domain.model import FileSource
from orchestrator.launch.request import LaunchRequest, in_libguestfs_folder, is_libguestfs_variables

# The names that libguestfs gives (lib/launch-direct.c, lib/drives.c).
_OVERLAY = re.compile(r"overlay\d+\.qcow2")
_SOCKET = "guestfsd.sock"


class Tool:
    """The process that uses libguestfs, by the hv wrapper that it started; a context manager.

    :param wrapper_pid: the wrapper, while it runs.
    :param console: the wrapper's standard input, by which the tool is known even if it has died by now.
    """

    def __init__(self, wrapper_pid: int, console: int = -1) -> None:
        self._ended = False
        maker = _maker(console)
        self._pidfd = self._open(maker, wrapper_pid)
        self._console = os.dup(console) if maker > 0 else -1
        self._sockets = _sockets_of(wrapper_pid)
        self._request: LaunchRequest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in (self._pidfd, self._sockets, self._console):
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self, maker: int, wrapper_pid: int) -> int:
        """Return a pidfd of the tool, -1 when it is not known or has ended."""
        if maker > 0:
            try:
                return os.pidfd_open(maker)
            except ProcessLookupError:
                self._ended = True
                return -1
            except OSError:
                pass
        return _open_parent(wrapper_pid)

    def asks_for(self, request: LaunchRequest) -> None:
        """Note what the tool wants launched."""
        self._request = request

    def fileno(self) -> int:
        """Return a descriptor that turns readable when the tool has ended; -1 when it cannot be seen, or has."""
        return self._pidfd

    @property
    def ended(self) -> bool:
        """Tell whether the tool has ended; one that could not be seen counts as alive."""
        if not self._ended and self._pidfd >= 0:
            poll = select.poll()  # select(2) knows no descriptors above 1023, which a busy server has
            poll.register(self._pidfd, select.POLLIN)
            self._ended = bool(poll.poll(0))
        return self._ended

    def is_abandoned(self) -> bool:
        """Tell whether nobody is left who could use the launch.

        A tool that went into the background (guestmount) is another process than the one that launched; it holds its
        ends of the console and of guestfsd's connection for as long as it lives.
        """
        if self._request is None or self._request.guestfsd_path is None or not self.ended:
            return False
        return not _has_peer(self._console) and not _is_held(self._sockets, self._request.guestfsd_path)

    def clear(self) -> list[Path]:
        """Remove the tool's folders if it is dead and nobody took them over; return those that were removed.

        To be called when the guest is gone.
        """
        if self._request is None or not self.is_abandoned():
            return []
        return [folder for folder in sorted(set(_folders(self._request))) if _remove(folder)]


def _remove(folder: Path) -> bool:
    """Remove a folder of ours with the files in it; tell whether it is gone. One that holds another folder stays."""
    try:
        there = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if os.fstat(there).st_uid != os.geteuid():
            return False
        for name in files.entries(there):
            with contextlib.suppress(IsADirectoryError):
                os.unlink(name, dir_fd=there)
        folder.rmdir()
    except OSError:
        return False
    finally:
        os.close(there)
    return True


def _maker(console: int) -> int:
    """Return the process that made the pair of sockets of which this is one; 0 when it is nothing of the kind.

    libguestfs gives its hypervisor such a socket for a console, and the kernel remembers who made it.
    """
    try:
        if not stat.S_ISSOCK(os.fstat(console).st_mode):
            return 0
        with socket.socket(fileno=os.dup(console)) as sock:
            if sock.family != socket.AF_UNIX or sock.getsockname() or sock.getpeername():
                return 0  # a connection, whose other end may be anybody's
            return sockets.peer(sock)[0]
    except OSError:
        return 0


def _open_parent(pid: int) -> int:
    """Return a descriptor of a process's parent, -1 when it has none of its own any more."""
    try:
        # The name in the second field may itself hold spaces and parentheses.
        parent = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        return os.pidfd_open(parent) if parent > 1 else -1
    except (OSError, ValueError, IndexError):
        return -1


def _sockets_of(pid: int) -> int:
    """Return a descriptor of the list of unix sockets in a process's network namespace, which may be another one."""
    for owner in (pid, "self"):
        with contextlib.suppress(OSError):
            return os.open(f"/proc/{owner}/net/unix", os.O_RDONLY | os.O_CLOEXEC)
    return -1


def _has_peer(console: int) -> bool:
    """Tell whether a process still holds the other end of a pair of sockets; libguestfs's recovery process does not."""
    if console < 0:
        return False
    poll = select.poll()
    poll.register(console, 0)
    return not any(flags & (select.POLLHUP | select.POLLERR) for _, flags in poll.poll(0))


def _is_held(sockets: int, path: str) -> bool:
    """Tell whether a process still holds a socket of that name: accepted ones bear their listener's.

    The kernel lists them in the network namespace of who connected: one that a confined QEMU connected to is not seen.
    """
    if sockets < 0:
        return True
    os.lseek(sockets, 0, os.SEEK_SET)
    with open(sockets, "rb", closefd=False) as file:
        return any(line.rstrip(b"\n").endswith(b" " + os.fsencode(path)) for line in file)


def _folders(request: LaunchRequest) -> Iterator[Path]:
    """Yield the folders in a launch that only libguestfs can have made.

    Names alone prove nothing: people have folders and overlays of such names. But no user can name guestfsd's socket,
    and libguestfs describes its overlays as it describes no drive of a user's: without locks on what is below.
    """
    overlays = [disk.source for disk in request.disks if disk.shared_read]
    made = [Path(source.path) for source in overlays if isinstance(source, FileSource)]
    made = [path for path in made if _OVERLAY.fullmatch(path.name)]
    if request.guestfsd_path is not None and Path(request.guestfsd_path).name == _SOCKET:
        made.append(Path(request.guestfsd_path))
    if request.pflash is not None and is_libguestfs_variables(Path(request.pflash[1])):
        made.append(Path(request.pflash[1]))
    for path in made:
        if in_libguestfs_folder(path):
            yield path.parent
