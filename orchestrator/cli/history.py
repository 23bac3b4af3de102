"""guestlaunch history: the launches recorded in the store, as a table or JSON; and the store made anew."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from orchestrator.cli.filters import filter_options
from orchestrator.cli.options import examples, json_option, state_options
from orchestrator.cli.render import WIDTH
from orchestrator.errors import NotFoundError
from orchestrator.records import store
from orchestrator.records.filters import Filters
from orchestrator.records.provenance import SIGNS, mark
from orchestrator.records.store_rows import LaunchRow
from orchestrator.settings import Settings
from orchestrator.timeline.durations import duration
from orchestrator.timeline.phases import Kind

_DMA = {True: "on", False: "off", None: "-"}
_WRONG = {"failure": "failed"}
_HEAD_TIMES = f"{'launch':>8} {'transfer':>8}"


@click.command(
    epilog=examples(
        "guestlaunch history --since 1d --outcome failure",
        "guestlaunch history --profile aarch64-uefi --json | jq '.[].launch_ns'",
        "guestlaunch history --rebuild",
    )
)
@filter_options
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@click.option("--rebuild", is_flag=True, help="Make the store anew from the log, which is the truth.")
@state_options("Where launches are recorded.")
@json_option
def history(*, filters: Filters, limit: int, settings: Settings, rebuild: bool, as_json: bool) -> int:
    """List recorded launches, the newest first."""
    if rebuild:
        _rebuild(settings)
        return 0
    with store.open_store(settings.state_dir) as opened:
        rows = opened.rows(filters, limit=limit)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return 0
    for line in table(rows, now=dt.datetime.now().astimezone()):
        click.echo(line)
    return 0


def table(rows: Sequence[LaunchRow], *, now: dt.datetime) -> Iterator[str]:
    """Yield launches as lines of at most 80 columns; times of day are local, the year is there when it is another."""
    if not rows:
        yield "no launches that fit"
        return
    head = ("when", "launch", "profile", "accel", "start", "DMA")
    facts = [_facts(row, now) for row in rows]
    widths = [max(len(line[column]) for line in (head, *facts)) for column in range(len(head))]
    left = WIDTH - sum(widths) - len(widths)
    for line, end in zip((head, *facts), (_HEAD_TIMES, *(_end(row) for row in rows)), strict=True):
        shown = " ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield f"{shown} {end if len(end) <= left else end[: left - 1] + '…'}".rstrip()
    if any(row["modelled"] for row in rows):
        yield "* with a MODELLED trap cost"
    for label, sign in SIGNS.items():
        if any(row["made_on"] == label for row in rows):
            yield f"{sign} not on hardware: {mark(label)}"


def _facts(row: LaunchRow, now: dt.datetime) -> tuple[str, ...]:
    when = dt.datetime.fromtimestamp(row["wall_start_ns"] / 1e9).astimezone()
    shown = when.strftime("%m-%d %H:%M" if when.year == now.year else "%Y-%m-%d")
    return shown, row["launch_id"], row["profile"], _accel(row), _start(row), _DMA[row["fw_cfg_dma"]]


def _start(row: LaunchRow) -> str:
    """Return how a launch started; of other kinds, which are always booted, the kind."""
    return str(row["start"] if row["kind"] == Kind.LAUNCH else row["kind"])


def _accel(row: LaunchRow) -> str:
    return (row["accel"] or "-") + SIGNS.get(row["made_on"], "") + ("*" if row["modelled"] else "")


def _end(row: LaunchRow) -> str:
    """Return the times of a launch; of one that went wrong, how and where."""
    if row["outcome"] != "success":
        what = str(_WRONG.get(row["outcome"], row["outcome"]))
        return f"{what} in {row['error_phase']}" if row["error_phase"] else what
    launch, transfer = (duration(ns) if ns else "-" for ns in (row["launch_ns"], row["transfer_ns"]))
    return f"{launch:>8} {transfer:>8}"


def _rebuild(settings: Settings) -> None:
    """Make the store anew from the log and the log before it.

    :raise NotFoundError: when there is no log.
    """
    from orchestrator.report.reader import Reading

    log = Path(settings.log_target)
    paths = [path for path in (log.with_suffix(log.suffix + ".1"), log) if path.is_file()]
    if not paths:
        raise NotFoundError("cannot rebuild the store of launches", log, "there is no log")
    reading = Reading(paths=paths)
    count = store.rebuild(settings.state_dir, reading.launches())
    click.echo(f"{count} launches, {reading.broken.count} broken lines left out")
