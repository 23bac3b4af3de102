"""guestlaunch demo: the project's main job, shown: the same work with fw_cfg DMA on and off, side by side."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from orchestrator.cli import render, session
from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import examples, json_option, print_json, settings_options
from orchestrator.domain.profiles import configs_dir
from orchestrator.errors import WorkloadError
from orchestrator.program import complain, unwinding_on_sigterm
from orchestrator.records.provenance import accel_of
from orchestrator.settings import Settings, variable
from orchestrator.timeline.durations import milliseconds
from orchestrator.workload import tools
from orchestrator.workload.job import load_job
from orchestrator.workload.jobs import carry_out

if TYPE_CHECKING:
    from orchestrator.records.record import LaunchEvent as Event


# Both are read by guestfish as one line of its language.
_WORK = (
    "list-filesystems",
    ":",
    "inspect-get-roots",
    ":",
    "cat",
    "/etc/motd",
    ":",
    "checksum",
    "sha256",
    "/srv/data/pattern.bin",
)


@click.command(epilog=examples("guestlaunch demo", "guestlaunch demo --runs 3", "guestlaunch demo --workdir . --json"))
@settings_options
@json_option
@click.option("--workdir", metavar="DIR", type=click.Path(path_type=Path), help="Where the disk image is kept.")
@click.option(
    "--runs", type=click.IntRange(1, 100), default=1, show_default=True, help="Launches with DMA, and without."
)
def demo(*, settings: Settings, as_json: bool, workdir: Path | None, runs: int) -> int:
    """Launch guestfish on a real disk image with fw_cfg DMA on and off, and compare the timelines.

    The image (GPT, LVM, ext4, files) is made through the appliance itself if it is not there.
    """
    image = (workdir or settings.state_dir / "demo").absolute() / "disk.img"
    with (
        unwinding_on_sigterm(),
        session.opened(
            replace(settings, timeline=None, start="cold")  # a clone transfers nothing
        ) as opened,
    ):
        if not image.exists():
            _provision(opened, image)
        events: dict[bool, list[Event]] = {True: [], False: []}
        for index in range(runs):
            # Interleaved, and each goes first as often: a host that gets busier in the meantime favours neither.
            for dma in (True, False) if index % 2 == 0 else (False, True):
                _say(f"run {index + 1} of {runs}: guestfish with fw_cfg DMA {'on' if dma else 'off'} ...")
                events[dma].append(_launch(opened, image, dma=dma))
    for event in events[True] + events[False]:
        session.write_timeline(settings, event)
    on, off = typical(events[True]), typical(events[False])
    if as_json:
        print_json({"on": events[True], "off": events[False], "verdict": verdict(on, off, runs)})
        return 0
    accel = f"{on['profile']} on {accel_of(on)}" + (f" ({on['accel_reason']})" if on["accel_reason"] else "")
    click.echo(f"\n{accel}; {'one launch each' if runs == 1 else f'medians of {runs} launches each'}")
    render.show_comparison(on, off, ("DMA on", "DMA off"))
    for line in verdict(on, off, runs):
        click.echo(line)
    return 0


def _say(text: str) -> None:
    """Show progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _provision(opened: session.Session, image: Path) -> None:
    """Make the disk image by the example job.

    :raise WorkloadError: it cannot be made.
    """
    _say(f"making {image} (GPT, LVM, ext4, files) through the appliance ...")
    try:
        image.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkloadError("cannot make the disk image", image, error.strerror or error) from error
    job = load_job(configs_dir() / "jobs/provision.toml", [image])
    outcome = carry_out(job, opened.environment.variables)
    finished = opened.finished()
    if outcome.status:
        for launch in finished:
            if launch.message:
                complain(PROGRAM, launch.message)
        raise WorkloadError("cannot make the disk image", image, outcome.error)


def _launch(opened: session.Session, image: Path, *, dma: bool) -> Event:
    """Run guestfish once and return the canonical line of its launch.

    :raise WorkloadError: it failed.
    """
    environ = {**opened.environment.variables, variable("fw_cfg_dma"): "on" if dma else "off"}
    command = ("guestfish", "--ro", "-a", str(image), "-i", *_WORK)
    status = tools.run_own(command, environ)
    finished = opened.finished()
    for launch in finished:
        if launch.message:
            raise WorkloadError("the launch failed", f"fw_cfg DMA {'on' if dma else 'off'}", launch.message)
    records = [launch.record for launch in finished if launch.record is not None]
    if status or len(records) != 1:
        raise WorkloadError("guestfish failed", image, f"exit status {status}")
    if records[0].get("proof_failures"):
        why = "; ".join(records[0]["proof_failures"])
        raise WorkloadError("the launch proves nothing", f"{records[0]['launch_id']}, which went well", why)
    return records[0]


def typical(events: Sequence[Event]) -> Event:
    """Return one line that stands for several: the median of each duration, where it was always seen."""
    if len(events) == 1:
        return events[0]

    def median(values: Sequence[float | None]) -> float | None:
        return statistics.median([one for one in values if one is not None]) if None not in values else None

    phases = [
        {**phase, "duration_ns": median([event["phases"][index]["duration_ns"] for event in events])}
        for index, phase in enumerate(events[0]["phases"])
    ]
    middle = {key: median([event[key] for event in events]) for key in ("transfer_ns", "launch_ns", "total_ns")}
    return cast("Event", {**events[0], "phases": phases, **middle})


def verdict(on: Event, off: Event, runs: int) -> list[str]:
    """Say in words what the figures say, for these launches, and no more."""
    lines = []
    if on["fw_cfg_dma"] is not True or off["fw_cfg_dma"] is not False:
        lines.append("The fw_cfg path could not be verified on both sides: the comparison proves nothing.")
    moved = sum(value or 0 for value in on["bytes"].values()) / 1e6
    transfers, launches = (on["transfer_ns"], off["transfer_ns"]), (on["launch_ns"], off["launch_ns"])
    for name, (with_dma, without) in ((f"The transfer of {moved:.1f} MB", transfers), ("The launch", launches)):
        if with_dma is None or without is None:
            lines.append(f"{name}: not seen on both sides.")
            continue
        times = f"{milliseconds(with_dma)} with DMA, {milliseconds(without)} without"
        lines.append(f"{name}: {times}: {without / with_dma:.2f} times as long without.")
    if on["launch_ns"] and off["launch_ns"]:
        halved = off["launch_ns"] / on["launch_ns"] >= 2
        lines.append(f"Launch time halved by DMA in this run: {'yes' if halved else 'no'} ({accel_of(on)}).")
    if runs < 5:
        lines.append("Few launches say little about small differences; `guestlaunch bench fw-cfg` gives intervals.")
    return lines
