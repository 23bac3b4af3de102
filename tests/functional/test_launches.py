"""Launches of every kind, and what their log lines say of them."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.disks import MIB, DiskFactory
from tests.hosts import ACCEL, accel
from tests.records import records, seen
from tests.running import Guestlaunch

LAUNCHES = int(os.environ.get("GL_SOAK_LAUNCHES", "10"))
TWINS = 4


@pytest.mark.parametrize(
    ("profile", "dma", "arch", "uefi", "transfer"),
    [
        ("aarch64-uefi", "on", "aarch64", True, True),
        ("aarch64-uefi", "off", "aarch64", True, True),
        ("aarch64-bare", "on", "aarch64", False, False),
        ("x86_64-seabios", "on", "x86_64", False, True),
        ("x86_64-bare", "on", "x86_64", False, False),
        ("x86_64-ovmf", "off", "x86_64", True, True),
    ],
)
def test_profile(
    guestlaunch: Guestlaunch,
    disk_image: DiskFactory,
    evidence: Path,
    profile: str,
    dma: str,
    arch: str,
    uefi: bool,
    transfer: bool,
) -> None:
    """Each profile boots its arch and firmware; its line is valid, tiles, and proves the fw_cfg path."""
    script = "uname -m; test -d /sys/firmware/efi && echo efi || echo none"
    command = ("guestfish", "--accel", accel(profile), "--profile", profile, "--fw-cfg-dma", dma)
    result = guestlaunch(*command, "--", "--ro", "-a", disk_image(), "run", ":", "debug", "sh", script).ok()
    assert result.stdout.split() == [arch, "efi" if uefi else "none"]
    (record,) = records(evidence)
    assert (record["outcome"], record["exit_status"], record["ready"]) == ("success", 0, True)
    assert (record["profile"], record["arch"], record["accel"]) == (profile, arch, accel(profile))
    assert record["fw_cfg_dma"] is (dma == "on")
    assert record["fw_cfg"]["register_answers"] is (dma == "on")
    assert record["fw_cfg"]["window_has_dma"] is (True if arch == "aarch64" else None)
    wanted = {"plan", "create", "firmware", "kernel", "initrd", "init", "guestfsd", "ready", "workload", "shutdown"}
    assert wanted | ({"fw_cfg_kernel", "fw_cfg_initrd"} if transfer else set()) <= seen(record)
    assert ("fw_cfg_kernel" in seen(record)) is transfer
    if transfer:
        phases = {phase["name"]: phase for phase in record["phases"]}
        assert phases["fw_cfg_kernel"]["bytes"] == record["bytes"]["kernel"] > MIB
        assert phases["fw_cfg_initrd"]["mb_per_s"] > 0
    assert all(record["versions"][name] for name in ("guestlaunch", "qemu", "libvirt", "libguestfs", "kernel"))
    # OVMF says nothing of itself on the serial console.
    assert (record["versions"]["firmware"] is not None) is (profile == "aarch64-uefi")


def test_measuring_can_be_off(guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path) -> None:
    """Without measuring the launch works all the same; what was not seen is null and says why."""
    command = ("guestfish", *ACCEL, "--", "--ro", "-a", disk_image(), "run", ":", "list-filesystems")
    assert guestlaunch(*command, environ={"GUESTLAUNCH_MEASURE": "off"}).ok().stdout == "/dev/sda: ext4\n"
    (record,) = records(evidence)
    unseen = {phase["name"]: phase["reason"] for phase in record["phases"] if phase["start_ns"] is None}
    assert unseen["fw_cfg_kernel"] == unseen["workload"] == "QEMU's trace is off"


@pytest.mark.timeout(3600)
def test_many_launches_two_at_a_time(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], disk_image: DiskFactory, evidence: Path
) -> None:
    """Every launch succeeds; the root is never a user's disk, though users' disks carry the root's own UUID.

    The kernel probes them in any order, and each has its chance to come before the root.
    """
    twin = disk_image("twin.img", filesystem=False)
    with (appliance["aarch64"] / "root").open("rb") as root, twin.open("r+b") as copy:
        copy.write(root.read(MIB))  # superblock and all: same UUID, same label
    first = disk_image("first.img", size_mib=32)
    names = [f"/dev/sd{letter}" for letter in "abcdefgh"[: 1 + TWINS]]
    sizes = (word for name in names[:2] for word in (":", "blockdev-getsize64", name))
    script = ("run", *sizes, ":", "list-devices")

    def one(number: int) -> str:
        # Every other launch comes to that without firmware, which costs a third.
        command = ("guestfish", *ACCEL, "--profile", ("aarch64-uefi", "aarch64-bare")[number % 2])
        disks = ("--format=raw", "-a", first, *(word for _ in range(TWINS) for word in ("-a", twin)))
        return guestlaunch(*command, "--", "--ro", *disks, *script, timeout_s=600).ok().stdout

    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(one, range(LAUNCHES)))
    assert set(outputs) == {"\n".join([f"{32 * MIB}", f"{64 * MIB}", *names, ""])}
    outcomes = [record["outcome"] for record in records(evidence)]
    assert outcomes == ["success"] * LAUNCHES


@pytest.mark.usefixtures("without_firmware")
def test_more_than_26_disks_in_order(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """Thirty disks arrive in the order in which they were added, whatever the kernel called them."""
    disks = [disk_image(f"d{index}.img", size_mib=1 + index, filesystem=False) for index in range(30)]
    names = [f"/dev/sd{chr(97 + i)}" if i < 26 else f"/dev/sda{chr(71 + i)}" for i in range(30)]
    command = ["guestfish", *ACCEL, "--", "--ro", "--format=raw"]
    for disk in disks:
        command += ["-a", str(disk)]
    command.append("run")
    for name in names:
        command += [":", "blockdev-getsize64", name]
    sizes = guestlaunch(*command, timeout_s=400).ok().stdout.split()
    assert sizes == [str((1 + index) * MIB) for index in range(30)]


@pytest.mark.usefixtures("without_firmware")
def test_serials_readonly_and_block_sizes_reach_the_guest(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """What the tool asked of its disks is what the guest sees, and a read-only image is not touched."""
    disk = disk_image("labelled.img")
    before = disk.read_bytes()
    code = (
        "import guestfs, sys\n"
        "g = guestfs.GuestFS(python_return_dict=True)\n"
        "g.add_drive_opts(sys.argv[1], format='raw', readonly=True, label='mydisk', blocksize=4096)\n"
        "g.launch()\n"
        "print(g.list_disk_labels(), g.blockdev_getss('/dev/sda'))\n"
        "g.zero('/dev/sda')\n"
        "g.shutdown()\n"
    )
    result = guestlaunch("exec", *ACCEL, "--", "/usr/bin/python3", "-c", code, disk).ok()
    assert result.stdout.startswith("{'mydisk': '/dev/sda'} 4096")
    assert disk.read_bytes() == before


@pytest.mark.usefixtures("without_firmware")
def test_written_data_is_on_disk_when_the_tool_has_ended(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """What was written is in the image as soon as the tool is gone."""
    disk = disk_image("written.img", filesystem=False)
    command = ("guestfish", *ACCEL, "--", "--format=raw", "-a", disk)
    guestlaunch(*command, stdin="run\npwrite-device /dev/sda guestlaunch 1048576\n").ok()
    with disk.open("rb") as file:
        file.seek(MIB)
        assert file.read(11) == b"guestlaunch"


def test_unusable_kvm_costs_one_probe(guestlaunch: Guestlaunch, disk_image: DiskFactory, state_dir: Path) -> None:
    """With `auto`, a launch of the host's arch works whether KVM does or not; the verdict is asked for once.

    That a probe guest took too long is believed when it has done so twice.
    """
    (state_dir / "kvm-verdict.json").unlink(missing_ok=True)
    arch = os.uname().machine
    profile = {"x86_64": "x86_64-seabios", "aarch64": "aarch64-uefi"}[arch]
    command = ("guestfish", "--profile", profile, "--", "--ro", "-a", disk_image(), "run", ":", "list-filesystems")
    assert guestlaunch(*command).ok().stdout == "/dev/sda: ext4\n"
    verdict = state_dir / "kvm-verdict.json"
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        if json.loads(verdict.read_text())["verdicts"][0]["timed_out_times"]:
            guestlaunch(*command).ok()
        stamp = verdict.stat().st_mtime_ns
        time.sleep(0.01)
        guestlaunch(*command).ok()
        assert verdict.stat().st_mtime_ns == stamp
    else:
        assert not verdict.exists()
