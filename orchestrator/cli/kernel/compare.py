"""guestlaunch kernel compare: two kernels by turns, and what differs between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestrator.cli.kernel.options import FILE, BisectSafe, command_argument, junit_option, request_for, run_options
from orchestrator.cli.kernel.turns import take_turns
from orchestrator.cli.options import examples, json_option, settings_options
from orchestrator.settings import Settings


@click.command(
    cls=BisectSafe,
    context_settings={"allow_interspersed_args": False},
    short_help="Run two kernels by turns, and compare their times and numbers.",
    epilog=examples(
        "guestlaunch kernel compare before/Image after/Image -- true",
        "guestlaunch kernel compare --rounds 20 before/Image after/Image -- sh -c 'echo metric forks $(./forks)'",
    ),
)
@settings_options
@run_options
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="How often each is run.")
@junit_option
@json_option
@click.argument("first", metavar="A", type=FILE)
@click.argument("second", metavar="B", type=FILE)
@command_argument
def compare(
    *, settings: Settings, wish: dict[str, Any], rounds: int, junit: Path | None, as_json: bool, first: Path,
    second: Path, command: tuple[str, ...],
) -> int:  # fmt: skip
    """Run COMMAND in the kernels A and B by turns, and say by how much B boots faster or slower.

    Times, and the numbers that COMMAND prints as lines `metric NAME VALUE`, are compared as all benchmarks are: medians
    with bootstrap intervals, permutation tests within rounds, adjusted for being many. Fewer than six rounds are
    undecided. The exit status is that of the first run that did not end with 0: those are left out of the figures.
    """
    from orchestrator.kernel.inputs import check_inputs
    from orchestrator.kernel.plan import plan_run
    from orchestrator.kernel.series import Variant

    variants = [
        Variant(name=f"{letter} {path}", request=request_for(path, command, wish), settings=settings)
        for letter, path in (("A", first), ("B", second))
    ]
    for variant in variants:
        check_inputs(variant.request)
    for variant in variants:
        plan_run(variant.request, variant.settings)  # nobody waits for one of them if the other cannot run
    turns = take_turns(variants, rounds, settings, as_json=as_json, junit=junit)
    turns.write_junit(junit)
    turns.show(compared=True, as_json=as_json)
    return turns.exit_status
