"""What guestlaunch itself costs, measured against QEMU started directly. Prints figures; judges nothing.

Run with `tools/test -m performance -s tests/performance/test_costs.py` on a machine that does nothing else.
Each pair of runs is interleaved, the order changes from pair to pair, and the accelerator is TCG.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.bench.rounds import Side
from orchestrator.bench.sides import direct, make_work
from orchestrator.domain.model import Accel
from orchestrator.domain.profiles import load_profile
from tests.disks import DiskFactory
from tests.running import Guestlaunch

PAIRS = int(os.environ.get("PAIRS", "10"))
PAYLOAD_MIB = 256


def interleaved(a: Callable[[], float], b: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """Run a and b in turn, the first of each pair changing; return their results."""
    results = []
    for number in range(pairs):
        if number % 2:
            second = b()
            results.append((a(), second))
        else:
            results.append((a(), b()))
    return results


def show(title: str, names: tuple[str, str], pairs: list[tuple[float, float]], unit: str) -> None:
    """Print medians, spreads and the median of the paired differences and ratios."""
    lines = [f"{title} (TCG, {len(pairs)} interleaved pairs)"]
    for name, values in zip(names, zip(*pairs, strict=True), strict=True):
        lines.append(
            f"  {name:24} median {statistics.median(values):8.1f} {unit}, {min(values):.1f} to {max(values):.1f}"
        )
    lines.append(f"  difference               median {statistics.median(a - b for a, b in pairs):+8.1f} {unit}")
    lines.append(f"  ratio                    median {statistics.median(a / b for a, b in pairs):8.3f}")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


@pytest.fixture
def direct_side(appliance: dict[str, Path], disk_image: DiskFactory, tmp_path: Path, guestlaunch: Guestlaunch) -> Side:
    """QEMU started directly, with the aarch64 appliance and UEFI."""
    return direct(
        "direct",
        make_work(tmp_path, disk=disk_image()),
        profile=load_profile("aarch64-uefi"),
        accel=Accel.TCG,
        appliance=appliance["aarch64"],
        folder=tmp_path,
        environ=guestlaunch.environ,
    )[0]


def launch_arguments(appliance: Path, disk: Path, guestfsd: Path) -> list[str]:
    """Return the QEMU arguments of libguestfs 1.48 for one disk, a fixed appliance and 768 MiB."""
    return [
        *("-global", "virtio-blk-pci.scsi=off", "-no-user-config", "-nodefaults", "-display", "none"),
        *("-machine", "accel=kvm:tcg", "-cpu", "max", "-m", "768", "-no-reboot", "-rtc", "driftfix=slew"),
        *("-kernel", str(appliance / "kernel"), "-initrd", str(appliance / "initrd")),
        *("-object", "rng-random,filename=/dev/urandom,id=rng0", "-device", "virtio-rng-pci,rng=rng0"),
        *("-device", "virtio-scsi-pci,id=scsi"),
        *("-drive", f"file={disk},cache=writeback,format=raw,id=hd0,if=none", "-device", "scsi-hd,drive=hd0"),
        *("-drive", f"file={appliance}/root,snapshot=on,id=appliance,cache=unsafe,if=none,format=raw"),
        *("-device", "scsi-hd,drive=appliance", "-device", "virtio-serial-pci", "-serial", "stdio"),
        *("-chardev", f"socket,path={guestfsd},id=channel0"),
        *("-device", "virtserialport,chardev=channel0,name=org.libguestfs.channel.0"),
        *("-append", "panic=1 console=ttyS0 TERM=linux"),
    ]


@contextlib.contextmanager
def ended(command: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a hypervisor program without a console, and end it as libguestfs does."""
    process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("served", ["with a daemon", "without"])
