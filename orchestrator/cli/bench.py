"""guestlaunch bench: options to sides, runs to a result file, figures to the terminal."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.bench_options import Plan, plan_options
from orchestrator.cli.options import json_option, settings_options
from orchestrator.domain.model import Accel, FirmwareKind, Profile
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import UsageError
from orchestrator.settings import Settings
from orchestrator.workload import bench_sides, trapcost

if TYPE_CHECKING:  # SciPy comes with it: imported by the commands that compute
    from orchestrator.report.bench_record import Recording
    from orchestrator.workload.bench import Side


@click.group()
def bench() -> None:
    """Measure: what fw_cfg DMA saves, and how guestlaunch compares."""


@bench.command("fw-cfg")
@settings_options
@plan_options
@click.option("--trap-cost", metavar="TIME", help="Model what an access costs under KVM, such as 5.9us (TCG only).")
@click.option("--same", is_flag=True, help="A/A: DMA on against on. Nothing should be found.")
@click.option("--count/--no-count", default=True, help="Count the accesses in runs of their own.")
def fw_cfg(settings: Settings, plan: Plan, trap_cost: str | None, *, same: bool, count: bool) -> int:
    """fw_cfg DMA off against on, in interleaved pairs; with intervals, tests and a verdict."""
    from orchestrator.report.bench_record import record_rounds

    profile = load_profile(settings.profile)
    cost, plugin = _trap_cost(trap_cost, settings, profile)
    with _recording("fw-cfg", settings, plan, profile, cost) as recording, _folder() as folder:
        work = bench_sides.make_work(folder, disk=plan.disk, plugin=plugin)
        names = (("DMA on (A)", "on"), ("DMA on (B)", "on")) if same else (("DMA off", "off"), ("DMA on", "on"))
        sides = [
            bench_sides.ours(name, work, _options(settings) | {"fw-cfg-dma": dma}, os.environ) for name, dma in names
        ]
        recording.sides((side.name, side.facts) for side in sides)
        record_rounds(recording, sides, _rounds(sides, plan), _progress(plan))
        if count:
            _count(recording, settings, profile)
    return _show(recording, plan)


@bench.command()
@settings_options
@plan_options
@click.option(
    "--against", type=click.Choice(["stock", "direct"]), default="stock", show_default=True,
    help="Stock libguestfs, or QEMU started directly with libguestfs's arguments.",
)  # fmt: skip
def launch(settings: Settings, plan: Plan, against: str) -> int:
    """Guestlaunch against stock libguestfs, or QEMU started directly: start to exit, and to the first answer."""
    from orchestrator.report.bench_record import record_rounds
    from orchestrator.workload.environment import choose_appliance

    profile = load_profile(settings.profile)
    if against == "stock" and profile.arch != os.uname().machine:
        hint = "use --against direct, or a profile of the host's arch"
        why = f"it launches {os.uname().machine} guests only, the profile is for {profile.arch}"
        raise UsageError("cannot compare with", "stock libguestfs", why, hint)
    accel = _accel(settings)
    with _recording("launch", settings, plan, profile, None) as recording, _folder() as folder:
        work = bench_sides.make_work(folder, disk=plan.disk)
        if against == "stock":
            other = bench_sides.stock("stock", work, accel, os.environ)
        else:
            appliance = choose_appliance(settings, os.environ)[0]
            other = bench_sides.direct(
                "direct", work, profile=profile, accel=accel, appliance=appliance, folder=folder, environ=os.environ,
                fw_cfg_dma=settings.fw_cfg_dma,
            )  # fmt: skip
        sides = [other, bench_sides.ours("guestlaunch", work, _options(settings) | {"accel": str(accel)}, os.environ)]
        recording.sides((side.name, side.facts) for side in sides)
        record_rounds(recording, sides, _rounds(sides, plan), _progress(plan))
    return _show(recording, plan)


@bench.command()
@settings_options
@plan_options
@click.option(
    "--axis", "axes", multiple=True, required=True, metavar="SETTING=A,B,...",
    help="A setting and its values (profile, cpu, memory-mib, vcpus, fw-cfg-dma, appliance); repeat for a grid.",
)  # fmt: skip
def matrix(settings: Settings, plan: Plan, axes: Sequence[str]) -> int:
    """Every combination of the axes' values, interleaved. Figures side by side, no verdict."""
    from orchestrator.report.bench_record import record_rounds

    with _recording("matrix", settings, plan, None, None) as recording, _folder() as folder:
        work = bench_sides.make_work(folder, disk=plan.disk)
        sides = [
            bench_sides.ours(" ".join(f"{k}={v}" for k, v in cell.items()), work, _options(settings) | cell, os.environ)
            for cell in cells(axes)
        ]
        recording.sides((side.name, side.facts) for side in sides)
        record_rounds(recording, sides, _rounds(sides, plan), _progress(plan))
    return _show(recording, plan)


