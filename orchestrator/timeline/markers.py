"""Marker lines that our appliance writes to its control port, and how they date guest boundaries.

A line is `guestlaunch-marker NAME EVENT_UPTIME NOW_UPTIME`: the guest's uptime in seconds when the named
thing began, and when the line was written. The host's receipt dates the second, and with it the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.timeline.phases import Boundary, Phase

CONTROL_PORT = "org.guestlaunch.control.0"
_PREFIX = "guestlaunch-marker"
_PHASES = {"initrd": Phase.INITRD, "init": Phase.INIT, "guestfsd": Phase.GUESTFSD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """One marker: guest uptimes in ns, and the host's monotonic time at receipt."""

    name: str
    event_uptime_ns: int
    now_uptime_ns: int
    received_ns: int

    @property
    def boot_ns(self) -> int:
        """Host monotonic time at which the guest kernel's clock read zero."""
        return self.received_ns - self.now_uptime_ns

    @property
    def event_ns(self) -> int:
        """Host monotonic time of the event itself."""
        return self.boot_ns + self.event_uptime_ns


def parse_marker(line: bytes, received_ns: int) -> Marker | None:
    """Return the marker in a line from the control port, or None when it is not one."""
    words = line.decode("ascii", "replace").split()
    if len(words) != 4 or words[0] != _PREFIX:
        return None
    try:
        event, now = (round(float(word) * 1e9) for word in words[2:])
    except ValueError:
        return None
    return Marker(name=words[1], event_uptime_ns=event, now_uptime_ns=now, received_ns=received_ns)


def marker_boundaries(markers: list[Marker]) -> dict[Phase, Boundary]:
    """Return the boundaries that a launch's markers tell of.

    The kernel's start is dated by the marker whose line took least time to arrive: of all
    estimates of the guest's zero, the earliest is the least delayed.
    """
    found = {
        _PHASES[marker.name]: Boundary(at_ns=marker.event_ns, source="control port marker")
        for marker in markers
        if marker.name in _PHASES
    }
    if markers:
        earliest = min(marker.boot_ns for marker in markers)
        found[Phase.KERNEL] = Boundary(at_ns=earliest, source="guest uptime in a control port marker")
    return found
