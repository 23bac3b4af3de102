"""Everything that can happen to a booting or running guest, turned into life cycle events, and those into reasons.

One poll over QEMU's pidfd, the stop request, the console, the control port, and libvirt's events (which
arrive on another thread and wake us by an eventfd). The thread of the launch runs it; nothing here ends
a domain or decides what follows.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from orchestrator.errors import GuestlaunchError
from orchestrator.hypervisor.events import EventSource, GuestEvent
from orchestrator.hypervisor.guest import Guest
from orchestrator.hypervisor.written import Written
from orchestrator.launch.context import Place
from orchestrator.launch.diagnosis import Evidence
from orchestrator.launch.lifecycle import Event
from orchestrator.launch.stop import Stop
from orchestrator.timeline.phases import Phase

_TICK_MS = 250.0
# Nothing wakes us when the connection to a libvirt daemon breaks: we look now and then.
_LOST_TICK_MS = 1000.0
# guestfsd sends its launch flag right after it opened its port; QEMU's trace shows it within milliseconds.
_FLAG_TICK_MS = 5.0
_EXIT_SECONDS = 1.0
# How many events are kept until they are taken; what dates a launch is in QEMU's trace, too.
_EVENTS = 1024
_HUNG_UP = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Following(Protocol):
    """What follows a guest by what is seen of it: a boot (`boot.Boot`), or a rehearsal (`gate.Rehearsal`)."""

    @property
    def goes_on(self) -> bool:
        """Whether the guest is followed on once it is ready: there is an end of its own to wait for."""

    @property
    def flag_due(self) -> bool:
        """Whether the launch flag follows at once."""

    def on_control_line(self, line: bytes) -> None:
        """Take a line that the guest wrote to its control port."""

    def follow(self) -> None:
        """Take what is new."""

    def port_opened(self, alias: str, at_ns: int, source: str, *, opened: bool = True) -> None:
        """Take note that the guest opened or closed a virtio-serial port."""

    def flag_sent(self) -> bool:
        """Tell whether the tool has its launch flag."""

    def answered(self) -> bool:
        """Tell, once, whether the guest has said what we wait for."""

    def overdue(self, now_ns: int) -> bool:
        """Tell whether the guest has made no progress for longer than allowed."""

    def diagnose(self, event: Event, seen: Evidence) -> GuestlaunchError | None:
        """Return why a guest ended; None for one that had done what it was for."""


class FollowedLaunch(Following, Protocol):
    """What follows the guest of a launch; beside what is seen of it, it knows what that means for the launch."""

    @property
    def done(self) -> bool:
        """Whether a launch that became ready has come to the end that it was for."""

    def current(self) -> Phase:
        """Return the latest phase whose beginning was seen."""

    def allowed_s(self, phase: Phase) -> float | None:
        """Return how long a phase may take, in seconds; None: no bound."""

    def served(self, until_ns: int) -> bool:
        """Tell, once QEMU is gone, whether the launch became ready before its end was asked for."""

    def settle(self) -> None:
        """Take the last of what dates the launch."""

    def proof_failures(self) -> tuple[str, ...]:
        """Return why the dates of a launch that was ready prove nothing; no reasons if all is well."""


class Watch:
    """Waits for the next event of one guest; a context manager.

    :param place: has our ends of the guest's character devices; `boot` gets the control port's lines from now on.
    :param lost: set when the libvirt connection broke.
    :param trace: the file of QEMU's trace, None where it is off.
    """

    def __init__(
        self, guest: Guest, place: Place, boot: Following, stop: Stop, lost: threading.Event, *, trace: Path | None
    ) -> None:
        self._guest, self._boot, self._stop, self._lost = guest, boot, stop, lost
        self._console, self._control, self._streams = place.console, place.control.port, place.streams
        self._written = Written(guest, trace)
        place.control.listener = boot.on_control_line
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._arrived: deque[GuestEvent] = deque(maxlen=_EVENTS)
        self._ready = False
        self._forget = guest.on_event(self._on_guest_event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()
        os.close(self._wake)

    def _on_guest_event(self, event: GuestEvent) -> None:
        """Take an event on libvirt's thread and wake the launch's."""
        self._arrived.append(event)
        os.eventfd_write(self._wake, 1)

    def wait(self) -> Event:
        """Wait until something happens that the life cycle must know of, and return it."""
        while True:
            event = self._pending()
            if event is not None:
                return event
            self._poll()
            self._written.look()

    def stop_tracing(self) -> None:
        """Stop QEMU's trace: there is nothing left to date."""
        self._written.stop_tracing()

    def drain(self) -> None:
        """Take what the guest sent before it ended."""
        self._console.port.drain()
        self._console.flush()
        if self._streams is not None:
            self._streams.drain()
        self._control.drain()

    def explain(
        self, event: Event, phase: Phase, *, ready: bool, allowed_s: float | None, uri: str | None
    ) -> GuestlaunchError | None:
        """Return why a guest, drained by now, ended; None when one that had served its tool ended normally.

        :param event: what `wait` returned; `phase` is where the guest was.
        :param ready: its tool had it.
        :param allowed_s: how long the phase might take.
        :param uri: the connection's.
        """
        if event is Event.DISK_ERROR:
            from orchestrator.hypervisor.disk_error import stopped_by_disk  # here: it hardly ever happens

            return stopped_by_disk(self._guest)
        ring = self._console.ring
        evidence = Evidence(
            phase=phase,
            ready=ready,
            exit_code=self._guest.exit_code,
            last_line=next(iter(ring.tail(1)), None),
            panic=ring.panic(),
            allowed_s=allowed_s,
            uri=uri,
            broken=self._guest.broken,
        )
        return self._boot.diagnose(event, evidence)

    def _pending(self) -> Event | None:
        """Look at how things stand, in order of importance."""
        # A QEMU that died comes first: its tool notices too, and asks for the end in the same moment.
        if self._guest.exited.is_set():
            return Event.QEMU_GONE
        # A tool may be done before we saw it begin: the beginning comes first, or it would count as cancelled. Whether
        # the end was asked for is read before that: a tool that is done by then had begun by then, too.
        stopping = self._stop.requested
        if stopping and not self._ready:
            self._control.drain()  # what the guest has said of it so far
        self._take_guest_events()
        if not self._ready and not self._lost.is_set():
            self._boot.follow()
            if self._boot.flag_sent():
                # QEMU's trace may be read before the markers that the guest sent earlier.
                self._control.drain()
                self._ready = True
                return Event.LAUNCH_FLAG
        if self._guest.disk_error is not None:  # before a stop: the tool may not have noticed what it has lost
            return Event.DISK_ERROR
        if stopping:
            return Event.STOP
        if self._lost.is_set():
            return Event.FAILED
        if self._ready and not self._boot.goes_on:
            return None
        if self._boot.answered():
            return Event.ANSWERED
        return Event.DEADLINE if self._boot.overdue(time.monotonic_ns()) else None

    def _poll(self) -> None:
        """Sleep until a descriptor is ready or the next look is due, and serve what is ready."""
        poll = select.poll()
        reading = self._actions()
        writing: dict[int, Callable[[], object]] = {self._console.output_fd: self._console.flush}
        writing.pop(-1, None)
        if self._streams is not None:
            self._streams.stdin.advance()
            more, behind = self._streams.waits()
            reading |= more
            writing |= behind
        for descriptor in reading.keys() | writing.keys():  # libguestfs's socket carries both directions
            wanted = select.POLLIN if descriptor in reading else 0
            poll.register(descriptor, wanted | (select.POLLOUT if descriptor in writing else 0))
        for descriptor, flags in poll.poll(self._timeout_ms()):
            if descriptor in writing and flags & (select.POLLOUT | _HUNG_UP):
                writing[descriptor]()
            if descriptor in reading and flags & (select.POLLIN | _HUNG_UP):
                reading[descriptor]()

    def _actions(self) -> dict[int, Callable[[], object]]:
        """Return what to do when a descriptor is readable."""
        console = self._console
        pidfd = self._guest.pidfd
        wanted: dict[int, Callable[[], object]] = {
            self._wake: lambda: os.eventfd_read(self._wake),
            self._stop.fileno(): lambda: None,
            console.port.fileno(): console.port.handle,
            self._control.fileno(): self._control.handle,
            console.input_fd: console.from_client,
            -1 if pidfd is None else pidfd: lambda: self._guest.exited.wait(_EXIT_SECONDS),
        }
        return {descriptor: action for descriptor, action in wanted.items() if descriptor >= 0}

    def _timeout_ms(self) -> float:
        """Return how long to sleep; most guests that are ready are not followed any more."""
        if self._written.suspicious:
            return self._written.look_ms
        if self._streams is not None and self._streams.closing:
            return _FLAG_TICK_MS
        if self._ready and not self._boot.goes_on:
            return _LOST_TICK_MS
        return _FLAG_TICK_MS if self._boot.flag_due else _TICK_MS

    def _take_guest_events(self) -> None:
        while self._arrived:
            event = self._arrived.popleft()
            if event.source is EventSource.QEMU and event.name == "VSERPORT_CHANGE":
                at = event.emitted_ns or event.received_ns
                whose = "QEMU event" if event.emitted_ns else "receipt of QEMU event"
                alias, opened = str(event.detail.get("id")), bool(event.detail.get("open"))
                self._boot.port_opened(alias, at, f"{whose} VSERPORT_CHANGE", opened=opened)
        if self._guest.halted:
            self._guest.kill_if_broken()
