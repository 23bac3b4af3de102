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
    """What succeeds at once is recorded once and logs nothing."""
    records: list[Attempt] = []
    events: list[str] = []
    result = retry.call(
        "connect", failing(0, 0), policy=QUICK, record=records.append, emit=lambda event, **_: events.append(event)
    )
    assert result == "done"
    assert [(attempt.number, attempt.libvirt_code) for attempt in records] == [(1, None)]
    assert events == []


def test_passing_failures_are_repeated_and_recorded() -> None:
    """Each attempt has its own record and each wait its own log event; durations do not contain the waits."""
    records: list[Attempt] = []
    events: list[dict[str, Any]] = []
    result = retry.call(
        "connect",
        failing(2, Code.RPC),
        policy=QUICK,
        record=records.append,
        emit=lambda event, **values: events.append({"event": event, **values}),
    )
    assert result == "done"
    assert [(attempt.number, attempt.libvirt_code) for attempt in records] == [(1, 39), (2, 39), (3, None)]
    assert [(event["event"], event["attempt"]) for event in events] == [("libvirt_retry", 1), ("libvirt_retry", 2)]
    for earlier, later in itertools.pairwise(records):
        assert later.start_ns >= earlier.start_ns + earlier.duration_ns + 5_000_000


@pytest.mark.parametrize("code", [Code.XML_ERROR, Code.NO_DOMAIN, Code.AUTH_FAILED, Code.INTERNAL_ERROR])
def test_lasting_failures_are_not_repeated(code: int) -> None:
    """A failure that will not pass is raised after one attempt."""
    records: list[Attempt] = []
    with pytest.raises(LibvirtLikeError):
        retry.call("connect", failing(1, code), policy=QUICK, record=records.append)
    assert len(records) == 1


def test_other_exceptions_are_not_repeated() -> None:
    """A mistake of ours is not mistaken for libvirt's failure."""
    records: list[Attempt] = []

    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retry.call("connect", broken, policy=QUICK, record=records.append)
    assert len(records) == 1


def test_last_failure_is_raised_when_attempts_are_used_up() -> None:
    """After the last attempt the failure itself comes out, not the retry library's."""
    records: list[Attempt] = []
    with pytest.raises(LibvirtLikeError):
        retry.call("connect", failing(99, Code.RPC), policy=QUICK, record=records.append)
    assert len(records) == QUICK.attempts


def test_total_time_bounds_the_attempts() -> None:
    """The time given ends it before the number of attempts does."""
    policy = RetryPolicy(attempts=1000, total_s=0.2, first_wait_s=0.01, longest_wait_s=0.05)
    begin = time.monotonic()
    with pytest.raises(LibvirtLikeError):
        retry.call("connect", failing(9999, Code.RPC), policy=policy)
    assert time.monotonic() - begin < 2


def test_once_means_once() -> None:
    """The policy for what must not be repeated makes one attempt even for a failure that passes."""
    records: list[Attempt] = []
    with pytest.raises(LibvirtLikeError):
        retry.call("connect", failing(1, Code.RPC), policy=retry.ONCE, record=records.append)
    assert len(records) == 1
