"""The rows that fill the charts: launches and results to flat values. Drawing is for `charts`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.bench import seed, start_sides
from orchestrator.bench.result import Analysis, Result
from orchestrator.bench.samples import transfer_point
from orchestrator.records.record import LaunchEvent, seen
from orchestrator.report.collection import dma_of
from orchestrator.timeline.durations import duration
from orchestrator.timeline.phases import TRANSFER_PHASES

Rows = list[dict[str, Any]]

# Who a phase's time belongs to.
PARTS: Mapping[str, tuple[str, ...]] = {
    "host": ("plan", "stage", "connect", "create", "qemu", "restore", "attach", "customise", "shutdown"),
    "firmware": ("firmware", "firmware_handoff"),
    "transfer": TRANSFER_PHASES,
    "guest": ("kernel", "initrd", "init", "guestfsd", "ready", "gate"),
    "tool": ("workload",),
}
DMA = ("off", "on", "none")  # launches whose path was not verified are in no chart: they failed before it could be
# How kernel and initrd reach the firmware, of the sides of the seed's experiment in which they do.
_DMA_OF_SIDE = {
    seed.NAIVE[False]: "off", seed.NAIVE[True]: "on", start_sides.COLD_WITHOUT_DMA: "off", start_sides.COLD: "on",
}  # fmt: skip
PART_OF = {str(phase): part for part, phases in PARTS.items() for phase in phases}


def waterfall_rows(event: LaunchEvent) -> Rows:
    """Return the rows of one launch's waterfall."""
    return [
        {
            "phase": phase["name"],
            "part": PART_OF[phase["name"]],
            "begin": start_ns / 1e9,
            "end": (start_ns + duration_ns) / 1e9,
            "label": duration(duration_ns),
            "source": phase.get("source", ""),
        }
        for phase, start_ns, duration_ns in seen(event["phases"])
    ]


def phase_rows(events: Iterable[LaunchEvent]) -> Rows:
    """Return a row for each phase of each successful launch. Zero durations are shown as a microsecond (log scale)."""
    return [
        {
            "phase": phase["name"],
            "part": PART_OF[phase["name"]],
            "ms": max(duration_ns / 1e6, 1e-3),
            "dma": dma_of(event),
        }
        for event in events
        if event["outcome"] == "success" and dma_of(event) in DMA
        for phase, _, duration_ns in seen(event["phases"])
    ]


def launch_rows(events: Iterable[LaunchEvent]) -> Rows:
    """Return a row for each launch that became ready."""
    return [
        {
            "id": event["launch_id"],
            "at": event["wall_start_ns"] / 1e6,
            "launch_s": launch_ns / 1e9,
            "dma": dma_of(event),
        }
        for event in events
        if (launch_ns := event.get("launch_ns")) is not None and dma_of(event) in DMA
    ]


def ratio_rows(result: Result) -> Rows:
    """Return a row for each metric of a two-sided benchmark that has an interval."""
    analysis: Analysis = result["analysis"] or {}
    rows = analysis.get("comparisons", [])
    return [
        {
            "metric": row["metric"].removeprefix("phase."),
            "ratio": row["ratio"],
            "low": row["interval"]["low"],
            "high": row["interval"]["high"],
            "p": row["p_adjusted"],
            "difference": row["difference"],
        }
        for row in rows
        if row["interval"] is not None and row["interval"]["low"] > 0
    ]


def sweep_rows(result: Result) -> Rows:
    """Return a row for each transfer of a sweep."""
    return [
        {"mb": point[0], "ms": point[1], "dma": "on" if sample.get("fw_cfg_dma") else "off"}
        for sample in result["samples"]
        if (point := transfer_point(sample))
    ]


def seed_rows(result: Result) -> Rows:
    """Return a row for each side of the seed's experiment that launches, with its whole guestfish in seconds."""
    return [
        {
            "side": entry["side"],
            "seconds": wall["median"] / 1e9,
            "low": wall["low"] / 1e9,
            "high": wall["high"] / 1e9,
            "runs": wall["n"],
            "dma": _DMA_OF_SIDE.get(entry["side"], "none"),
        }
        for entry in (result["analysis"] or {}).get("seed", ())
        if (wall := entry["wall"])
    ]


_RESULT_ROWS: Mapping[str, Callable[[Result], Rows]] = {"seed": seed_rows, "sweep": sweep_rows, "ratios": ratio_rows}
_FIGURES_OF_KIND = {"fw-cfg": ("ratios",), "launch": ("ratios",), "sweep": ("sweep",), "seed": ("seed", "sweep")}
# Figures that are drawn from a benchmark's result, not from launches.
OF_RESULTS = frozenset(_RESULT_ROWS)


def of_result(result: Result) -> dict[str, Rows]:
    """Return the figures that there are of a result, with their rows; none of them is empty."""
    return {name: found for name in _FIGURES_OF_KIND.get(result["kind"], ()) if (found := _RESULT_ROWS[name](result))}


def typical(events: Sequence[LaunchEvent]) -> LaunchEvent | None:
    """Return the successful launch with the median launch time, None when there is none."""
    ready = sorted(
        (e for e in events if e["outcome"] == "success" and e.get("launch_ns")), key=lambda e: e["launch_ns"] or 0
    )
    return ready[len(ready) // 2] if ready else None
