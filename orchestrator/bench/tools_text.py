"""The benchmark of whole tools on a terminal: one table of 80 columns, and what was left out. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.bench.analysed import GainEntry, IntervalEntry, TimesEntry, ToolEntry
from orchestrator.bench.result import Analysis, Result, where
from orchestrator.bench.tools import DISKS

_NONE = "–"


def tools(result: Result, analysis: Analysis) -> RenderableType:
    """Return the table of a result and the lines that belong to it."""
    rows = analysis["tools"]
    heading = f"on {where(result)}: seconds a tool took, median (95 % interval); below, times the reference's"
    return Group(
        Text(heading + _runs(rows)),
        _table(rows, [side["name"] for side in result["sides"]]),
        *_gains(analysis.get("gains", ())),
        *(Text(f"Left out: {one['side']}: {one['reason']}", style="yellow") for one in result.get("left_out", ())),
    )


def _gains(gains: Sequence[GainEntry]) -> list[Text]:
    """Return a line for each side that did several disks in turn and at once."""
    if not gains:
        return []
    heading = f"\n{DISKS} disks, a virt-df each, all at once: times faster than in turn, disks a minute"
    lines = [
        f"  {one['side']}, {one['disk']}: {_figures(one['ratio'])}{_interval(one['ratio_interval'])},"
        f" {one['per_minute']:.0f} a minute, n = {one['n']}"
        for one in gains
    ]
    return [Text("\n".join((heading, *lines)) + "\n")]


def _runs(rows: Sequence[ToolEntry]) -> str:
    counts = sorted({time["n"] for row in rows for time in row["times"].values() if time})
    return f"; n = {'–'.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))}" if counts else ""


def _table(rows: Sequence[ToolEntry], sides: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for side in sides:
        table.add_column(side, justify="right", no_wrap=True)
    for row in rows:
        times = [row["times"].get(side) for side in sides]
        table.add_row(row["tool"].removeprefix("virt-"), *map(_seconds, times))
        table.add_row(f" {row['disk']}", *map(_ratio, times), style="dim")
    return table


def _seconds(time: TimesEntry | None) -> str:
    return _NONE if time is None else _figures(time["median"] / 1e9) + _interval(time["interval"], 1e9)


def _ratio(time: TimesEntry | None) -> str:
    if time is None or time["ratio"] is None:
        return _NONE
    return _figures(time["ratio"]) + _interval(time["ratio_interval"])


def _interval(interval: IntervalEntry | None, unit: float = 1.0) -> str:
    if interval is None:
        return ""
    return f" ({_figures(interval['low'] / unit)}–{_figures(interval['high'] / unit)})"


def _figures(value: float) -> str:
    """Return a number in four characters: four columns with intervals fit beside each other."""
    if value < 0.1:
        return f"{value:.3f}".removeprefix("0")
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
