"""The request to end a launch: thread-safe, and something a selector can wait on."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Self


class Stop:
    """Asks one launch to end; a context manager that owns its eventfd."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.RLock()  # a signal handler may come while its own thread holds it
        self._reason: str | None = None
        self._requested_ns: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def reason(self) -> str | None:
        """Why the end was asked for; None while it was not."""
        return self._reason

    @property
    def requested(self) -> bool:
        """Tell whether the end was asked for."""
        return self._reason is not None

    @property
    def requested_ns(self) -> int | None:
        """Monotonic time at which the end was asked for; None while it was not."""
        return self._requested_ns

    def request(self, reason: str) -> None:
        """Ask for the end; the first reason counts. Safe from signal handlers."""
        if self._reason is None:
            self._requested_ns = time.monotonic_ns()
            self._reason = reason
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        """Return the eventfd, readable once the end was asked for."""
        return self._fd

    def close(self) -> None:
        """Release the eventfd; whoever asks for the end from then on writes to nothing."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
