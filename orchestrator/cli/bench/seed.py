"""guestlaunch bench seed: the experiment of 2015 on this machine: what DMA saves of a launch, and what we save."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from orchestrator.bench import seed as experiment
from orchestrator.bench import sides
from orchestrator.bench.seed import NAIVE, QUICK_MB, SEED_MB, STOCK, TRANSFER
from orchestrator.bench.start_sides import COLD, COLD_WITHOUT_DMA, STANDBY, WARM
from orchestrator.cli.bench.offers import Offers, tried
from orchestrator.cli.bench.options import RunPlan, plan_options, resume_option
from orchestrator.cli.bench.session import chosen_accel, recorded, show
from orchestrator.cli.options import examples, settings_options
from orchestrator.cli.progress import shown
from orchestrator.domain.model import FirmwareKind
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import UsageError
from orchestrator.records import log
from orchestrator.records.provenance import Clock, provenance
from orchestrator.settings import Settings
from orchestrator.workload.environment import choose_appliance

if TYPE_CHECKING:  # SciPy comes with it
    from orchestrator.bench.recording import Recording

# In the order in which they are tried: what makes a template warms up all that a cold launch needs, too.
_PARTS: Mapping[str, Sequence[str]] = {
    "warm": (WARM,),
    "standby": (STANDBY,),
    "stock": (STOCK,),
    "naive": (NAIVE[True], NAIVE[False]),
    "cold": (COLD, COLD_WITHOUT_DMA),
    "transfer": tuple(TRANSFER.values()),
}
# What a launch without DMA takes where each access traps is what a quick one is not to wait for.
_SLOW = (NAIVE[False], COLD_WITHOUT_DMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """What is to be measured: sides that launch, and sizes of transfers in MB."""

    rows: Sequence[str]
    megabytes: Sequence[int]


@click.command(
    "seed",
    epilog=examples(
        "guestlaunch bench seed --quick",
        "guestlaunch bench seed --runs 6 --out seed.json",
        "guestlaunch bench seed --runs 6 --resume seed.json     # goes on with what is left",
    ),
)
@settings_options
@plan_options
@click.option("--quick", is_flag=True, help="Small transfers and no launch without DMA: a line tells what it takes.")
@resume_option
@click.option(
    "--part", "chosen", type=click.Choice(list(_PARTS)), multiple=True, help="Measure only these; repeat for more."
)
def seed(settings: Settings, plan: RunPlan, chosen: Sequence[str], resume: Path | None, *, quick: bool) -> int:
    """Repeat the experiment of 2015 here: kernel and initrd over fw_cfg without DMA and with it.

    Launched are stock libguestfs, a plain UEFI launch of its appliance, and guestlaunch's own cold, warm and standby
    launches, all with the same guestfish; beside them the firmware fetches payloads of 31 MB and of 1, 2 and 4 MB.
    Whether DMA halves the launch is computed from launches without it and with it or, where there are too few of
    them, from a line through the transfers. Under KVM on Arm a launch without DMA takes half a minute, on an emulated
    host much longer: each run is saved at once, and an interrupted benchmark goes on with what is left. Every side but
    those without DMA is launched once before, untimed. An instruction clock repeats itself: there, one round is the
    default.
    """
    profile = load_profile(settings.profile)
    if profile.firmware is FirmwareKind.NONE:
        why = "without firmware nothing travels by fw_cfg"
        raise UsageError("nothing to measure", f"profile {profile.name}", why, "use a profile with firmware")
    if resume is not None and plan.out is not None:
        raise UsageError("options exclude each other", "--resume and --out", "a result goes on in its own file")
    accel = chosen_accel(settings, profile)
    patient = replace(settings.deadlines, firmware=plan.deadline, transfer=plan.deadline, handoff=plan.deadline)
    settings = replace(settings, accel=str(accel), deadlines=patient)
    what = _chosen(chosen, quick=quick)
    with recorded(experiment.KIND, settings, plan, profile, resume=resume) as (recording, folder):
        recording.state(accel=str(accel), arch=str(profile.arch))
        with contextlib.ExitStack() as stack:
            work = sides.make_work(folder, disk=plan.disk, apart=True)
            work = replace(work, scripts=work.scripts[:1])
            offers = Offers(work, settings, folder, stack)
            launches = tried(what.rows, offers, recording, plan.deadline) if what.rows else []
            payload = {"payload_bytes": _payload_bytes(settings)}
            recording.sides((side.name, {**side.facts, **payload}) for side in launches)
            recording.sides((name, {"fw_cfg_dma": dma}) for dma, name in TRANSFER.items() if what.megabytes)
            bench = experiment.Bench(
                recording=recording, folder=folder, profile=profile, accel=accel, deadline_s=plan.deadline
            )
            wanted = experiment.steps(launches, what.megabytes, runs=_runs(plan), seed=plan.seed)
            todo = experiment.left(wanted, recording.result)
            with shown("bench") as tell:
                done = experiment.carry_out(bench, todo, time_budget_s=plan.time_budget, ready=offers.wait, tell=tell)
                for sample in done:
                    if settings.timeline is not None and sample.event is not None:
                        log.write_timeline(settings.timeline, sample.event)
            recording.left = _left(wanted, recording)
    return show(recording, plan)


def _left(wanted: Sequence[experiment.Measurement], recording: Recording) -> str | None:
    missing = experiment.left(wanted, recording.result)
    if not missing:
        return None
    return f"its time budget, or by failed runs: {len(missing)} of {len(wanted)} are left for --resume {recording.path}"


def _runs(plan: RunPlan) -> int:
    default = click.get_current_context().get_parameter_source("runs") is ParameterSource.DEFAULT
    return 1 if default and provenance().clock is Clock.INSTRUCTIONS else plan.runs


def _chosen(parts: Sequence[str], *, quick: bool) -> _Chosen:
    names = [name for part, group in _PARTS.items() if not parts or part in parts for name in group]
    rows = [name for name in names if name not in TRANSFER.values() and not (quick and name in _SLOW)]
    megabytes = (*QUICK_MB, *(() if quick else (SEED_MB,))) if TRANSFER[True] in names else ()
    return _Chosen(rows=rows, megabytes=megabytes)


def _payload_bytes(settings: Settings) -> int:
    """Return how many bytes of kernel and initrd a cold launch hands over."""
    appliance = choose_appliance(settings, os.environ)[0]
    return sum((appliance / name).stat().st_size for name in ("kernel", "initrd"))
