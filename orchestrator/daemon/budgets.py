"""How many clients of each kind a server serves at once, so that none of one kind shuts out those of another."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

from orchestrator.errors import ProtocolError

# "connect" counts clients that have not said what they want; they have some seconds to do so.
MOST: Mapping[str, int] = {"connect": 64, "launch": 256, "watch": 256, "status": 32}


class BusyError(ProtocolError):
    """There are as many clients of a kind as are allowed; later there may be fewer."""


class Budgets:
    """Counts the clients of each kind.

    :param most: how many there may be.
    """

    def __init__(self, most: Mapping[str, int] = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._served: Counter[str] = Counter()

    @contextlib.contextmanager
    def one_more(self, kind: str) -> Iterator[None]:
        """Count a client while the context lasts.

        :raise BusyError: there are enough of its kind.
        """
        with self._lock:
            if self._served[kind] >= self._most[kind]:
                raise BusyError(f"cannot {kind}", "guestlaunchd is busy", f"it serves {self._most[kind]} already")
            self._served[kind] += 1
        try:
            yield
        finally:
            with self._lock:
                self._served[kind] -= 1
