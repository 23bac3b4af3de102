"""What an analysis of a benchmark is made of, as it stands in a result file: typed rows, as in its schema.

Times are in ns, shares and ratios plain numbers; None is what too few samples do not tell.
"""

from __future__ import annotations

from typing import TypedDict


class IntervalEntry(TypedDict):
    """A confidence interval (`statistics.Interval`)."""

    low: float
    high: float


class SummaryEntry(TypedDict):
    """One side's samples in short (`statistics.SampleSummary`)."""

    n: int
    median: float
    interval: IntervalEntry | None
    low: float
    high: float
    outliers: list[int]


class ComparisonEntry(TypedDict):
    """One metric on both sides (`compare.Comparison`)."""

    metric: str
    paired: bool
    first: SummaryEntry
    second: SummaryEntry
    ratio: float | None
    interval: IntervalEntry | None
    p_value: float | None
    p_adjusted: float | None
    effect: float
    difference: str


class TimesEntry(SummaryEntry):
    """What a side took, and its ratio to the reference's."""

    ratio: float | None
    ratio_interval: IntervalEntry | None


class StartEntry(TypedDict):
    """A side of the benchmark of starts, by what is timed."""

    side: str
    times: dict[str, TimesEntry | None]


class ToolEntry(TypedDict):
    """A tool on a disk, by the side that it was launched by."""

    tool: str
    disk: str
    times: dict[str, TimesEntry | None]


class GainEntry(TypedDict):
    """Several disks: how much faster they are done at once than in turn, and how many a minute then."""

    side: str
    disk: str
    n: int
    ratio: float
    ratio_interval: IntervalEntry | None
    per_minute: float


class DmaEntry(TypedDict):
    """What DMA saves of a cold launch: medians, and shares of the launch without it."""

    wall_off_ns: float
    wall_on_ns: float
    transfer_off_ns: float | None
    transfer_on_ns: float | None
    saved_share: float | None
    saved_share_interval: IntervalEntry | None
    transfer_saved_share: float | None


class LineEntry(TypedDict):
    """A line through the transfers of a side; `interval` is the slope's, (low, high)."""

    side: str
    ms_per_mb: float | None
    interval: list[float] | None
    at_zero_ms: float | None
    mb_per_s: float | None


class OwnEntry(TypedDict):
    """What was done on the host: before there was a guest, and after the tool was done with it."""

    before_ns: float
    after_ns: float


class SeedEntry(TypedDict):
    """A side of the seed's experiment that launches."""

    side: str
    wall: SummaryEntry | None
    launch: SummaryEntry | None
    transfer: SummaryEntry | None
    own: OwnEntry | None


class PredictedEntry(TypedDict):
    """A launch without DMA, by the lines through the transfers, beside those with it."""

    payload_bytes: int
    megabytes: list[int]
    saved_ns: float
    launch_off_ns: float
    launch_on_ns: float
    launches: int
    ratio: float
    interval: IntervalEntry
    halved: str
