"""What libvirt and QEMU say about one guest while it runs, as values with host times, handed to whoever listens.

libvirt's callbacks come on the event loop's thread. Listeners are called there too: they must be quick, and must not
call back into libvirt. What an event means for a launch is the listener's business.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import field
from enum import IntEnum, StrEnum
from typing import Any

from orchestrator.values import dataclass

KEPT = 256  # events kept for a listener that comes after them


class EventSource(StrEnum):
    """Who said it."""

    LIBVIRT = "libvirt"
    QEMU = "qemu"


class Lifecycle(IntEnum):
    """`virDomainEventType`, libvirt's numbers."""

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    SUSPENDED = 3
    RESUMED = 4
    STOPPED = 5
    SHUTDOWN = 6
    PMSUSPENDED = 7
    CRASHED = 8


class StopReason(StrEnum):
    """Why a guest stopped, in libvirt's words; `exit_code` is the status QEMU would have ended with."""

    SHUTDOWN = "shutdown"
    DESTROYED = "destroyed"
    CRASHED = "crashed"
    MIGRATED = "migrated"
    SAVED = "saved"
    FAILED = "failed"
    SNAPSHOT = "snapshot"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> int:
        """QEMU's status for this reason: 0 for an orderly end, 128 + signal for a violent one, else 1."""
        if self in {StopReason.SHUTDOWN, StopReason.MIGRATED, StopReason.SAVED, StopReason.SNAPSHOT}:
            return 0
        return {StopReason.DESTROYED: 137, StopReason.CRASHED: 134}.get(self, 1)


# `virDomainEventStoppedDetailType`, by number.
_STOPPED = (
    StopReason.SHUTDOWN,
    StopReason.DESTROYED,
    StopReason.CRASHED,
    StopReason.MIGRATED,
    StopReason.SAVED,
    StopReason.FAILED,
    StopReason.SNAPSHOT,
)
MIGRATION = "MIGRATION"
# Those of QEMU's that somebody reads: a port of the guest's that opens or closes, a disk that fails it, a panic, a
# state that is saved or loaded.
QMP_EVENTS = frozenset({"VSERPORT_CHANGE", "BLOCK_IO_ERROR", "GUEST_PANICKED", MIGRATION})


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEvent:
    """One event. Times are the host's monotonic clock in nanoseconds.

    :ivar name: libvirt's life cycle word in lower case ("started", "stopped"), or QEMU's event name (`QMP_EVENTS`).
    :ivar detail: QEMU's event data; for libvirt `{"detail": N}`, and `{"reason": StopReason}` with "stopped".
    :ivar received_ns: when it reached this process.
    :ivar emitted_ns: when QEMU says it happened (its wall clock, carried over); None when it gives no usable time.
    """

    source: EventSource
    name: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    received_ns: int
    emitted_ns: int | None = None


Listener = Callable[[GuestEvent], None]


def stop_reason(detail: int) -> StopReason:
    """Return why, from the detail of a "stopped" event."""
    return _STOPPED[detail] if 0 <= detail < len(_STOPPED) else StopReason.UNKNOWN


def from_lifecycle(event: int, detail: int) -> GuestEvent:
    """Return the event for one of libvirt's life cycle callbacks."""
    received_ns = time.monotonic_ns()
    try:
        name = Lifecycle(event).name.lower()
    except ValueError:
        name = f"lifecycle_{event}"
    more: dict[str, Any] = {"detail": detail}
    if event == Lifecycle.STOPPED:
        more["reason"] = stop_reason(detail)
    return GuestEvent(source=EventSource.LIBVIRT, name=name, detail=more, received_ns=received_ns)


def from_qmp(name: str, seconds: int, micros: int, details: str | None, *, same_clock: bool) -> GuestEvent:
    """Return the event for one of QEMU's.

    :param seconds: QEMU's wall clock time stamp, with `micros`; negative when QEMU had no clock.
    :param same_clock: QEMU runs on this host, so its wall clock is ours.
    """
    received_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    emitted_ns = None
    if same_clock and seconds >= 0:
        age_ns = wall_ns - (seconds * 1_000_000_000 + micros * 1000)
        # The wall clock may have been stepped in between; an event is never later than its receipt.
        emitted_ns = received_ns - age_ns if 0 <= age_ns < 60_000_000_000 else None
    try:
        data = json.loads(details) if details else {}
    except (ValueError, RecursionError):
        data = {}
    detail = data if isinstance(data, dict) else {}
    return GuestEvent(source=EventSource.QEMU, name=name, detail=detail, received_ns=received_ns, emitted_ns=emitted_ns)


def stops_a_guest(event: GuestEvent) -> bool:
    """Tell whether an event says that QEMU has stopped the guest for a disk's error."""
    named = event.source is EventSource.QEMU and event.name == "BLOCK_IO_ERROR"
    return named and event.detail.get("action") == "stop"


class EventFeed:
    """The events of one guest: kept up to a bound, and passed on to its listeners in order."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kept: deque[GuestEvent] = deque(maxlen=KEPT)
        self._listeners: list[Listener] = []

    def put(self, event: GuestEvent) -> None:
        """Take an event and pass it on."""
        with self._lock:
            self._kept.append(event)
            listeners = tuple(self._listeners)
            for listener in listeners:
                listener(event)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Add a listener, which first gets the events kept so far; return a function that removes it."""
        with self._lock:
            for event in self._kept:
                listener(event)
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop
