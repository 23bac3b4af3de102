"""guestlaunch status: the running daemon and its launches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import config_option, examples, json_option, print_json
from orchestrator.daemon import client
from orchestrator.errors import NotFoundError
from orchestrator.settings import load
from orchestrator.timeline.durations import elapsed


@click.command(epilog=examples("guestlaunch status", "guestlaunch status --json | jq '.launches[].phase'"))
@json_option
@click.option("--socket", metavar="PATH", type=click.Path(path_type=Path), help="Ask the server that listens there.")
@config_option
def status(*, as_json: bool, socket: Path | None, config: Path | None) -> int:
    """Show the running daemon and its launches; exit status 1 when none runs."""
    settings = load(config=config)
    paths = [socket] if socket else client.daemon_sockets(settings, os.environ)
    if not paths:
        raise NotFoundError("no guestlaunchd runs", settings.runtime_dir, "nobody listens there", "start guestlaunchd")
    found = client.status(paths[0])
    if as_json:
        print_json({key: value for key, value in found.items() if key != "type"})
        return 0
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found["outcomes"].items())) or "none yet"
    click.echo(f"guestlaunchd {found['version']}, pid {found['pid']}, up {elapsed(found['uptime_s'])}, on {paths[0]}")
    click.echo(f"launches ended: {counts}")
    click.echo(f"launches running: {len(found['launches'])}")
    for launch in found["launches"]:
        click.echo(f"  {_line(launch)}")
    ready = sum(one["ready"] for one in found["standby"])
    click.echo(f"clones ready: {ready}")
    for one in found["standby"]:
        click.echo(
            f"  {one['profile']}  template {one['template']}  {one['ready']} of {one['wanted']}"
            f"  {one['private_mib']} MiB"
        )
    return 0


def _line(launch: dict[str, Any]) -> str:
    return (
        f"{launch['launch_id']}  {launch['profile']}  {launch['accel'] or '-'}  {launch['phase']}"
        f"  {elapsed(launch['elapsed_s'])}  client {launch['client_pid']}"
        + (f"  {launch['error']}" if launch.get("error") else "")
    )
