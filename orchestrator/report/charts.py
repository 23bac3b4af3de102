"""The charts, as Vega-Lite specifications over named data sets.

One specification serves the page (drawn by the browser) and papers (drawn by vl-convert): no browser and no network
is needed for SVG and PNG (2026-11-22). How they look is `theme`'s; rows come from `rows`, files from `export`.
"""

from __future__ import annotations

from orchestrator.report.theme import CLOCK, DMA_SCALE, LOG_MS, PART_SCALE, PHASES, POWER, POWERS, SECONDS, Spec


def _phase_axis() -> Spec:
    return {"field": "phase", "type": "nominal", "sort": PHASES, "title": None, "axis": {"labelLimit": 130}}


def _dma_color(title: str | None = "fw_cfg DMA") -> Spec:
    return {"field": "dma", "type": "nominal", "scale": DMA_SCALE, "title": title}


def _part_color() -> Spec:
    return {"field": "part", "type": "nominal", "scale": PART_SCALE, "title": None}


def waterfall() -> Spec:
    """Phases of one launch over time. Rows: phase, part, begin, end (s), label."""
    return {
        "data": {"name": "rows"},
        "height": {"step": 22},
        "padding": {"left": 0, "top": 0, "bottom": 0, "right": 50},  # for the last label
        "encoding": {"y": _phase_axis()},
        "layer": [
            {
                "mark": {"type": "bar", "height": 14, "minBandSize": 2, "cornerRadius": 2},
                "encoding": {
                    "x": {
                        "field": "begin",
                        "type": "quantitative",
                        "title": "seconds since the launch began",
                        "axis": SECONDS,
                    },
                    "x2": {"field": "end"},
                    "color": _part_color(),
                    "tooltip": [{"field": "phase"}, {"field": "label", "title": "duration"}, {"field": "source"}],
                },
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 11, "clip": False},
                "encoding": {"x": {"field": "end", "type": "quantitative"}, "text": {"field": "label"}},
            },
        ],
    }


def _offset() -> Spec:
    return {"field": "dma", "type": "nominal", "sort": ["off", "on", "none"], "scale": {"paddingOuter": 0.2}}


def phases() -> Spec:
    """Distribution of each phase, with DMA and without. Rows: phase, ms, dma."""
    return {
        "data": {"name": "rows"},
        "height": {"step": 14, "for": "offset"},
        "encoding": {"y": _phase_axis(), "yOffset": _offset(), "color": _dma_color()},
        "layer": [
            {
                "mark": {"type": "rule", "opacity": 0.7},
                "encoding": {"x": {**LOG_MS, "aggregate": "min"}, "x2": {"field": "ms", "aggregate": "max"}},
            },
            {
                "mark": {"type": "bar", "height": 8, "cornerRadius": 2, "minBandSize": 2},
                "encoding": {
                    "x": {**LOG_MS, "aggregate": "q1"},
                    "x2": {"field": "ms", "aggregate": "q3"},
                    "tooltip": [
                        {"field": "phase"},
                        {"field": "dma", "title": "DMA"},
                        *(
                            {"field": "ms", "aggregate": op, "title": title, "format": ".4~r"}
                            for op, title in (
                                ("min", "least, ms"), ("q1", "first quartile"), ("median", "median"),
                                ("q3", "third quartile"), ("max", "most, ms"), ("count", "launches"),
                            )
                        ),
                    ],
                },
            },
            {
                "mark": {"type": "tick", "thickness": 2, "size": 12, "color": "var(--fg)"},
                "encoding": {"x": {**LOG_MS, "aggregate": "median"}, "color": {"value": "var(--fg)"}},
            },
        ],
    }  # fmt: skip


