"""The request to end a launch, from several threads at once."""

from __future__ import annotations

import os
import select
import threading

import pytest

from orchestrator.launch.stop import Stop


def test_first_reason_counts() -> None:
    """It can be waited for, and says why and when the end was first asked for."""
    with Stop() as stop:
        assert (stop.requested, stop.reason, stop.requested_ns) == (False, None, None)
        stop.request("one")
        stop.request("two")
        assert (stop.requested, stop.reason) == (True, "one")
        assert select.select([stop], [], [], 0)[0] == [stop]


def test_late_requests_write_nowhere() -> None:
    """After close another file may have the descriptor: nothing is written to it."""
    stop = Stop()
    number = stop.fileno()
    stop.close()
    other = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        assert other == number
        stop.request("late")
        with pytest.raises(BlockingIOError):
            os.eventfd_read(other)
    finally:
        os.close(other)


def test_not_closed_while_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that closes it waits for another that is about to write."""
    stop = Stop()
    closer = threading.Thread(target=stop.close)
    write = os.eventfd_write

    def slow(fd: int, value: int) -> None:
        closer.start()
        closer.join(0.2)  # it must not come to its end by itself
        write(fd, value)

    monkeypatch.setattr(os, "eventfd_write", slow)
    stop.request("race")
    closer.join(10)
    assert not closer.is_alive()
    assert stop.fileno() == -1
