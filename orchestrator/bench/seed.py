"""The seed's experiment as steps: launches and transfers, in random order within a round, each done once.

A step is one run of one side. What a result holds already is not run again, so an experiment that takes hours can be
interrupted and goes on with what is left. What the samples mean is `seed_analysis`'s business.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.bench import rounds
from orchestrator.bench.result import Result
from orchestrator.bench.rounds import Side
from orchestrator.bench.sweep import make_payload, memory_for
from orchestrator.bench.transfer import transfer
from orchestrator.domain.model import Accel, Profile

if TYPE_CHECKING:  # SciPy comes with it
    from orchestrator.bench.recording import Recording

KIND = "seed"
STOCK = "stock libguestfs"
NAIVE = {False: "naive UEFI, DMA off", True: "naive UEFI, DMA on"}
TRANSFER = {False: "transfer, DMA off", True: "transfer, DMA on"}
# As in 2015: kernel and initrd together, in MB.
SEED_MB = 31
QUICK_MB = (1, 2, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of one side: a launch, or a transfer of so many MB."""

    number: int  # of its round
    side: str
    launch: Side | None = None
    megabytes: int | None = None

    @property
    def title(self) -> str:
        """The step in words."""
        return self.side if self.megabytes is None else f"{self.side}, {self.megabytes} MB"


def steps(launches: Sequence[Side], megabytes: Sequence[int], *, runs: int, seed: int) -> list[Measurement]:
    """Return all steps of an experiment, in order: round by round, in a random order that the seed decides."""
    found: list[Measurement] = []
    for number in range(runs):
        whole = [Measurement(number=number, side=side.name, launch=side) for side in launches]
        whole += [
            Measurement(number=number, side=name, megabytes=size) for size in megabytes for name in TRANSFER.values()
        ]  # fmt: skip
        order = random.Random(f"{seed} {number}")  # noqa: S311 - an experiment's order, not a secret
        found += order.sample(whole, len(whole))
    return found


def left(wanted: Sequence[Measurement], result: Result) -> list[Measurement]:
    """Return the steps that a result does not hold yet; those that failed are to be done again."""
    done = {
        (sample["round"], sample["side"], (sample.get("size_bytes") or 0) // 10**6)
        for sample in result["samples"]
        if sample["ok"]
    }
    return [step for step in wanted if (step.number, step.side, step.megabytes or 0) not in done]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where steps are carried out: what all of them share."""

    recording: Recording
    folder: Path
    profile: Profile
    accel: Accel
    deadline_s: float


def carry_out(
    bench: Bench,
    todo: Sequence[Measurement],
    *,
    time_budget_s: float | None,
    ready: Callable[[], None],
    tell: Callable[[str, float | None], None],
) -> Iterator[rounds.Sample]:
    """Carry the steps out, one after the other, each into the result as soon as it is done; yield the launches.

    :param time_budget_s: no step is started later than this.
    :param ready: returns when the host is ready for the next step.
    """
    began = time.monotonic()
    for position, step in enumerate(todo):
        if time_budget_s is not None and time.monotonic() - began > time_budget_s:
            return
        tell(f"{step.title}; after it {len(todo) - position - 1} of {len(todo)} left", position / len(todo))
        ready()
        if step.launch is not None:
            sample = rounds.run(step.launch, step.number, position, deadline_s=bench.deadline_s)
            bench.recording.take((sample,), (step.launch,), analysed=False)
            yield sample
        elif step.megabytes is not None:
            _transfer(bench, step, step.megabytes, position)


def _transfer(bench: Bench, step: Measurement, megabytes: int, position: int) -> None:
    # The same bytes in each run, and after an interruption.
    payload = make_payload(bench.folder, megabytes, random.Random(megabytes))  # noqa: S311 - payload, not a secret
    load, started_wall_ns = os.getloadavg()[0], time.time_ns()
    seen = transfer(
        payload, bench.profile, fw_cfg_dma=step.side == TRANSFER[True], accel=bench.accel,
        memory_mib=memory_for(bench.profile, megabytes), deadline_s=bench.deadline_s,
    )  # fmt: skip
    bench.recording.take_transfer(
        seen, side=step.side, number=step.number, position=position, accel=str(bench.accel), load=load,
        started_wall_ns=started_wall_ns, analysed=False,
    )  # fmt: skip
