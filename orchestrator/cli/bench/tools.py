"""guestlaunch bench tools: what whole libguestfs tools take without us, cold, warm and in standby, in one table."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.bench import sides
from orchestrator.bench import tools as experiment
from orchestrator.bench.start_sides import COLD, REFERENCE, STANDBY, WARM
from orchestrator.bench.tool_disks import DiskLayout, ToolDisk, make
from orchestrator.bench.tools import TOOLS, MeasuredTool
from orchestrator.cli.bench.offers import Offers, tried
from orchestrator.cli.bench.options import RunPlan, plan_options, resume_option
from orchestrator.cli.bench.session import chosen_accel, recorded, show
from orchestrator.cli.options import examples, settings_options
from orchestrator.cli.progress import shown
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError, GuestlaunchError, UsageError
from orchestrator.records import log
from orchestrator.settings import Settings
from orchestrator.workload import foreign
from orchestrator.workload.environment import choose_appliance

if TYPE_CHECKING:  # SciPy comes with it
    from orchestrator.bench.recording import Recording

_SIDES: Mapping[str, str] = {"reference": REFERENCE, "cold": COLD, "warm": WARM, "standby": STANDBY}
_MADE = tuple(layout for layout in DiskLayout if layout is not DiskLayout.GIVEN)


@click.command(
    "tools",
    epilog=examples(
        "guestlaunch bench tools --runs 6 --resume tools.json     # begins, or goes on with what is left",
        "guestlaunch bench tools --layout lvm --runs 3 --time-budget 20m --resume lvm.json     # no longer at a time",
        "guestlaunch bench tools --tool virt-df --tool virt-inspector --layout lvm --side reference --side standby",
        "guestlaunch bench tools --disk debian.img",
    ),
)
@settings_options
@plan_options
@resume_option
@click.option(
    "--tool", "names", type=click.Choice([tool.name for tool in TOOLS]), multiple=True, metavar="TOOL",
    help="Measure only these; repeat for more.",
)  # fmt: skip
@click.option(
    "--layout", "layouts", type=click.Choice([str(layout) for layout in _MADE]), multiple=True,
    help="Measure only on disks like this; repeat for more.",
)  # fmt: skip
@click.option(
    "--side", "chosen", type=click.Choice(list(_SIDES)), multiple=True, help="Measure only these; repeat for more."
)
def tools(
    settings: Settings, plan: RunPlan, *, names: Sequence[str], layouts: Sequence[str], chosen: Sequence[str],
    resume: Path | None,
) -> int:  # fmt: skip
    """Time whole tools, from start to exit: without guestlaunch, cold, warm, standby.

    They are virt-df, virt-filesystems, virt-ls -lR, virt-cat, virt-inspector, virt-customize (a name and an edit; and
    run-command, a command in the guest), virt-sysprep, virt-sparsify --in-place, virt-resize, guestmount until it is
    ready, and guestfish -i, on disks that are made: one file system, a Debian-like root in LVM, twelve partitions; and
    four virt-df with a disk each, in turn and at once, on the first of these kinds. With --disk they run on that one,
    which none of them changes. The reference is that of `bench start`. A tool that changes its disk gets a new copy
    each time, untimed. What is not installed, or fails in its warm-up, is left out.
    Each run is saved at once, and an interrupted benchmark goes on with what is left.
    """
    if settings.vcpus is not None:
        raise UsageError("cannot set", "--vcpus", "the reference's guest has as many as libguestfs gives it")
    if layouts and plan.disk is not None:
        raise UsageError("options exclude each other", "--layout and --disk", "a disk has the layout that it has")
    if resume is not None and plan.out is not None:
        raise UsageError("options exclude each other", "--resume and --out", "a result goes on in its own file")
    profile = load_profile(settings.profile)
    settings = replace(settings, accel=str(chosen_accel(settings, profile)))
    rows = [name for key, name in _SIDES.items() if not chosen or key in chosen]
    with recorded(experiment.KIND, settings, plan, profile, resume=resume) as (recording, folder):
        wanted_tools = _installed(names, recording)
        with contextlib.ExitStack() as stack:
            work = sides.make_work(folder, disk=plan.disk, apart=True)
            work = replace(work, scripts=work.scripts[:1])
            clones = experiment.DISKS if any(tool.several for tool in wanted_tools) else 1
            offers = Offers(work, settings, folder, stack, clones=clones)
            ways = tried(rows, offers, recording, plan.deadline)
            recording.sides((way.name, way.facts) for way in ways)
            if plan.disk is not None:
                disks = [ToolDisk(layout=DiskLayout.GIVEN, path=plan.disk.absolute())]
            else:
                disks = list(
                    _disks([DiskLayout(name) for name in layouts or _MADE], folder, settings, offers, recording)
                )
            pairs = experiment.fitting(wanted_tools, disks)
            if not pairs:
                raise UsageError("nothing to measure", "bench tools", "none of the tools fits one of the disks")
            wanted = experiment.steps(ways, pairs, first=-min(plan.warm_ups, 1), runs=plan.runs, seed=plan.seed)
            bench = experiment.ToolBench(
                recording=recording, folder=folder, deadline_s=plan.deadline, preloads=_preloads(settings, recording)
            )
            _measure(bench, wanted, settings, plan, offers)
    return show(recording, plan)


def _measure(
    bench: experiment.ToolBench, wanted: Sequence[experiment.ToolRun], settings: Settings, plan: RunPlan, offers: Offers
) -> None:
    recording = bench.recording
    todo = experiment.left(wanted, recording.result)
    with shown("bench") as tell:
        done = experiment.carry_out(bench, todo, time_budget_s=plan.time_budget, ready=offers.wait, tell=tell)
        for sample in done:
            if settings.timeline is not None and sample.event is not None:
                log.write_timeline(settings.timeline, sample.event)
    out = {one["side"] for one in recording.result.get("left_out", ())}
    missing = [s for s in experiment.left(wanted, recording.result) if s.number >= 0 and s.title not in out]
    if missing:
        what = f"{len(missing)} of {len(wanted)} are left for --resume {recording.path}"
        recording.left = f"its time budget, or by failed runs: {what}"


def _installed(names: Sequence[str], recording: Recording) -> list[MeasuredTool]:
    """Return the tools that were asked for and are there; each of the others is noted with a line."""
    found = []
    for tool in (tool for tool in TOOLS if not names or tool.name in names):
        if shutil.which(tool.program):
            found.append(tool)
        else:
            _leave_out(recording, tool.name, f"{tool.program} is not installed")
    return found


def _disks(
    layouts: Sequence[DiskLayout], folder: Path, settings: Settings, offers: Offers, recording: Recording
) -> Iterator[ToolDisk]:
    """Yield the disks; one that cannot be made is left out."""
    root = choose_appliance(settings, os.environ)[0] / "root"
    for layout in layouts:
        try:
            arch = load_profile(settings.profile).arch
            yield make(layout, folder, arch=arch, root=root, environ=offers.environ())
        except GuestlaunchError as error:
            _leave_out(recording, layout, str(error))


def _preloads(settings: Settings, recording: Recording) -> Mapping[str, str]:
    """Return what lets virt-customize run a command in a guest of another architecture, where that is wanted."""
    if not foreign.wants("virt-customize", settings):
        return {}
    try:
        return foreign.preload(os.environ, settings)
    except CapabilityError as error:
        _leave_out(recording, experiment.RUN_COMMAND, str(error))
        return {}


def _leave_out(recording: Recording, what: str, why: str) -> None:
    recording.leave_out(what, why)
    click.echo(f"bench: left out: {what}: {why}", err=True)