def phase_ab() -> Spec:
    """DMA on and off side by side: the median of each phase. Rows: phase, ms, dma."""
    x = {"type": "quantitative", "title": "seconds", "axis": SECONDS}
    return {
        "data": {"name": "rows"},
        "height": {"step": 14, "for": "offset"},
        "padding": {"left": 0, "top": 0, "bottom": 0, "right": 50},  # for the last label
        "transform": [
            {
                "aggregate": [
                    {"op": "median", "field": "ms", "as": "median"},
                    {"op": "q1", "field": "ms", "as": "q1"},
                    {"op": "q3", "field": "ms", "as": "q3"},
                    {"op": "count", "as": "launches"},
                ],
                "groupby": ["phase", "dma"],
            },
            *({"calculate": f"datum.{name} / 1000", "as": f"{name}_s"} for name in ("median", "q1", "q3")),
            {
                "calculate": "datum.median >= 1000 ? format(datum.median_s, '.2f') + ' s' : "
                "format(datum.median, datum.median >= 100 ? '.0f' : '.3~r') + ' ms'",
                "as": "label",
            },
        ],
        "encoding": {"y": _phase_axis(), "yOffset": _offset(), "color": _dma_color()},
        "layer": [
            {
                "mark": {"type": "bar", "cornerRadiusEnd": 2, "minBandSize": 2},
                "encoding": {
                    "x": {**x, "field": "median_s"},
                    "tooltip": [
                        {"field": "phase"},
                        {"field": "dma", "title": "DMA"},
                        {"field": "label", "title": "median"},
                        {"field": "launches"},
                    ],
                },
            },
            {
                "mark": {"type": "rule"},
                "encoding": {
                    "x": {**x, "field": "q1_s"},
                    "x2": {"field": "q3_s"},
                    "color": {"value": "var(--fg)"},
                    "opacity": {"value": 0.75},
                },
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 4, "fontSize": 10, "clip": False},
                "encoding": {
                    "x": {**x, "field": "end_s"},
                    "text": {"field": "label"},
                    "color": {"value": "var(--fg)"},
                },
                "transform": [{"calculate": "max(datum.median_s, datum.q3_s)", "as": "end_s"}],
            },
        ],
    }


def trend() -> Spec:
    """Launch time over the calendar. Rows: at (ms since the epoch), launch_s, dma, outcome, id."""
    return {
        "data": {"name": "rows"},
        "height": 260,
        "encoding": {
            "x": {
                "field": "at",
                "type": "temporal",
                "title": None,
                "scale": {"type": "utc"},
                "axis": {"labelOverlap": True, "format": CLOCK, "tickCount": {"expr": "max(3, width / 90)"}},
            },
            "color": _dma_color(),
        },
        "layer": [
            {
                "mark": {"type": "point", "filled": True, "size": 30, "opacity": 0.6},
                "encoding": {
                    "y": {
                        "field": "launch_s",
                        "type": "quantitative",
                        "title": "launch, seconds",
                        "scale": {"zero": False},
                    },
                    "tooltip": [
                        {"field": "id", "title": "launch"},
                        {"field": "at", "type": "temporal", "format": "%Y-%m-%d %H:%M:%S", "title": "UTC"},
                        {"field": "launch_s", "format": ".2f", "title": "seconds"},
                        {"field": "dma", "title": "DMA"},
                    ],
                },
            },
            {
                "transform": [
                    {
                        "window": [{"op": "median", "field": "launch_s", "as": "rolling"}],
                        "frame": [-15, 15],
                        "groupby": ["dma"],
                        "sort": [{"field": "at"}],
                    }
                ],
                "mark": {"type": "line", "strokeWidth": 2},
                "encoding": {"y": {"field": "rolling", "type": "quantitative"}},
            },
        ],
    }


def launch_ecdf() -> Spec:
    """Share of launches done by a time. Rows: launch_s, dma."""
    return {
        "data": {"name": "rows"},
        "height": 260,
        "transform": [
            {
                "window": [{"op": "cume_dist", "as": "share"}],
                "groupby": ["dma"],
                "sort": [{"field": "launch_s"}],
            }
        ],
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2},
        "encoding": {
            "x": {"field": "launch_s", "type": "quantitative", "title": "launch, seconds", "scale": {"zero": False}},
            "y": {"field": "share", "type": "quantitative", "title": "share of launches", "axis": {"format": "%"}},
            "color": _dma_color(),
        },
    }


