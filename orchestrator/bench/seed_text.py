"""The seed's experiment on a terminal: one table of 80 columns, and what is not in it. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from orchestrator.bench.result import Analysis

_COLUMNS: Mapping[str, str] = {"wall": "guestfish run", "launch": "launch", "transfer": "transfer"}
_NONE = "–"


def seed_launches(analysis: Analysis) -> Table:
    """Return the table of what launches took, in seconds."""
    table = Table(title="medians in seconds (least – most)", title_justify="left", box=SIMPLE)
    table.add_column("", no_wrap=True)
    for title in _COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for row in analysis["seed"]:
        count = max((one["n"] for metric in _COLUMNS if (one := row[metric])), default=0)
        table.add_row(row["side"], *(_seconds(row[metric]) for metric in _COLUMNS), str(count))
    return table


def _seconds(found: Mapping[str, Any] | None) -> str:
    """Return a median; of several also the extremes."""
    if found is None:
        return _NONE
    middle = _figures(found["median"])
    return middle if found["n"] == 1 else f"{middle} ({_figures(found['low'])}–{_figures(found['high'])})"


def _figures(ns: float) -> str:
    value = ns / 1e9
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
