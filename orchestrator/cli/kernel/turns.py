"""Variants of a kernel's run by turns, as matrix and compare have them: progress, results, what two differ in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.kernel.run import tell
from orchestrator.cli.kernel.terminal import SIGNAL_BASE, stopping
from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import print_json
from orchestrator.program import complain
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind

if TYPE_CHECKING:  # libvirt comes with it
    from orchestrator.kernel.series import Ran, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """What was run.

    :ivar signals: those that ended it early.
    """

    variants: Sequence[Variant]
    rounds: int
    runs: Sequence[Ran]
    signals: Sequence[int]

    @property
    def exit_status(self) -> int:
        """That of the first run that did not end with 0."""
        from orchestrator.kernel.series import exit_status

        return SIGNAL_BASE + self.signals[0] if self.signals else exit_status(self.runs)

    def write_junit(self, path: Path | None) -> None:
        """Write the results as a JUnit file, if that is asked for."""
        if path is not None:
            from orchestrator.kernel.junit import write_junit

            write_junit(path, [one.suite for one in self.runs])

    def show(self, *, compared: bool, as_json: bool) -> None:
        """Print what the first two variants differ in, or everything as JSON.

        :raise UsageError: they ran under different accelerators.
        """
        from orchestrator.bench.kernels import compare_runs  # here: SciPy comes with it

        first, second = (self.variants[number].name if compared else "" for number in (0, 1))
        found = compare_runs(self.runs, first, second, self.rounds) if compared else None
        if as_json:
            from orchestrator.records.record import to_event

            runs = [{"variant": one.variant, "round": one.round, **to_event(one.record)} for one in self.runs]
            print_json({"comparison": None if found is None else found.to_dict(), "runs": runs})
        elif found is not None:
            from rich.console import Console

            from orchestrator.bench.analysis import comparison_to_dict
            from orchestrator.bench.text import comparison

            Console().print(comparison([comparison_to_dict(row) for row in found.times], first, second))
            for line in found.lines():
                click.echo(line)
            click.echo(found.verdict())


def take_turns(
    variants: Sequence[Variant], rounds: int, settings: Settings, *, as_json: bool, junit: Path | None = None
) -> Turns:
    """Run all variants so often, once it is known that there is what they need; say on standard error how far it is."""
    from orchestrator.kernel.inputs import check_inputs
    from orchestrator.kernel.runner import Runner
    from orchestrator.kernel.series import carry_out, causes
    from orchestrator.kernel.start import Attached

    for variant in variants:
        variant.request.check(*([("--junit", junit)] if junit is not None else []))
        check_inputs(variant.request)
    runs: list[Ran] = []
    with stopping() as (stop, came), Runner(settings, Kind.KERNEL) as runner:
        for one in carry_out(
            variants, rounds, runner, stop, attached=Attached(), tell=lambda text: complain(PROGRAM, text)
        ):
            runs.append(one)
            complain(PROGRAM, f"{len(runs)}/{rounds * len(variants)} {one.variant}: {causes([one])}")
            tell(one, as_json=as_json, numbered=False)
    return Turns(variants=variants, rounds=rounds, runs=runs, signals=came)