@bench.command()
@settings_options
@plan_options
@click.option("--sizes", default="8,16,32,64,128", show_default=True, metavar="MB,...", help="Payload sizes in MB.")
@click.option("--trap-cost", metavar="TIME", help="Model what an access costs under KVM, such as 5.9us (TCG only).")
def sweep(settings: Settings, plan: Plan, sizes: str, trap_cost: str | None) -> int:
    """Transfer time by payload size, with DMA and without: what a MB costs. Firmware only, nothing is booted."""
    from orchestrator.report.bench_sweep import sweep_transfers

    profile = load_profile(settings.profile)
    cost, plugin = _trap_cost(trap_cost, settings, profile)
    megabytes = [int(part) for part in sizes.split(",") if part.strip().isdigit() and int(part) > 0]
    if len(megabytes) != len(sizes.split(",")):
        raise UsageError("bad sizes", sizes, "expected whole numbers of MB", "for example 8,16,32")
    with _recording("sweep", settings, plan, profile, cost) as recording, _folder() as folder:
        sweep_transfers(
            recording, folder, profile, accel=_accel(settings), megabytes=megabytes, runs=plan.runs, seed=plan.seed,
            plugin=plugin, time_budget_s=plan.time_budget, deadline_s=plan.deadline, progress=_progress(plan),
        )  # fmt: skip
    return _show(recording, plan)


@bench.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@json_option
def compare(first: Path, second: Path, *, as_json: bool) -> int:
    """Compare two result files. Refused when accelerator, guest arch or trap cost differ."""
    from rich.console import Console

    from orchestrator.report import bench_analysis, bench_text, result

    found = bench_analysis.compare_results(result.load(first), result.load(second), f"{first} and {second}")
    if as_json:
        _print_json(found)
        return 0
    console = Console()
    for line in found["conditions_that_differ"]:
        console.print(f"[yellow]The conditions differ:[/] {line}", highlight=False)
    for side, rows in found["sides"].items():
        console.print(bench_text.comparison_table(rows, f"{side}, first", "second"))
    return 0


@bench.command()
@click.argument("current", type=click.Path(path_type=Path))
@click.option(
    "--baseline", type=click.Path(path_type=Path), required=True, help="The stored result to hold it against."
)
@click.option(
    "--tolerance", type=click.FloatRange(0), default=5.0, show_default=True, help="Allowed slowdown, percent."
)
@json_option
def regress(current: Path, baseline: Path, tolerance: float, *, as_json: bool) -> int:
    """Exit with status 1 when a result is slower than a baseline: significantly, and by more than the tolerance."""
    from orchestrator.report import bench_analysis, result

    found = bench_analysis.regressions(
        result.load(baseline), result.load(current), tolerance=tolerance / 100, subject=f"{baseline} and {current}"
    )
    if as_json:
        _print_json({"regressions": found})
    for row in () if as_json else found:
        click.echo(f"slower: {row['side']}: {row['metric']} took {1 / row['ratio']:.2f}× the baseline's median")
    if not found and not as_json:
        click.echo(f"no metric is slower than the baseline by more than {tolerance:g} %")
    return 1 if found else 0


def cells(axes: Sequence[str]) -> list[dict[str, str]]:
    """Return the combinations of `SETTING=A,B` axes.

    :raise UsageError: an axis is not of that form, or its setting cannot be varied.
    """
    grid: list[dict[str, str]] = [{}]
    for axis in axes:
        key, equals, values = axis.partition("=")
        key = key.replace("_", "-")
        known = ("profile", "cpu", "memory-mib", "vcpus", "fw-cfg-dma", "appliance", "connect")
        if not equals or key not in known or not all(values.split(",")):
            raise UsageError("bad axis", axis, "expected SETTING=A,B,…", f"settings: {', '.join(known)}")
        grid = [cell | {key: value} for cell in grid for value in values.split(",")]
    return grid


