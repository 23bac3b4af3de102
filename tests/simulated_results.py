"""SIMULATED benchmark results: seeded, of plausible size, recorded as real ones are. Nothing here was measured."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.report.bench_record import Recording
from orchestrator.report.result import Result
from orchestrator.workload.bench import Sample, Side
from orchestrator.workload.firmware_run import Transfer
from tests import simulated_launches

MS = 10**6


def side(name: str, **facts: str) -> Side:
    """Return a side that is never run."""
    return Side(name=name, command=("true",), environ={}, facts=facts)


def sample(name: str, number: int, event: Mapping[str, Any] | None, wall_ns: int, error: str | None = None) -> Sample:
    """Return a sample of a side."""
    return Sample(
        side=name, round=number, position=0, started_wall_ns=10**18, wall_ns=wall_ns, answer_ns=wall_ns - 300 * MS,
        status=1 if error else 0, load=0.5, event=event, error=error,
    )  # fmt: skip


def fw_cfg(
    path: Path, *, runs: int = 8, same: bool = False, factor: float = 1.0, accel: str = "tcg", failing: int = 0,
    cost_ns: int | None = None, seed: int = 1,
) -> Result:  # fmt: skip
    """Record a benchmark of DMA off against on.

    :param same: DMA on against on.
    :param factor: how much slower than usual everything was.
    :param failing: how many of the first side's first runs failed.
    """
    recording = Recording("fw-cfg", path, seed=seed, trap_cost_ns=cost_ns)
    off = "DMA on (A)" if same else "DMA off"
    sides = [side(off, fw_cfg_dma="on" if same else "off"), side("DMA on (B)" if same else "DMA on", fw_cfg_dma="on")]
    recording.sides((one.name, one.facts) for one in sides)
    chance = random.Random(seed)
    for number in range(-1, runs):
        samples = []
        for index, one in enumerate(sides):
            event = simulated_launches.event(
                chance.randrange(10**9), dma=same or index == 1, factor=factor, accel=accel
            )  # fmt: skip
            bad = "first line\nsimulated failure" if index == 0 and 0 <= number < failing else None
            samples.append(sample(one.name, number, event, event["total_ns"] + 200 * MS, bad))
        recording.take(samples, sides)
    recording.finish()
    return recording.result


def sweep(path: Path, megabytes: tuple[int, ...] = (8, 32, 128), runs: int = 3, cost_ns: int | None = None) -> Result:
    """Record a sweep in which a MB takes 20 ms without DMA and 0.2 ms with."""
    recording = Recording("sweep", path, seed=1, trap_cost_ns=cost_ns)
    recording.sides([("DMA off", {"fw_cfg_dma": False}), ("DMA on", {"fw_cfg_dma": True})])
    recording.result["environment"]["launches"] = {"accel": "tcg", "arch": "aarch64"}
    chance = random.Random(1)
    for number in range(runs):
        for size in megabytes:
            for dma, slope_ns in ((False, 20 * MS), (True, MS // 5)):
                ns = int((5 * MS + size * slope_ns) * chance.uniform(0.98, 1.02))
                seen = Transfer(
                    fw_cfg_dma=dma, duration_ns=ns, kernel_ns=ns // 2, initrd_ns=ns // 2,
                    kernel_bytes=size * 500_000, initrd_bytes=size * 500_000,
                )  # fmt: skip
                recording.take_transfer(
                    seen, side="DMA on" if dma else "DMA off", number=number, position=0, accel="tcg", load=0.5,
                    started_wall_ns=10**18,
                )  # fmt: skip
    recording.finish()
    return recording.result
