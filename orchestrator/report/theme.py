"""How the charts look: colours by name, scales, axes; the configuration that all of them share.

Colours are names that the page resolves by its colour scheme; `LIGHT` has those for paper. What is drawn is `charts`'s.
"""

from __future__ import annotations

from typing import Any

from orchestrator.report.rows import PARTS
from orchestrator.timeline.phases import SEQUENCE, Phase, Start

Spec = dict[str, Any]

# Okabe and Ito's colours, told apart with any colour vision; darker where theirs are too light on white.
LIGHT = {
    "fg": "#1b1f24", "muted": "#59636e", "grid": "#d9dee3", "bg": "#ffffff", "on": "#0072b2", "off": "#c44e00",
    "unknown": "#6e7781", "host": "#6e7781", "firmware": "#b07d00", "transfer": "#c44e00", "guest": "#0072b2",
    "tool": "#00845f", "bad": "#c1121f",
}  # fmt: skip
_COLD, _WARM = SEQUENCE[Start.COLD], SEQUENCE[Start.WARM]
PHASES = [str(phase) for phase in dict.fromkeys((*_COLD[:-4], *_WARM, *_COLD, Phase.CUSTOMISE))]

DMA_SCALE = {"domain": ["on", "off", "none"], "range": ["var(--on)", "var(--off)", "var(--guest)"]}
PART_SCALE = {
    "domain": list(PARTS),
    "range": ["var(--host)", "var(--firmware)", "var(--transfer)", "var(--guest)", "var(--tool)"],
}
POWER = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 1e-9"
# On a log scale only powers of ten are drawn and named: lines in between are noise.
POWERS = {
    "labelOverlap": "greedy",
    "labelSeparation": 8,
    "gridOpacity": {"condition": {"test": POWER, "value": 1}, "value": 0},
    "tickOpacity": {"condition": {"test": POWER, "value": 1}, "value": 0},
}
# Milliseconds in words.
LOG_MS: Spec = {
    "type": "quantitative",
    "field": "ms",
    "title": "log scale",
    "scale": {"type": "log"},
    "axis": {
        "labelExpr": f"!({POWER}) ? '' : datum.value >= 1000 ? format(datum.value / 1000, ',~r') + ' s' : "
        "datum.value >= 1 ? format(datum.value, '~r') + ' ms' : format(datum.value * 1000, '~r') + ' µs'",
        **POWERS,
    },
}
CLOCK = {
    "year": "%Y", "quarter": "%b %Y", "month": "%b %Y", "week": "%d %b", "date": "%d %b", "hours": "%H:%M",
    "minutes": "%H:%M", "seconds": "%H:%M:%S", "milliseconds": "%S.%L",
}  # fmt: skip
SECONDS = {"tickCount": {"expr": "max(3, width / 80)"}, "format": "~r"}


def themed(spec: Spec) -> Spec:
    """Return the specification with the looks of the page."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "background": "transparent",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": {
            "font": "system-ui, sans-serif",
            "view": {"stroke": None},
            "axis": {
                "labelColor": "var(--fg)", "titleColor": "var(--muted)", "gridColor": "var(--grid)",
                "domainColor": "var(--grid)", "tickColor": "var(--grid)", "titleFontWeight": "normal",
                "labelFontSize": 12, "titleFontSize": 12,
            },
            "axisY": {"grid": False},
            "legend": {
                "labelColor": "var(--fg)", "titleColor": "var(--muted)", "orient": "top", "symbolOpacity": 1,
                "titleFontWeight": "normal", "labelFontSize": 12, "titleFontSize": 12,
            },
            "title": {"color": "var(--fg)", "subtitleColor": "var(--muted)", "anchor": "start"},
            "text": {"color": "var(--fg)"},
            "line": {"strokeCap": "round"},
        },
        **spec,
    }  # fmt: skip