def ratios() -> Spec:
    """Ratio of the sides of a benchmark with its interval. Rows: metric, ratio, low, high, difference."""
    named = f"({POWER}) || datum.value == 2 ? format(datum.value, ',~r') : ''"
    x = {"type": "quantitative", "scale": {"type": "log"}, "axis": {**POWERS, "labelExpr": named}}
    return {
        "data": {"name": "rows"},
        "height": {"step": 22},
        "layer": [
            {
                "data": {"values": [{"at": 1, "what": "equal"}, {"at": 2, "what": "halved"}]},
                "mark": {"type": "rule", "strokeDash": [4, 3], "color": "var(--muted)"},
                "encoding": {"x": {**x, "field": "at"}},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 4, "opacity": 0.45, "color": "var(--on)"},
                "encoding": {
                    "y": {"field": "metric", "type": "nominal", "sort": None, "title": None},
                    "x": {
                        **x,
                        "field": "low",
                        "title": ["times faster (log scale)", "95 % interval; dashed: equal, halved"],
                    },
                    "x2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1, "color": "var(--on)"},
                "encoding": {
                    "y": {"field": "metric", "type": "nominal", "sort": None, "title": None},
                    "x": {**x, "field": "ratio"},
                    "tooltip": [
                        {"field": "metric"},
                        *({"field": f, "format": ".3~r"} for f in ("ratio", "low", "high", "p")),
                        {"field": "difference"},
                    ],
                },
            },
        ],
    }


def sweep() -> Spec:
    """Transfer time by payload size. Rows: mb, ms, dma."""
    x = {"field": "mb", "type": "quantitative", "title": "kernel + initrd, MB"}
    y = {**LOG_MS, "title": "transfer, log scale", "axis": {**LOG_MS["axis"], "grid": True}}
    return {
        "data": {"name": "rows"},
        "height": 260,
        "encoding": {"x": x, "y": y, "color": _dma_color()},
        "layer": [
            {"mark": {"type": "point", "filled": True, "size": 30, "opacity": 0.6}},
            {"mark": {"type": "line"}, "encoding": {"y": {**y, "aggregate": "median"}}},
        ],
    }


def seed() -> Spec:
    """The experiment of 2015: a whole guestfish, run and exit. Rows: side, seconds, low, high, runs, dma."""
    x = {"type": "quantitative", "title": "seconds", "axis": SECONDS}
    return {
        "data": {"name": "rows"},
        "height": {"step": 24},
        "padding": {"left": 0, "top": 0, "bottom": 0, "right": 50},  # for the last label
        "transform": [{"calculate": "format(datum.seconds, datum.seconds < 10 ? '.2f' : '.1f') + ' s'", "as": "label"}],
        "encoding": {"y": {"field": "side", "type": "nominal", "sort": None, "title": None}},
        "layer": [
            {
                "mark": {"type": "bar", "height": 14, "cornerRadiusEnd": 2, "minBandSize": 2},
                "encoding": {
                    "x": {**x, "field": "seconds"},
                    "color": _dma_color(),
                    "tooltip": [
                        {"field": "side"},
                        {"field": "label", "title": "median"},
                        *({"field": name, "format": ".3~r"} for name in ("low", "high")),
                        {"field": "runs"},
                    ],
                },
            },
            {
                "mark": {"type": "rule"},
                "encoding": {
                    "x": {**x, "field": "low"},
                    "x2": {"field": "high"},
                    "color": {"value": "var(--fg)"},
                    "opacity": {"value": 0.75},
                },
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 11, "clip": False},
                "encoding": {"x": {**x, "field": "high"}, "text": {"field": "label"}},
            },
        ],
    }


FIGURES = {
    "waterfall": waterfall, "phases": phases, "phase-ab": phase_ab, "trend": trend, "launch-ecdf": launch_ecdf,
    "ratios": ratios, "sweep": sweep, "seed": seed,
}  # fmt: skip
