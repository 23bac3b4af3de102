"""The report as one self-contained HTML page: values into the template. No network, then or later.

Charts are `charts`; what is counted is `collection`'s. The page's own style and filters are in `assets/`.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.bench.result import Result, where
from orchestrator.records.record import LaunchEvent, seen
from orchestrator.report import charts, rows, theme
from orchestrator.report.collection import Collection, dma_of, group_of
from orchestrator.report.export import library
from orchestrator.report.observed import Observed, observe
from orchestrator.report.reader import Broken
from orchestrator.report.tiles import observed_tiles, result_tiles
from orchestrator.timeline.durations import duration

_ON_PAGE = ("waterfall", "phases", "phase-ab", "launch-ecdf", "trend")


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
        observed=[_observed(found) for found in observe(collection)],
        count=collection.count,
        counted=_counted(collection),
        totals=[
            {"group": total.group, "dma": total.dma, "outcome": total.outcome, "count": count}
            for total, count in sorted(collection.totals.items())
        ],
        slowest=_shown(collection.slowest),
        failures=_shown(collection.failures),
        broken=broken,
        data=_json(_data(collection, results)),
        library=library(cache),
        script=_asset("page.js"),
        parts=list(rows.PARTS),
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text("utf-8")


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
    drawn = [chart for result in results for chart in result["charts"]]
    names = {*_ON_PAGE, *(chart["figure"] for chart in drawn)}
    return {
        "launches": [_compact(event) for event in collection.sample],
        "parts": rows.PART_OF,
        "figures": {name: theme.themed(charts.FIGURES[name]()) for name in sorted(names)},
        "fixed": {chart["id"]: chart["rows"] for chart in drawn},
        "first": {} if first is None else {"profile": first.profile, "accel": first.where, "start": first.start},
    }


def _compact(event: LaunchEvent) -> dict[str, Any]:
    """Return what the page's charts and filters need of a launch; times in ms."""
    return {
        "id": event["launch_id"],
        "at": event["wall_start_ns"] // 10**6,
        "profile": event["profile"],
        "accel": group_of(event).where,
        "start": event["start"],
        "dma": dma_of(event),
        "outcome": event["outcome"],
        "launch": _ms(event.get("launch_ns")),
        "transfer": _ms(event.get("transfer_ns")),
        "total": _ms(event["total_ns"]),
        "phases": [
            [phase["name"], _ms(start_ns), _ms(duration_ns), phase.get("source", "")]
            for phase, start_ns, duration_ns in seen(event["phases"])
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


def _shown(events: Sequence[LaunchEvent]) -> list[dict[str, Any]]:
    """Return the launches of a list, their bars on one scale."""
    longest_ns = max((event["total_ns"] for event in events), default=1)
    return [_launch(event, longest_ns) for event in events]


def _launch(event: LaunchEvent, longest_ns: int) -> dict[str, Any]:
    """Return a launch of the lists, with its phases as parts of a bar."""
    parts = [(phase["name"], duration_ns) for phase, _, duration_ns in seen(event["phases"]) if duration_ns]
    longest = sorted(parts, key=lambda part: -part[1])[:4]
    launch_ns = event.get("launch_ns")
    return {
        "launch_id": event["launch_id"],
        "at": event["wall_start_ns"] // 10**6,
        "when": _when(event["wall_start_ns"]),
        "profile": event["profile"],
        "accel": group_of(event).where,
        "start": event["start"],
        "dma": dma_of(event),
        "outcome": event["outcome"],
        "took": duration(launch_ns) if launch_ns else f"ended after {duration(event['total_ns'])}",
        "error": event.get("error"),
        "longest": ", ".join(f"{name} {duration(duration_ns)}" for name, duration_ns in longest),
        "bar": [(rows.PART_OF[name], round(100 * duration_ns / longest_ns, 2), name) for name, duration_ns in parts],
        "console": "\n".join(event.get("console_tail", ())),
    }


def _observed(found: Observed) -> dict[str, Any]:
    return {
        "title": found.group.title,
        "tiles": observed_tiles(found),
        "text": found.text,
        "basis": found.basis,
    }


def _result(path: Path, result: Result, number: int) -> dict[str, Any]:
    analysis = result["analysis"] or {}
    cost = result["modelled_trap_cost_ns"]
    measured = [sample for sample in result["samples"] if sample["round"] >= 0]
    note = f"{path.name}: {len(measured)} runs on {where(result)}"
    if analysis.get("failed_runs"):
        note += f", {analysis['failed_runs']} of them failed"
    host, launches = result["environment"]["host"], result["environment"]["launches"]
    return {
        "title": f"Benchmark {result['kind']}" + ("" if result["complete"] else " (not complete)"),
        "modelled": f"{cost / 1e3:g} µs an access" if cost else "",
        "verdict": analysis.get("verdict", ""),
        "tiles": result_tiles(result),
        "note": note,
        "charts": [
            {"id": f"result-{number}-{name}", "figure": name, "rows": found}
            for name, found in rows.of_result(result).items()
        ],
        "counts": result["counts"],
        "environment": [*host.items(), *launches.items(), ("firmware", result["environment"]["firmware"]["path"])],
    }
