"""Calls on threads of their own: their answer, their failure, and what comes too late."""

from __future__ import annotations

import threading
import time

import pytest

from orchestrator.hypervisor import bounded


def test_an_answer_in_time() -> None:
    """It is returned."""
    assert bounded.call(lambda: 7, 10, name="test") == 7


def test_a_failure_in_time() -> None:
    """It is raised as it is."""
    with pytest.raises(ZeroDivisionError):
        bounded.call(lambda: 1 // 0, 10, name="test")


def test_no_deadline() -> None:
    """The call has a thread of its own all the same, and its failure is the caller's."""
    assert bounded.call(threading.get_ident, None, name="test") != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        bounded.call(lambda: 1 // 0, None, name="test")


def test_what_comes_too_late_is_put_away() -> None:
    """Whoever called was told so long before; what was made meanwhile is nobody's."""
    go_on, done = threading.Event(), threading.Event()
    late: list[int] = []

    def slow() -> int:
        go_on.wait(20)
        return 7

    def put_away(value: int) -> None:
        late.append(value)
        done.set()

    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        bounded.call(slow, 0.05, name="test", late=put_away)
    assert late == []
    go_on.set()
    assert done.wait(20)
    assert late == [7]


def test_who_waits_is_known() -> None:
    """Since when a thread has been waiting for an answer can be asked, while it does."""
    asked, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        asked.set()
        go_on.wait(20)

    began = time.monotonic_ns()
    waiting = threading.Thread(target=lambda: bounded.call(slow, 20, name="test"))
    waiting.start()
    assert waiting.ident is not None
    assert asked.wait(20)
    since = bounded.asked_ns(waiting.ident)
    go_on.set()
    waiting.join(20)
    assert since is not None
    assert began <= since <= time.monotonic_ns()
    assert bounded.asked_ns(waiting.ident) is None
