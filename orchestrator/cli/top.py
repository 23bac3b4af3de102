"""guestlaunch top: what the daemon is launching now, redrawn until interrupted."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import Number, config_option, examples
from orchestrator.daemon import client
from orchestrator.errors import GuestlaunchError, NotFoundError
from orchestrator.records.provenance import SIGNS
from orchestrator.settings import Settings, load
from orchestrator.timeline.phases import SEQUENCE, Kind, Start

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.records.store_rows import LaunchRow

_PHASES = {str(phase): number for number, phase in enumerate(SEQUENCE[Start.COLD])}
_LATEST = 8
_BAR_CELLS = 8
# Columns with their least widths: everything that matters fits 80 columns.
_RUNNING = (
    ("launch", 15), ("profile", 14), ("accel", 5), ("phase", 16), ("", _BAR_CELLS), ("elapsed", 7), ("client", 7),
)  # fmt: skip
_DONE = (("launch", 15), ("profile", 14), ("accel", 5), ("DMA", 3), ("outcome", 9), ("launched", 9), ("transfer", 9))
_NUMERIC = frozenset({"elapsed", "client", "launched", "transfer"})


@click.command(epilog=examples("guestlaunch top", "guestlaunch top --interval 2"))
@click.option("--interval", type=Number(0.1, 60), default=0.5, show_default=True, help="Seconds.")
@click.option("--socket", metavar="PATH", type=click.Path(path_type=Path), help="Ask the server that listens there.")
@config_option
def top(interval: float, socket: Path | None, config: Path | None) -> int:
    """Show running launches live, and the latest that ended. Not on a terminal: once."""
    from rich.console import Console
    from rich.live import Live

    settings = load(config=config)
    paths = [socket] if socket else client.daemon_sockets(settings, os.environ)
    if not paths:
        raise NotFoundError("no guestlaunchd runs", settings.runtime_dir, "nobody listens there", "start guestlaunchd")
    console = Console()
    first = picture(client.status(paths[0]), latest(settings))
    if not console.is_terminal:
        console.print(first)
        return 0
    with contextlib.suppress(KeyboardInterrupt), Live(first, console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(picture(client.status(paths[0]), latest(settings)), refresh=True)
    return 0


def latest(settings: Settings) -> list[LaunchRow]:
    """Return the launches that ended last, none when there is no store."""
    from orchestrator.records.filters import Filters
    from orchestrator.records.store import open_store

    try:
        with open_store(settings.state_dir) as store:
            return store.rows(Filters(kind=str(Kind.LAUNCH)), limit=_LATEST)
    except GuestlaunchError:
        return []


def picture(status: Mapping[str, Any], ended: list[LaunchRow]) -> RenderableType:
    """Return the picture of one moment."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from orchestrator.timeline.durations import milliseconds

    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(status["outcomes"].items())) or "none yet"
    head = Text(f"guestlaunchd {status['version']}, pid {status['pid']}; ended: {counts}", style="bold")
    running, done = (Table(box=None, padding=(0, 1, 0, 0), header_style="dim") for _ in range(2))
    running.title, done.title = f"\nrunning: {len(status['launches'])}", "\nlatest"
    for table, columns in ((running, _RUNNING), (done, _DONE)):
        table.title_justify, table.title_style = "left", "bold"
        for name, width in columns:
            numeric = name in _NUMERIC
            table.add_column(name, justify="right" if numeric else "left", no_wrap=True, min_width=width)
    for one in status["launches"]:
        place = _PHASES.get(one["phase"], 0)
        running.add_row(
            one["launch_id"], one["profile"], one["accel"] or "-", one["phase"],
            ProgressBar(total=len(_PHASES) - 1, completed=place, width=_BAR_CELLS), f"{one['elapsed_s']:.1f} s",
            str(one["client_pid"]),
        )  # fmt: skip
    for row in ended:
        dma = {True: "on", False: "off", None: "-"}[row["fw_cfg_dma"]]
        accel = (row["accel"] or "-") + SIGNS.get(row["made_on"], "")
        done.add_row(
            row["launch_id"], row["profile"], accel, dma, row["outcome"],
            milliseconds(row["launch_ns"]), milliseconds(row["transfer_ns"]),
            style="red" if row["outcome"] == "failure" else "",
        )  # fmt: skip
    return Group(head, running, done)
