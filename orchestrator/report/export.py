"""vl-convert at work: single charts as SVG or PNG files, and the chart library as one script for the page."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.bench.result import where
from orchestrator.errors import GuestlaunchError, NotFoundError, UsageError, nearest
from orchestrator.report import charts, rows, theme
from orchestrator.report.collection import Collection, dma_of

_WIDTH = 640
_PNG_SCALE = 2
_SNIPPET = "window.vegaEmbed = vegaEmbed;"


def library(cache: Path | None) -> str:
    """Return Vega, Vega-Lite and vega-embed as one script that sets `window.vegaEmbed`.

    :param cache: where it is kept between calls: bundling takes seconds. None bundles anew.
    """
    import vl_convert

    if cache is None:
        return _bundle()
    path = cache / f"vega-{vl_convert.get_vega_version()}-{metadata.version('vl-convert-python')}.js"
    with contextlib.suppress(OSError):
        return path.read_text("utf-8")
    text = _bundle()
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        cache.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, text.encode(), mode=0o644)
    return text


def _bundle() -> str:
    import vl_convert

    # The bundle must not be able to end the script element that it stands in.
    return str(vl_convert.javascript_bundle(_SNIPPET)).replace("</script", "<\\/script")


def figure(name: str, collection: Collection) -> dict[str, Any]:
    """Return a chart as a complete Vega-Lite specification in the light colours, with data and title.

    Launches of the largest group are shown: a figure never mixes accelerators, profiles or kinds of start.

    :raise UsageError: there is no such figure.
    :raise NotFoundError: there is nothing to draw it from.
    """
    if name not in charts.FIGURES:
        hint = nearest(name, charts.FIGURES) or f"figures: {', '.join(charts.FIGURES)}"
        raise UsageError("unknown figure", name, "", hint)
    found, subtitle = _rows(name, collection)
    if not found:
        raise NotFoundError("nothing to draw", name, "the input has no data for it")
    spec = theme.themed(charts.FIGURES[name]())
    spec |= {"width": _WIDTH, "background": "white", "datasets": {"rows": found}, "padding": 12}
    spec["title"] = {"text": (charts.FIGURES[name].__doc__ or "").split(". Rows")[0], "subtitle": subtitle}
    text = re.sub(r"var\(--([a-z]+)\)", lambda match: theme.LIGHT[match[1]], json.dumps(spec))
    return dict(json.loads(text))


def _rows(name: str, collection: Collection) -> tuple[rows.Rows, str]:
    if name in rows.OF_RESULTS:
        return _result_rows(name, collection)
    if not collection.count:
        return [], ""
    group = collection.groups()[0]
    events = collection.of(group)
    shown = f"{group.title}, n = {len(events)}"
    if name == "waterfall":
        event = rows.typical(events)
        if event is None:
            return [], ""
        return rows.waterfall_rows(event), f"{group.title}, DMA {dma_of(event)}, the median launch {event['launch_id']}"
    make: Callable[..., rows.Rows] = rows.launch_rows if name in {"trend", "launch-ecdf"} else rows.phase_rows
    return make(events), shown


def _result_rows(name: str, collection: Collection) -> tuple[rows.Rows, str]:
    for path, result in collection.results:
        if found := rows.of_result(result).get(name):
            cost = result["modelled_trap_cost_ns"]
            modelled = f", MODELLED trap cost {cost / 1e3:g} µs" if cost else ""
            return found, f"{path.name}, {where(result)}{modelled}"
    return [], ""


def write_figure(name: str, collection: Collection, path: Path) -> None:
    """Draw a chart into an .svg or .png file.

    :raise UsageError: another kind of file, or no such figure.
    :raise GuestlaunchError: it cannot be written.
    """
    import vl_convert

    spec = figure(name, collection)
    kind = path.suffix.lower()
    if kind == ".svg":
        image = str(vl_convert.vegalite_to_svg(spec)).encode()
    elif kind == ".png":
        image = bytes(vl_convert.vegalite_to_png(spec, scale=_PNG_SCALE))
    else:
        raise UsageError(
            "cannot write the figure", path, "unknown kind of file", "name a file that ends in .svg or .png"
        )
    write_file(path, image)


def write_file(path: Path, content: bytes) -> None:
    """Write a file, which appears when it is whole, or to a device or a pipe.

    :raise GuestlaunchError: it cannot be written.
    """
    try:
        files.write_output(path, content)
    except OSError as error:
        raise GuestlaunchError("cannot write", path, error.strerror or error) from error
