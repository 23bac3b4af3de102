"""A command's own server: a forked process that serves one private socket and ends with its last client.

It is forked before the command starts anything, in a session of its own: the terminal's signals are the
tool's alone, libvirt loads while the tool starts, and a tool that goes into the background (guestmount)
keeps its server after the command has returned.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator import surroundings
from orchestrator.daemon import client, listen
from orchestrator.daemon.client import LaunchFeed
from orchestrator.errors import ProtocolError
from orchestrator.program import guarded
from orchestrator.settings import Settings

# How long a command waits for its server to clear up once nothing runs any more.
_END_SECONDS = 5.0


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[tuple[Path, LaunchFeed]]:
    """Serve launches on a private socket while the context lasts, and longer while launches do.

    The caller must not have started threads: this forks.

    :raise SettingsError: when the runtime directory is not safe.
    :raise UsageError: when the socket's path is too long.
    """
    with listen.private(settings.runtime_dir) as (listener, path):
        try:
            watch = LaunchFeed(path)  # connected before the fork: the server never sees itself without a client
            pid = os.fork()
        except BaseException:
            listen.remove_private(path)
            raise
        if pid == 0:
            _become_server(listener, path, settings)
    idle = True
    try:
        with watch:
            yield path, watch
            idle = _is_idle(path)
    finally:
        if idle:
            _await_end(pid)


def _is_idle(path: Path) -> bool:
    try:
        return not client.status(path)["launches"]
    except ProtocolError:
        return True  # it is gone already, and only has to be reaped


def _await_end(pid: int) -> None:
    """Wait, not forever, for the server to end."""
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError, InterruptedError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
                continue
        return


def _become_server(listener: socket.socket, path: Path, settings: Settings) -> None:
    """Serve, in the forked process, and end it. Never returns."""
    status = 1
    try:
        _detach(listener, keep_stderr=settings.log_target == "-")
        status = guarded("guestlaunch", lambda: _serve(listener, settings))
    finally:
        listen.remove_private(path)
        os._exit(status)


def _serve(listener: socket.socket, settings: Settings) -> int:
    from orchestrator.daemon.service import Role, serve  # here: the command itself launches nothing

    return serve(Role.OWN, listener, settings)


def _detach(listener: socket.socket, *, keep_stderr: bool) -> None:
    """Leave the terminal, the working directory and all descriptors of the command but the listener.

    Whoever reads from a pipe that we hold open would never see its end.
    """
    os.setsid()
    surroundings.leave_directory()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)
    surroundings.settle_server()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1) if keep_stderr else (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, listener.fileno())
    os.closerange(listener.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
