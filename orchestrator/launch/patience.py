"""Tells whom a launch is for, who hears nothing else, that it waits for a libvirt daemon which does not answer.

The embedded driver is in this process; only a daemon can be paused, swapped out or busy with others.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from orchestrator.timeline.phases import Phase
from orchestrator.timeline.recorder import Recorder

TOLD_AFTER_S = 4.0
_TICK_S = 0.25
_BEFORE = frozenset({Phase.PLAN, Phase.STAGE})
_ASKING = frozenset({Phase.CONNECT, Phase.CREATE, Phase.QEMU})  # libvirt is asked for something, and nothing else is


@contextlib.contextmanager
def explained(recorder: Callable[[], Recorder], uri: str | None, tell: Callable[[str], None]) -> Iterator[None]:
    """Within the context, say it once when libvirt has been asked for something and has not answered for a while.

    :param recorder: returns that of the launch under way; another one may take its place.
    :param uri: the connection; None is the embedded driver, for which nobody waits.
    """
    if uri is None:
        yield
        return
    over = threading.Event()

    def look() -> None:
        while not over.wait(_TICK_S):
            own = recorder()
            phase = own.current()
            if phase not in _BEFORE | _ASKING:
                return
            began_ns = own.at_ns(phase)
            if phase in _ASKING and began_ns is not None and time.monotonic_ns() - began_ns > TOLD_AFTER_S * 1e9:
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
