"""Several runs of kernels: the same again, variants against each other, the cells of a grid; and figures of them.

Within a round all variants run once, in random order, so that what the host does meanwhile falls on all of them.
Nothing is computed here but what a list of records says by itself.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.kernel.junit import SuiteRun
from orchestrator.kernel.request import KernelRequest
from orchestrator.kernel.run import CarriedRun
from orchestrator.kernel.runner import Runner
from orchestrator.kernel.start import Attached
from orchestrator.kernel.tap import TestReader
from orchestrator.kernel.verdict import UNJUDGED, Cause
from orchestrator.launch.stop import Stop
from orchestrator.records.record import LaunchRecord
from orchestrator.settings import Settings
from orchestrator.timeline.phases import TRANSFER_PHASES, Phase

BOOT, TRANSFER = "boot", "transfer"
METRIC = "metric."


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is run, and what it is called among others."""

    name: str
    request: KernelRequest
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One run of a variant. `round` counts from 0."""

    variant: str
    round: int
    record: LaunchRecord
    tests: tuple[TestReader, TestReader]

    @property
    def exit_status(self) -> int:
        """That of the run."""
        return self.record.kernel_run.exit_status if self.record.kernel_run is not None else UNJUDGED

    @property
    def good(self) -> bool:
        """Whether its command ended with 0, so that its figures count."""
        return self.exit_status == 0

    @property
    def suite(self) -> SuiteRun:
        """It, as a JUnit file has it."""
        name = f"{self.variant} {self.round + 1}" if self.round else self.variant
        return SuiteRun(name=name, record=self.record, tests=[*self.tests[0].tests, *self.tests[1].tests])

    def figures(self) -> Mapping[str, float]:
        """Return what can be compared of it: times in ns by name, and the command's own numbers.

        `boot` is from the vCPUs' start to the command's: what comes before is the host's.
        """
        starts = {tile.name: tile.start_ns for tile in self.record.tiles if tile.start_ns is not None}
        found: dict[str, float] = {}
        if Phase.FIRMWARE in starts and Phase.WORKLOAD in starts:
            found[BOOT] = starts[Phase.WORKLOAD] - starts[Phase.FIRMWARE]
        moved = [tile.duration_ns for tile in self.record.tiles if tile.name in TRANSFER_PHASES]
        if moved and all(duration is not None for duration in moved):
            found[TRANSFER] = float(sum(duration or 0 for duration in moved))
        for tile in self.record.tiles:
            if tile.duration_ns is not None:
                found[f"phase.{tile.name}"] = tile.duration_ns
        run = self.record.kernel_run
        return found | {f"{METRIC}{name}": value for name, value in (run.metrics if run else {}).items()}


def carry_out(
    variants: Sequence[Variant],
    rounds: int,
    runner: Runner,
    stop: Stop,
    *,
    attached: Attached,
    seed: int = 0,
    tell: Callable[[str], None] | None = None,
) -> Iterator[Ran]:
    """Run every variant so many times, and yield each run when it is over.

    Nothing more is begun once the end is asked for; the run that it came into is not among those yielded.
    """
    order = random.Random(seed)  # noqa: S311 - no secret
    for number in range(rounds):
        for variant in order.sample(variants, len(variants)):
            run = CarriedRun(variant.request, variant.settings, attached)
            record = runner.carry_out(run, stop, tell=tell)
            if stop.requested:
                return
            yield Ran(variant=variant.name, round=number, record=record, tests=run.tests)


def exit_status(runs: Sequence[Ran]) -> int:
    """Return the status of the first run that did not end with 0: a test that fails now and then fails."""
    return next((run.exit_status for run in runs if not run.good), 0) if runs else UNJUDGED


def causes(runs: Sequence[Ran]) -> str:
    """Return how runs ended, and how often."""
    counts = Counter(_ended(run) for run in runs)
    return ", ".join(f"{count} x {what}" if len(runs) > 1 else what for what, count in counts.most_common())


def _ended(run: Ran) -> str:
    result = run.record.kernel_run
    if result is None or result.verdict != Cause.COMMAND:
        return str(result.verdict) if result is not None else str(Cause.UNJUDGED)
    return f"exit status {result.exit_status}"


def columns(runs: Sequence[Ran], variant: str, rounds: int) -> dict[str, list[float | None]]:
    """Return each figure of a variant's good runs, in the order of rounds; None for a run that has it not."""
    good = {run.round: run.figures() for run in runs if run.variant == variant and run.good}
    names = dict.fromkeys(name for figures in good.values() for name in figures)
    return {name: [good.get(number, {}).get(name) for number in range(rounds)] for name in names}
