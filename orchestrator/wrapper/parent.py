"""Says a line on the stderr of the program that started the wrapper: the tool, for libguestfs keeps our own to itself.

The line goes through a duplicate of the tool's very descriptor (pidfd_getfd): one that is opened anew has an offset of
its own, and the tool writes over the line; and a socket, or a file of another user's, cannot be opened anew at all.
Where the kernel does not allow that (ptrace_scope, an old kernel), what the descriptor names is opened. Only a launch
that failed gets here, so what this imports costs the others nothing.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import time

_PIDFD_GETFD = 438  # the same on all architectures but these, whose numbers start elsewhere
_OTHER_NUMBERS = ("alpha", "mips")
_SECONDS = 1.0  # for a slow reader; one that does not read at all must not hold us up
_AT_ONCE = 4096  # what a pipe that is ready takes without blocking


def tell(pid: int, data: bytes) -> None:
    """Write data to the stderr of a process, unless it is closed, or the same file as our own."""
    path = f"/proc/{pid}/fd/2"
    try:
        if os.path.samestat(os.stat(path), os.fstat(2)):
            return
        descriptor = _duplicate(pid)
        descriptor = _opened(path) if descriptor is None else descriptor
    except OSError:
        return  # closed, or not ours: the line on our own stderr must do
    try:
        # A terminal may stop whoever writes in the background; it is to fail instead, or better to show the line.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        _write(descriptor, data)
    except OSError:
        return  # nobody reads it
    finally:
        os.close(descriptor)


def _duplicate(pid: int) -> int | None:
    """Return a duplicate of a process's stderr, None where that cannot be had."""
    if os.uname().machine.startswith(_OTHER_NUMBERS):
        return None
    try:
        import ctypes

        process = os.pidfd_open(pid)
        try:
            if os.getppid() != pid:
                return None  # it ended, and its number now belongs to another process
            found = int(ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, 2, 0))
        finally:
            os.close(process)
    except (ImportError, OSError, AttributeError):
        return None
    return found if found >= 0 else None


def _opened(path: str) -> int:
    """Return what the link names, opened anew, to be added to.

    :raise OSError: that is a socket, or not ours to write to.
    """
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)


def _write(descriptor: int, data: bytes) -> None:
    """Write data without ever waiting longer than a moment: a full pipe must not keep a failed launch from ending.

    The descriptor's own flags stay as they are, for they are the tool's as well.
    """
    is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    deadline = time.monotonic() + _SECONDS
    while data and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        data = data[_send(descriptor, data) if is_socket else os.write(descriptor, data[:_AT_ONCE]) :]


def _send(descriptor: int, data: bytes) -> int:
    import socket

    with socket.socket(fileno=os.dup(descriptor)) as sock:
        return sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
