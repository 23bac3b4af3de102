"""How the end of a saving or loading is awaited, with a guest that is made up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.errors import DeadlineError, MonitorError
from orchestrator.hypervisor import migration
from orchestrator.hypervisor.events import EventFeed, EventSource, GuestEvent, Listener
from orchestrator.hypervisor.guest import Guest

_TAKES_S = 0.3


class _Loading:
    """A guest that loads a state for a while.

    :param says: how the loading ends by its event; None where that is lost.
    :param ends: how it ends when it is asked.
    """

    name = "loading"

    def __init__(self, says: str | None, ends: str = "completed") -> None:
        self.asked = 0
        self._says, self._ends, self._over = says, ends, threading.Event()
        self._feed = EventFeed()

    def on_event(self, listener: Listener) -> Callable[[], None]:
        return self._feed.listen(listener)

    def qmp(self, command: str, arguments: Mapping[str, Any] | None = None, *, files: Sequence[int] = ()) -> object:
        del arguments, files
        if command == "migrate-incoming":
            self._say("active")
            threading.Timer(_TAKES_S, self._end).start()
        if command == "query-migrate":
            self.asked += 1
            return {"status": self._ends if self._over.is_set() else "active", "error-desc": "it does not fit"}
        return {}

    def _end(self) -> None:
        self._over.set()
        if self._says is not None:
            self._say(self._says)

    def _say(self, status: str) -> None:
        self._feed.put(
            GuestEvent(
                source=EventSource.QEMU, name="MIGRATION", detail={"status": status}, received_ns=time.monotonic_ns()
            )
        )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state, of which nothing is read here."""
    path = tmp_path / "state"
    path.write_bytes(b"")
    return path


def test_qemu_is_not_asked_all_the_time(state: Path) -> None:
    """Its one thread loads the state: it says when that is done, and each question would keep it from it."""
    guest = _Loading("completed")
    began = time.monotonic()
    migration.load(cast("Guest", guest), state, 30)
    assert time.monotonic() - began >= _TAKES_S
    assert guest.asked < 20


def test_a_word_that_is_lost(state: Path) -> None:
    """Without its event the end is seen all the same."""
    migration.load(cast("Guest", _Loading(None)), state, 30)


def test_a_state_that_is_refused(state: Path) -> None:
    """QEMU's reason is told."""
    with pytest.raises(MonitorError, match="it does not fit"):
        migration.load(cast("Guest", _Loading("failed", "failed")), state, 30)


def test_a_deadline(state: Path) -> None:
    """It is kept while QEMU says nothing."""
    with pytest.raises(DeadlineError, match="took too long"):
        migration.load(cast("Guest", _Loading("completed")), state, 0.05)
