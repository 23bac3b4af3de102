"""guestlaunch metrics: what was launched, in Prometheus' format, for node_exporter or for looking at."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import examples, state_options
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.program import complain
from orchestrator.settings import Settings

TEXTFILE_FOLDER = "/var/lib/prometheus/node-exporter"


@click.command(
    epilog=examples(
        "guestlaunch metrics | grep launches_total",
        f"guestlaunch metrics --textfile {TEXTFILE_FOLDER}/guestlaunch.prom      (from a timer)",
    )
)
@click.option("--textfile", metavar="FILE", type=click.Path(path_type=Path), help="Write FILE (*.prom) in one rename.")
@click.option(
    "--totals", metavar="FILE", type=click.Path(path_type=Path), help="Where totals are kept; beside the log."
)
@state_options(
    "Where the default event log is.",
    click.option("--log", metavar="FILE", help="Event log to count; that of the settings by default."),
)
def metrics(*, textfile: Path | None, totals: Path | None, settings: Settings) -> int:
    """Count the launches in the event log and print their metrics, or write them for node_exporter.

    Totals only ever grow, also when the log is rotated: what was counted is kept. A running guestlaunchd shows the
    same metrics of its own launches by HTTP (--metrics-listen): let Prometheus read the one or the other.
    """
    if settings.log_target == "-":
        raise UsageError(
            "cannot count launches", "log -", "events on stderr cannot be read again", "name a file: --log"
        )
    try:
        from orchestrator.telemetry.textfile import count, exposition, write
    except ImportError as error:
        hint = "pip install 'guestlaunch[report]'"
        raise CapabilityError("cannot show metrics", "", "prometheus_client is not installed", hint) from error
    path = Path(settings.log_target)
    counted = count(path, totals or path.with_name(f"{path.name}.metrics"))
    if counted.broken:
        lines = "line" if counted.broken == 1 else "lines"
        complain(PROGRAM, f"{path}: {counted.broken} broken {lines} of launches: not counted")
    if textfile is not None:
        write(counted.registry, textfile)
    else:
        click.echo(exposition(counted.registry), nl=False)
    return 0
