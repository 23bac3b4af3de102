"""Tells whom a launch is for, who hears nothing else, that it waits for a libvirt daemon which does not answer.

The embedded driver is in this process; only a daemon can be paused, swapped out or busy with others.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

TOLD_AFTER_S = 4.0
_TICK_S = 0.25


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
