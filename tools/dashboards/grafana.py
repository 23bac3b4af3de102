"""Writes rows of panels as a Grafana dashboard, with Grafana's own builders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    logs,
    loki,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from panel import Panel, Row

WIDTH = 24
SOURCE_VARIABLE = "datasource"

# The builders of different panels share methods, and no base class that has them.
_Builder = Any

_SHAPES: dict[str, type[_Builder]] = {
    "stat": stat.Panel, "lines": timeseries.Panel, "bars": timeseries.Panel, "stack": timeseries.Panel,
    "heatmap": heatmap.Panel, "gauges": bargauge.Panel, "table": table.Panel, "logs": logs.Panel,
}  # fmt: skip


def _source(kind: str) -> model.DataSourceRef:
    return model.DataSourceRef(type_val=kind, uid=f"${{{SOURCE_VARIABLE}}}")


def _target(panel: Panel, kind: str, index: int) -> _Builder:
    expression, legend = panel.queries[index]
    target: _Builder = prometheus.Dataquery() if kind == "prometheus" else loki.Dataquery()
    target = target.expr(expression).legend_format(legend or "__auto").ref_id("ABCDEF"[index]).datasource(_source(kind))
    if kind == "prometheus":
        now = panel.shape in {"stat", "gauges", "table"}
        target = target.instant() if now else target.range()
        if panel.shape in {"heatmap", "table"}:
            target = target.format(PromQueryFormat(panel.shape))
    return target


def _panel(panel: Panel, kind: str, number: int, position: tuple[int, int]) -> _Builder:
    made = _SHAPES[panel.shape]().title(panel.title).id(number).datasource(_source(kind))
    if panel.why:
        made = made.description(panel.why)
    made = made.grid_pos(model.GridPos(h=panel.height, w=panel.width, x=position[0], y=position[1]))
    if panel.shape != "logs":
        made = made.unit(panel.unit)
    if panel.shape in {"lines", "bars", "stack"}:
        made = _drawn(made, panel.shape)
    if panel.shape in {"stat", "gauges"}:
        made = made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if panel.shape == "stat":
        made = made.no_value("none").thresholds(_alarm(panel))
    if panel.shape == "gauges":
        made = made.orientation(kinds.VizOrientation.HORIZONTAL).min(0)
    if panel.shape == "table":
        made = made.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    for index in range(len(panel.queries)):
        made = made.with_target(_target(panel, kind, index))
    return made


def _drawn(made: _Builder, shape: str) -> _Builder:
    """Add what graphs over time have in common, and what tells them apart."""
    legend = common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST).show_legend(True)
    tooltip = common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING)
    made = made.legend(legend.placement(kinds.LegendPlacement.BOTTOM)).tooltip(tooltip).min(0)
    if shape == "lines":
        # Launches are events, not a signal: lines go on over the gaps between them.
        return made.span_nulls(True).line_width(2)
    style = kinds.GraphDrawStyle.BARS if shape == "bars" else kinds.GraphDrawStyle.LINE
    made = made.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    return made.draw_style(style).fill_opacity(60)


def _alarm(panel: Panel) -> _Builder:
    steps = [model.Threshold(color="green" if panel.alarm_below is None else "red", value=None)]
    if panel.alarm_above is not None:
        steps.append(model.Threshold(color="red", value=panel.alarm_above))
    if panel.alarm_below is not None:
        steps.append(model.Threshold(color="green", value=panel.alarm_below))
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _option(value: str) -> model.VariableOption:
    return model.VariableOption(selected=True, text=value, value=value)


def _window() -> _Builder:
    steps = "5m,15m,1h,6h,1d,7d"
    return dashboard.IntervalVariable("window").label("Window").values(steps).current(_option("1h"))


def _choice(name: str, label: str, current: str) -> _Builder:
    """Return a variable with the values that a label of the launches has."""
    choice = dashboard.QueryVariable(name).label(label).datasource(_source("prometheus")).current(_option(current))
    choice = choice.query(f"label_values(guestlaunch_launches_total, {name})")
    return choice.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)


def _prometheus_variables() -> Iterator[_Builder]:
    yield dashboard.DatasourceVariable(SOURCE_VARIABLE).label("Data source").type("prometheus")
    yield _choice("profile", "Profile", "$__all").multi(True).include_all(True).all_value(".+")
    yield _choice("accel", "Accelerator", "tcg")
    yield _choice("made_on", "Host", "bare")
    yield _choice("start", "Start", "cold")
    yield _window()


def _loki_variables() -> Iterator[_Builder]:
    yield dashboard.DatasourceVariable(SOURCE_VARIABLE).label("Data source").type("loki")
    yield dashboard.TextBoxVariable("job").label("Stream label job").default_value("guestlaunch")
    yield dashboard.TextBoxVariable("profile").label("Profile (pattern)").default_value(".+")
    yield dashboard.TextBoxVariable("accel").label("Accelerator (pattern)").default_value("tcg")
    yield dashboard.TextBoxVariable("host").label("Host (pattern)").default_value("bare")
    yield dashboard.TextBoxVariable("clock").label("Clock (pattern)").default_value("host")
    yield dashboard.TextBoxVariable("start").label("Start (pattern)").default_value("cold")
    yield _window()


def build(uid: str, title: str, kind: str, rows: Sequence[Row]) -> str:
    """Return one dashboard as JSON text."""
    variables = _prometheus_variables() if kind == "prometheus" else _loki_variables()
    made = dashboard.Dashboard(title).uid(uid).tags(["guestlaunch"]).time("now-24h", "now").refresh("1m").editable()
    made = made.tooltip(model.DashboardCursorSync.CROSSHAIR)
    for variable in variables:
        made = made.with_variable(variable)
    number, y = 0, 0
    for row in rows:
        number += 1
        made = made.with_row(dashboard.Row(row.title).id(number).grid_pos(model.GridPos(h=1, w=WIDTH, x=0, y=y)))
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            made = made.with_panel(_panel(panel, kind, number, (x, y)))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return json.dumps(json.loads(JSONEncoder().encode(made.build())), indent=2, sort_keys=True) + "\n"
