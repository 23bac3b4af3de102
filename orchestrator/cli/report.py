"""guestlaunch report: recorded launches and results to a page, a trace, a figure or a summary."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from orchestrator.cli.filters import filter_options
from orchestrator.cli.options import examples, json_option, state_options
from orchestrator.errors import GuestlaunchError, NotFoundError, UsageError
from orchestrator.files import written_output
from orchestrator.records.filters import Filters
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind

if TYPE_CHECKING:  # imported where they are used: the chart library and SciPy take their time
    from orchestrator.records.record import LaunchEvent
    from orchestrator.report.collection import Collection
    from orchestrator.report.reader import Broken, Reading
    from orchestrator.report.submission import Submission

_PATH = click.Path(path_type=Path)


@click.command(
    epilog=examples(
        "guestlaunch report --since 1d --html day.html",
        "guestlaunch report events.jsonl bench/fw-cfg-*.json --html proof.html",
        "guestlaunch report events.jsonl --trace launches.json",
        "guestlaunch report --figure phase-ab --out ab.svg",
        "guestlaunch report --submit-file ours.json     # from the newest result of bench",
        "guestlaunch report ours.json theirs-*.json     # machines side by side",
    )
)
@click.argument("logs", nargs=-1, type=_PATH)
@filter_options
@click.option("--html", "page", type=_PATH, metavar="FILE", help="Write one self-contained HTML page.")
@click.option("--trace", type=_PATH, metavar="FILE", help="Write Chrome trace events, for Perfetto.")
@click.option("--figure", metavar="NAME", help="Draw one chart: waterfall, phases, phase-ab, trend, launch-ecdf, ...")
@click.option("--out", type=_PATH, metavar="FILE", help="Where --figure is drawn: an .svg or .png file.")
@click.option("--submit-file", "submission", type=_PATH, metavar="FILE", help="Make a result fit to be sent to others.")
@click.option("--yes", is_flag=True, help="Write that file without asking.")
@click.option("--title", default="Launches", show_default=True, help="Title of the page.")
@state_options("Where launches are recorded.")
@json_option
def report(
    *, logs: Sequence[Path], filters: Filters, page: Path | None, trace: Path | None, figure: str | None,
    out: Path | None, submission: Path | None, yes: bool, title: str, settings: Settings, as_json: bool,
) -> int:  # fmt: skip
    """Report on launches: from LOGs (log files, timelines, results of bench), or from the store of launches.

    Results that others have sent are LOGs, too: all of them, with results of bench, are shown as a table of machines.
    Runs of kernels and installations are reported on with --kind, never together with launches.
    """
    filters = replace(filters, kind=filters.kind or str(Kind.LAUNCH))
    if (figure is None) != (out is None):
        raise UsageError("incomplete", "--figure and --out", "each needs the other")
    if submission is not None:
        return _submit(logs, settings, submission, yes=yes)
    if trace is not None:
        _write_trace(logs, filters, settings, trace)
    if trace is not None and page is None and figure is None and not as_json:
        return 0
    collection, broken = _collected(logs, filters, settings)
    if page is not None:
        from orchestrator.report.export import write_file
        from orchestrator.report.page import render

        text = render(collection, broken=broken, cache=settings.state_dir / "cache", title=title)
        write_file(page, text.encode())
    if figure is not None and out is not None:
        from orchestrator.report import export

        export.write_figure(figure, collection, out)
    if as_json or (page is None and figure is None):
        _summary(collection, broken, as_json=as_json)
    for line in broken.named:
        click.echo(f"broken line: {line}", err=True)
    if broken.count:
        click.echo(f"{broken.count} broken lines were left out", err=True)
    return 0


def _collected(logs: Sequence[Path], filters: Filters, settings: Settings) -> tuple[Collection, Broken]:
    """Return the launches to report on, from files or else from the store.

    :raise NotFoundError: when there is nothing to report.
    """
    from orchestrator.records.store import open_store
    from orchestrator.report.collection import collect, from_store
    from orchestrator.report.reader import Broken, Reading

    if not logs:
        with open_store(settings.state_dir) as store:
            return from_store(store, filters), Broken()
    reading = Reading(paths=logs)
    collection = collect(reading.launches(), filters=filters)
    collection.results, collection.submissions = reading.results, reading.submissions
    if not collection.count and not collection.results and not collection.submissions:
        raise NotFoundError("nothing to report", ", ".join(map(str, logs)), _why_empty(reading))
    return collection, reading.broken


def _submit(logs: Sequence[Path], settings: Settings, path: Path, *, yes: bool) -> int:
    """Show what a result looks like to others, and write it once that is found right.

    :raise UsageError: none or several results were named, or there is nothing in it to send.
    """
    from orchestrator.bench.result import load as load_result
    from orchestrator.report import submission
    from orchestrator.report.export import write_file

    if len(logs) > 1:
        raise UsageError("cannot make the file", path, f"{len(logs)} results were named", "name one")
    kinds = ("seed-*.json", "fw-cfg-*.json")
    found = sorted((one for kind in kinds for one in (settings.state_dir / "bench").glob(kind)), key=_changed)
    if not logs and not found:
        raise NotFoundError("nothing to send in", settings.state_dir / "bench", "no result", "guestlaunch bench seed")
    chosen = logs[0] if logs else found[-1]
    text = submission.write(submission.from_result(load_result(chosen)))
    click.echo(text, nl=False)
    click.echo(f"This is all that {path} will hold, made from {chosen}.", err=True)
    if not yes and not click.confirm("Write it?", err=True):
        return 1
    write_file(path, text.encode())
    return 0


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def _why_empty(reading: Reading) -> str:
    named = f"; the first: {reading.broken.named[0]}" if reading.broken.named else ""
    return f"no launch that fits among {reading.lines} lines, {reading.broken.count} of them broken{named}"


def _write_trace(logs: Sequence[Path], filters: Filters, settings: Settings, path: Path) -> None:
    from orchestrator.records.record import CANONICAL
    from orchestrator.records.store import open_store
    from orchestrator.report.reader import Reading
    from orchestrator.report.trace import write_trace

    try:
        with written_output(path) as whole, io.TextIOWrapper(whole, encoding="utf-8") as file:
            if logs:
                events = Reading(paths=logs).events()
                wanted = (e for e in events if e["event"] not in CANONICAL or filters.takes(cast("LaunchEvent", e)))
                write_trace(wanted, file)
            else:
                with open_store(settings.state_dir) as store:
                    write_trace(store.lines(filters), file)
    except OSError as error:
        raise GuestlaunchError("cannot write", path, error.strerror or error) from error


def _summary(collection: Collection, broken: Broken, *, as_json: bool) -> None:
    """Print exact counts and what the launches say of DMA."""
    import json

    from orchestrator.report.observed import observe

    rows = [
        {
            **total.group._asdict(),
            "where": total.group.where,
            "fw_cfg_dma": total.dma,
            "outcome": total.outcome,
            "launches": count,
        }
        for total, count in sorted(collection.totals.items())
    ]
    seen = observe(collection)
    if as_json:
        analyses = {str(path): result["analysis"] for path, result in collection.results}
        found = {
            "launches": rows,
            "observed": [one.to_dict() for one in seen],
            "results": analyses,
            "machines": [asdict(one) for one in _machines(collection)],
            "broken_lines": broken.count,
        }
        click.echo(json.dumps(found, indent=1))
        return
    text = io.StringIO()
    for row in rows:
        text.write(
            f"{row['launches']:>8}  {row['profile']}  {row['where']}  {row['start']}"
            f"  DMA {row['fw_cfg_dma']}  {row['outcome']}\n"
        )
    for one in seen:
        text.write(f"observed, {one.group.title}: {one.text}\n")
    for path, result in collection.results:
        text.write(f"{path}: {(result['analysis'] or {}).get('verdict', result['kind'])}\n")
    click.echo(text.getvalue(), nl=False)
    if collection.submissions:
        from rich.console import Console

        from orchestrator.report.machines import machines

        Console().print(machines(_machines(collection)))


def _machines(collection: Collection) -> list[Submission]:
    """Return what was sent, and with it the results of bench in the same form."""
    if not collection.submissions:
        return []
    from orchestrator.report.submission import from_result

    sent = [one for _, one in collection.submissions]
    return [*sent, *(from_result(result) for _, result in collection.results)]
