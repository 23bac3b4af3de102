"""What clients ask of a server, and what it answers, in the protocol of `orchestrator.wrapper.protocol`.

How a launch is done is up to the launcher; how a client gets connected, to `server`.

Requests beyond the wrapper's "launch":
    {"type": "status"}                   answered by {"type": "status", ...}; see `Requests.status`
    {"type": "watch", "client": TOKEN}   answered by {"type": "watching"}, then by {"type": "finished", "record": {...},
                                         "message": "..."} after each launch whose client had GUESTLAUNCH_CLIENT=TOKEN
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.daemon.budgets import Budgets, BusyError
from orchestrator.daemon.libguestfs_leftovers import Tool
from orchestrator.daemon.messages import LaunchMessage, answer, describe
from orchestrator.daemon.peer import Peer, credentials, require_own
from orchestrator.daemon.sameness import ElsewhereError, named_files, require_same, said_files
from orchestrator.errors import GuestlaunchError, ProtocolError, too_many_files
from orchestrator.launch.launcher import Launcher
from orchestrator.launch.stop import Stop
from orchestrator.records.log import EventLog
from orchestrator.records.record import LaunchEvent, LaunchRecord, to_event
from orchestrator.settings import Settings, for_launch
from orchestrator.values import dataclass
from orchestrator.wrapper import argv, protocol

_REQUEST_SECONDS = 10.0
_ANSWER_SECONDS = 10.0
_WATCHER_SECONDS = 2.0
# How often to look whether somebody has taken over from a tool that ended; guestmount does.
_SUCCESSOR_TICK_MS = 500.0


@dataclass(slots=True)
class _Client:
    """One client; it has a `stop` while it launches, a `token` while it watches."""

    sock: socket.socket
    peer: Peer
    stop: Stop | None = None
    token: str | None = None
    writing: threading.Lock = field(
        default_factory=threading.Lock
    )  # several launches report to one watcher, and a launch speaks while it runs


class Requests:
    """Answers clients, each on the thread that calls `serve` for it.

    :param launcher: what launches.
    :param settings: what applies to launches that do not ask for anything else.
    :param log: where the server's own events go.
    :param outlet: takes the canonical line of each launch that is over; must not raise.
    """

    def __init__(
        self, launcher: Launcher, settings: Settings, log: EventLog, outlet: Callable[[LaunchEvent], None]
    ) -> None:
        self._launcher = launcher
        self._settings = settings
        self._log = log
        self._outlet = outlet
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._budgets = Budgets()
        self._clients: dict[int, _Client] = {}
        self._outcomes: Counter[str] = Counter()
        self._stopping: str | None = None

    def serve(self, sock: socket.socket) -> None:
        """Serve one connection in the caller's thread, and close it."""
        with sock:
            try:
                client = _Client(sock=sock, peer=credentials(sock))
                self._serve_one(client)
            except EOFError:
                return  # the client changed its mind before asking for anything
            except BusyError as error:
                self._log.emit("client_refused", level="warning", error=str(error))
                tell(sock, protocol.exit_message(error.exit_status, str(error)) | {"busy": True})
            except GuestlaunchError as error:
                self._log.emit("client_refused", level="warning", error=str(error))
                tell(sock, protocol.exit_message(error.exit_status, str(error)))
            except Exception as error:  # noqa: BLE001 - a defect of ours costs one launch, not the daemon
                tell(sock, self._defect(error))

    def status(self) -> dict[str, Any]:
        """Return what `guestlaunch status` shows: the server, its counts and its launches; times in seconds."""
        now = time.monotonic_ns()
        with self._lock:
            outcomes = dict(self._outcomes)
        return {
            "type": "status",
            "protocol": protocol.VERSION,
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self._started,
            "state_dir": os.fspath(self._settings.state_dir),
            "log": self._settings.log,
            "outcomes": outcomes,
            "launches": [describe(snapshot, now) for snapshot in self._launcher.running()],
            "standby": [asdict(one) for one in self._launcher.waiting()],
        }

    def end(self, reason: str) -> None:
        """Ask the launches under way to end, and hang up on other clients; refuse those that come now."""
        with self._lock:
            self._stopping = reason
            clients = list(self._clients.values())
        for client in clients:
            if client.stop is not None:
                client.stop.request(reason)
            else:
                _hang_up(client.sock)

    def _defect(self, error: Exception) -> dict[str, Any]:
        """Log an unexpected exception, and return the client's answer."""
        self._log.emit("internal_error", level="error", error=repr(error), traceback=traceback.format_exc())
        if (limit := too_many_files(error)) is not None:
            return protocol.exit_message(limit.exit_status, str(limit))
        return protocol.exit_message(1, f"internal error: {error!r} (this is a bug; the log has more)")

    @contextlib.contextmanager
    def _registered(self, client: _Client) -> Iterator[None]:
        with self._lock:
            if self._stopping is not None:
                raise ProtocolError("launch refused", "guestlaunchd", self._stopping)
            self._clients[id(client)] = client
        try:
            yield
        finally:
            with self._lock:
                del self._clients[id(client)]

    def _serve_one(self, client: _Client) -> None:
        """Read the request and answer it."""
        require_own(client.peer)
        with self._budgets.one_more("connect"):
            message, fds = protocol.receive(client.sock, time.monotonic() + _REQUEST_SECONDS)
        try:
            handler = self._handlers().get(message["type"])
            if handler is None:
                raise ProtocolError("request refused", message["type"], "there is no such request")
            with self._budgets.one_more(message["type"]), self._registered(client):
                handler(client, message, fds)
        finally:
            for descriptor in fds:
                os.close(descriptor)

    def _handlers(self) -> dict[str, Callable[[_Client, dict[str, Any], list[int]], None]]:
        return {"launch": self._launch, "status": self._answer_status, "watch": self._watch}

    def _answer_status(self, client: _Client, _message: dict[str, Any], _fds: list[int]) -> None:
        protocol.send(client.sock, self.status(), deadline=time.monotonic() + _ANSWER_SECONDS)

    def _watch(self, client: _Client, message: dict[str, Any], _fds: list[int]) -> None:
        """Keep the connection until the watcher closes it; launches report to it meanwhile."""
        token = message.get("client")
        if not isinstance(token, str) or not token:
            raise ProtocolError("request refused", "watch", "it names no client")
        protocol.send(client.sock, {"type": "watching"}, deadline=time.monotonic() + _ANSWER_SECONDS)
        client.token = token
        with contextlib.suppress(EOFError, ProtocolError):
            protocol.receive(client.sock)

    def _launch(self, client: _Client, message: dict[str, Any], fds: list[int]) -> None:
        """Carry out one launch for a client and tell it how it ended."""
        launch = LaunchMessage.read(message, fds)
        with Stop() as stop, Tool(client.peer.pid, launch.console[0]) as tool:
            client.stop = stop
            with self._lock:
                if self._stopping is not None:
                    stop.request(self._stopping)
            listener = threading.Thread(target=_listen, args=(client.sock, tool, stop), name="client-stop", daemon=True)
            try:
                record, reply = self._run(launch, client, stop, tool, listener.start)
                event = None if record is None else to_event(record)
                if event is not None or (reply["message"] and "elsewhere" not in reply):
                    self._report(launch.env.get("GUESTLAUNCH_CLIENT"), event, str(reply["message"]))
                with client.writing:
                    tell(client.sock, reply)
                if event is not None:
                    self._outlet(event)
            finally:
                client.stop = None
                _hang_up(client.sock)
                if listener.ident is not None:
                    listener.join()
                for folder in tool.clear():
                    self._log.emit("swept", level="warning", what=f"removed {folder}, of a tool that was killed")

    def _run(
        self, launch: LaunchMessage, client: _Client, stop: Stop, tool: Tool, listen: Callable[[], None]
    ) -> tuple[LaunchRecord | None, dict[str, Any]]:
        """Return a launch's record, if it came that far, and the client's answer.

        :param listen: starts to listen to what the client says during its launch.
        """

        def notice(text: str) -> None:
            with client.writing:
                tell(client.sock, {"type": "notice", "message": text})

        try:
            request = argv.parse(launch.argv, launch.cwd)
            require_same(client.sock, said_files(request, launch.env), stop)
            settings = for_launch(self._settings, launch.env, Path(launch.cwd))
            require_same(client.sock, named_files(request, settings, launch.env), stop)
            listen()
            tool.asks_for(request)
            console = (launch.console[0], launch.console[1]) if request.console else None
            record = self._launcher.run(
                request, settings=settings, console=console, origin_ns=launch.origin_ns, stop=stop,
                client_pid=client.peer.pid, tell=notice,
            )  # fmt: skip
        except ElsewhereError as error:
            self._log.emit("client_elsewhere", level="warning", name=error.subject, client_pid=client.peer.pid)
            return None, protocol.exit_message(1, str(error)) | {"elsewhere": True}
        except GuestlaunchError as error:
            with self._lock:
                self._outcomes["failure"] += 1
            return None, protocol.exit_message(1, str(error))
        except Exception as error:  # noqa: BLE001 - the client waits for an answer, whatever went wrong
            with self._lock:
                self._outcomes["failure"] += 1
            return None, self._defect(error)
        with self._lock:
            self._outcomes[record.outcome] += 1
        return record, answer(record)

    def _report(self, token: str | None, event: LaunchEvent | None, message: str) -> None:
        """Tell whoever watches this client's launches, before the client itself hears of the end."""
        with self._lock:
            watchers = [c for c in self._clients.values() if token is not None and c.token == token]
        for watcher in watchers:
            with watcher.writing:
                if not tell(watcher.sock, {"type": "finished", "record": event, "message": message}, _WATCHER_SECONDS):
                    _hang_up(watcher.sock)  # one that does not read must not hold up every launch that ends


def _listen(sock: socket.socket, tool: Tool, stop: Stop) -> None:
    """Turn what a launching client says, its end, or that of the tool behind it, into a request to stop."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if tool.fileno() >= 0:
        poll.register(tool.fileno(), select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll(_SUCCESSOR_TICK_MS if tool.ended else None)}
        if tool.fileno() in ready:
            poll.unregister(tool.fileno())
        if tool.is_abandoned():
            stop.request("tool gone")
        if sock.fileno() not in ready:
            continue
        try:
            message, fds = protocol.receive(sock)
        except (EOFError, ProtocolError, OSError):
            stop.request("client gone")
            return
        for descriptor in fds:
            os.close(descriptor)
        if message["type"] == "terminate":
            stop.request("terminate")


def tell(sock: socket.socket, message: dict[str, Any], seconds: float = _ANSWER_SECONDS) -> bool:
    """Send a message to somebody who may be gone by now; tell whether it was taken."""
    try:
        protocol.send(sock, message, deadline=time.monotonic() + seconds)
    except (ProtocolError, OSError):
        return False
    return True


def _hang_up(sock: socket.socket) -> None:
    """End a connection in both directions; a thread that reads from it wakes up."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
