"""Keeps small the files that a guest can make QEMU write to: its trace, and the domain's log.

A guest can have QEMU write lines for ever: a select of a fw_cfg key, an opened port, a request that its device calls
an error. The trace is switched off once it holds more than a launch makes, or is needed no more; the log, to which
QEMU appends, is emptied.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from orchestrator.domain.arguments import TRACE_EVENTS
from orchestrator.errors import GuestlaunchError
from orchestrator.hypervisor.guest import Guest
from orchestrator.timeline.trace import MOST_BYTES

_LOG_BYTES = 512 << 10
_LOOK_SECONDS = 0.25
# A guest that has done it is looked at more often.
_LOOK_CLOSELY_SECONDS = 0.05
_QMP_SECONDS = 5.0


class Written:
    """What one guest has had QEMU write.

    :param trace: the file of QEMU's trace, None where it is off.
    """

    def __init__(self, guest: Guest, trace: Path | None) -> None:
        self._guest, self._trace, self._tracing = guest, trace, trace is not None
        self._every_s, self._next_s = _LOOK_SECONDS, 0.0

    @property
    def suspicious(self) -> bool:
        """Whether the guest was seen to write more than a launch does."""
        return self._every_s == _LOOK_CLOSELY_SECONDS

    @property
    def look_ms(self) -> float:
        """How long to wait at most until the next look, in milliseconds."""
        return self._every_s * 1000

    def look(self) -> None:
        """Cut off what is too much, if it is time to look again."""
        now = time.monotonic()
        if now < self._next_s:
            return
        if self._tracing and self._trace is not None and _size(self._trace) > MOST_BYTES:
            self._every_s = _LOOK_CLOSELY_SECONDS
            self.stop_tracing()
            _empty(self._trace)
        log = self._guest.log_file
        if log is not None and _size(log) > _LOG_BYTES:
            self._every_s = _LOOK_CLOSELY_SECONDS
            _empty(log)
        self._next_s = time.monotonic() + self._every_s

    def stop_tracing(self) -> None:
        """Stop QEMU's trace: there is nothing left to date."""
        if not self._tracing:
            return
        self._tracing = False
        for event in TRACE_EVENTS:
            with contextlib.suppress(GuestlaunchError):  # a guest that is gone traces nothing
                values = {"name": event, "enable": False}
                self._guest.qmp("trace-event-set-state", values, deadline_s=_QMP_SECONDS)


def _size(path: Path) -> int:
    """Return how much a file holds. QEMU writes on at its own offset, whatever was cut off: holes do not count."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return min(status.st_size, status.st_blocks * 512)


def _empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.truncate(path, 0)
