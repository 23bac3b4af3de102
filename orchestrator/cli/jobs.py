"""guestlaunch run: a workload described by a job file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import session
from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import examples, json_option, print_json, settings_options, verbose_option
from orchestrator.program import complain, unwinding_on_sigterm
from orchestrator.settings import Settings, merged
from orchestrator.workload.job import Job, load_job
from orchestrator.workload.jobs import Outcome, carry_out, confined

if TYPE_CHECKING:
    from orchestrator.records.record import LaunchEvent

# The server ends the launch of a worker that was killed, once it has noticed.
_RECORD_SECONDS = 15.0


@click.command(
    epilog=examples(
        "guestlaunch run configs/jobs/filesystems.toml --disk disk.img",
        "guestlaunch run configs/jobs/provision.toml --disk new.img --json",
        "guestlaunch run job.toml --fw-cfg-dma off --timeline t.jsonl",
    )
)
@settings_options
@json_option
@verbose_option
@click.option(
    "--disk", "disks", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
    help="Stands for the job's disks, in order; can be repeated.",
)  # fmt: skip
@click.argument("job", type=click.Path(path_type=Path))
def run(*, settings: Settings, as_json: bool, verbose: bool, disks: tuple[Path, ...], job: Path) -> int:
    """Carry out the workload in the file JOB through the guestfs bindings.

    A job names disks, and commands in guestfish's words or a Python file; `configs/jobs` has examples. It is
    ended when its deadline is over (exit status 124). Its disk images are not trusted, unless --image-policy says so.
    """
    loaded = load_job(job, disks)
    own = merged(loaded.settings, settings, source=str(job))
    own = replace(own, image_policy=own.image_policy or "untrusted")
    loaded = confined(loaded, own)
    with unwinding_on_sigterm(), session.opened(own, verbose=verbose) as opened:
        outcome = carry_out(loaded, opened.environment.variables, None if as_json else _progress)
        finished = opened.finished(_RECORD_SECONDS if outcome.status else 0.0)
    timelines = [launch.record for launch in finished if launch.record is not None]
    if as_json:
        print_json(outcome.to_json(timelines))
    else:
        _show(loaded, outcome, timelines)
    told = as_json or sys.stdout.isatty()  # their timelines, just now
    session.report(finished, replace(own, timeline=None) if told else own, as_json=as_json)
    if outcome.error is not None:
        complain(PROGRAM, outcome.error)
    return outcome.status


def _progress(event: Mapping[str, Any]) -> None:
    """Show a command's output as it comes."""
    if event["event"] == "launched":
        click.echo(f"launched in {event['duration_s']:.2f} s")
    elif event["event"] == "command":
        mark = "" if event["outcome"] == "success" else "failed: "
        click.echo(f"> {event['command']}  [{event['duration_s']:.3f} s]")
        text = event.get("error") if mark else as_text(event.get("output"))
        if text:
            click.echo("\n".join(f"  {mark}{line}" for line in text.rstrip("\n").splitlines()))


def as_text(value: object) -> str:
    """Return a command's output as guestfish would print it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {as_text(one)}" for key, one in value.items())
    if isinstance(value, list):
        return "\n".join(as_text(one) for one in value)
    return str(value)


def _show(job: Job, outcome: Outcome, timelines: list[LaunchEvent]) -> None:
    """Show what became of a job, and its launch."""
    if outcome.result is not None:
        print_json(outcome.result)
    click.echo(f"{job.name}: {outcome.outcome} after {outcome.duration_s:.2f} s")
    if timelines:
        from orchestrator.cli import render  # here: brings rich

        for event in timelines:
            render.show_timeline(event)
