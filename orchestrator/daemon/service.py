"""Runs a server with a real launcher behind it until it is told to stop, and ends what it launched."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

import orchestrator
from orchestrator import priority
from orchestrator.daemon.listen import remove_private
from orchestrator.daemon.requests import Requests
from orchestrator.daemon.server import Server
from orchestrator.errors import GuestlaunchError
from orchestrator.hypervisor import embed
from orchestrator.launch.context import LaunchSpec
from orchestrator.launch.launcher import Launcher
from orchestrator.launch.stop import Stop
from orchestrator.records.log import EventLog
from orchestrator.settings import Settings
from orchestrator.telemetry import outlets
from orchestrator.template.model import Facts

# On top of the deadline for a guest's own shutdown: killing it, and removing its files.
_CLEANUP_SECONDS = 15.0


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Yield a Stop that SIGTERM, SIGINT and SIGHUP request, unless ignored; handlers are put back afterwards."""
    with Stop() as stop:
        before = {
            number: signal.signal(number, lambda received, _: stop.request(signal.Signals(received).name))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Role(Enum):
    """Whom a server is there for."""

    PUBLIC = "public"  # guestlaunchd: this user's tools, on a socket that all of them know
    OWN = "own"  # a command's own: what that command starts, on a private socket
    INHERITED = "inherited"  # a wrapper that found no other: the one connection that it left us

    @property
    def ends_with_last_client(self) -> bool:
        """Whether it ends with its last client; then it keeps no clones for later and shows no metrics."""
        return self is not Role.PUBLIC


def serve(
    role: Role,
    sock: socket.socket,
    settings: Settings,
    *,
    ready: Callable[[], None] = lambda: None,
    leaving: Callable[[], None] | None = None,
    stopping: Callable[[], None] = lambda: None,
    lifeline: int | None = None,
) -> int:
    """Serve launches until a signal comes, or as long as the role lasts; return the exit status.

    A public server whose program was replaced, as a package's upgrade does, serves who is there to the end, and returns
    75 (EX_TEMPFAIL): a service manager that restarts what failed starts the new one.

    :param sock: listens; for an inherited role, the connection itself.
    :param ready: called once clients are answered.
    :param leaving: called when no new ones are to come: takes the socket's name away.
    :param stopping: called when none is served any more, or none will be.
    :param lifeline: an inherited descriptor; when it reaches its end, so does the server.
    """
    program, gone = _installed(), False
    if role is not Role.PUBLIC:
        priority.take_over()
    with _server(role, settings) as (server, stop):
        if lifeline is not None:
            _follow(lifeline, stop)
        if role is Role.INHERITED:
            server.adopt(sock)
            server.serve(None, stop, ends_with_last_client=True)
        else:
            path = Path(sock.getsockname())
            _claim(path, settings, private=role is Role.OWN)
            ready()
            ends = role.ends_with_last_client
            gone = server.serve(
                sock,
                stop,
                ends_with_last_client=ends,
                ending=leaving or functools.partial(remove_private, path),
                replaced=lambda: role is Role.PUBLIC and program != _installed(),
            )
            sock.close()
            if gone:
                server.serve(None, stop, ends_with_last_client=True)
                gone = not stop.requested  # who was told to stop is not to be started again
            stopping()
        status = _end(server, stop, settings)
    embed.leave()
    return status or (os.EX_TEMPFAIL if gone else 0)


def _installed() -> tuple[int, ...]:
    """Return what changes when another version is installed; nothing when none is any more."""
    try:
        status = Path(orchestrator.__file__).stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _follow(lifeline: int, stop: Stop) -> None:
    """Ask for the end once nobody holds the other end of an inherited pipe any more: whoever started us is dead."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(lifeline, 4096):
                pass
        stop.request("who started it has ended")

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _claim(path: Path, settings: Settings, *, private: bool) -> None:
    """Have a socket, and a private one's folder, removed if this process is killed."""
    # If libvirt's folder cannot be had, the first launch will say why.
    with contextlib.suppress(GuestlaunchError, OSError):
        embed.private_root(settings.state_dir, settings.runtime_dir).claim(path.parent if private else path)


@contextlib.contextmanager
def _own_files() -> Iterator[None]:
    """Make everything that a server creates private to its user."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _learn(spec: LaunchSpec, facts: Facts, emit: Callable[..., None]) -> None:
    from orchestrator.daemon import learning  # here: most launches have a template, or want none

    learning.begin(spec, facts, emit)


@contextlib.contextmanager
def _server(role: Role, settings: Settings) -> Iterator[tuple[Server, Stop]]:
    log = EventLog(settings.log_target)
    metrics_listen, standby = (None, 0) if role.ends_with_last_client else (settings.metrics_listen, settings.standby)
    with _own_files(), stop_on_signals() as stop, Launcher(settings, standby=standby, missed=_learn) as launcher:
        launcher.prewarm()
        outlet = outlets.opened(
            metrics_listen=metrics_listen,
            otlp_endpoint=settings.otlp_endpoint,
            environ=os.environ,
            in_flight=lambda: len(launcher.running()),
            complain=lambda why: log.emit("outlet_failed", level="warning", reason=why),
        )
        with outlet as take:
            yield Server(Requests(launcher, settings, log, take), log), stop


def _end(server: Server, stop: Stop, settings: Settings) -> int:
    reason = f"guestlaunchd is stopping ({stop.reason})" if stop.requested else "the last client has gone"
    return 0 if server.close(reason, settings.deadlines.shutdown + _CLEANUP_SECONDS) else 1