def _options(settings: Settings) -> dict[str, str]:
    """Return the settings of this command for the commands that it runs."""
    values: dict[str, object] = {
        "profile": settings.profile, "accel": settings.accel, "connect": settings.connect, "cpu": settings.cpu,
        "appliance": settings.appliance, "memory-mib": settings.memory_mib, "vcpus": settings.vcpus,
        "state-dir": settings.state_dir,
    }  # fmt: skip
    return {key: str(value) for key, value in values.items() if value is not None}


def _accel(settings: Settings) -> Accel:
    """Return the accelerator that both sides get; "auto" is TCG, because only we can tell whether KVM works."""
    return Accel.KVM if settings.accel == "kvm" else Accel.TCG


def _trap_cost(text: str | None, settings: Settings, profile: Profile) -> tuple[int | None, str | None]:
    """Return the modelled cost in ns and the plugin's argument; both None when nothing is to be modelled."""
    if text is None:
        return None, None
    cost = trapcost.parse_cost(text)
    trapcost.check_profile(profile, "tcg" if settings.accel == "auto" else settings.accel)
    plugin = trapcost.build(settings.state_dir / "cache", f"qemu-system-{profile.arch}")
    return cost, trapcost.plugin_value(plugin, cost)


@contextmanager
def _recording(
    kind: str, settings: Settings, plan: Plan, profile: Profile | None, cost: int | None
) -> Iterator[Recording]:
    """Yield the result under way; an interruption keeps what is there."""
    from orchestrator.firmware.descriptors import find_firmware
    from orchestrator.report.bench_record import Recording

    stamp = time.strftime("%Y%m%dT%H%M%S")
    path = plan.out or settings.state_dir / "bench" / f"{kind}-{stamp}.json"
    uefi = profile is not None and profile.firmware is FirmwareKind.UEFI
    code = find_firmware(profile.arch, profile.machine).code if profile is not None and uefi else None
    recording = Recording(kind, path, seed=plan.seed, firmware=code, trap_cost_ns=cost)
    try:
        yield recording
    except KeyboardInterrupt:
        recording.save()
        click.echo("interrupted; the rounds so far are kept", err=True)
        _show(recording, plan)
        raise click.Abort from None
    recording.finish()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="guestlaunch-bench-") as folder:
        yield Path(folder)


def _rounds(sides: Sequence[Side], plan: Plan) -> Iterator[Any]:
    from orchestrator.workload.bench import rounds

    return rounds(
        sides, runs=plan.runs, warm_ups=plan.warm_ups, time_budget_s=plan.time_budget, deadline_s=plan.deadline,
        seed=plan.seed,
    )  # fmt: skip


def _progress(plan: Plan) -> Callable[[int], None]:
    began = time.monotonic()

    def tell(number: int) -> None:
        what = f"round {number + 1} of {plan.runs}" if number >= 0 else "warm-up"
        click.echo(f"{what} done, {time.monotonic() - began:.0f} s", err=True)

    return tell


def _count(recording: Recording, settings: Settings, profile: Profile) -> None:
    """Count the accesses with DMA and without, each in a run of its own that is not timed."""
    from orchestrator.workload.environment import choose_appliance
    from orchestrator.workload.firmware_run import Payload, predicted_accesses, transfer

    if profile.firmware is FirmwareKind.NONE:
        return
    appliance = choose_appliance(settings, os.environ)[0]
    payload = Payload(kernel=appliance / "kernel", initrd=appliance / "initrd")
    for dma in (True, False):
        click.echo(f"counting accesses with DMA {'on' if dma else 'off'}", err=True)
        counted = transfer(payload, profile, fw_cfg_dma=dma, accel=_accel(settings), count=True)
        recording.count(counted, predicted_accesses(*payload.sizes, profile))


def _show(recording: Recording, plan: Plan) -> int:
    """Print the result; the exit status says whether any run failed."""
    from rich.console import Console

    from orchestrator.report.bench_text import render

    if plan.as_json:
        _print_json(recording.result)
    else:
        Console().print(render(recording.result))
    click.echo(f"result: {recording.path}", err=True)
    return 1 if (recording.result["analysis"] or {}).get("failed_runs") else 0


def _print_json(value: object) -> None:
    import json

    sys.stdout.write(json.dumps(value, indent=1) + "\n")
