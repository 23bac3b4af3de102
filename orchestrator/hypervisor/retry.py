"""Repeating what libvirt may manage a moment later: which codes, how often, how long; the only user of tenacity.

Each attempt is its own record (`Attempt`) with its own times, so that a repetition never hides inside a duration: in
the log there is one `libvirt_attempt` for each, unless the first one succeeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Generic, TypeVar

from orchestrator.hypervisor.failure import Code
from orchestrator.values import dataclass

T = TypeVar("T")

# A daemon that is being started or restarted, a link that broke, a lock held by another client: all of these pass.
# Not among them: descriptions that libvirt refuses, missing things, refused rights, QEMU's own complaints.
TRANSIENT = frozenset(
    {
        Code.RPC,
        Code.SYSTEM_ERROR,
        Code.OPERATION_TIMEOUT,
        Code.RESOURCE_BUSY,
        Code.AGENT_UNRESPONSIVE,
        Code.DBUS_SERVICE,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to go on. Times are seconds; the wait doubles from `first_wait_s` up to `longest_wait_s`."""

    attempts: int = 4
    total_s: float = 10.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 2.0


ONCE = RetryPolicy(attempts=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try. Times are the monotonic clock's, in nanoseconds; `libvirt_code` is None when it succeeded."""

    operation: str
    number: int
    start_ns: int
    duration_ns: int
    libvirt_code: int | None
    why: str = ""


def worth_repeating(failure: BaseException) -> bool:
    """Tell whether the same call may succeed a moment later, by libvirt's code alone."""
    code = getattr(failure, "get_error_code", None)
    return callable(code) and code() in TRANSIENT


def call(
    operation: str,
    function: Callable[[], T],
    *,
    policy: RetryPolicy | None = None,
    emit: Callable[..., None] | None = None,
) -> T:
    """Return what function returns, repeating it while libvirt's failure is one that passes.

    :param operation: constant name of what is tried, for the records ("connect").
    :param emit: the event log's `emit`; gets one `libvirt_attempt` event as each attempt ends, the successful one too,
        unless nothing had to be repeated, and one `libvirt_retry` before each wait.
    :raise Exception: the last failure itself, unchanged, when attempts or time are used up.
    """
    tries = _Tries(operation, function, emit)
    policy = policy or RetryPolicy()
    try:
        return tries.attempt()
    except Exception as failure:
        # The first try is made here because importing tenacity costs a launch more than connecting does.
        if policy.attempts <= 1 or not worth_repeating(failure):
            raise
        tries.announce(policy.first_wait_s)
    time.sleep(policy.first_wait_s)
    return _again(tries, policy)


class _Tries(Generic[T]):
    """The attempts of one call, in order."""

    def __init__(
        self,
        operation: str,
        function: Callable[[], T],
        emit: Callable[..., None] | None,
    ) -> None:
        self._operation = operation
        self._function = function
        self._emit = emit
        self._started_ns = time.monotonic_ns()
        self.done: list[Attempt] = []

    @property
    def elapsed_s(self) -> float:
        return (time.monotonic_ns() - self._started_ns) / 1e9

    def attempt(self) -> T:
        """Make one attempt and keep its record, whatever comes of it."""
        start_ns = time.monotonic_ns()
        failure: BaseException | None = None
        try:
            return self._function()
        except BaseException as caught:
            failure = caught
            raise
        finally:
            attempt = Attempt(
                operation=self._operation,
                number=len(self.done) + 1,
                start_ns=start_ns,
                duration_ns=time.monotonic_ns() - start_ns,
                libvirt_code=getattr(failure, "get_error_code", lambda: None)(),
                why=str(failure or ""),
            )
            self.done.append(attempt)
            if self._emit is not None and (failure is not None or attempt.number > 1):
                level = "info" if failure is None else "warning"
                self._emit("libvirt_attempt", level=level, **asdict(attempt))

    def announce(self, wait_s: float) -> None:
        """Log the attempt that has just failed and will be followed by another after wait_s seconds."""
        if self._emit is not None:
            last = self.done[-1]
            self._emit(
                "libvirt_retry",
                level="warning",
                operation=last.operation,
                attempt=last.number,
                wait_s=round(wait_s, 3),
            )


def _again(tries: _Tries[T], policy: RetryPolicy) -> T:
    """Make the attempts after the first one."""
    import tenacity

    left_s = policy.total_s - tries.elapsed_s
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(worth_repeating),
        stop=tenacity.stop_after_attempt(policy.attempts - 1) | tenacity.stop_after_delay(left_s),
        wait=tenacity.wait_exponential(multiplier=2 * policy.first_wait_s, max=policy.longest_wait_s),
        before_sleep=lambda state: tries.announce(state.next_action.sleep if state.next_action else 0.0),
        reraise=True,
    )
    return retrying(tries.attempt)
