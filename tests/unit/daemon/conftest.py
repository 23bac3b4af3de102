"""A server with a launcher that only pretends to launch: the sockets, threads and messages are real."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.daemon.requests import Requests
from orchestrator.daemon.server import Server
from orchestrator.launch.stop import Stop
from orchestrator.records.log import EventLog
from orchestrator.settings import Settings
from tests.unit.daemon.support import SECONDS, FakeLauncher, Served


@pytest.fixture
def launcher() -> FakeLauncher:
    """Return the launcher behind the server."""
    return FakeLauncher()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings whose directories are the test's own."""
    return Settings(state_dir=tmp_path / "state", runtime_dir=tmp_path / "run")


@pytest.fixture
def served(tmp_path: Path, launcher: FakeLauncher, settings: Settings) -> Iterator[Served]:
    """Serve on a socket for the length of the test."""
    log = tmp_path / "events.jsonl"
    told: list[Mapping[str, Any]] = []
    events = EventLog(str(log))
    server = Server(Requests(launcher, settings, events, outlet=told.append), events)
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener, Stop() as stop:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=server.serve, args=(listener, stop))
        thread.start()
        yield Served(server, path, stop, thread, log, told)
        stop.request("test over")
        thread.join(SECONDS)
        launcher.deaf = False
        server.close("test over", SECONDS)
        assert not thread.is_alive()
