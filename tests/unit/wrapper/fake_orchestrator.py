"""A server that speaks the wrapper's protocol and does what a test tells it, in the orchestrator's place."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.wrapper import protocol

SECONDS = 20.0


@dataclass(slots=True)
class Client:
    """One connected wrapper: its launch message, its descriptors, and the way back to it."""

    sock: socket.socket
    launch: dict[str, Any]
    fds: list[int]
    received_ns: int

    def next(self) -> dict[str, Any]:
        """Return the next message of the wrapper."""
        return protocol.receive(self.sock, time.monotonic() + SECONDS)[0]

    def end(self, status: int = 0, message: str = "", signal: int | None = None) -> None:
        """Tell the wrapper how it ends."""
        protocol.send(self.sock, protocol.exit_message(status, message, signal))


@dataclass(slots=True)
class Server:
    """What happened at a listening socket."""

    path: str
    clients: list[Client] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)


@contextmanager
def serving(path: Path, behave: Callable[[Client], None]) -> Iterator[Server]:
    """Serve one wrapper at path with behave, in a thread; what behave raised is raised at the end."""
    server = Server(path=str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(server.path)
        listener.listen(1)
        listener.settimeout(SECONDS)
        thread = threading.Thread(target=_serve, args=(listener, server, behave))
        thread.start()
        try:
            yield server
        finally:
            thread.join(SECONDS)
    if server.errors:
        raise server.errors[0]


def _serve(listener: socket.socket, server: Server, behave: Callable[[Client], None]) -> None:
    """Accept one wrapper and let behave treat it."""
    try:
        sock, _ = listener.accept()
        with sock:
            message, fds = protocol.receive(sock, time.monotonic() + SECONDS)
            client = Client(sock, message, fds, time.monotonic_ns())
            server.clients.append(client)
            try:
                behave(client)
            finally:
                for fd in fds:
                    os.close(fd)
    except BaseException as error:  # noqa: BLE001 - a thread's failure belongs to the test that started it
        server.errors.append(error)
