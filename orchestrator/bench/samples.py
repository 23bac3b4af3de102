"""The samples of a benchmark's result as columns of numbers, and their summary as JSON-ready values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from orchestrator.bench.analysed import IntervalEntry, SummaryEntry
from orchestrator.bench.result import Result, SampleEntry

if TYPE_CHECKING:  # reports, which start without SciPy, take their columns from here
    from orchestrator.bench.compare import Columns
    from orchestrator.bench.statistics import Interval, SampleSummary


def columns(result: Result, side: str, rounds: Sequence[int] | None = None) -> Columns:
    """Return metric name to values of one side's good runs, in the order of the rounds.

    :param rounds: those to take, a missing run as None; by default the side's own, warm-ups left out.
    """
    good: dict[int, dict[str, float]] = {}
    for sample in result["samples"]:
        if sample["side"] == side and sample["ok"] and sample["round"] >= 0:
            good.setdefault(sample["round"], {}).update(_named(sample))
    taken = sorted(good) if rounds is None else rounds
    names = dict.fromkeys(name for metrics in good.values() for name in metrics)
    return {name: [good.get(number, {}).get(name) for number in taken] for name in names}


def _named(sample: SampleEntry) -> dict[str, float]:
    """Return a run's metrics by names of their own.

    A side may have several runs a round: by payload size, one for each of its boundaries, or one for each tool on each
    disk, of which the whole time is taken, or that until it was ready.
    """
    seen = {name: float(value) for name, value in sample["metrics"].items() if value is not None}
    if size := sample.get("size_bytes"):
        return {f"{name} {size / 1e6:g} MB": value for name, value in seen.items()}
    if "tool" in sample:
        return {task_name(sample): seen[name] for name in ("wall", "answer") if name in seen}
    return seen


def task_name(sample: SampleEntry) -> str:
    """Return what a run of a tool on a disk is called among a side's metrics."""
    return f"{sample['tool']}, {sample['disk']}"


def transfer_point(sample: SampleEntry) -> tuple[float, float] | None:
    """Return the payload in MB and the duration in ms of a transfer of a sweep; None for any other or failed run."""
    size, took_ns = sample.get("size_bytes"), sample["metrics"].get("transfer")
    return (size / 1e6, took_ns / 1e6) if sample["ok"] and size and took_ns is not None else None


def entry(found: Interval) -> IntervalEntry:
    """Return an interval as JSON-ready values."""
    return {"low": found.low, "high": found.high}


def summary(found: SampleSummary) -> SummaryEntry:
    """Return a summary as JSON-ready values."""
    return cast("SummaryEntry", {**dataclasses.asdict(found), "outliers": list(found.outliers)})
