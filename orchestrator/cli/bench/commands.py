"""guestlaunch bench: options to sides, runs to a result file, figures to the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.bench import trapcost
from orchestrator.bench.firmware import firmware_file, with_firmware
from orchestrator.bench.sides import Work, direct, make_work, ours, plugin_parameter, stock
from orchestrator.cli.axes import cells
from orchestrator.cli.bench import results
from orchestrator.cli.bench.options import RunPlan, plan_options
from orchestrator.cli.bench.seed import seed
from orchestrator.cli.bench.session import chosen_accel, environ_of, measure, recorded, show
from orchestrator.cli.bench.start import start
from orchestrator.cli.bench.tools import tools
from orchestrator.cli.options import examples, settings_options
from orchestrator.domain.model import Accel, FirmwareKind, Profile
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import UsageError
from orchestrator.settings import Settings, load
from orchestrator.workload.environment import choose_appliance

if TYPE_CHECKING:  # SciPy comes with it: imported by the commands that compute
    from orchestrator.bench.recording import Recording
    from orchestrator.bench.rounds import Side

# What a grid can vary: settings by option name, and the firmware by descriptor.
AXES = ("profile", "cpu", "memory-mib", "vcpus", "fw-cfg-dma", "appliance", "connect", "firmware")

_trap_cost_option = click.option(
    "--trap-cost", metavar="TIME", help="Model what an access costs under KVM, such as 5.9us (TCG only)."
)


@click.group(
    epilog=examples(
        "guestlaunch bench fw-cfg",
        "guestlaunch bench seed --quick",
        "guestlaunch bench start",
        "guestlaunch bench tools",
        "guestlaunch bench launch --against stock --profile x86_64-seabios",
        "guestlaunch bench sweep",
    )
)
def bench() -> None:
    """Measure: what fw_cfg DMA saves, how fast launches are, and how guestlaunch compares."""


bench.add_command(start)
bench.add_command(seed)
bench.add_command(tools)
bench.add_command(results.compare)
bench.add_command(results.regress)


@bench.command(
    "fw-cfg",
    epilog=examples(
        "guestlaunch bench fw-cfg",
        "guestlaunch bench fw-cfg --runs 20 --time-budget 15m --out dma.json",
        "guestlaunch bench fw-cfg --trap-cost 5.9us     # models KVM on Arm, as in 2015",
        "guestlaunch bench fw-cfg --same --runs 20      # A/A: finds nothing",
    ),
)
@settings_options
@plan_options
@_trap_cost_option
@click.option("--same", is_flag=True, help="A/A: DMA on against on. Nothing should be found.")
@click.option("--count/--no-count", default=True, help="Count the accesses in runs of their own.")
def fw_cfg(settings: Settings, plan: RunPlan, trap_cost: str | None, *, same: bool, count: bool) -> int:
    """fw_cfg DMA off against on, in interleaved pairs; with intervals, tests and a verdict."""
    profile = _transferring_profile(settings)
    cost, plugin = _trap_cost(trap_cost, settings, profile)
    accel = "tcg" if plugin else str(chosen_accel(settings, profile))
    settings = replace(settings, accel=accel, start="cold")  # a clone transfers nothing
    if cost:  # a modelled transfer takes as long as the model says: only the run's deadline counts
        settings = replace(settings, deadlines=replace(settings.deadlines, transfer=plan.deadline))
    with recorded("fw-cfg", settings, plan, profile, cost) as (recording, folder):
        parameters = [plugin_parameter(plugin)] if plugin else []
        work = make_work(folder, disk=plan.disk, parameters=parameters)
        names = (("DMA on (A)", "on"), ("DMA on (B)", "on")) if same else (("DMA off", "off"), ("DMA on", "on"))
        facts = {"profile": settings.profile, "accel": settings.accel}
        sides = [
            side for name, dma in names for side in ours(name, work, {"fw-cfg-dma": dma}, environ_of(settings), facts)
        ]
        measure(recording, sides, plan, settings)
        if count:
            _count(recording, settings, profile)
    return show(recording, plan)


@bench.command(
    epilog=examples(
        "guestlaunch bench launch --profile x86_64-seabios     # stock libguestfs, on an x86_64 host",
        "guestlaunch bench launch --against direct --runs 20",
    )
)
@settings_options
@plan_options
@click.option(
    "--against", type=click.Choice(["stock", "direct"]), default="stock", show_default=True,
    help="Stock libguestfs, or QEMU started directly with libguestfs's arguments.",
)  # fmt: skip
def launch(settings: Settings, plan: RunPlan, against: str) -> int:
    """Compare guestlaunch with stock libguestfs, or with QEMU started directly.

    Both sides are timed alike: from the program's start to the exit of `guestfish -a disk run`, and, in a run of its
    own, to the answer of `list-filesystems`.
    """
    profile = load_profile(settings.profile)
    if against == "stock" and profile.arch != os.uname().machine:
        hint = "use --against direct, or a profile of the host's arch"
        why = f"it launches {os.uname().machine} guests only, the profile is for {profile.arch}"
        raise UsageError("cannot compare with", "stock libguestfs", why, hint)
    accel = chosen_accel(settings, profile)
    settings = replace(settings, accel=str(accel))
    with recorded("launch", settings, plan, profile) as (recording, folder):
        work = make_work(folder, disk=plan.disk, apart=True, parameters=_size(settings))
        if against == "stock":
            other = stock("stock", work, accel, os.environ)
        else:
            appliance = choose_appliance(settings, os.environ)[0]
            other = direct(
                "direct", work, profile=profile, accel=accel, appliance=appliance, folder=folder, environ=os.environ,
                fw_cfg_dma=settings.fw_cfg_dma, cpu=settings.cpu,
            )  # fmt: skip
        facts = {"profile": settings.profile, "accel": settings.accel, "arch": str(profile.arch)}
        measure(recording, [*other, *ours("guestlaunch", work, {}, environ_of(settings), facts)], plan, settings)
    return show(recording, plan)


@bench.command(
    epilog=examples(
        "guestlaunch bench matrix --axis profile=aarch64-uefi,aarch64-bare",
        "guestlaunch bench matrix --axis cpu=cortex-a57,cortex-a72 --axis vcpus=1,2",
        "guestlaunch bench matrix --axis firmware=/srv/edk2/old.json,/srv/edk2/new.json",
    )
)
@settings_options
@plan_options
@click.option(
    "--axis", "axes", multiple=True, required=True, metavar="SETTING=A,B,...",
    help=f"A setting and its values ({', '.join(AXES)}); repeat for a grid.",
)  # fmt: skip
def matrix(settings: Settings, plan: RunPlan, axes: Sequence[str]) -> int:
    """Every combination of the axes' values, interleaved. Figures side by side, no verdict."""
    grid = cells(axes, AXES)
    with recorded("matrix", settings, plan, None) as (recording, folder):
        work = make_work(folder, disk=plan.disk)
        sides = [
            side for number, cell in enumerate(grid) for side in _cell(cell, work, settings, folder / f"cell-{number}")
        ]
        measure(recording, sides, plan, settings)
    return show(recording, plan)


