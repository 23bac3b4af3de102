"""Leads the events of a connection, which come for all domains at once, to the feed of the guest they concern.

A guest's first events come while libvirt is still starting it, before there is anybody to take them: they are kept
as long as a start is under way.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.hypervisor.binding import libvirt, libvirt_qemu
from orchestrator.hypervisor.events import QMP_EVENTS, EventFeed, GuestEvent, from_lifecycle, from_qmp

if TYPE_CHECKING:
    from collections.abc import Callable

_EARLY = 256


class EventRouter:
    """The feeds of one connection's guests, by UUID.

    :param same_clock: QEMU runs on this host, so its time stamps are on our clock.
    """

    def __init__(self, *, same_clock: bool) -> None:
        self._same_clock = same_clock
        self._lock = threading.RLock()
        self._feeds: weakref.WeakValueDictionary[str, EventFeed] = weakref.WeakValueDictionary()
        self._starting = 0
        self._early: deque[tuple[str, GuestEvent]] = deque(maxlen=_EARLY)

    def subscribe(self, handle: libvirt.virConnect) -> list[Callable[[], object]]:
        """Ask libvirt for all events of all domains; return what undoes it."""
        lifecycle = handle.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None)
        undo: list[Callable[[], object]] = [lambda: handle.domainEventDeregisterAny(lifecycle)]
        monitor = libvirt_qemu.qemuMonitorEventRegister(handle, None, None, self._on_qmp, None)
        undo.append(lambda: libvirt_qemu.qemuMonitorEventDeregister(handle, monitor))
        return undo

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Keep the events of guests that are not known yet, for as long as a start is under way."""
        with self._lock:
            self._starting += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1
                if not self._starting:
                    self._early.clear()

    def feed(self, uuid: str) -> EventFeed:
        """Return a feed for a guest that has just been started, with its early events in it.

        What an earlier guest of the same UUID said is not its.
        """
        with self._lock:
            feed = self._feeds[uuid] = EventFeed()
            for of, event in self._early:
                if of == uuid:
                    feed.put(event)
            return feed

    def _deliver(self, uuid: str, event: GuestEvent) -> None:
        with self._lock:
            feed = self._feeds.get(uuid)
            if self._starting:
                self._early.append((uuid, event))
            if feed is not None:
                feed.put(event)

    def _on_lifecycle(
        self, _handle: libvirt.virConnect, domain: libvirt.virDomain, event: int, detail: int, _opaque: object
    ) -> None:
        self._deliver(domain.UUIDString(), from_lifecycle(event, detail))

    def _on_qmp(
        self,
        _handle: libvirt.virConnect,
        domain: libvirt.virDomain,
        name: str,
        seconds: int,
        micros: int,
        details: str | None,
        _opaque: object,
    ) -> None:
        if name in QMP_EVENTS:
            self._deliver(domain.UUIDString(), from_qmp(name, seconds, micros, details, same_clock=self._same_clock))
