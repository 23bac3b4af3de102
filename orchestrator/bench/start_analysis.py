"""The benchmark of starts, computed: each side against the reference, and what DMA saves of a cold launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.bench.analysed import DmaEntry, StartEntry, TimesEntry
from orchestrator.bench.result import Analysis, Result
from orchestrator.bench.samples import columns, entry, summary
from orchestrator.bench.start_sides import COLD, COLD_WITHOUT_DMA, REFERENCE
from orchestrator.bench.statistics import Interval, ratio_interval, summarize

KIND = "start"
# What is timed, and the metric that it is in a sample.
TIMED: Mapping[str, str] = {"launch": "wall", "list-filesystems": "answer", "inspection": "inspection"}


def analyse_starts(result: Result) -> Analysis:
    """Return `starts`, a row for each side with what it took and its ratio to the reference, and `dma`."""
    rounds = sorted({sample["round"] for sample in result["samples"] if sample["round"] >= 0})
    sides = {side["name"]: columns(result, side["name"], rounds) for side in result["sides"]}
    known = sides.get(REFERENCE, {})
    rows: list[StartEntry] = [
        {
            "side": name,
            "times": {timed: against(side.get(metric, ()), known.get(metric, ())) for timed, metric in TIMED.items()},
        }
        for name, side in sides.items()
    ]
    return {"starts": rows, "dma": _dma(sides.get(COLD_WITHOUT_DMA, {}), sides.get(COLD, {}))}


def against(values: Sequence[float | None], reference: Sequence[float | None]) -> TimesEntry | None:
    """Return the summary of times in ns with their ratio to the reference's; None when there are none.

    The runs of a round follow each other: whatever the host did meanwhile is in both, so they are compared as pairs.
    """
    seen = [value for value in values if value is not None]
    if not seen:
        return None
    ratio, interval = _ratio(values, reference)
    return {**summary(summarize(seen)), "ratio": ratio, "ratio_interval": entry(interval) if interval else None}


def _ratio(values: Sequence[float | None], base: Sequence[float | None]) -> tuple[float | None, Interval | None]:
    """Return median / median of the rounds in which both were seen, with its interval."""
    if not base:
        return None, None
    pairs = [(a, b) for a, b in zip(values, base, strict=True) if a is not None and b is not None]
    if not pairs:
        return None, None
    own, others = [a for a, _ in pairs], [b for _, b in pairs]
    return summarize(own).median / summarize(others).median, ratio_interval(own, others, paired=True)


def _dma(off: Mapping[str, Sequence[float | None]], on: Mapping[str, Sequence[float | None]]) -> DmaEntry | None:
    """Return what DMA saves of the cold launch without it: in ns, as a share, and what the transfer alone accounts for.

    None when either side is missing.
    """
    launch, shorter = _median(off.get("wall", ())), _median(on.get("wall", ()))
    before, after = _median(off.get("transfer", ())), _median(on.get("transfer", ()))
    if launch is None or shorter is None:
        return None
    ratio, interval = _ratio(on["wall"], off["wall"])
    return {
        "wall_off_ns": launch,
        "wall_on_ns": shorter,
        "transfer_off_ns": before,
        "transfer_on_ns": after,
        "saved_share": None if ratio is None else 1 - ratio,
        "saved_share_interval": {"low": 1 - interval.high, "high": 1 - interval.low} if interval else None,
        "transfer_saved_share": (before - after) / launch if before and after else None,
    }


def _median(values: Sequence[float | None]) -> float | None:
    seen = [value for value in values if value is not None]
    return summarize(seen).median if seen else None
