"""What is repeated, how often, and that each attempt leaves its own record."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.hypervisor import retry
from orchestrator.hypervisor.failure import Code
from orchestrator.hypervisor.retry import Attempt, RetryPolicy

QUICK = RetryPolicy(attempts=4, total_s=5, first_wait_s=0.01, longest_wait_s=0.02)


class LibvirtLikeError(Exception):
    """Offers the one method of libvirt's exception that is looked at."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code

    def get_error_code(self) -> int:
        return self.code


class Log:
    """Keeps the events it is given."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def emit(self, event: str, **values: object) -> None:
        self.events.append({"event": event, **values})

    def attempts(self) -> list[Attempt]:
        found = [dict(event) for event in self.events if event["event"] == "libvirt_attempt"]
        return [Attempt(**{k: v for k, v in event.items() if k not in {"event", "level"}}) for event in found]


def failing(times: int, code: int) -> Callable[[], str]:
    """Return a function that fails so many times, and then succeeds."""
    left = [times]

    def function() -> str:
        if left[0]:
            left[0] -= 1
            raise LibvirtLikeError(code)
        return "done"

    return function


def test_success_is_one_attempt() -> None:
    """What succeeds at once logs nothing."""
    log = Log()
    assert retry.call("connect", failing(0, 0), policy=QUICK, emit=log.emit) == "done"
    assert log.events == []


def test_passing_failures_are_repeated_and_recorded() -> None:
    """Each attempt has its own record and each wait its own log event; durations do not contain the waits."""
    log = Log()
    assert retry.call("connect", failing(2, Code.RPC), policy=QUICK, emit=log.emit) == "done"
    attempts = log.attempts()
    assert [(attempt.number, attempt.libvirt_code) for attempt in attempts] == [(1, 39), (2, 39), (3, None)]
    assert [event["attempt"] for event in log.events if event["event"] == "libvirt_retry"] == [1, 2]
    for earlier, later in itertools.pairwise(attempts):
        assert later.start_ns >= earlier.start_ns + earlier.duration_ns + 5_000_000


@pytest.mark.parametrize("code", [Code.XML_ERROR, Code.NO_DOMAIN, Code.AUTH_FAILED, Code.INTERNAL_ERROR])
def test_lasting_failures_are_not_repeated(code: int) -> None:
    """A failure that will not pass is raised after one attempt."""
    log = Log()
    with pytest.raises(LibvirtLikeError):
        retry.call("connect", failing(1, code), policy=QUICK, emit=log.emit)
    assert len(log.attempts()) == 1


def test_other_exceptions_are_not_repeated() -> None:
    """A mistake of ours is not mistaken for libvirt's failure."""
    log = Log()

    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retry.call("connect", broken, policy=QUICK, emit=log.emit)
    assert len(log.attempts()) == 1


def test_last_failure_is_raised_when_attempts_are_used_up() -> None:
    """After the last attempt the failure itself comes out, not the retry library's."""
    log = Log()
    with pytest.raises(LibvirtLikeError):
        retry.call("connect", failing(99, Code.RPC), policy=QUICK, emit=log.emit)
    assert len(log.attempts()) == QUICK.attempts


def test_total_time_bounds_the_attempts() -> None:
    """The time given ends it before the number of attempts does."""
    policy = RetryPolicy(attempts=1000, total_s=0.2, first_wait_s=0.01, longest_wait_s=0.05)
    begin = time.monotonic()
    with pytest.raises(LibvirtLikeError):
        retry.call("connect", failing(9999, Code.RPC), policy=policy)
    assert time.monotonic() - begin < 20


def test_once_means_once() -> None:
    """The policy for what must not be repeated makes one attempt even for a failure that passes."""
    log = Log()
    with pytest.raises(LibvirtLikeError):
        retry.call("connect", failing(1, Code.RPC), policy=retry.ONCE, emit=log.emit)
    assert len(log.attempts()) == 1
