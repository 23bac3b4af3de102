"""SIMULATED benchmark results: seeded, of plausible size, recorded as real ones are. Nothing here was measured."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from orchestrator.bench import seed as experiment
from orchestrator.bench import text
from orchestrator.bench.recording import Recording
from orchestrator.bench.result import Analysis, Result
from orchestrator.bench.rounds import Sample, Side, Task
from orchestrator.bench.start_sides import COLD, COLD_WITHOUT_DMA, REFERENCE, STANDBY, WARM
from orchestrator.bench.transfer import Transfer
from orchestrator.records.provenance import Provenance
from tests import simulated_launches
from tests.simulated_launches import BARE, Line

MS = 10**6


def side(name: str, **facts: str) -> Side:
    """Return a side that is never run."""
    return Side(name=name, command=("true",), environ={}, facts=facts)


def sample(name: str, number: int, event: Line | None, wall_ns: int, error: str | None = None) -> Sample:
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
        recording.take(samples, sides, analysed=False)  # it is, once, when it is finished
    recording.finish()
    return recording.result


def starts(path: Path, *, runs: int = 8, standby: bool = True, cold: float = 0.4) -> Result:
    """Record a benchmark of starts: a reference of 20 s, and ours at fixed shares of it.

    :param standby: whether there is such a side; else it is left out.
    :param cold: what a cold launch with DMA takes of the reference; without DMA it takes 0.05 more.
    """
    shares = {REFERENCE: 1.0, COLD_WITHOUT_DMA: cold + 0.05, COLD: cold, WARM: 0.05, STANDBY: 0.025}
    if not standby:
        del shares[STANDBY]
    recording = Recording("start", path, seed=1)
    sides = [
        side(name, accel="tcg", arch="aarch64", **({} if name == REFERENCE else {"profile": "aarch64-uefi"}))
        for name in shares
    ]
    recording.sides((one.name, one.facts) for one in sides)
    if not standby:
        recording.leave_out(STANDBY, "no daemon: simulated")
    chance = random.Random(1)
    for number in range(-1, runs):
        recording.take([
            one for name, share in shares.items()
            for one in _start_samples(name, number, round(20_000 * MS * share * chance.uniform(0.97, 1.03)), chance)
        ], sides, analysed=False)  # fmt: skip
    recording.finish()
    return recording.result


def _start_samples(name: str, number: int, launch_ns: int, chance: random.Random) -> list[Sample]:
    """Return the three runs of a side in a round: to the exit, to the list of file systems, to what was found."""
    cold = name in {COLD, COLD_WITHOUT_DMA}
    event = simulated_launches.event(chance.randrange(10**9), dma=name == COLD) if cold else None
    whole = Sample(
        side=name, round=number, position=0, started_wall_ns=10**18, wall_ns=launch_ns, answer_ns=None, status=0,
        load=0.5, event=event,
    )  # fmt: skip
    listed = replace(whole, wall_ns=None, event=None, answer_ns=launch_ns + 300 * MS)
    return [whole, listed, replace(listed, answer_ns=launch_ns + 2_000 * MS, answer="inspection")]


def tools(path: Path, *, runs: int = 8, tasks: tuple[str, ...] = ()) -> Result:
    """Record a benchmark of two tools, each on another disk: a reference of 25 s, and ours at fixed shares of it.

    :param tasks: other tools, all on one disk, each half as long as the one before.
    """
    todo = [(Task(tool=tool, disk="lvm"), 1 / 2**place) for place, tool in enumerate(tasks)] or [
        (Task(tool="virt-filesystems", disk="file-system"), 1.0), (Task(tool="virt-df", disk="lvm"), 1.0)
    ]  # fmt: skip
    shares = {REFERENCE: 1.0, COLD: 0.4, WARM: 0.06, STANDBY: 0.04}
    recording = Recording("tools", path, seed=1)
    sides = [side(name, accel="tcg", arch="aarch64") for name in shares]
    recording.sides((one.name, one.facts) for one in sides)
    chance = random.Random(1)
    for number in range(-1, runs):
        for task, part in todo:
            recording.take([
                Sample(
                    side=name, round=number, position=0, started_wall_ns=10**18, answer_ns=None, status=0, load=0.5,
                    wall_ns=round(25_000 * MS * share * part * chance.uniform(0.97, 1.03)), task=task,
                )
                for name, share in shares.items()
            ], sides, analysed=False)  # fmt: skip
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
                    started_wall_ns=10**18, analysed=False,
                )  # fmt: skip
    recording.finish()
    return recording.result


def seed(
    path: Path, *, runs: int = 1, slow: bool = True, quick: bool = True, accel: str = "kvm", made: Provenance = BARE
) -> Result:
    """Record the experiment of 2015: a cold launch of 2.6 s with DMA, and without it 0.9 s more for each MB.

    :param slow: whether an access costs what it does where it traps; else a hundredth of it.
    :param quick: without the launches that have no DMA.
    """
    recording = Recording(experiment.KIND, path, seed=1)
    recording.result["environment"]["host"] |= {"kind": made.host, "clock": made.clock}
    recording.state(accel=accel, arch="aarch64")
    per_mb_ns = (900 if slow else 9) * MS
    chance = random.Random(1)
    cold = {COLD: 2600 * MS} | ({} if quick else {COLD_WITHOUT_DMA: 2600 * MS + 35 * per_mb_ns})
    launches = {**cold, WARM: 700 * MS, STANDBY: 490 * MS, experiment.STOCK: 5000 * MS}
    sides = [side(name, accel=accel, arch="aarch64") for name in launches]
    recording.sides((one.name, {**one.facts, "payload_bytes": 35_000_000}) for one in sides)
    recording.sides((name, {"fw_cfg_dma": dma}) for dma, name in experiment.TRANSFER.items())
    for number in range(runs):
        for name, launch_ns in launches.items():
            made_line = simulated_launches.event(chance.randrange(10**9), dma=name != COLD_WITHOUT_DMA, accel=accel)
            made_line |= {"launch_ns": round(launch_ns * chance.uniform(0.99, 1.01))}
            made_line["transfer_ns"] = 35 * per_mb_ns if name == COLD_WITHOUT_DMA else 10 * MS
            event = None if name == experiment.STOCK else made_line
            recording.take([sample(name, number, event, launch_ns + 300 * MS)], sides, analysed=False)
        for size in experiment.QUICK_MB:
            for dma, name in experiment.TRANSFER.items():
                ns = round((MS if dma else size * per_mb_ns) * chance.uniform(0.99, 1.01))
                seen = Transfer(
                    fw_cfg_dma=dma, duration_ns=ns, kernel_ns=ns, initrd_ns=0, kernel_bytes=size * 500_000,
                    initrd_bytes=size * 500_000,
                )  # fmt: skip
                recording.take_transfer(
                    seen, side=name, number=number, position=0, accel=accel, load=0.5, started_wall_ns=10**18,
                    analysed=False,
                )  # fmt: skip
    recording.finish()
    return recording.result


def analysis_of(result: Result) -> Analysis:
    """Return the analysis of a result that has one."""
    assert result["analysis"] is not None
    return result["analysis"]


def text_of(found: Result) -> str:
    """Return a result as an 80-column terminal shows it."""
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123 - the record is read
    with console.file:
        console.print(text.render(found))
        return console.export_text()
