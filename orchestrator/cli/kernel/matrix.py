"""guestlaunch kernel matrix: a kernel on every combination of profiles, transfers, CPUs, sizes and firmware."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.axes import cells
from orchestrator.cli.kernel.options import FILE, BisectSafe, command_argument, junit_option, request_for, run_options
from orchestrator.cli.kernel.turns import take_turns
from orchestrator.cli.options import examples, json_option, settings_options
from orchestrator.kernel.request import KernelRequest
from orchestrator.settings import PREFIX, Settings, load, to_environ
from orchestrator.timeline.durations import duration

if TYPE_CHECKING:  # libvirt comes with it
    from orchestrator.kernel.series import Ran, Variant

AXES = ("profile", "fw-cfg-dma", "accel", "cpu", "memory-mib", "vcpus", "firmware")


@click.command(
    cls=BisectSafe,
    context_settings={"allow_interspersed_args": False},
    short_help="Run a kernel on every combination of some settings.",
    epilog=examples(
        "guestlaunch kernel matrix --axis profile=aarch64-uefi,aarch64-bare --axis fw-cfg-dma=on,off Image -- uname -r",
        "guestlaunch kernel matrix --axis firmware=release.fd,debug.fd --rounds 5 Image -- true",
    ),
)
@settings_options
@run_options
@click.option(
    "--axis",
    "axes",
    multiple=True,
    required=True,
    metavar="SETTING=A,B,...",
    help=f"A setting and its values ({', '.join(AXES)}); repeat for a grid.",
)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="How often each is run.")
@junit_option
@json_option
@click.argument("kernel", type=FILE)
@command_argument
def matrix(
    *, settings: Settings, wish: dict[str, Any], axes: Sequence[str], rounds: int, junit: Path | None, as_json: bool,
    kernel: Path, command: tuple[str, ...],
) -> int:  # fmt: skip
    """Run COMMAND in KERNEL on every combination of the axes' values, and show how each ended.

    Of several rounds, each runs everything once, in random order. What commands print goes nowhere; their own numbers,
    tests and times are kept. Two cells are compared with each other, as `guestlaunch kernel compare` does with two
    kernels: so, two builds of firmware. The exit status is that of the first run that did not end with 0.
    """
    request = request_for(kernel, command, wish)
    variants = [_variant(request, settings, cell) for cell in cells(axes, AXES)]
    turns = take_turns(variants, rounds, settings, as_json=as_json, junit=junit)
    turns.write_junit(junit)
    # Where the grid has two cells, they are compared; under different accelerators there is nothing to compare.
    compared = len(variants) == 2 and len({one.record.accel for one in turns.runs}) == 1
    if not as_json:
        for line in table(variants, turns.runs):
            click.echo(line)
    if as_json or (compared and rounds > 1):
        turns.show(compared=compared, as_json=as_json)
    return turns.exit_status


def _variant(request: KernelRequest, settings: Settings, cell: Mapping[str, str]) -> Variant:
    from orchestrator.kernel.series import Variant

    chosen = {key.replace("-", "_"): value for key, value in cell.items() if key != "firmware"}
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    name = " ".join(f"{key}={value}" for key, value in cell.items())
    if "firmware" in cell:
        request = replace(request, firmware=(Path(cell["firmware"]).absolute(), request.firmware[1]))
    return Variant(
        name=name,
        request=request,
        settings=load(environ={**others, **to_environ(settings)}, overrides=chosen),
    )


def table(variants: Sequence[Variant], runs: Sequence[Ran]) -> list[str]:
    """Return what came of each variant, a line each: how its runs ended, and the middle of their times."""
    import statistics

    from orchestrator.kernel.series import BOOT, TRANSFER, causes

    width = max((len(variant.name) for variant in variants), default=0)
    lines = [f"{'':{width}}  {'boot':>9} {'transfer':>9}  ended"]
    for variant in variants:
        own = [one for one in runs if one.variant == variant.name]
        found = [one.figures() for one in own if one.good]
        times = []
        for name in (BOOT, TRANSFER):
            values = [figures[name] for figures in found if name in figures]
            times.append(duration(statistics.median(values)) if values else "-")
        lines.append(f"{variant.name:{width}}  {times[0]:>9} {times[1]:>9}  {causes(own) or 'not run'}")
    return lines
