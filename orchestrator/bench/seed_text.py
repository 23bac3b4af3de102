"""The seed's experiment on a terminal: a table of 80 columns, and what the host did of it. Computes nothing."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.bench.analysed import OwnEntry, SummaryEntry
from orchestrator.bench.result import Analysis

_NONE = "–"


def seed_launches(analysis: Analysis) -> RenderableType:
    """Return the table of what launches took, in seconds, and of ours what was done beside the guest."""
    table = Table(title="medians in seconds (least – most)", title_justify="left", box=SIMPLE)
    table.add_column("", no_wrap=True)
    for title in ("guestfish run", "launch", "transfer", "n"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in analysis["seed"]:
        count = max((one["n"] for one in (row["wall"], row["launch"], row["transfer"]) if one), default=0)
        transfer = _NONE if row["transfer"] is None else _figures(row["transfer"]["median"])
        table.add_row(row["side"], _seconds(row["wall"]), _seconds(row["launch"]), transfer, str(count))
    return Group(table, *(Text(_own(row["side"], row["own"])) for row in analysis["seed"] if row["own"]))


def _own(side: str, own: OwnEntry) -> str:
    before, after = _figures(own["before_ns"]), _figures(own["after_ns"])
    return f"  {side}: of that {before} s before the guest, {after} s after the tool"


def _seconds(found: SummaryEntry | None) -> str:
    """Return a median; of several also the extremes."""
    if found is None:
        return _NONE
    middle = _figures(found["median"])
    return middle if found["n"] == 1 else f"{middle} ({_figures(found['low'])}–{_figures(found['high'])})"


def _figures(ns: float) -> str:
    value = ns / 1e9
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
