"""The sides of the benchmark of starts: what a user has without us, and our cold, warm and standby launches.

All do the same three things with the same disk: launch, list its file systems, find the operating system on it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.bench import disks, sides
from orchestrator.bench.rounds import RunEnd, Side, run
from orchestrator.bench.sides import Work
from orchestrator.domain.model import Accel, Profile
from orchestrator.timeline.phases import Start

REFERENCE = "reference"
COLD_WITHOUT_DMA = "cold, DMA off"
COLD = "cold, DMA on"
WARM = "warm"
STANDBY = "standby"
OURS: Mapping[str, Mapping[str, str]] = {
    COLD_WITHOUT_DMA: {"start": "cold", "fw-cfg-dma": "off"},
    COLD: {"start": "cold", "fw-cfg-dma": "on"},
    # What makes no template: a launch that did that, or had others do it, would not be what a warm one costs.
    WARM: {"start": "auto", "learn": "off"},
    STANDBY: {"start": "auto", "learn": "off"},
}
# Not what it only warns of, nor the advice that follows.
_SAID_BY_A_TOOL = re.compile(r"(virt-|guest)[a-z-]+: (?!warning)")
_RECORDED = {COLD_WITHOUT_DMA: Start.COLD, COLD: Start.COLD, WARM: Start.WARM, STANDBY: Start.STANDBY}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A side that cannot be had on this host, and why."""

    side: str
    reason: str


def make_work(folder: Path, disk: Path | None) -> Work:
    """Write the scripts, and a disk with a small operating system unless one is given.

    :raise GuestlaunchError: the disk cannot be made, or is not there.
    """
    if disk is None:
        disk = folder / "disk.img"
        disks.operating_system(disk)
    return sides.with_inspection(sides.make_work(folder, disk=disk, apart=True), folder)


def has_own_reference(profile: Profile) -> bool:
    """Tell whether stock libguestfs launches the profile's guests on this host by itself: its own arch, that is."""
    return profile.arch == os.uname().machine


def reference(
    work: Work, profile: Profile, accel: Accel, *, appliance: Path | None, folder: Path, environ: Mapping[str, str]
) -> tuple[Side, ...]:
    """Return what a user has without us: stock libguestfs, or for guests of another arch a plain wrapper of QEMU.

    :param appliance: the one with libguestfs's own init, which the wrapper boots; None for stock libguestfs.
    """
    if appliance is None:
        return sides.stock(REFERENCE, work, accel, environ)
    return sides.direct(
        REFERENCE, work, profile=profile, accel=accel, appliance=appliance, folder=folder, environ=environ
    )


def ours(name: str, work: Work, environ: Mapping[str, str], facts: Mapping[str, str]) -> tuple[Side, ...]:
    """Return one of our own sides, by its name; a launch that came about in another way will not count."""
    return sides.served(name, work, OURS[name], environ, facts, start=_RECORDED[name])


def first_warm(name: str, work: Work, environ: Mapping[str, str], facts: Mapping[str, str]) -> tuple[Side, ...]:
    """Return a side that makes the template which the launches of another are clones of; it is not timed."""
    return sides.served(name, work, {"start": "warm"}, environ, facts)


def tried(sides: tuple[Side, ...], *, deadline_s: float) -> LeftOut | None:
    """Launch once, untimed; return why the side cannot be had, None when it can.

    :raise CapabilityError: its program is not there.
    """
    first = next(side for side in sides if RunEnd.EXIT in side.ends)
    error = run(first, -1, 0, deadline_s=deadline_s).error
    return None if error is None else LeftOut(side=first.name, reason=reason(error))


def reason(error: str) -> str:
    """Return the line of a failed run's last ones that says why: libguestfs ends its own errors with advice."""
    lines = error.strip().splitlines()
    said = [line for line in lines if ": error: " in line] or [line for line in lines if _SAID_BY_A_TOOL.match(line)]
    return (said or lines[-1:])[0]
