"""The benchmark of starts on a terminal: one table of 80 columns, what DMA saves, what was left out."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.bench.analysed import DmaEntry, IntervalEntry, StartEntry, TimesEntry
from orchestrator.bench.result import Analysis, Result
from orchestrator.bench.start_analysis import TIMED

_NONE = "–"


def starts(result: Result, analysis: Analysis) -> RenderableType:
    """Return the table of a result and the lines that belong to it."""
    parts: list[RenderableType] = [Text(_heading(result)), _table(analysis["starts"])]
    if analysis["dma"]:
        parts.append(Text(_dma(analysis["dma"])))
    parts += [Text(f"Left out: {one['side']}: {one['reason']}", style="yellow") for one in result.get("left_out", ())]
    return Group(*parts)


def _heading(result: Result) -> str:
    accel = result["environment"]["launches"].get("accel")
    profile = next((side["facts"]["profile"] for side in result["sides"] if side["facts"].get("profile")), None)
    guest = f"{profile} on {accel}" if profile else f"on {accel}"
    return f"{guest}: seconds, median (95 % interval); below them the ratio to the reference"


def _table(rows: Sequence[StartEntry]) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for timed in TIMED:
        table.add_column(timed, justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for row in rows:
        times = row["times"]
        counts = sorted({one["n"] for one in times.values() if one})
        table.add_row(row["side"], *(_seconds(times[timed]) for timed in TIMED), "–".join(map(str, counts)) or "0")
        table.add_row("", *(_ratio(times[timed]) for timed in TIMED), style="dim")
    return table


def _seconds(time: TimesEntry | None) -> str:
    if time is None:
        return _NONE
    return f"{_figures(time['median'] / 1e9)}{_interval(time['interval'], 1e9)}"


def _ratio(time: TimesEntry | None) -> str:
    if time is None or time["ratio"] is None:
        return _NONE
    return f"{_figures(time['ratio'])}{_interval(time['ratio_interval'])}"


def _interval(interval: IntervalEntry | None, unit: float = 1.0) -> str:
    if interval is None:
        return ""
    return f" ({_figures(interval['low'] / unit)}–{_figures(interval['high'] / unit)})"


def _figures(value: float) -> str:
    """Return a number with two places below ten, else with one: a column's width stays the same."""
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _dma(dma: DmaEntry) -> str:
    """Return what DMA saves, as a sentence or two."""
    text = f"With DMA a cold launch takes {dma['wall_on_ns'] / 1e9:.2f} s, without {dma['wall_off_ns'] / 1e9:.2f} s"
    text += f": {_saved(dma['saved_share'], dma['saved_share_interval'])}."
    if not dma["transfer_off_ns"] or not dma["transfer_on_ns"]:
        return f"{text} No transfer was seen."
    off, on = dma["transfer_off_ns"] / 1e6, dma["transfer_on_ns"] / 1e6
    share = 100 * (dma["transfer_saved_share"] or 0)
    return f"{text} The transfer itself takes {on:,.0f} ms instead of {off:,.0f} ms: {share:.1f} % of the launch."


def _saved(share: float | None, interval: IntervalEntry | None) -> str:
    if share is None:
        return "no round has both"
    text = f"{abs(100 * share):.1f} % {'less' if share >= 0 else 'more'}"
    if interval is None:
        return f"{text} (too few runs for an interval)"
    low, high = 100 * interval["low"], 100 * interval["high"]
    if low <= 0 <= high:
        return f"{text} ({low:.1f} to {high:.1f} % less: no difference shown)"
    return f"{text} ({abs(low if share >= 0 else high):.1f} to {abs(high if share >= 0 else low):.1f} %)"
