"""Clients of one kind never shut out those of another."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from orchestrator.daemon.budgets import MOST, Budgets, BusyError
from orchestrator.daemon.client import LaunchFeed, status
from orchestrator.errors import ProtocolError
from tests.unit.daemon.support import SECONDS, Client, FakeLauncher, Served


@contextlib.contextmanager
def clients(served: Served, count: int) -> Iterator[list[Client]]:
    """Connect that many clients, which say nothing yet."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(served.client()) for _ in range(count)]


def test_each_kind_is_counted_by_itself() -> None:
    """One that is full refuses, and takes another as soon as there is room; the other kinds do not notice."""
    budgets = Budgets({"launch": 1, "watch": 1})
    with budgets.one_more("launch"):
        with (
            pytest.raises(BusyError, match="cannot launch: guestlaunchd is busy: it serves 1 already"),
            budgets.one_more("launch"),
        ):
            pass
        with budgets.one_more("watch"):
            pass
    with budgets.one_more("launch"):
        pass


def test_idle_watchers_shut_nobody_out(served: Served, launcher: FakeLauncher) -> None:
    """With all the watchers there may be, launches, questions and watchers' reports go on; one more is told so."""
    with contextlib.ExitStack() as stack:
        watchers = []
        for number in range(MOST["watch"]):
            watchers.append(stack.enter_context(served.client()))
            watchers[-1].send({"type": "watch", "client": f"w{number}"})
            assert watchers[-1].receive()["type"] == "watching"
        with LaunchFeed(served.path) as late, pytest.raises(ProtocolError, match="busy"):
            late.require_accepted()
        assert status(served.path)["type"] == "status"
        launcher.at_once = True
        with served.client() as client:
            client.launch({"GUESTLAUNCH_CLIENT": "w7"})
            assert client.receive()["status"] == 0
        assert watchers[7].receive()["type"] == "finished"
    deadline = time.monotonic() + SECONDS
    while True:  # as soon as they have gone, there is room again
        with LaunchFeed(served.path) as late, contextlib.suppress(ProtocolError):
            late.require_accepted()
            return
        assert time.monotonic() < deadline


def test_launches_that_take_all_places_leave_questions_free(served: Served, launcher: FakeLauncher) -> None:
    """One launch too many is told that it may come again; what runs is still shown, and watched."""
    with contextlib.ExitStack() as stack:
        for _ in range(MOST["launch"]):
            stack.enter_context(served.client()).launch()
            assert launcher.started.acquire(timeout=SECONDS)
        with served.client() as late:
            late.launch()
            answer = late.receive()
            assert (answer["type"], answer["status"], answer.get("busy")) == ("exit", 1, True), answer
            assert "busy" in answer["message"]
        assert len(status(served.path)["launches"]) == MOST["launch"]
        with LaunchFeed(served.path) as watch:
            watch.require_accepted()


def test_clients_that_say_nothing_are_few(served: Served) -> None:
    """Connections without a request cannot use up threads and descriptors; they go after some seconds."""
    with clients(served, MOST["connect"] + 8) as silent:
        answers = 0
        deadline = time.monotonic() + SECONDS
        while answers < 8 and time.monotonic() < deadline:
            answers = 0
            for client in silent:
                client.sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    answers += bool(client.sock.recv(1, socket.MSG_PEEK))
        assert answers == 8


def test_a_watcher_that_does_not_read_is_let_go(served: Served, launcher: FakeLauncher) -> None:
    """Its launches end in time, and go on to end so."""
    launcher.at_once = True
    with served.client() as watcher:
        watcher.send({"type": "watch", "client": "deaf"})
        assert watcher.receive()["type"] == "watching"
        watcher.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        longest = 0.0
        for _ in range(400):
            began = time.monotonic()
            with served.client() as client:
                client.launch({"GUESTLAUNCH_CLIENT": "deaf"})
                assert client.receive()["status"] == 0
            longest = max(longest, time.monotonic() - began)
        assert longest < SECONDS
