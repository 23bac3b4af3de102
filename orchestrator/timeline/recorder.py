"""Collects the boundaries of one launch from whoever sees them, and tiles them at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from orchestrator.timeline.clock import STEP_TOLERANCE_NS, Anchor
from orchestrator.timeline.phases import TRANSFER_PHASES, Boundary, Kind, Phase, Start, Tile, sequence, tile

_BY_WALL_CLOCK = (*TRANSFER_PHASES, Phase.FIRMWARE_HANDOFF, Phase.READY)


class Recorder:
    """The stopwatch of one launch; safe to use from several threads.

    :param origin_ns: monotonic time at which the launch began (the client's own start).
    :param kind: what is launched.
    """

    def __init__(self, origin_ns: int, start: Start = Start.COLD, kind: Kind = Kind.LAUNCH) -> None:
        self.start, self.kind = start, kind
        self.anchor = Anchor.now()
        self.wall_start_ns = self.anchor.to_wall(origin_ns)
        self._lock = threading.Lock()
        self._boundaries = {sequence(start, kind)[0]: Boundary(at_ns=origin_ns, source="client start")}
        self._why: dict[Phase, str] = {}
        self._end_ns: int | None = None

    def become(self, start: Start) -> None:
        """Note how this launch gets its appliance, once that is decided; all kinds begin with the same phase."""
        self.start = start

    @property
    def sequence(self) -> tuple[Phase, ...]:
        """The phases of this launch, in order."""
        return sequence(self.start, self.kind)

    @property
    def origin_ns(self) -> int:
        """Monotonic time of the launch's start."""
        return self._boundaries[self.sequence[0]].at_ns

    def begin(self, phase: Phase, source: str, at_ns: int | None = None) -> None:
        """Note that a phase begins, now or at the given monotonic time; the first note counts."""
        self.take({phase: Boundary(at_ns=time.monotonic_ns() if at_ns is None else at_ns, source=source)})

    def take(self, boundaries: Mapping[Phase, Boundary]) -> None:
        """Note several boundaries; what is known already stays."""
        with self._lock:
            for phase, boundary in boundaries.items():
                self._boundaries.setdefault(phase, boundary)

    def unseen(self, phase: Phase, reason: str) -> None:
        """Note why a phase's beginning cannot be seen."""
        with self._lock:
            self._why.setdefault(phase, reason)

    def current(self) -> Phase:
        """Return the phase latest in the order whose beginning is known."""
        with self._lock:
            return [phase for phase in self.sequence if phase in self._boundaries][-1]

    def at_ns(self, phase: Phase) -> int | None:
        """Return the monotonic time at which a phase began, None when it was not seen."""
        with self._lock:
            boundary = self._boundaries.get(phase)
        return None if boundary is None else boundary.at_ns

    def finish(self, at_ns: int | None = None) -> None:
        """Note the end of the launch and check that the wall clock was not stepped under way."""
        now = Anchor.now()
        with self._lock:
            self._end_ns = now.monotonic_ns if at_ns is None else at_ns
            drift = self.anchor.drift_ns(now)
            if abs(drift) <= STEP_TOLERANCE_NS:
                return
            for phase in _BY_WALL_CLOCK:
                boundary = self._boundaries.get(phase)
                if boundary is not None and boundary.source.startswith("QEMU"):
                    del self._boundaries[phase]
                    self._why[phase] = f"the host's wall clock moved by {drift / 1e6:.1f} ms during the launch"

    def tiles(
        self, *, outcome: str = "success", at: Phase | None = None, sizes: Mapping[Phase, int] | None = None
    ) -> tuple[Tile, ...]:
        """Return the launch as tiles; before `finish`, up to now.

        :param at: the phase at which the launch came to its outcome, if it was not the last one.
        """
        with self._lock:
            boundaries, why = dict(self._boundaries), dict(self._why)
            end = self._end_ns or time.monotonic_ns()
        return tile(self.start, boundaries, end, kind=self.kind, outcome=outcome, at=at, why=why, sizes=sizes)
