"""Simulated launches: canonical lines drawn from seeded distributions. For tests of what reads lines; not measured."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from orchestrator.timeline.phases import SEQUENCE, Boundary, Phase, Start, tile
from orchestrator.timeline.record import FwCfg, LaunchRecord, to_event

MEDIAN_MS = {
    Phase.PLAN: 60, Phase.STAGE: 20, Phase.CONNECT: 15, Phase.CREATE: 90, Phase.QEMU: 250, Phase.FIRMWARE: 1800,
    Phase.FW_CFG_KERNEL: 42, Phase.FW_CFG_INITRD: 4, Phase.FIRMWARE_HANDOFF: 900, Phase.KERNEL: 2600,
    Phase.INITRD: 900, Phase.INIT: 6800, Phase.GUESTFSD: 900, Phase.READY: 30, Phase.WORKLOAD: 2500,
    Phase.SHUTDOWN: 300, Phase.RESTORE: 420, Phase.ATTACH: 20, Phase.GATE: 300,
}  # fmt: skip
MMIO_FACTOR = 22
KERNEL_BYTES = 32_956_352
INITRD_BYTES = 2_021_376
BEGIN_NS = 1_790_000_000 * 10**9


def launch(
    number: int = 0,
    *,
    seed: int = 1,
    dma: bool = True,
    profile: str = "aarch64-uefi",
    accel: str = "tcg",
    start: Start = Start.COLD,
    outcome: str = "success",
    wall_start_ns: int | None = None,
) -> dict[str, Any]:
    """Return one simulated canonical line."""
    rng = random.Random(f"{seed}/{number}")
    phases = SEQUENCE[start]
    reached = phases if outcome == "success" else phases[: rng.randrange(6, len(phases) - 1)]
    at = 10**12
    boundaries: dict[Phase, Boundary] = {}
    for phase in reached:
        source = "QEMU trace fw_cfg_select" if phase.startswith(("fw_cfg", "firmware_")) else "host clock"
        boundaries[phase] = Boundary(at_ns=at, source=source)
        milliseconds = MEDIAN_MS[phase] * rng.lognormvariate(0, 0.08)
        if not dma and phase in {Phase.FW_CFG_KERNEL, Phase.FW_CFG_INITRD}:
            milliseconds *= MMIO_FACTOR
        if accel == "kvm" and phase not in {Phase.WORKLOAD, Phase.PLAN}:
            milliseconds /= 5
        at += int(milliseconds * 1e6)
    failed = outcome == "failure"
    record = LaunchRecord(
        launch_id=f"{rng.getrandbits(48):012x}",
        start=start,
        profile=profile,
        arch=profile.split("-", maxsplit=1)[0],
        accel=accel,
        accel_reason="simulated",
        fw_cfg=FwCfg(requested=dma, dma_property=dma, window_base=0x9020000, window_size=24, window_has_dma=dma),
        outcome=outcome,
        tiles=tile(
            start, boundaries, at, outcome=outcome,
            sizes={Phase.FW_CFG_KERNEL: KERNEL_BYTES, Phase.FW_CFG_INITRD: INITRD_BYTES},
        ),
        wall_start_ns=BEGIN_NS + number * 60 * 10**9 if wall_start_ns is None else wall_start_ns,
        connection="qemu:///embed",
        exit_status=1 if failed else 0,
        error="the kernel panicked: simulated" if failed else None,
        error_phase=str(reached[-1]) if failed else None,
        ready=Phase.WORKLOAD in reached,
        kernel_bytes=KERNEL_BYTES,
        initrd_bytes=INITRD_BYTES,
        memory_mib=768,
        vcpus=1,
        cpu="cortex-a57",
        disks=1,
        versions={"qemu": "7.2.22", "libvirt": "9.0.0", "libguestfs": "1.48.6", "firmware": "2022.11", "kernel": "6.1"},
        appliance={"path": "/var/lib/guestlaunch/appliances/x", "kernel_sha256": "0" * 64},
        console_tail=("[    1.0] simulated <b>console</b> & tail", "Kernel panic - not syncing") if failed else (),
    )  # fmt: skip
    return to_event(record)


def launches(count: int, *, seed: int = 1, step_s: int = 60) -> Iterator[dict[str, Any]]:
    """Yield a mixed history: both transfer paths, two profiles, some warm starts, some failures."""
    for number in range(count):
        rng = random.Random(f"mix/{seed}/{number}")
        start = Start.WARM if rng.random() < 0.15 else Start.COLD
        yield launch(
            number,
            seed=seed,
            dma=start is Start.WARM or rng.random() < 0.7,
            profile="aarch64-uefi" if rng.random() < 0.8 else "x86_64-seabios",
            accel="tcg" if rng.random() < 0.8 else "kvm",
            start=start,
            outcome="failure" if rng.random() < 0.03 else "success",
            wall_start_ns=BEGIN_NS + number * step_s * 10**9,
        )
