"""guestlaunch bench start: what a launch costs without us, cold, warm and in standby, in one table."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import click

from orchestrator.bench import start_sides
from orchestrator.bench.start_sides import REFERENCE, STANDBY
from orchestrator.cli.bench.offers import Offers, tried
from orchestrator.cli.bench.options import RunPlan, plan_options
from orchestrator.cli.bench.session import chosen_accel, measure, recorded, show
from orchestrator.cli.options import examples, settings_options
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import UsageError
from orchestrator.settings import Settings

_ROWS: Mapping[str, Sequence[str]] = {
    "reference": (REFERENCE,),
    "cold": (start_sides.COLD_WITHOUT_DMA, start_sides.COLD),
    "warm": (start_sides.WARM,),
    "standby": (STANDBY,),
}


@click.command(
    "start",
    epilog=examples(
        "guestlaunch bench start",
        "guestlaunch bench start --profile x86_64-seabios --runs 20",
        "guestlaunch bench start --side reference --side cold --time-budget 15m",
    ),
)
@settings_options
@plan_options
@click.option(
    "--side", "chosen", type=click.Choice(list(_ROWS)), multiple=True, help="Measure only these; repeat for more."
)
def start(settings: Settings, plan: RunPlan, chosen: Sequence[str]) -> int:
    """Time a launch, list-filesystems and inspection: without guestlaunch, cold, warm, standby.

    The reference is what a user has without guestlaunch: stock libguestfs, or for guests of another arch a plain
    wrapper that starts QEMU with libguestfs's own init in the appliance. The others are the same guestfish with a
    guestlaunchd that runs. Every side does the same work, from guestfish's start to its exit (launch) or to its
    answer; a launch that did not come about as its row says is not counted.
    """
    if settings.vcpus is not None:
        raise UsageError("cannot set", "--vcpus", "the reference's guest has as many as libguestfs gives it")
    profile = load_profile(settings.profile)
    accel = chosen_accel(settings, profile)
    settings = replace(settings, accel=str(accel))
    with recorded("start", settings, plan, profile) as (recording, folder):
        rows = [name for key in _ROWS if not chosen or key in chosen for name in _ROWS[key]]
        with contextlib.ExitStack() as stack:
            offers = Offers(start_sides.make_work(folder, plan.disk), settings, folder, stack)
            sides = tried(rows, offers, recording, plan.deadline)
            measure(recording, sides, plan, settings, ready=offers.wait)
    return show(recording, plan)
