"""The report as one self-contained HTML page: values into the template. No network, then or later.

Charts are `figures`; what is counted is `collection`'s. The page's own style and filters are in `page/`.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.report import compare, figures, rows
from orchestrator.report.bench_analysis import facts
from orchestrator.report.collection import Collection, Group, dma_of, group_of
from orchestrator.report.export import library
from orchestrator.report.reader import Broken
from orchestrator.report.result import Result
from orchestrator.report.statistics import MIN_SAMPLES

_ON_PAGE = ("waterfall", "phases", "phase-ab", "launch-ecdf", "trend")
# Launches a side in the observed comparison: resampling thousands adds waiting, and no knowledge.
_COMPARED = 200


def render(collection: Collection, *, broken: Broken, cache: Path | None, title: str = "Launches") -> str:
    """Return the page.

    :param cache: directory in which the bundled chart library is kept between calls.
    """
    import jinja2

    template = jinja2.Environment(autoescape=True, trim_blocks=False, undefined=jinja2.StrictUndefined).from_string(
        _asset("page.html.j2")
    )
    results = [_result(path, result, number) for number, (path, result) in enumerate(collection.results)]
    return template.render(
        title=title,
        subtitle=_subtitle(collection),
        version=__version__,
        css=_markup(_asset("page.css")),
        results=results,
        observed=observed(collection),
        count=collection.count,
        counted=_counted(collection),
        totals=[
            {"group": total.group, "dma": total.dma, "outcome": total.outcome, "count": count}
            for total, count in sorted(collection.totals.items())
        ],
        slowest=[_shown(event) for event in collection.slowest],
        failures=[_shown(event) for event in collection.failures],
        broken=broken,
        data=_json(_data(collection, results)),
        library=library(cache),
        script=_asset("page.js"),
    )


def observed(collection: Collection) -> list[dict[str, Any]]:
    """Return what ordinary launches say of DMA, for each group that has enough of both."""
    found = []
    for group in collection.groups():
        sides: dict[str, list[Mapping[str, Any]]] = {"off": [], "on": []}
        for event in collection.of(group):
            if event["outcome"] == "success" and dma_of(event) in sides:
                sides[dma_of(event)].append(event)
        if min(len(side) for side in sides.values()) < MIN_SAMPLES:
            continue
        off, on = ({"transfer": _seen(s, "transfer_ns"), "launch": _seen(s, "launch_ns")} for s in sides.values())
        compared = compare.compare(off, on, paired=False, primary=("transfer", "launch"))
        said = compare.verdict(off, on, compared, accel=group.accel, modelled_trap_cost_ns=None)
        found.append(
            {
                "title": group.title,
                "modelled": group.modelled,
                "verdict": said.text,
                "n_off": len(sides["off"]),
                "n_on": len(sides["on"]),
            }
        )
    return found


def _seen(events: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    values = [float(event[key]) for event in events if event.get(key)]
    step = max(1, len(values) // _COMPARED)
    return values[::step]


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text("utf-8")


def _markup(text: str) -> Any:  # noqa: ANN401 - a type of the template library, imported when a page is made
    import markupsafe

    return markupsafe.Markup(text)  # noqa: S704 - our own style sheet


def _json(value: object) -> str:
    """Return JSON that can stand in a script element: no text in it can end the element."""
    return (
        json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )


def _data(collection: Collection, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = collection.groups()[0] if collection.count else None
    names = {*_ON_PAGE, *(result["figure"] for result in results if result["figure"])}
    return {
        "launches": [_compact(event) for event in collection.sample],
        "parts": rows.PART_OF,
        "figures": {name: figures.themed(figures.FIGURES[name]()) for name in sorted(names)},
        "fixed": {result["chart"]: result["rows"] for result in results if result["chart"]},
        "first": {} if first is None else {"profile": first.profile, "accel": _accel(first), "start": first.start},
    }


def _accel(group: Group) -> str:
    """Return the accelerator as the page filters by it: launches with a modelled trap cost are a kind of their own."""
    return f"{group.accel}, MODELLED trap cost" if group.modelled else group.accel


def _compact(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page's charts and filters need of a launch; times in ms."""
    return {
        "id": event["launch_id"],
        "at": event["wall_start_ns"] // 10**6,
        "profile": event["profile"],
        "accel": _accel(group_of(event)),
        "start": event["start"],
        "dma": dma_of(event),
        "outcome": event["outcome"],
        "launch": _ms(event.get("launch_ns")),
        "transfer": _ms(event.get("transfer_ns")),
        "total": _ms(event["total_ns"]),
        "phases": [
            [phase["name"], _ms(phase["start_ns"]), _ms(phase["duration_ns"]), phase.get("source", "")]
            for phase in event["phases"]
            if phase["duration_ns"] is not None
        ],
    }


def _ms(ns: int | None) -> float | None:
    return None if ns is None else round(ns / 1e6, 3)


def _subtitle(collection: Collection) -> str:
    if not collection.count:
        return f"{len(collection.results)} benchmark results"
    return f"{collection.count:,} launches from {_when(collection.first_ns)} to {_when(collection.last_ns)} UTC"


def _counted(collection: Collection) -> str:
    if len(collection.sample) >= collection.count:
        return "Counted exactly; all of them are in the charts."
    return f"Counted exactly; the charts show a random sample of {len(collection.sample):,}."


def _when(wall_ns: int) -> str:
    return dt.datetime.fromtimestamp(wall_ns / 1e9, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _shown(event: Mapping[str, Any]) -> dict[str, Any]:
    seen = [phase for phase in event["phases"] if phase["duration_ns"] is not None]
    longest = sorted(seen, key=lambda phase: -int(phase["duration_ns"]))[:4]
    launch_ns = event.get("launch_ns")
    return {
        "launch_id": event["launch_id"],
        "when": _when(event["wall_start_ns"]),
        "profile": event["profile"],
        "accel": _accel(group_of(event)),
        "start": event["start"],
        "dma": dma_of(event),
        "took": rows.duration(launch_ns) if launch_ns else f"not ready, ended after {rows.duration(event['total_ns'])}",
        "error": event.get("error"),
        "longest": ", ".join(f"{phase['name']} {rows.duration(phase['duration_ns'])}" for phase in longest),
        "console": "\n".join(event.get("console_tail", ())),
    }


def _result(path: Path, result: Result, number: int) -> dict[str, Any]:
    analysis = result["analysis"] or {}
    cost = result["modelled_trap_cost_ns"]
    kind = {"fw-cfg": "ratios", "launch": "ratios", "sweep": "sweep"}.get(result["kind"])
    chart_rows = rows.sweep_rows(result) if kind == "sweep" else rows.ratio_rows(result) if kind else []
    measured = [sample for sample in result["samples"] if sample["round"] >= 0]
    note = f"{path.name}: {len(measured)} runs on {facts(result)['accel']}"
    if analysis.get("failed_runs"):
        note += f", {analysis['failed_runs']} of them failed"
    host, launches = result["environment"]["host"], result["environment"]["launches"]
    return {
        "title": f"Benchmark {result['kind']}" + ("" if result["complete"] else " (not complete)"),
        "modelled": f"{cost / 1e3:g} µs an access" if cost else "",
        "verdict": analysis.get("verdict", ""),
        "note": note,
        "chart": f"result-{number}" if chart_rows else "",
        "figure": kind if chart_rows else "",
        "rows": chart_rows,
        "counts": result["counts"],
        "environment": [*host.items(), *launches.items(), ("firmware", result["environment"]["firmware"]["path"])],
    }
