"""Marker lines that our appliance writes to its control port, and how they date guest boundaries.

A line is `guestlaunch-marker NAME EVENT_UPTIME NOW_UPTIME`: the guest's uptime in seconds when the named
thing began, and when the line was written. The host's receipt dates the second, and with it the guest's clock.

The port belongs to the guest, which may write anything: a line is a marker or it is not, and no line raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from orchestrator.timeline.phases import Boundary, Phase
from orchestrator.values import dataclass

# Ten digits of seconds are three centuries; a fraction finer than nanoseconds is cut off.
_LINE = re.compile(rb"guestlaunch-marker ([a-z_]{1,32}) (\d{1,10})(?:\.(\d{1,18}))? (\d{1,10})(?:\.(\d{1,18}))?\r?")
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


def parse_marker(line: bytes, received_ns: int) -> Marker | None:
    """Return the marker in a line from the control port, or None when it is not one."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    event, now = _nanoseconds(*match.group(2, 3)), _nanoseconds(*match.group(4, 5))
    if event > now:  # nothing can be reported before it happened
        return None
    name = match.group(1).decode("ascii")
    return Marker(name=name, event_uptime_ns=event, now_uptime_ns=now, received_ns=received_ns)


def _nanoseconds(seconds: bytes, fraction: bytes | None) -> int:
    return int(seconds) * 10**9 + int((fraction or b"").ljust(9, b"0")[:9])


def marker_boundaries(markers: Iterable[Marker], phases: Mapping[str, Phase] = _PHASES) -> dict[Phase, Boundary]:
    """Return the boundaries that a launch's markers tell of; of two of a name, the first counts.

    They are dated by the guest's clock, and that by the line which took least time to arrive: of all estimates of the
    guest's zero, the earliest is the least delayed. A host that is slow to read a line does not date it late.

    :param phases: the phase that begins with a marker of each name.
    """
    told = tuple(markers)
    if not told:
        return {}
    zero_ns = min(marker.boot_ns for marker in told)
    found = {Phase.KERNEL: Boundary(at_ns=zero_ns, source="guest uptime in a control port marker")}
    for marker in told:
        if marker.name in phases:
            boundary = Boundary(at_ns=zero_ns + marker.event_uptime_ns, source="control port marker")
            found.setdefault(phases[marker.name], boundary)
    return found


def dates_a_phase(marker: Marker) -> bool:
    """Tell whether a marker is one that begins a phase."""
    return marker.name in _PHASES
