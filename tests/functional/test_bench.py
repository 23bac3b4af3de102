"""Benchmarks with real guests, kept short: that they measure what they say, not what comes out on this host."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench import result
from tests.disks import DiskFactory
from tests.hosts import ACCEL, accel
from tests.running import Guestlaunch

# Most are many launches.
pytestmark = pytest.mark.timeout(1500)

# One payload of the size that the trap cost of 2015 was measured with; half of it kernel, half initrd.
SEED_MB = 32
# What each of the 8-byte accesses cost then; 24 s for 31 MiB.
SEED_COST_US = 5.9
# A trap's cost is modelled where there are none.
MODELLED = ("--accel", "tcg")


def benched(
    guestlaunch: Guestlaunch,
    evidence: Path,
    *arguments: str | Path,
    how: tuple[str, ...] = ACCEL,
    timeout_s: float = 700,
) -> dict[str, Any]:
    """Run a benchmark; return its result file, which is what --json prints and keeps to the schema."""
    out = evidence / "bench.json"
    done = guestlaunch("bench", *arguments, *how, "--out", out, "--json", timeout_s=timeout_s).ok()
    assert "round 1 of" in done.stderr  # progress
    found = result.load(out)
    assert json.loads(done.stdout) == found
    assert found["complete"]
    return dict(found)


def test_seed(guestlaunch: Guestlaunch, evidence: Path, disk_image: DiskFactory) -> None:
    """It ends with its time budget, goes on with what is left, runs nothing twice, and says where it was measured."""
    out = evidence / "seed.json"
    parts = ("--part", "cold", "--part", "transfer")
    words = ("bench", "seed", "--quick", *ACCEL, "--runs", "1", *parts, "--disk", disk_image())
    guestlaunch(*words, "--time-budget", "0.01", "--out", out, timeout_s=700).ok()
    begun = result.load(out)
    assert (begun["complete"], len(begun["samples"])) == (False, 1)
    assert "6 of 7 are left" in (begun["ended_by"] or "")
    done = guestlaunch(*words, "--resume", out, "--json", timeout_s=700).ok()
    found = result.load(out)
    assert json.loads(done.stdout) == found
    assert (found["complete"], found["samples"][:1]) == (True, begun["samples"])
    measured = sorted((sample["side"], sample.get("size_bytes")) for sample in found["samples"])
    transfers = [(f"transfer, DMA {dma}", 10**6 * mb) for dma in ("off", "on") for mb in (1, 2, 4)]
    assert measured == [("cold, DMA on", None), *transfers]
    assert all(sample["ok"] for sample in found["samples"])
    analysis = found["analysis"]
    assert analysis is not None
    # One run on a host that does other things at the same time: its answer may be left open, but where nothing traps it
    # is never yes, and where each access does it is never no.
    assert analysis["halved"] in {"no" if accel() == "tcg" else "yes", "undecided"}
    assert f"launch halved: {analysis['halved']}, on {accel()}" in analysis["verdict"]


def test_fw_cfg(guestlaunch: Guestlaunch, evidence: Path, appliance: dict[str, Path], disk_image: DiskFactory) -> None:
    """A pair of real launches, and the counts that prove the path: each side did what it is named for."""
    found = benched(guestlaunch, evidence, "fw-cfg", "--runs", "1", "--warm-ups", "0", "--disk", disk_image())
    runs = {sample["side"]: sample for sample in found["samples"]}
    assert {name: run["fw_cfg_dma"] for name, run in runs.items()} == {"DMA off": False, "DMA on": True}
    assert all(run["ok"] and run["accel"] == accel() and run["launch_id"] for run in runs.values())
    assert all(run["metrics"]["transfer"] > 0 for run in runs.values())  # which is less, one pair cannot tell

    on, off = sorted(found["counts"], key=lambda row: not row["fw_cfg_dma"])
    sizes = [(appliance["aarch64"] / name).stat().st_size for name in ("kernel", "initrd")]
    assert off["accesses"] == off["predicted"] == sum(size // 8 + (size % 8).bit_count() for size in sizes)
    assert on["accesses"] == on["predicted"]
    assert on["accesses_total"] < 1000
    assert off["accesses_total"] - off["accesses"] < 2000  # the firmware's own items are small

    lines = (evidence / "timeline.jsonl").read_text().splitlines()  # where the test's settings want timelines
    assert {json.loads(line)["launch_id"] for line in lines} == {run["launch_id"] for run in runs.values()}

    # One pair is no evidence, and is not called that.
    assert found["analysis"]["halved"] == "undecided"
    known = found["environment"]
    assert known["launches"]["accel"] == accel()
    assert known["launches"]["qemu_version"]
    assert known["launches"]["libvirt_version"]
    assert known["launches"]["appliance_kernel_digest"].startswith("sha256:")
    assert len(known["firmware"]["sha256"]) == 64
    assert known["host"]["cpu_model"]


@pytest.mark.needs("gcc")
def test_trap_cost(guestlaunch: Guestlaunch, evidence: Path) -> None:
    """The model makes each access cost what it says: a line through the sizes has the slope that 1 MB / 8 × cost gives.

    With DMA there are hardly any accesses, and nothing becomes slower.
    """
    found = benched(
        guestlaunch, evidence, "sweep", "--sizes", f"4,{SEED_MB // 4},{SEED_MB // 2}", "--runs", "1",
        "--trap-cost", f"{SEED_COST_US}us", how=MODELLED,
    )  # fmt: skip
    assert found["modelled_trap_cost_ns"] == 1000 * SEED_COST_US
    off, on = found["analysis"]["lines"]
    assert off["ms_per_mb"] == pytest.approx(1e6 / 8 * SEED_COST_US / 1000, rel=0.1)
    assert on["ms_per_mb"] < off["ms_per_mb"] / 10


@pytest.mark.needs("gcc")
def test_trap_cost_halves_a_launch(guestlaunch: Guestlaunch, evidence: Path, disk_image: DiskFactory) -> None:
    """In a whole launch with the model the download takes over 20 s, DMA more than halves it, and all is labelled."""
    found = benched(
        guestlaunch, evidence, "fw-cfg", "--runs", "1", "--warm-ups", "0", "--no-count", "--disk", disk_image(),
        "--trap-cost", f"{SEED_COST_US}us", how=MODELLED,
    )  # fmt: skip
    off, on = (next(s["metrics"] for s in found["samples"] if s["side"] == name) for name in ("DMA off", "DMA on"))
    assert on["launch"] / off["launch"] < 0.55
    assert off["transfer"] > 20e9
    assert "MODELLED" in found["analysis"]["verdict"]


def test_no_compiler(guestlaunch: Guestlaunch) -> None:
    """Without a compiler the model cannot be built, and the line says what to install."""
    done = guestlaunch("bench", "sweep", "--trap-cost", "5.9us", environ={"CC": "no-such-compiler"})
    assert "no C compiler 'no-such-compiler'" in done.error_line
    assert "install gcc" in done.error_line


@pytest.mark.parametrize("against", ["stock", "direct"])
def test_launch(against: str, guestlaunch: Guestlaunch, evidence: Path, disk_image: DiskFactory) -> None:
    """Both sides do the same work on the same accelerator, timed to the exit and, apart, to the answer."""
    native = {"x86_64": "x86_64-seabios", "aarch64": "aarch64-uefi"}[os.uname().machine]
    profile = native if against == "stock" else "aarch64-uefi"
    found = benched(
        guestlaunch, evidence, "launch", "--against", against, "--profile", profile, "--runs", "1", "--warm-ups", "0",
        "--disk", disk_image(), timeout_s=700,
    )  # fmt: skip
    assert [side["name"] for side in found["sides"]] == [against, "guestlaunch"]
    assert all(sample["ok"] and sample["accel"] == accel() for sample in found["samples"])
    assert len(found["samples"]) == 4
    assert {row["metric"] for row in found["analysis"]["comparisons"]} == {"wall", "answer"}


@pytest.mark.usefixtures("stock_init_appliance")
def test_start(guestlaunch: Guestlaunch, evidence: Path) -> None:
    """A round with real guests: each row did all three things, clones were clones, ratios are to the reference.

    The disk that is made holds an operating system, else inspection would fail on every side. Cold rows are left to
    the other benchmarks' tests: their launches take longest.
    """
    sides = ("reference", "warm", "standby")
    chosen = [option for side in sides for option in ("--side", side)]
    found = benched(guestlaunch, evidence, "start", *chosen, "--runs", "1", "--warm-ups", "0")
    assert [side["name"] for side in found["sides"]] == list(sides)
    assert "left_out" not in found
    assert len(found["samples"]) == 9
    assert all(sample["ok"] and sample["accel"] == accel() for sample in found["samples"])
    ran = {s["launch_id"]: s["side"] for s in found["samples"] if s["launch_id"]}
    lines = map(json.loads, (evidence / "timeline.jsonl").read_text().splitlines())
    assert {line["start"]: ran[line["launch_id"]] for line in lines} == {"warm": "warm", "standby": "standby"}
    for row in found["analysis"]["starts"]:
        times = row["times"]
        assert times["launch"]["median"] < times["inspection"]["median"]
        assert all(time["n"] == 1 for time in times.values())
        assert (times["launch"]["ratio"] == 1) is (row["side"] == "reference")
    assert found["analysis"]["dma"] is None


@pytest.mark.needs("guestmount")
def test_tools(guestlaunch: Guestlaunch, evidence: Path, template: Path) -> None:
    """Real tools on a disk that is made, one that answers and one that mounts: both are timed, and were clones."""
    del template  # what there is to clone is cloned
    chosen = ("--side", "warm", "--layout", "file-system", "--tool", "virt-cat", "--tool", "guestmount")
    found = benched(guestlaunch, evidence, "tools", *chosen, "--runs", "1", "--warm-ups", "0")
    assert "left_out" not in found
    ran = {(s["tool"], s["disk"]): s for s in found["samples"]}
    assert set(ran) == {("virt-cat", "file-system"), ("guestmount", "file-system")}
    assert all(sample["ok"] and sample["accel"] == accel() for sample in ran.values())
    assert ran["virt-cat", "file-system"]["metrics"]["wall"] > ran["virt-cat", "file-system"]["metrics"]["launch"] > 0
    assert ran["guestmount", "file-system"]["metrics"]["answer"] > 0
    assert [row["times"]["warm"]["n"] for row in found["analysis"]["tools"]] == [1, 1]


def test_matrix(guestlaunch: Guestlaunch, evidence: Path, disk_image: DiskFactory) -> None:
    """Each cell is launched with what its name says."""
    found = benched(
        guestlaunch, evidence, "matrix", "--axis", "memory-mib=800,1000", "--runs", "1", "--warm-ups", "0",
        "--disk", disk_image(),
    )  # fmt: skip
    assert [side["name"] for side in found["sides"]] == ["memory-mib=800", "memory-mib=1000"]
    assert sorted(found["environment"]["launches"]["memory_mib"]) == [800, 1000]
    assert set(found["analysis"]["sides"]["memory-mib=800"]) >= {"wall", "launch", "transfer", "phase.kernel"}


def test_a_disk_that_does_not_work_ends_the_benchmark(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """A side that fails while it warms up ends the benchmark with one line: nothing is measured of failures."""
    disk = tmp_path / "disk.img"
    os.mknod(disk, stat.S_IFSOCK | 0o600)  # it is there, and QEMU cannot open it
    done = guestlaunch("bench", "fw-cfg", *ACCEL, "--disk", disk, "--out", tmp_path / "out.json")
    assert "its warm-up fails" in done.error_line
