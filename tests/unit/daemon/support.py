"""For the daemon's unit tests: a launcher that only pretends, and the client's side of real sockets."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.daemon.server import Server
from orchestrator.errors import GuestlaunchError
from orchestrator.launch.launcher import Launcher, Snapshot
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.standby import Waiting
from orchestrator.launch.stop import Stop
from orchestrator.records.record import FwCfg, LaunchRecord
from orchestrator.timeline.phases import Boundary, Phase, Start, tile
from orchestrator.wrapper import protocol

SECONDS = 10.0
LONGEST = 120.0  # of a pretended launch; longer than a test with many of them takes on a loaded machine
LAUNCH_ARGV = [
    "-machine",
    "accel=tcg",
    "-kernel",
    "/a/kernel",
    "-initrd",
    "/a/initrd",
    "-serial",
    "stdio",
    "-append",
    "root=UUID=x",
]


def record(**changes: object) -> LaunchRecord:
    """Return the record of a launch that never was."""
    values: dict[str, Any] = {
        "launch_id": "l1",
        "start": Start.COLD,
        "profile": "aarch64-uefi",
        "arch": "aarch64",
        "accel": "tcg",
        "accel_reason": "",
        "fw_cfg": FwCfg(requested=True),
        "outcome": "success",
        "tiles": tile(Start.COLD, {Phase.PLAN: Boundary(at_ns=0, source="test")}, 10),
        "wall_start_ns": 0,
        "connection": "test",
        "exit_status": 0,
    }
    return LaunchRecord(**(values | changes))


def snapshot() -> Snapshot:
    """Return a launch under way, as the server shows it."""
    return Snapshot(
        launch_id="l1", profile="aarch64-uefi", accel="tcg", phase=Phase.KERNEL, started_ns=0, client_pid=1,
        ready=False, error=None,
    )  # fmt: skip


@dataclass
class FakeLauncher(Launcher):
    """Blocks until told to stop, then ends as scripted."""

    result: LaunchRecord | GuestlaunchError | Exception = field(default_factory=record)
    at_once: bool = False
    calls: list[dict[str, Any]] = field(default_factory=list)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    stopped: list[str | None] = field(default_factory=list)
    deaf: bool = False
    active: int = 0

    def run(self, request: LaunchRequest, *, stop: Stop, **rest: object) -> LaunchRecord:
        self.calls.append({"request": request, **rest})
        self.active += 1
        self.started.release()
        if not self.at_once:
            poll = select.poll()  # with hundreds of launches that wait none may turn in circles
            poll.register(stop, select.POLLIN)
            poll.poll(LONGEST * 1e3)
            deadline = time.monotonic() + LONGEST
            while self.deaf and time.monotonic() < deadline:
                time.sleep(0.005)
        self.stopped.append(stop.reason)
        self.active -= 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def running(self) -> list[Snapshot]:
        return [snapshot() for _ in range(self.active)]

    def waiting(self) -> list[Waiting]:
        return []


@dataclass
class Client:
    """A connection to the server under test.

    :ivar asked: the files that the server wanted to know of; `lies` is added to what it is told.
    :ivar early: an answer that came in place of that question.
    """

    sock: socket.socket
    asked: list[str] = field(default_factory=list)
    lies: dict[str, Any] = field(default_factory=dict)
    early: dict[str, Any] | None = None

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        protocol.send(self.sock, message, fds, time.monotonic() + SECONDS)

    def receive(self) -> dict[str, Any]:
        if self.early is not None:
            message, self.early = self.early, None
            return message
        return protocol.receive(self.sock, time.monotonic() + SECONDS)[0]

    def launch(
        self, env: dict[str, str] | None = None, argv: list[str] | None = None, console: int | None = None
    ) -> None:
        with Path(os.devnull).open("r+b") as null:
            message = protocol.launch_message(argv or LAUNCH_ARGV, "/", env or {})
            self.send(message, (console or null.fileno(), null.fileno(), null.fileno()))
        first = self.receive()
        if first["type"] == "files":
            self.asked += first["names"]
            self.send(protocol.files_message(first["names"]) | self.lies)
        else:
            self.early = first


@dataclass
class Served:
    """The server under test, how to reach it, and how to end it."""

    server: Server
    path: Path
    stop: Stop
    thread: threading.Thread
    log: Path
    told: list[Mapping[str, Any]]  # what the outlet was given

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.path))
            yield Client(sock)
