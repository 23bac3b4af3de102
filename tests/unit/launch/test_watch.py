"""What comes first when several things have happened to a guest since the last look."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.launch.lifecycle import Event
from orchestrator.launch.stop import Stop
from orchestrator.launch.watch import Watch


@pytest.fixture
def stop() -> Iterator[Stop]:
    with Stop() as one:
        yield one


def watch(stop: Stop, boot: object, drain: Callable[[], None] = lambda: None) -> Watch:
    """Return what watches a guest that lives, with this boot; `drain` reads what is left in its control port."""
    nothing = {"disk_error": None, "halted": False, "broken": False, "log_file": None}
    guest = SimpleNamespace(exited=threading.Event(), on_event=lambda _: lambda: None, **nothing)
    place = SimpleNamespace(console=None, streams=None, control=SimpleNamespace(port=SimpleNamespace(drain=drain)))
    return Watch(cast("Any", guest), cast("Any", place), cast("Any", boot), stop, threading.Event(), trace=None)


def boot_that(*, flag_sent: bool) -> SimpleNamespace:
    """Return a boot of which nothing more is seen."""
    nothing: dict[str, Any] = {"on_control_line": None, "follow": lambda: None, "answered": lambda: False}
    return SimpleNamespace(**nothing, flag_sent=lambda: flag_sent, overdue=lambda _: False)


class QuickTool:
    """A boot whose tool has its launch flag, is done and asks for the end, all while the trace is being read."""

    def __init__(self, stop: Stop) -> None:
        self._stop, self._written = stop, False

    def on_control_line(self, line: bytes) -> None:
        """The guest says nothing."""

    def follow(self) -> None:
        self._seen = self._written
        self._written = True
        self._stop.request("the tool is done")

    def flag_sent(self) -> bool:
        return self._seen

    def answered(self) -> bool:
        return False

    def overdue(self, _now_ns: int) -> bool:
        return False


def test_a_tool_that_is_quickly_done_was_not_cancelled(stop: Stop) -> None:
    """The end that it asks for counts only once the trace was read after that."""
    with watch(stop, QuickTool(stop)) as one:
        assert one._pending() is None
        assert one.wait() is Event.LAUNCH_FLAG
        assert one.wait() is Event.STOP


def test_a_stop_before_the_flag_cancels(stop: Stop) -> None:
    """Where the trace shows no launch flag, a stop is a stop."""
    boot = boot_that(flag_sent=False)
    stop.request("the user's wish")
    with watch(stop, boot) as one:
        assert one.wait() is Event.STOP


def test_markers_before_the_flag_are_read_first(stop: Stop) -> None:
    """The trace may show the flag while the markers that the guest sent before it are still in the port."""
    boot = boot_that(flag_sent=True)
    read: list[str] = []
    with watch(stop, boot, lambda: read.append("guestfsd")) as one:
        assert one.wait() is Event.LAUNCH_FLAG
    assert read == ["guestfsd"]
