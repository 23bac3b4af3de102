"""On an Arm host with KVM, emulated or not: each way to launch, what fw_cfg costs there, and a daemon that is killed.

Not part of a plain run: `tools/test --on arm-host tests/functional/test_arm_host.py -m arm_host -s` does it in an
emulated host, and `tools/test tests/functional/test_arm_host.py -m arm_host -s` on hardware. With -s it says what
each took.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.bench import result
from orchestrator.bench.daemons import all_ready
from orchestrator.records.provenance import accel_of, of_event, provenance
from orchestrator.records.record import LaunchEvent
from tests.daemons import daemon, wait_for_status
from tests.disks import DiskFactory
from tests.leftovers import launches, left_behind, look
from tests.processes import qemus
from tests.records import records
from tests.running import Guestlaunch

pytestmark = [pytest.mark.arm_host, pytest.mark.timeout(900)]

RUN = ("run", ":", "debug", "sh", "uname -m")
MB = 10**6
# 8 bytes by each access.
ACCESSES = MB // 8
KVM_COUNTS = Path("/sys/kernel/debug/kvm")


@pytest.fixture(autouse=True)
def kvm_on_arm() -> None:
    """Skip where guests of this arch have no KVM."""
    if platform.machine() != "aarch64" or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no Arm host with KVM (its module says how to have one)")


def say(text: str) -> None:
    """Say what something took, by this host's clock."""
    sys.stdout.write(f"\n{text}\n")
    sys.stdout.flush()  # with -s it is a pipe to whoever waits


def launched(guestlaunch: Guestlaunch, evidence: Path, disk: Path, start: str) -> dict[str, Any]:
    """Launch guestfish; return the launch's record, once it is as it has to be on such a host."""
    said = guestlaunch("guestfish", "--start", start, "--", "--ro", "--format=raw", "-a", disk, *RUN).ok().stdout
    assert said.strip() == "aarch64"
    record = records(evidence)[-1]
    assert (record["accel"], record["outcome"], record["ready"]) == ("kvm", "success", True)
    assert of_event(record) == provenance()
    phases = {phase["name"]: f"{(phase['duration_ns'] or 0) / 1e6:.1f}" for phase in record["phases"]}
    # Where we heard of guestfsd's marker late, the order of the dates does not hold, and they are left out.
    took = "not dated" if record["launch_ns"] is None else f"{record['launch_ns'] / 1e6:.1f} ms"
    say(f"{record['start']}, {accel_of(cast('LaunchEvent', record))}: launched in {took}: {phases}")
    return record


def test_doctor_finds_kvm(guestlaunch: Guestlaunch) -> None:
    """The probe guest boots, so that launches will have KVM."""
    found = guestlaunch("doctor", "--json").json()
    assert found["usable"]
    details = {one["topic"]: one["detail"] for one in found["findings"]}
    assert details["accel aarch64-uefi"].startswith("kvm: probe guest booted"), details


def test_launches_are_warm_by_themselves(
    guestlaunch: Guestlaunch, evidence: Path, disk_image: DiskFactory, templates: Path
) -> None:
    """A launch boots without a template; with one, each is its clone without being told, and makes no other."""
    disk = disk_image(size_mib=16, filesystem=False)
    assert not list(templates.glob("aarch64-uefi-*"))
    cold = launched(guestlaunch, evidence, disk, "auto")
    assert (cold["start"], cold["fw_cfg_dma"]) == ("cold", True)
    built = guestlaunch("template", "build", "--json", timeout_s=600).json()
    for start in ("auto", "warm"):
        warm = launched(guestlaunch, evidence, disk, start)
        assert (warm["start"], warm["template"]) == ("warm", built["key"])
    listed = guestlaunch("template", "list", "--json").json()
    assert [(one["key"], one["stale"]) for one in listed] == [(built["key"], None)]


def test_standby_and_a_daemon_that_is_killed(
    guestlaunch: Guestlaunch, evidence: Path, disk_image: DiskFactory, session_dir: Path, templates: Path
) -> None:
    """A launch takes the daemon's clone; and SIGKILL of the daemon ends the next clone within ten seconds."""
    assert list(templates.glob("aarch64-uefi-*")), "the test before this one makes it"
    before = look(session_dir)
    with daemon(guestlaunch, "--standby", "1") as process:
        wait_for_status(guestlaunch, all_ready)
        disk = disk_image(size_mib=16, filesystem=False)
        assert launched(guestlaunch, evidence, disk, "auto")["start"] == "standby"
        wait_for_status(guestlaunch, lambda status: all_ready(status) and not status["launches"])
        assert qemus(session_dir)
        assert launches(session_dir)
        process.kill()
        process.wait(10)
    assert left_behind(session_dir, before) == []


@contextlib.contextmanager
def watching_exits() -> Iterator[dict[str, int]]:
    """Count the exits to QEMU of each KVM guest there is; they are in the dictionary once the context has ended."""
    counts: dict[str, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for guest in KVM_COUNTS.glob("*-*"):
                with contextlib.suppress(OSError, ValueError):  # it may end while we look
                    counts[guest.name] = int((guest / "mmio_exit_user").read_text())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


def test_each_access_traps_without_dma(guestlaunch: Guestlaunch, evidence: Path) -> None:
    """A MB takes an exit for every eight bytes without DMA, and next to none with it, by KVM's own count."""
    if not os.access(KVM_COUNTS, os.R_OK | os.X_OK):
        pytest.skip(f"KVM's counts are not to be seen: {KVM_COUNTS} (mount debugfs, as root)")
    out = evidence / "sweep.json"
    words = ("--accel", "kvm", "--sizes", "1", "--runs", "1", "--warm-ups", "0", "--out", out, "--json")
    with watching_exits() as counts:
        guestlaunch("bench", "sweep", *words, timeout_s=600).ok()
    took = {sample["side"]: sample["metrics"]["transfer"] or 0 for sample in result.load(out)["samples"]}
    exits = sorted(counts.values())
    say(f"1 MB, in ns: {took}; exits to QEMU of each guest: {exits}")
    # They are read every 20 ms, and a guest is gone as soon as the transfer is over.
    assert 0.9 * ACCESSES < exits[-1] < 1.2 * ACCESSES
    assert all(count < 0.2 * ACCESSES for count in exits[:-1])
    assert took["DMA off"] > 100 * took["DMA on"] > 0
