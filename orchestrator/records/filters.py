"""Which launches are asked for: the same conditions for log lines and for the store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.records.provenance import of_event
from orchestrator.records.record import kind_of

if TYPE_CHECKING:
    from orchestrator.records.record import LaunchEvent

# In the user's own QEMU arguments: the file name of a plugin that models something (bench/trapcost).
INSTRUMENT_MARK = "guestlaunch-trapcost"


def is_modelled(event: LaunchEvent) -> bool:
    """Tell whether an instrument of ours changed the launch: an experiment, not counted with others (2026-11-23)."""
    return any(INSTRUMENT_MARK in argument for argument in event.get("extra_args", ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which launches are asked for; None stands for any. Times are wall-clock nanoseconds since the epoch.

    :ivar made_on: on what kind of host: one of `provenance.LABELS`.
    :ivar kind: what was launched (`phases.Kind`); launches of different kinds are not alike.
    """

    since_ns: int | None = None
    until_ns: int | None = None
    profile: str | None = None
    accel: str | None = None
    start: str | None = None
    fw_cfg_dma: bool | None = None
    outcome: str | None = None
    made_on: str | None = None
    kind: str | None = None

    def failures(self) -> Filters:
        """Return the same, failures only."""
        return replace(self, outcome="failure")

    def takes(self, event: LaunchEvent) -> bool:
        """Tell whether a canonical line is asked for."""
        at = event["wall_start_ns"]
        wanted: tuple[object, ...] = (self.profile, self.accel, self.start, self.fw_cfg_dma, self.outcome)
        found = (event["profile"], event["accel"], event["start"], event.get("fw_cfg_dma"), event["outcome"])
        return (
            (self.since_ns is None or at >= self.since_ns)
            and (self.until_ns is None or at <= self.until_ns)
            and (self.made_on is None or of_event(event).label == self.made_on)
            and (self.kind is None or kind_of(event) == self.kind)
            and all(value is None or said == value for said, value in zip(found, wanted, strict=True))
        )

    def where(self) -> tuple[str, list[object]]:
        """Return the SQL condition and its values."""
        terms: list[str] = []
        values: list[object] = []
        for term, value in (
            ("wall_start_ns >= ?", self.since_ns),
            ("wall_start_ns <= ?", self.until_ns),
            ("profile = ?", self.profile),
            ("accel = ?", self.accel),
            ("start = ?", self.start),
            ("fw_cfg_dma = ?", self.fw_cfg_dma),
            ("outcome = ?", self.outcome),
            ("made_on = ?", self.made_on),
            ("kind = ?", self.kind),
        ):
            if value is not None:
                terms.append(term)
                values.append(value)
        return (" WHERE " + " AND ".join(terms) if terms else ""), values