def test_host_time_until_the_guest_runs(
    guestlaunch: Guestlaunch,
    direct_side: Side,
    appliance: dict[str, Path],
    disk_image: DiskFactory,
    tmp_path: Path,
    evidence: Path,
    served: str,
) -> None:
    """From the hypervisor program's start until the vCPU runs: guestlaunch-hv, QEMU directly."""
    guestfsd = Path(guestlaunch.environ["TMPDIR"]) / "guestfsd.sock"
    arguments = launch_arguments(appliance["aarch64"], disk_image("second.img"), guestfsd)
    environ = guestlaunch.environ | {"GUESTLAUNCH_ACCEL": "tcg"}
    trace = tmp_path / "trace"

    def ours(seconds: float = 2.5) -> float:
        began_ns = time.time_ns()
        with ended([str(guestlaunch.bin_dir / "guestlaunch-hv"), *arguments], environ):
            time.sleep(seconds)
        record = json.loads((evidence / "timeline.jsonl").read_text().splitlines()[-1])
        firmware = next(phase for phase in record["phases"] if phase["name"] == "firmware")
        return float(record["wall_start_ns"] + firmware["start_ns"] - began_ns) / 1e6

    def directly() -> float:
        trace.unlink(missing_ok=True)
        extra = ["-trace", "enable=vm_state_notify", "-D", str(trace), "-msg", "timestamp=on"]
        began = time.time()
        with ended([direct_side.environ["LIBGUESTFS_HV"], *arguments, *extra], dict(direct_side.environ)):
            time.sleep(2.5)
        found = re.search(r"@(\d+\.\d+):vm_state_notify running 1", trace.read_text())
        assert found is not None
        return (float(found[1]) - began) * 1e3

    daemon = None
    if served == "with a daemon":
        daemon = guestlaunch.start(guestlaunch.bin_dir / "guestlaunchd", environ=environ)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(guestfsd))
        listener.listen(4 * PAIRS)
        time.sleep(2)
        ours(20)  # the first launch of a state directory has libvirt ask QEMU for its capabilities
        directly()
        pairs = interleaved(ours, directly, PAIRS)
    guestfsd.unlink()
    if daemon is not None:
        daemon.terminate()
        daemon.communicate(timeout=60)
    show(f"start of the program, {served}, until the vCPU runs", ("guestlaunch-hv", "QEMU directly"), pairs, "ms")


@pytest.mark.timeout(1800)
def test_throughput_of_the_channel(guestlaunch: Guestlaunch, direct_side: Side, tmp_path: Path) -> None:
    """Upload and download of 256 MiB: through guestlaunch and with QEMU directly on libguestfs's socket."""
    payload = tmp_path / "payload"
    payload.write_bytes(os.urandom(1 << 20) * PAYLOAD_MIB)
    disk = tmp_path / "scratch.img"
    with disk.open("wb") as file:
        file.truncate((PAYLOAD_MIB + 64) << 20)
    code = (
        "import guestfs, sys, time\n"
        "g = guestfs.GuestFS(python_return_dict=True); g.add_drive_opts(sys.argv[1], format='raw'); g.launch()\n"
        "began = time.monotonic(); g.upload(sys.argv[2], '/dev/sda'); up = time.monotonic() - began\n"
        "size = int(sys.argv[3]); began = time.monotonic(); g.download_offset('/dev/sda', '/dev/null', 0, size)\n"
        "print(up, time.monotonic() - began); g.shutdown(); g.close()\n"
    )
    script: list[str | Path] = ["/usr/bin/python3", "-c", code, disk, payload, str(PAYLOAD_MIB << 20)]
    rates: list[list[tuple[float, float]]] = [[], []]

    def rate(number: int, text: str) -> float:
        up, down = (PAYLOAD_MIB / float(word) for word in text.split())
        rates[number].append((up, down))
        return up

    interleaved(
        lambda: rate(0, guestlaunch("exec", "--accel", "tcg", "--", *script).ok().stdout),
        lambda: rate(1, guestlaunch.run(*script, environ=dict(direct_side.environ)).ok().stdout),
        max(3, PAIRS // 3),
    )
    for index, name in enumerate(("upload", "download")):
        pairs = [(a[index], b[index]) for a, b in zip(*rates, strict=True)]
        show(f"{name} of {PAYLOAD_MIB} MiB", ("guestlaunch", "QEMU directly"), pairs, "MiB/s")


@pytest.mark.timeout(1800)
def test_cost_of_measuring(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """A whole `guestfish -a disk run` with the timeline on and off (`GUESTLAUNCH_MEASURE`)."""
    disk = disk_image()

    def timed(switch: str) -> float:
        command = ("guestfish", "--accel", "tcg", "--", "--ro", "-a", disk, "run")
        return guestlaunch(*command, environ={"GUESTLAUNCH_MEASURE": switch}).ok().duration_s

    show(
        "guestfish run",
        ("timeline on", "timeline off"),
        interleaved(lambda: timed("on"), lambda: timed("off"), PAIRS),
        "s",
    )
