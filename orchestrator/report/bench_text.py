"""A benchmark's result on a terminal: one table, the counts, the verdict. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.report.compare import Difference
from orchestrator.report.result import Result

_SAID: Mapping[str, str] = {
    Difference.FASTER: "faster",
    Difference.SLOWER: "slower",
    Difference.NONE: "=",
    Difference.UNDECIDED: "?",
}


def render(result: Result) -> RenderableType:
    """Return a result as text for rich."""
    parts: list[RenderableType] = []
    if result["modelled_trap_cost_ns"]:
        cost = result["modelled_trap_cost_ns"] / 1e3
        parts.append(
            Text(f"MODELLED trap cost: {cost:g} µs an access to the fw_cfg data register", style="bold yellow")
        )
    if not result["complete"]:
        parts.append(Text("Not complete: interrupted, or still running.", style="yellow"))
    analysis = result["analysis"] or {}
    if analysis.get("failed_runs"):
        parts.append(
            Text(f"{analysis['failed_runs']} runs failed; the first: {analysis['first_failure']}", style="red")
        )
    if "lines" in analysis:
        parts.append(_sweep(analysis))
    elif "comparisons" in analysis:
        first, second = (side["name"] for side in result["sides"])
        parts.append(comparison_table(analysis["comparisons"], first, second))
    elif "sides" in analysis:
        parts.append(_sides(analysis["sides"]))
    if result["counts"]:
        parts.append(_counts(result))
    if "verdict" in analysis:
        parts.append(Text(f"Verdict: {analysis['verdict']}", style="bold"))
    return Group(*parts)


def comparison_table(rows: list[dict[str, Any]], first: str, second: str) -> Table:
    """Return the comparison of two sides; fits 80 columns."""
    count = rows[0]["first"]["n"] if rows else 0
    table = Table(title=f"A: {first}, B: {second}; medians in ms, n = {count}", title_justify="left", box=SIMPLE)
    for name in ("", "A", "B", "A / B", "95 % interval", "p", "effect", ""):
        table.add_column(name, justify="right" if name else "left", no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(
            row["metric"].removeprefix("phase."),
            milliseconds(row["first"]["median"]) + _starred(row["first"]),
            milliseconds(row["second"]["median"]) + _starred(row["second"]),
            "–" if row["ratio"] is None else _ratio(row["ratio"]),
            _interval(row["interval"]),
            "–" if row["p_adjusted"] is None else f"{row['p_adjusted']:.3f}",
            f"{row['effect']:+.2f}",
            _SAID[row["difference"]],
        )
    table.caption = "A / B above 1: B is faster. * outliers, which are in the figures. = no difference shown."
    table.caption_justify = "left"
    return table


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def milliseconds(ns: float) -> str:
    """Return a duration in ms with three figures or whole."""
    value = ns / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _starred(summary: Mapping[str, Any]) -> str:
    return "*" * min(3, len(summary["outliers"]))


def _interval(interval: Mapping[str, float] | None) -> str:
    return "–" if interval is None else f"{_ratio(interval['low'])} – {_ratio(interval['high'])}"


def _sides(sides: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="medians, ms", title_justify="left", box=SIMPLE)
    metrics = [m for m in ("wall", "answer", "launch", "transfer") if any(m in side for side in sides.values())]
    table.add_column("")
    table.add_column("n", justify="right")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for name, side in sides.items():
        count = side.get("wall", {}).get("n", 0)
        table.add_row(name, str(count), *(milliseconds(side[m]["median"]) if m in side else "–" for m in metrics))
    return table


def _counts(result: Result) -> Table:
    table = Table(title="fw_cfg data register reads, counted in runs of their own", title_justify="left", box=SIMPLE)
    for name in ("DMA", "payload bytes", "reads of it", "predicted", "all until then"):
        table.add_column(name, justify="left" if name == "DMA" else "right")
    for row in result["counts"]:
        predicted = "–" if row["predicted"] is None else f"{row['predicted']:,}"
        table.add_row(
            "on" if row["fw_cfg_dma"] else "off", f"{row['payload_bytes']:,}", f"{row['accesses']:,}", predicted,
            f"{row['accesses_total']:,}",
        )  # fmt: skip
    return table


def _sweep(analysis: Mapping[str, Any]) -> Table:
    table = Table(title="transfer time by payload size (Theil-Sen line)", title_justify="left", box=SIMPLE)
    for name in ("", "ms a MB", "95 % interval", "MB/s", "at 0 MB, ms"):
        table.add_column(name, justify="left" if not name else "right")
    for line in analysis["lines"]:
        if line["ms_per_mb"] is None:
            table.add_row(line["side"], *["–"] * 4)
            continue
        low, high = line["interval"]
        rate = "–" if line["mb_per_s"] is None else f"{line['mb_per_s']:,.3g}"
        table.add_row(
            line["side"], f"{line['ms_per_mb']:.3g}", f"{low:.3g} – {high:.3g}", rate, f"{line['at_zero_ms']:.3g}"
        )
    return table
