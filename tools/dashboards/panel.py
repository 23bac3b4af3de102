"""A dashboard as values: rows of panels, each with its queries. How Grafana writes them is `grafana`'s business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel: what it shows and how. `queries` are (expression, legend)."""

    title: str
    why: str
    shape: str  # stat, lines, bars, stack, heatmap, gauges, table, logs
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    width: int = 12
    height: int = 8
    alarm_above: float | None = None
    alarm_below: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A titled row of panels, laid out from left to right."""

    title: str
    panels: Sequence[Panel]
