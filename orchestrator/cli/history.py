"""guestlaunch history: the launches recorded in the store, as a table or JSON; and the store made anew."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import json_option
from orchestrator.cli.render import milliseconds
from orchestrator.cli.selecting import selection_options
from orchestrator.errors import NotFoundError
from orchestrator.settings import Settings, load
from orchestrator.timeline import store
from orchestrator.timeline.selection import Selection

_DMA = {True: "on", False: "off", None: "-"}


@click.command()
@selection_options
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@click.option("--rebuild", is_flag=True, help="Make the store anew from the log, which is the truth.")
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="Settings file (TOML).")
@click.option("--state-dir", metavar="DIR", help="Where launches are recorded.")
@json_option
def history(
    selection: Selection, limit: int, config: Path | None, state_dir: str | None, *, rebuild: bool, as_json: bool
) -> int:
    r"""List recorded launches, the newest first.

    \b
    Examples:
      guestlaunch history --since 1d --outcome failure
      guestlaunch history --profile aarch64-uefi --json | jq '.[].launch_ns'
    """
    settings = load(config=config, overrides={"state_dir": state_dir})
    if rebuild:
        _rebuild(settings)
        return 0
    with store.open_store(settings.state_dir) as opened:
        rows = opened.rows(selection, limit=limit)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return 0
    click.echo(
        f"{'when':<20}{'launch':<18}{'profile':<17}{'accel':<6}{'start':<8}{'DMA':<5}{'launch':>11}{'transfer':>11}"
    )
    for row in rows:
        click.echo(_line(row))
    return 0


def _line(row: Mapping[str, Any]) -> str:
    when = dt.datetime.fromtimestamp(row["wall_start_ns"] / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    failed = "" if row["outcome"] == "success" else f"  {row['outcome']} in {row['error_phase'] or 'no phase'}"
    return (
        f"{when} {row['launch_id']:<18}{row['profile']:<17}{row['accel'] or '-':<6}{row['start']:<8}"
        f"{_DMA[row['fw_cfg_dma']]:<5}{milliseconds(row['launch_ns']):>11}{milliseconds(row['transfer_ns']):>11}{failed}"
    )


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
