"""SIMULATED launches: seeded records of plausible size for tests of what reads log lines. Nothing here was measured."""

from __future__ import annotations

import random
from typing import Any, TypeAlias

from orchestrator.records.provenance import Clock, HostKind, Provenance
from orchestrator.records.record import FwCfg, LaunchRecord, to_event
from orchestrator.timeline.phases import SEQUENCE, Boundary, Phase, Start, Tile, tile

# A canonical line, which a test may spoil.
Line: TypeAlias = Any

KERNEL_BYTES = 32_956_352
INITRD_BYTES = 1_900_000

BARE = Provenance(host=HostKind.BARE, clock=Clock.HOST)
VIRTUALISED = Provenance(host=HostKind.VIRTUALISED, clock=Clock.HOST)
EMULATED = Provenance(host=HostKind.EMULATED, clock=Clock.HOST)
INSTRUCTIONS = Provenance(host=HostKind.EMULATED, clock=Clock.INSTRUCTIONS)

# Milliseconds a phase takes here; the transfer depends on DMA.
_MS = {
    Phase.PLAN: 30, Phase.STAGE: 20, Phase.CONNECT: 60, Phase.CREATE: 150, Phase.QEMU: 120, Phase.FIRMWARE: 2500,
    Phase.FIRMWARE_HANDOFF: 700, Phase.KERNEL: 3000, Phase.INITRD: 900, Phase.INIT: 4000, Phase.GUESTFSD: 800,
    Phase.READY: 30, Phase.WORKLOAD: 2000, Phase.SHUTDOWN: 300, Phase.RESTORE: 430, Phase.ATTACH: 20, Phase.GATE: 270,
}  # fmt: skip
_TRANSFER_MS = {
    True: {Phase.FW_CFG_KERNEL: 40, Phase.FW_CFG_INITRD: 4},
    False: {Phase.FW_CFG_KERNEL: 1000, Phase.FW_CFG_INITRD: 60},
}


def record(
    seed: int,
    *,
    dma: bool | None = True,
    requested: bool | None = None,
    start: Start = Start.COLD,
    failed_in: Phase | None = None,
    cancelled_in: Phase | None = None,
    profile: str = "aarch64-uefi",
    accel: str = "tcg",
    factor: float = 1.0,
    wall_start_ns: int | None = None,
    qemu: str = "7.2.22",
    provenance: Provenance = BARE,
) -> LaunchRecord:
    """Return one simulated launch.

    :param dma: fw_cfg DMA as verified; asked for is what was verified unless `requested` says otherwise.
    :param failed_in: the phase in which it failed; `cancelled_in` likewise.
    :param factor: how much slower than usual it was.
    """
    last = failed_in or cancelled_in
    if start is not Start.COLD:
        dma = None  # nothing of a clone crosses fw_cfg
    outcome = "failure" if failed_in else "cancelled" if cancelled_in else "success"
    tiles = _tiles(random.Random(seed), start, dma is not False, factor, last, outcome)
    return LaunchRecord(
        launch_id=f"simulated-{seed}",
        start=start,
        profile=profile,
        arch="x86_64" if profile.startswith("x86_64") else "aarch64",
        accel=accel,
        accel_reason="simulated",
        fw_cfg=FwCfg(
            requested=dma is not False if requested is None else requested,
            dma_property=dma,
            window_base=None if dma is None else 0x9020000,
            window_size=None if dma is None else 24 if dma else 16,
            window_has_dma=dma,
        ),
        outcome=outcome,
        tiles=tiles,
        wall_start_ns=(1_750_000_000 + 60 * seed) * 10**9 if wall_start_ns is None else wall_start_ns,
        connection="qemu:///embed",
        exit_status=0 if outcome == "success" else 1,
        error=f"simulated failure: {failed_in}: for a test" if failed_in else None,
        error_phase=str(failed_in) if failed_in else None,
        ready=any(t.name is Phase.WORKLOAD and t.duration_ns is not None for t in tiles),
        kernel_bytes=KERNEL_BYTES,
        initrd_bytes=INITRD_BYTES,
        memory_mib=768,
        vcpus=1,
        disks=1,
        versions={"guestlaunch": "0.1.0", "qemu": qemu, "libvirt": "9.0.0", "kernel": None},
        provenance=provenance,
        console_tail=("simulated console", "second line") if failed_in else (),
    )


def _tiles(
    chance: random.Random, start: Start, dma: bool, factor: float, last: Phase | None, outcome: str
) -> tuple[Tile, ...]:
    """Lay out the phases one after another, up to the last one that is reached."""
    durations = _MS | _TRANSFER_MS[dma]
    boundaries: dict[Phase, Boundary] = {}
    now = 10**9
    for phase in SEQUENCE[start]:
        boundaries[phase] = Boundary(at_ns=now, source="simulated")
        now += int(durations[phase] * factor * chance.uniform(0.9, 1.1) * 1e6)
        if phase is last:
            break
    sizes = {Phase.FW_CFG_KERNEL: KERNEL_BYTES, Phase.FW_CFG_INITRD: INITRD_BYTES} if start is Start.COLD else {}
    return tile(start, boundaries, now, outcome=outcome, sizes=sizes)


def event(seed: int, **options: Any) -> Line:  # noqa: ANN401 - as in record
    """Return the canonical log line of one simulated launch; the options are those of `record`."""
    return dict(to_event(record(seed, **options)))


def mixture(seed: int = 0, count: int = 60) -> list[Line]:
    """Return the canonical lines of simulated launches of all kinds, in the order they ran."""
    return [dict(to_event(launch)) for launch in records(seed, count)]


def records(seed: int = 0, count: int = 60) -> list[LaunchRecord]:
    """Return simulated launches of all kinds, in the order they ran."""
    chance = random.Random(seed)
    kinds: list[dict[str, Any]] = [
        {},
        {"dma": False},
        {"dma": False, "requested": True},
        {"start": Start.WARM},
        {"start": Start.STANDBY},
        {"failed_in": Phase.KERNEL},
        {"failed_in": Phase.STAGE, "dma": None, "requested": True},
        {"cancelled_in": Phase.FIRMWARE},
        {"profile": "x86_64-seabios", "accel": "kvm", "factor": 0.2},
    ]
    rest = chance.choices(kinds, weights=[10, 8, 1, 4, 2, 1, 1, 1, 4], k=max(0, count - len(kinds)))
    return [record(seed * 1000 + index, **kind) for index, kind in enumerate(kinds + rest)]
