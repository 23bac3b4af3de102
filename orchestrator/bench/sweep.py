"""The sweep over payload sizes: runs transfers in random order and records them. Booting is not its business."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.bench.transfer import Payload, transfer
from orchestrator.domain.model import Accel, Profile
from orchestrator.hypervisor.emulator import emulator_version, find_emulator

if TYPE_CHECKING:  # SciPy comes with it
    from orchestrator.bench.recording import Recording

_SIDES = {False: "DMA off", True: "DMA on"}
# The firmware and its copy of the payload need room beside it.
_SPARE_MIB = 512


def sweep_transfers(
    recording: Recording,
    folder: Path,
    profile: Profile,
    *,
    accel: Accel,
    megabytes: Sequence[int],
    runs: int,
    seed: int,
    plugin: str | None,
    time_budget_s: float | None,
    deadline_s: float,
    progress: Callable[[str, float | None], None],
) -> None:
    """Measure every size with DMA and without, `runs` times, in random order within each round.

    Half of a payload is kernel and half initrd, of random bytes: the firmware fetches both before it looks at them.
    """
    recording.sides((name, {"fw_cfg_dma": dma}) for dma, name in _SIDES.items())
    recording.result["environment"]["launches"] = {"accel": str(accel), "arch": str(profile.arch)}
    order = random.Random(seed)  # noqa: S311 - an experiment's order, not a secret
    payloads = {size: make_payload(folder, size, order) for size in megabytes}
    environment = recording.result["environment"]["launches"]
    environment |= {"qemu_version": emulator_version(find_emulator(profile.arch)), "cpu": _cpu(profile, accel)}
    memory_mib = memory_for(profile, max(megabytes))
    began = time.monotonic()
    for number in range(runs):
        points = [(size, dma) for size in megabytes for dma in _SIDES]
        for position, (size, dma) in enumerate(order.sample(points, len(points))):
            done = number * len(points) + position
            progress(f"round {number + 1} of {runs}: {size} MB, {_SIDES[dma]}", done / (runs * len(points)))
            load = os.getloadavg()[0]
            started_wall_ns = time.time_ns()
            seen = transfer(
                payloads[size], profile, fw_cfg_dma=dma, accel=accel, plugin=plugin, memory_mib=memory_mib,
                deadline_s=deadline_s,
            )  # fmt: skip
            recording.take_transfer(
                seen, side=_SIDES[dma], number=number, position=position, accel=str(accel), load=load,
                started_wall_ns=started_wall_ns,
            )  # fmt: skip
        spent = time.monotonic() - began
        if time_budget_s is not None and spent * (number + 2) / (number + 1) > time_budget_s:
            return


def _cpu(profile: Profile, accel: Accel) -> str:
    return profile.cpu_kvm if accel is Accel.KVM else profile.cpu_tcg


def memory_for(profile: Profile, megabytes: int) -> int:
    """Return the MiB of memory in which the firmware finds room for a payload of so many MB, twice."""
    return max(profile.memory_mib, 2 * megabytes + _SPARE_MIB)


def make_payload(folder: Path, megabytes: int, source: random.Random) -> Payload:
    """Write a payload of so many MB, half of it kernel and half initrd, of random bytes."""
    paths = [folder / f"{name}-{megabytes}" for name in ("kernel", "initrd")]
    for path in paths:
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(source.randbytes(500_000))
    return Payload(kernel=paths[0], initrd=paths[1])
