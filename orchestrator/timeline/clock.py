"""Host clocks: monotonic nanoseconds, and the anchor that ties wall-clock stamps of others to them."""

from __future__ import annotations

import time

from orchestrator.values import dataclass

# A stepped or slewed wall clock shows as drift between two anchors; a millisecond is far below
# the shortest phase anybody compares.
STEP_TOLERANCE_NS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """The same moment on both clocks, in nanoseconds."""

    monotonic_ns: int
    wall_ns: int

    @classmethod
    def now(cls) -> Anchor:
        """Read both clocks as closely together as three attempts allow."""
        best: tuple[int, Anchor] | None = None
        for _ in range(3):
            before = time.monotonic_ns()
            wall = time.time_ns()
            after = time.monotonic_ns()
            if best is None or after - before < best[0]:
                best = (after - before, cls(monotonic_ns=(before + after) // 2, wall_ns=wall))
        assert best is not None  # three attempts were made
        return best[1]

    def to_monotonic(self, wall_ns: int) -> int:
        """Return the monotonic time of a wall-clock stamp (QEMU's trace lines and QMP events)."""
        return self.monotonic_ns + (wall_ns - self.wall_ns)

    def to_wall(self, monotonic_ns: int) -> int:
        """Return the wall-clock time of a monotonic one."""
        return self.wall_ns + (monotonic_ns - self.monotonic_ns)

    def drift_ns(self, other: Anchor) -> int:
        """Return by how much the wall clock moved against the monotonic one between two anchors."""
        return (other.wall_ns - self.wall_ns) - (other.monotonic_ns - self.monotonic_ns)
