"""What the host's part of a launch takes in instructions, where a clock counts them. Prints figures; judges nothing.

Run with `tools/test --on arm-host -m performance -s tests/performance/test_instructions.py`: in the emulated Arm host
one instruction is one nanosecond, whatever else its machine does, and each figure comes out nearly the same again.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.provenance import Clock, provenance
from tests.daemons import daemon
from tests.disks import DiskFactory
from tests.records import records
from tests.running import Guestlaunch

RUNS = 2
_GUESTS = {"firmware", "fw_cfg_kernel", "fw_cfg_initrd", "firmware_handoff", "kernel", "initrd", "init", "guestfsd"}


@pytest.fixture(autouse=True)
def instruction_clock() -> None:
    """Skip where times are no instructions."""
    if provenance().clock is not Clock.INSTRUCTIONS:
        pytest.skip("no instruction clock (tools/test --on arm-host)")


def show(title: str, instructions: list[float]) -> None:
    """Print a median with the extremes, in millions."""
    low, middle, high = min(instructions), statistics.median(instructions), max(instructions)
    spread = f"{low / 1e6:.1f} to {high / 1e6:.1f}, n = {len(instructions)}"
    sys.stdout.write(f"\n  {title:58} {middle / 1e6:9.1f} M ({spread})")


def counted(work: Callable[[], object]) -> float:
    """Return the instructions that a piece of work took, this process's waiting for it included."""
    began = time.monotonic_ns()
    work()
    return float(time.monotonic_ns() - began)


def host_parts(record: Mapping[str, Any], whole: float) -> dict[str, float]:
    """Return what was done on the host: by us before the guest ran and after the tool, and by all others."""
    took = {phase["name"]: phase["duration_ns"] or 0 for phase in record["phases"]}
    first = next(position for position, phase in enumerate(record["phases"]) if phase["name"] in _GUESTS)
    before = [phase["name"] for phase in record["phases"][:first]]
    return {name: took[name] for name in before} | {
        "all until the vCPUs run": sum(took[name] for name in before),
        "shutdown, after the tool": took["shutdown"],
        "guestfish, its probes of the wrapper, the wrapper's start": whole - record["total_ns"],
    }


@pytest.mark.timeout(3600)
def test_instructions_of_programs_that_start(guestlaunch: Guestlaunch) -> None:
    """What a probe by libguestfs costs, which it makes several times a handle; and the commands' own start."""
    programs: dict[str, list[str | Path]] = {
        "python, without site": ["/usr/bin/python3", "-I", "-S", "-c", "pass"],
        "guestlaunch-hv -help": [guestlaunch.bin_dir / "guestlaunch-hv", "-help"],
        "guestlaunch --version": [guestlaunch.bin_dir / "guestlaunch", "--version"],
        "guestfish --version": ["guestfish", "--version"],
    }
    for title, program in programs.items():
        guestlaunch.run(*program).ok()  # brings it into the page cache
        show(title, [counted(partial(guestlaunch.run, *program)) for _ in range(3)])
    sys.stdout.write("\n")


@pytest.mark.timeout(3600)
def test_instructions_of_cold_launches(guestlaunch: Guestlaunch, evidence: Path, disk_image: DiskFactory) -> None:
    """Without a daemon, and through one."""
    words: list[str | Path] = ["--ro", "--format=raw", "-a", disk_image(size_mib=16, filesystem=False), "run"]
    _launches("without a daemon", evidence, lambda: guestlaunch("guestfish", "--", *words).ok())
    with daemon(guestlaunch):
        variables = guestlaunch.exports()
        _launches("with a daemon", evidence, lambda: guestlaunch.run("guestfish", *words, environ=variables).ok())


def _launches(title: str, evidence: Path, launch: Callable[[], object]) -> None:
    launch()  # the first of a state directory has libvirt ask QEMU for its capabilities
    parts = []
    for _ in range(RUNS):
        whole = counted(launch)
        parts.append(host_parts(records(evidence)[-1], whole) | {"whole guestfish": whole})
    sys.stdout.write(f"\ncold launch, {title}")
    for name in parts[0]:
        show(name, [one[name] for one in parts])
    sys.stdout.write("\n")