@bench.command(
    epilog=examples(
        "guestlaunch bench sweep",
        "guestlaunch bench sweep --sizes 8,32,128 --runs 5 --time-budget 10m",
        "guestlaunch bench sweep --trap-cost 5.9us --sizes 8,16,32 --runs 3",
    )
)
@settings_options
@plan_options
@click.option("--sizes", default="8,16,32,64,128", show_default=True, metavar="MB,...", help="Payload sizes in MB.")
@_trap_cost_option
def sweep(settings: Settings, plan: RunPlan, sizes: str, trap_cost: str | None) -> int:
    """Transfer time by payload size, with DMA and without: what a MB costs. Firmware only, nothing is booted."""
    from orchestrator.bench.sweep import sweep_transfers
    from orchestrator.cli.progress import shown

    profile = _transferring_profile(settings)
    cost, plugin = _trap_cost(trap_cost, settings, profile)
    megabytes = [int(part) for part in sizes.split(",") if part.strip().isdecimal() and int(part) > 0]
    if len(megabytes) != len(sizes.split(",")):
        raise UsageError("bad sizes", sizes, "expected whole numbers of MB", "for example 8,16,32")
    accel = Accel.TCG if plugin else chosen_accel(settings, profile)
    with recorded("sweep", settings, plan, profile, cost) as (recording, folder), shown("bench") as tell:
        sweep_transfers(
            recording, folder, profile, accel=accel, megabytes=sorted(set(megabytes)), runs=plan.runs, seed=plan.seed,
            plugin=plugin, time_budget_s=plan.time_budget, deadline_s=plan.deadline, progress=tell,
        )  # fmt: skip
    return show(recording, plan)


def _cell(cell: Mapping[str, str], work: Work, settings: Settings, folder: Path) -> tuple[Side, ...]:
    """Return a cell's side; a value that cannot be is refused before anything is measured."""
    name = " ".join(f"{key}={value}" for key, value in cell.items())
    options = {key: value for key, value in cell.items() if key != "firmware"}
    environ = environ_of(settings)
    chosen = load(environ=environ, overrides={key.replace("-", "_"): value for key, value in options.items()})
    profile = load_profile(chosen.profile)
    if "firmware" in cell:
        folder.mkdir()
        environ = with_firmware(Path(cell["firmware"]), folder, profile, environ)
    options |= {"accel": str(chosen_accel(chosen, profile))}
    return ours(name, work, options, environ, {"firmware": firmware_file(profile, environ) or "none"})


def _size(settings: Settings) -> list[tuple[str, str]]:
    """Return the guestfish commands that give every side's guest the size that was asked for."""
    asked = (("set-memsize", settings.memory_mib), ("set-smp", settings.vcpus))
    return [(command, str(value)) for command, value in asked if value is not None]


def _transferring_profile(settings: Settings) -> Profile:
    profile = load_profile(settings.profile)
    if profile.firmware is FirmwareKind.NONE:
        why = "without firmware nothing travels by fw_cfg"
        raise UsageError("nothing to measure", f"profile {profile.name}", why, "use a profile with firmware")
    return profile


def _trap_cost(text: str | None, settings: Settings, profile: Profile) -> tuple[int | None, str | None]:
    """Return the modelled cost in ns and the plugin's argument; both None when nothing is to be modelled."""
    if text is None:
        return None, None
    cost = trapcost.parse_cost(text)
    trapcost.check_profile(profile, "tcg" if settings.accel == "auto" else settings.accel)
    plugin = trapcost.build(settings.state_dir / "cache", f"qemu-system-{profile.arch}")
    return cost, trapcost.plugin_value(plugin, cost)


def _count(recording: Recording, settings: Settings, profile: Profile) -> None:
    """Count the accesses with DMA and without, each in a run of its own that is not timed."""
    from orchestrator.bench.transfer import Payload, predicted_accesses, transfer

    appliance = choose_appliance(settings, os.environ)[0]
    payload = Payload(kernel=appliance / "kernel", initrd=appliance / "initrd")
    accel = chosen_accel(settings, profile)
    for dma in (True, False):
        click.echo(f"bench: counting accesses with DMA {'on' if dma else 'off'}", err=True)
        counted = transfer(payload, profile, fw_cfg_dma=dma, accel=accel, count=True)
        recording.count(counted, predicted_accesses(payload, profile, fw_cfg_dma=dma))
