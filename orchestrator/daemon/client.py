"""The commands' side of a server: which daemon there is to use, what it does, what became of our launches."""

from __future__ import annotations

import os
import secrets
import select
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchestrator import __version__, sockets
from orchestrator.daemon.listen import SOCKET_NAME, check_length
from orchestrator.errors import ProtocolError
from orchestrator.settings import Settings
from orchestrator.values import dataclass
from orchestrator.wrapper import connect, protocol

if TYPE_CHECKING:
    from orchestrator.records.record import LaunchEvent

_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A launch of ours that is over.

    :ivar record: its canonical line, None when it never became a launch.
    :ivar message: why it failed, empty when it did not.
    """

    record: LaunchEvent | None
    message: str


class LaunchFeed:
    """A connection on which a server reports the launches of one client; a context manager.

    :ivar token: what the client's programs carry as GUESTLAUNCH_CLIENT.
    """

    def __init__(self, path: Path) -> None:
        self.token = secrets.token_hex(8)
        self._sock = _dial(path)
        self._accepted = False
        try:
            self._send({"type": "watch", "client": self.token})
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def require_accepted(self) -> None:
        """Wait until the server says that it will report.

        :raise ProtocolError: it is busy, or does not answer.
        """
        if self._accepted:
            return
        try:
            message, fds = protocol.receive(self._sock, time.monotonic() + _SECONDS)
        except EOFError:
            raise ProtocolError("cannot watch launches", "guestlaunchd", "it closed the connection") from None
        for descriptor in fds:
            os.close(descriptor)
        if message["type"] != "watching":
            raise ProtocolError("cannot watch launches", "guestlaunchd", message.get("message") or message["type"])
        self._accepted = True

    def finished(self, seconds: float = 0.0) -> Iterator[Finished]:
        """Yield what was reported since the last call, waiting up to `seconds` for the first report.

        A server reports a launch before its client learns of the end: once a tool has exited, no wait is needed.
        """
        wait = seconds
        while select.select([self._sock], [], [], wait)[0]:
            try:
                message, fds = protocol.receive(self._sock, time.monotonic() + _SECONDS)
            except (EOFError, ProtocolError):
                return
            for descriptor in fds:
                os.close(descriptor)
            if message["type"] == "exit":
                raise ProtocolError("cannot watch launches", "guestlaunchd", message.get("message", ""))
            if message["type"] == "finished":
                wait = 0.0
                yield Finished(record=message.get("record"), message=str(message.get("message") or ""))

    def _send(self, message: Mapping[str, Any]) -> None:
        protocol.send(self._sock, message, deadline=time.monotonic() + _SECONDS)


def status(path: Path) -> dict[str, Any]:
    """Return what the server at `path` says of itself; see `Requests.status`.

    :raise ProtocolError: when it does not answer, refuses, or is not ours or root's.
    """
    with _dial(path) as sock:
        deadline = time.monotonic() + _SECONDS
        protocol.send(sock, {"type": "status"}, deadline=deadline)
        try:
            message, fds = protocol.receive(sock, deadline)
        except EOFError:
            raise ProtocolError("no answer", path, "the server closed the connection") from None
    for descriptor in fds:
        os.close(descriptor)
    if message["type"] != "status":
        raise ProtocolError("no answer", path, message.get("message") or message["type"])
    return message


def daemon_sockets(settings: Settings, environ: Mapping[str, str]) -> list[Path]:
    """Return where a daemon that we may use can listen, most specific first."""
    named = [settings.runtime_dir / SOCKET_NAME, *map(Path, connect.default_sockets(environ))]
    return list(dict.fromkeys(path for path in named if sockets.is_trusted(path)))


def find(settings: Settings, environ: Mapping[str, str]) -> tuple[Path | None, str]:
    """Return the socket of a daemon that can launch for us, or None and why there is none.

    A daemon of another version, or with other directories than ours, is left alone: what a launch can set for itself
    travels with it, but everything else would silently be the daemon's.
    """
    why = "no guestlaunchd runs"
    for path in daemon_sockets(settings, environ):
        try:
            found = status(path)
        except ProtocolError as error:
            why = str(error)
            continue
        ours = {"version": __version__, "state_dir": os.fspath(settings.state_dir), "log": settings.log}
        different = [key for key, value in ours.items() if found.get(key) != value]
        if not different:
            return path, ""
        why = f"guestlaunchd at {path} has another {different[0]}: {found.get(different[0])}"
    return None, why


def _dial(path: Path) -> socket.socket:
    """Return a connection to a server that runs as us or as root."""
    check_length(path)
    try:
        return sockets.dial(path, _SECONDS)
    except PermissionError as error:
        raise ProtocolError("server not trusted", path, error.strerror or error) from error
    except OSError as error:
        raise ProtocolError("cannot reach the server", path, error.strerror or error) from error
