"""What a tool says of its guest, and what is on its disks, means the same to a boot and to a clone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.disks import MIB, DiskFactory
from tests.hosts import ACCEL
from tests.records import events, records
from tests.running import Guestlaunch

QUIET = 4
UNPREPARED = "guestlaunch.prepared=0"


def ask(guestlaunch: Guestlaunch, start: str, *lines: str, environ: dict[str, str] | None = None) -> tuple[str, str]:
    """Run guestfish commands, errors included, in a launch of a kind; return both streams."""
    script = "\n".join(f"-{line}" if line != "run" else line for line in lines) + "\n"
    result = guestlaunch("guestfish", *ACCEL, "--start", start, stdin=script, environ=environ).ok()
    return result.stdout, result.stderr


@pytest.mark.parametrize(
    ("start", "words", "level"),
    [
        ("warm", "", QUIET),
        ("warm", "loglevel=6", 6),
        ("cold", f"loglevel=6 {UNPREPARED}", 6),
        ("warm", "loglevel=5 debug", 10),
        ("warm", 'debug "loglevel=3"', 3),
        ("warm", "loglevel=nonsense", QUIET),
    ],
)
def test_how_much_the_kernel_says(
    guestlaunch: Guestlaunch,
    disk_image: DiskFactory,
    evidence: Path,
    template: Path,
    start: str,
    words: str,
    level: int,
) -> None:
    """Words for the console are read by the kernel in a boot, and heeded at the gate in a clone.

    Another has programs without shortcuts before them, and nothing preloaded.
    """
    looked_at = "readlink -f /usr/sbin/lvm /usr/sbin/parted; type udevadm ls; cat /etc/ld.so.preload; true"
    looks = f'debug sh "cat /proc/sys/kernel/printk; {looked_at}"'
    printed, _ = ask(guestlaunch, start, f"set-append '{words}'", f"add-drive-ro {disk_image()}", "run", looks)
    assert int(printed.split()[0]) == level
    assert ("guestlaunch/shortcuts" in printed or "/usr/sbin/ls" in printed) is (UNPREPARED not in words)
    assert ("\nlibc.so.6\n" in printed) is (UNPREPARED not in words)
    assert records(evidence)[-1]["start"] == start
    assert events(evidence, "template_built") == []


def test_the_users_own_size(guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path, template: Path) -> None:
    """A second -m or -smp wins over libguestfs's own, as in QEMU, and is no reason not to clone."""
    lines = ("config -m 1536M", "config -smp 2", f"add-drive-ro {disk_image()}", "run")
    printed, _ = ask(guestlaunch, "auto", *lines, 'debug sh "nproc; grep MemTotal /proc/meminfo"')
    vcpus, _, kib, _ = printed.split()
    assert (int(vcpus), int(kib) > 1400 * 1024) == (2, True)
    (started,) = events(evidence, "launch_started")
    assert "no template" in started["start_reason"]


def test_names_that_are_no_text(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, tmp_path: Path, template: Path
) -> None:
    """A name of bytes that are no UTF-8 is refused in the same words by every start, whoever would open the disk."""
    disk_image("plain.img", filesystem=False).rename(tmp_path / "odd\udcff.img")
    told = []
    for start in ("cold", "warm"):
        for image_format in ("--format=raw", "--format"):
            script = f'exec guestfish {image_format} -a "$(printf "$0/odd\\377.img")" run'
            command = ("exec", *ACCEL, "--start", start, "--", "sh", "-c", script, tmp_path)
            told.append(guestlaunch(*command).error_line)
    why = "libvirt cannot be told its name, which has a byte that is no UTF-8"
    hint = "rename it, or make a link of another name to it"
    assert set(told) == {rf"guestlaunch: cannot open the disk: {tmp_path}/odd\udcff.img: {why} ({hint})"}


def test_programs_get_no_descriptors_of_ours(guestlaunch: Guestlaunch, disk_image: DiskFactory, template: Path) -> None:
    """What guestfsd runs has the descriptors that it has in a boot; LVM, which looks, has none to complain of."""
    lines = (f"add-drive-ro {disk_image()}", "run", 'debug sh "readlink /proc/self/fd/*; true"')
    found = {}
    for start in ("cold", "warm"):
        printed, _ = ask(guestlaunch, start, *lines)
        found[start] = re.sub(r"(?<=[:/])\[?\d+\]?", "-", printed)
    assert found["warm"] == found["cold"]
    _, said = ask(guestlaunch, "warm", *lines, "lvs", environ={"LIBGUESTFS_DEBUG": "1"})
    assert 0 <= said.find("guestlaunch: end of the recording") < said.find("guestfsd --verbose")
    assert "leaked" not in said


WHERE_IT_WAS = "/sys/block/loop* /sys/block/dm-* /dev/mapper /dev/guestlaunch /tmp/lvm /run/lvm /run/udev/tags"


def test_nothing_of_the_rehearsal_is_left(guestlaunch: Guestlaunch, disk_image: DiskFactory, template: Path) -> None:
    """A clone has seen a disk with a volume group that no tool is to see. It was there: what it was asked is."""
    found = {}
    for start in ("cold", "warm"):
        left = f'debug sh "find {WHERE_IT_WAS} -type f -o -type l 2>/dev/null; grep sysroot /proc/mounts; true"'
        lines = (f"add-drive-ro {disk_image()}", "run", left, "lvs", "list-filesystems")
        found[start], _ = ask(guestlaunch, start, *lines)
    assert found["warm"] == found["cold"] == "/tmp/lvm/lvm.conf\n/dev/sda: ext4\n"
    seen = 'debug sh "stat -c %s /var/tmp/guestlaunch.disk /var/tmp/guestlaunch.messages /run/guestlaunch.sfdisk-help"'
    printed, _ = ask(guestlaunch, "warm", f"add-drive-ro {disk_image()}", "run", seen)
    disk, messages, options = map(int, printed.split())
    assert (disk, messages) == (32 * MIB, 3 * 44)
    assert options > 0


MAKE_GROUP = ("pvcreate /dev/sda", "vgcreate group /dev/sda", "lvcreate volume group 8", "mkfs ext2 /dev/group/volume")
LOOK = ("list-filesystems", "lvs", "vgs", 'debug sh "ls /dev/mapper"', "mount-ro /dev/group/volume /", "vgs-full")


def test_nothing_is_activated_by_coming_first(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, tmp_path: Path, template: Path
) -> None:
    """Of a volume group on a disk and on its copy, neither is activated: whichever disk is there first, slot or not."""
    first, second, other = tmp_path / "first.img", tmp_path / "second.img", disk_image("other.img", filesystem=False)
    with first.open("wb") as image:
        image.truncate(24 * MIB)
    ask(guestlaunch, "warm", f"add-drive {first} format:raw", "run", *MAKE_GROUP)
    shutil.copyfile(first, second)
    for disks in ((first, second), (other, first, second)):
        added = [f"add-drive {disk} format:raw readonly:true" for disk in disks]
        cold, warm = (ask(guestlaunch, start, *added, "run", *LOOK) for start in ("cold", "warm"))
        assert warm == cold
        assert "/dev/group/volume: unknown\n" in warm[0]
        assert "/dev/group/volume: No such file or directory" in warm[1]
    assert (
        ask(guestlaunch, "warm", f"add-drive-ro {first}", "run", "list-filesystems")[0] == "/dev/group/volume: ext2\n"
    )
