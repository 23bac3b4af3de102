"""Calls into libvirt on threads of their own: libvirt waits for daemons and for QEMU without any deadline.

Whoever waits for such a call in silence can be told that it is libvirt that does not answer.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

T = TypeVar("T")

TOLD_AFTER_S = 4.0
_TICK_S = 0.25

_asked: dict[int, int] = {}  # since when a thread, by its identity, has been waiting for an answer, in monotonic ns


def asked_ns(thread: int) -> int | None:
    """Return since when a thread has been waiting for an answer, in monotonic ns; None when it is not."""
    return _asked.get(thread)


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Within the context, this thread waits for an answer, be it one that another thread has asked for."""
    thread = threading.get_ident()
    before = _asked.get(thread)
    _asked[thread] = time.monotonic_ns() if before is None else before
    try:
        yield
    finally:
        if before is None:
            del _asked[thread]


def call(
    function: Callable[[], T], deadline_s: float | None, *, name: str, late: Callable[[T], object] | None = None
) -> T:
    """Return what function returns, called on a thread of its own.

    :param deadline_s: how long to wait for it; None for as long as it takes.
    :param name: of the thread.
    :param late: takes what function returns after all, on that thread, when nobody waits for it any more.
    :raise TimeoutError: it has not come back within deadline_s seconds, and goes on by itself.
    :raise BaseException: what function raised.
    """
    answer: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()
    deciding, given_up = threading.Lock(), threading.Event()

    def run() -> None:
        try:
            result = function()
        except BaseException as raised:  # noqa: BLE001 - it is raised again on the caller's thread
            answer.put(_raising(raised))
            return
        with deciding:
            answer.put(lambda: result)
            too_late = given_up.is_set()
        if too_late and late is not None:
            late(result)

    with asking():
        try:
            threading.Thread(target=run, name=name, daemon=True).start()
            return answer.get(timeout=deadline_s)()
        except queue.Empty:
            with deciding:
                if answer.empty():
                    given_up.set()
                    raise TimeoutError(f"no answer within {deadline_s:g} s") from None
            return answer.get()()


def _raising(failure: BaseException) -> Callable[[], NoReturn]:
    def call_again() -> NoReturn:
        raise failure

    return call_again


@contextlib.contextmanager
def explained(asked_ns: Callable[[], int | None], uri: str | None, tell: Callable[[str], None]) -> Iterator[None]:
    """Within the context, say it once when libvirt has been asked for something and has not answered for a while.

    :param asked_ns: returns since when the launch waits for libvirt's answer, None when it does not.
    :param uri: the connection; None is the embedded driver, for which nobody waits.
    """
    if uri is None:
        yield
        return
    over = threading.Event()

    def look() -> None:
        while not over.wait(_TICK_S):
            began_ns = asked_ns()
            if began_ns is not None and time.monotonic_ns() - began_ns > TOLD_AFTER_S * 1e9:
                tell(
                    f"waiting for libvirt: {uri}: no answer for {TOLD_AFTER_S:g} s (the launch goes on when it answers)"
                )
                return

    watcher = threading.Thread(target=look, name="patience", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
