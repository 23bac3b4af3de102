"""Warm launches with real aarch64 guests: whatever a tool asks of a cold launch, a clone of a template gives."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.disks import MIB, DiskFactory, bus_is_passed_on, by_name, naming_relatively
from tests.hosts import ACCEL, accel
from tests.identities import assert_unlike, identities
from tests.leftovers import left_behind, look
from tests.records import events, records, seen
from tests.running import Guestlaunch
from tests.web import fetching, web_server

CLONES = 16  # what clones have from their template they would all have
MANY_DISKS = 16
CLOCK_TOLERANCE_S = 0.050

# A program that takes what its appliance says as events, which then goes nowhere else.
LISTENER = """
import guestfs, sys
told = []
g = guestfs.GuestFS(python_return_dict=True)
g.set_event_callback(lambda event, handle, data, numbers: told.append(data), guestfs.EVENT_APPLIANCE)
g.add_drive_opts(sys.argv[1], readonly=True)
g.launch()
print(*g.list_devices(), g.debug("sh", ["ls /sys/class/net"]))
g.close()
print("".join(told))
"""

Guestfish = Callable[..., str]


@pytest.fixture
def guestfish(guestlaunch: Guestlaunch, evidence: Path) -> Guestfish:
    """Run guestfish commands in a launch of a kind, check that it was of that kind, and return what they printed."""

    def run(
        start: str, *lines: str | Path, options: tuple[str, ...] = (), environ: dict[str, str] | None = None
    ) -> str:
        text = "\n".join(map(str, lines)) + "\n"
        command = ("guestfish", *ACCEL, "--start", start, "--", *options)
        printed = guestlaunch(*command, stdin=text, environ=environ).ok().stdout
        assert records(evidence)[-1]["start"] == start
        return printed

    return run


@pytest.mark.parametrize("start", ["warm", "auto"])
def test_a_warm_launch(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path, template: Path, start: str
) -> None:
    """Unmodified guestfish runs in a clone; the line says so, and its phases are those of a clone."""
    command = ("guestfish", *ACCEL, "--start", start, "--", "--ro", "-a", disk_image(), "run", ":", "list-filesystems")
    assert guestlaunch(*command).ok().stdout == "/dev/sda: ext4\n"
    (record,) = records(evidence)
    assert (record["start"], record["outcome"], record["ready"], record["exit_status"]) == ("warm", "success", True, 0)
    assert (record["profile"], record["arch"], record["accel"]) == ("aarch64-uefi", "aarch64", accel())
    clone = {"restore", "attach", "gate", "guestfsd", "ready", "workload", "shutdown"}
    assert {"plan", "stage", "connect", "create"} | clone == seen(record)
    assert not {"firmware", "kernel", "init"} & {phase["name"] for phase in record["phases"]}
    assert record["transfer_ns"] is None
    assert record["fw_cfg"]["register_answers"] is None
    (started,) = events(evidence, "launch_started")
    assert (started["start"], started["template"]) == ("warm", template.name.removeprefix("aarch64-uefi-"))
    assert events(evidence, "template_built") == []


def test_a_template_is_built_on_demand(guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path) -> None:
    """With --start warm the first launch builds what it clones, and leaves out firmware that the profile has not."""
    command = (*ACCEL, "--profile", "aarch64-bare", "--start", "warm", "--", "--ro", "-a", disk_image())
    script = ("run", ":", "debug", "sh", "test -d /sys/firmware/efi && echo efi || echo none")
    outputs = [guestlaunch("guestfish", *command, *script).ok().stdout.strip() for _ in range(2)]
    assert outputs == ["none"] * 2
    assert [record["start"] for record in records(evidence)] == ["warm"] * 2
    (built,) = events(evidence, "template_built")
    assert {event["template"] for event in events(evidence, "launch_started")} == {built["key"]}


def test_disks_in_order(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """Raw, qcow2 and probed disks, to be read or written, are in the order in which they were added."""
    script: list[str] = []
    for index, (image_format, how) in enumerate(
        [("raw", "format:raw"), ("qcow2", "format:qcow2 readonly:true"), ("raw", ""), ("qcow2", "format:qcow2")]
    ):
        image = disk_image(f"d{index}", size_mib=10 + index, image_format=image_format, files={"/n": str(index)})
        script.append(f"add-drive {image} {how}")
    script += ["run", "list-devices"]
    names = [f"/dev/sd{letter}" for letter in "abcd"]
    for name in names:
        script += [f"blockdev-getsize64 {name}", f"mount-ro {name} /", "cat /n", 'echo ""', "umount /"]
    found = guestfish("warm", *script).split()
    assert found == [*names, *itertools.chain(*((str((10 + index) * MIB), str(index)) for index in range(4)))]


@pytest.mark.parametrize("slot", [True, False])
def test_kernel_names_in_order(guestfish: Guestfish, disk_image: DiskFactory, template: Path, *, slot: bool) -> None:
    """The kernel calls the disks sda, sdb … in their order, as at a boot: some tools show its names."""
    path = disk_image(size_mib=1, filesystem=False)
    adds = [f"add {path} readonly:true"] * MANY_DISKS
    if slot:
        adds[0] = f"add {disk_image('first.img', size_mib=1, filesystem=False)} format:raw"
    lines = guestfish("warm", *adds, "run", "debug sh 'ls -d /sys/bus/scsi/devices/*/block/sd*'").splitlines()
    found = [re.search(r"/0:0:(\d+):0/block/(\w+)$", line) for line in lines]
    names = {int(match[1]): match[2] for match in found if match}
    assert names == {target: f"sd{chr(ord('a') + target)}" for target in range(MANY_DISKS)}


@pytest.mark.parametrize("size", [0, 512, MIB], ids=["empty", "one sector", "as large as the template's own"])
def test_disks_of_odd_sizes(guestfish: Guestfish, tmp_path: Path, template: Path, size: int) -> None:
    """A disk is made out though the kernel says nothing of a change of its size."""
    disk = tmp_path / "odd.img"
    disk.write_bytes(bytes(size))
    found = guestfish("warm", f"add-drive {disk} format:raw", "run", "list-devices", "blockdev-getsize64 /dev/sda")
    assert found.split() == ["/dev/sda", str(size)]


def test_written_data_is_on_disk(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """What a clone has written is in the images as soon as the tool is gone, and a cold launch reads it."""
    raw, qcow2 = disk_image("a.img"), disk_image("b.qcow2", image_format="qcow2")
    disks = (f"add-drive {raw} format:raw", f"add-drive {qcow2} format:qcow2", "run")
    text = "written by a clone"
    writing = [(f"mount {name} /", f'write /w "{text} of {name}"', "umount /") for name in ("/dev/sda", "/dev/sdb")]
    guestfish("warm", *disks, *itertools.chain(*writing))
    assert f"{text} of /dev/sda".encode() in raw.read_bytes()
    reading = [(f"mount-ro {name} /", "cat /w", 'echo ""', "umount /") for name in ("/dev/sda", "/dev/sdb")]
    found = guestfish("cold", *disks, *itertools.chain(*reading)).split("\n")
    assert [line for line in found if line] == [f"{text} of /dev/sda", f"{text} of /dev/sdb"]


def test_a_readonly_disk_is_not_touched(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """Writes to a read-only disk succeed in its overlay, as libguestfs has it."""
    disk = disk_image()
    before = disk.read_bytes()
    guestfish("warm", f"add-drive-ro {disk}", "run", "mount /dev/sda /", "write /w x", "zero-device /dev/sda")
    assert disk.read_bytes() == before


def test_labels_and_block_sizes(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """Labels, odd ones too, lead to their disks; block sizes are those that were asked for."""
    first, second = disk_image("first"), disk_image("second")
    found = guestfish(
        "warm",
        f"add-drive {first} format:raw label:one",
        f"add-drive {second} format:raw label:two blocksize:4096",
        "run",
        "list-disk-labels",
        'debug sh "cd /dev/disk/guestfs; for label in *; do readlink -f $label; done; blockdev --getss one two"',
    )
    one, two = re.findall(r"^/dev/sd[a-z]$", found, flags=re.MULTILINE)
    assert {"one: /dev/sda", "two: /dev/sdb"} <= set(found.splitlines())  # in no order
    assert one != two
    assert found.split()[-2:] == ["512", "4096"]


AWKWARD = ["a space", "comma,comma", "colon:x", "quote'\"", "Grüße-日本", "percent%20", "back\\slash", "new\nline"]


@pytest.mark.parametrize("image_format", ["raw", None])
def test_awkward_paths(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path, template: Path, image_format: str | None
) -> None:
    """Names are data in order, whether libvirt plugs a disk in or QEMU's monitor does."""
    disks = [disk_image(f"{name}.img", size_mib=8 + i, filesystem=False) for i, name in enumerate(AWKWARD)]
    code = (
        "import guestfs, sys\n"
        "g = guestfs.GuestFS(python_return_dict=True)\n"
        "for disk in sys.argv[2:]:\n"
        "    g.add_drive_opts(disk, **({'format': sys.argv[1]} if sys.argv[1] else {}))\n"
        "g.launch()\n"
        "for index, name in enumerate(g.list_devices()):\n"
        "    g.pwrite_device(name, b'disk %d' % index, 512)\n"
        "    print(g.blockdev_getsize64(name) >> 20)\n"
        "g.shutdown()\n"
    )
    program = ("/usr/bin/python3", "-c", code, image_format or "")
    assert guestlaunch("exec", *ACCEL, "--start", "warm", "--", *program, *disks).ok().stdout.split() == [
        str(8 + i) for i in range(len(disks))
    ]
    assert records(evidence)[-1]["start"] == "warm"
    assert [disk.read_bytes()[512:518] for disk in disks] == [b"disk %d" % i for i in range(len(disks))]


FORMAT = """
run
luks-format /dev/sda 0
a passphrase
cryptsetup-open /dev/sda made
a passphrase
mkfs ext2 /dev/mapper/made
mount /dev/mapper/made /
write /where inner
umount /
cryptsetup-close /dev/mapper/made
"""
OPEN = """
run
vfs-type /dev/sda
cryptsetup-open /dev/sda opened
a passphrase
list-dm-devices
mount-ro /dev/mapper/opened /
cat /where
echo ""
"""


def test_what_a_clone_encrypts_others_open(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """A LUKS container that a clone has formatted, another and a cold launch open. All else is test_parity's."""
    added = f"add-drive {disk_image('luks', size_mib=64, filesystem=False)} format:raw"
    keys = ("--keys-from-stdin",)
    guestfish("warm", added, FORMAT, options=keys)
    for start in ("warm", "cold"):
        said = guestfish(start, added, OPEN, options=keys)
        assert said.split() == ["crypto_LUKS", "/dev/mapper/opened", "inner"]


def test_no_two_clones_are_alike(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path, template: Path
) -> None:
    """Random bytes, UUIDs and machine-ids are each clone's own, and so are the domains' names and UUIDs."""
    disk = disk_image()

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: identities(guestlaunch, disk, "--start", "warm"), range(CLONES)))
    assert_unlike(found)
    assert [record["start"] for record in records(evidence)] == ["warm"] * CLONES
    domains = [ET.fromstring(event["domain_xml"]) for event in events(evidence, "launch_started")]
    for tag in ("name", "uuid"):
        assert len({domain.findtext(tag) for domain in domains}) == CLONES


def test_the_clock_is_the_hosts(guestlaunch: Guestlaunch, disk_image: DiskFactory, template: Path) -> None:
    """A clone's clock is right, though its template stopped long ago."""
    command = (guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, "--start", "warm")
    process = guestlaunch.start(*command, "--", "--ro", "-a", disk_image())
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("run\necho ready\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"
    for _ in range(3):
        process.stdin.write('debug sh "date +%s.%N"\n')
        before = time.time()
        process.stdin.flush()
        guest = float(process.stdout.readline())
        after = time.time()
        assert before - CLOCK_TOLERANCE_S <= guest <= after + CLOCK_TOLERANCE_S
    process.stdin.close()
    assert process.wait(60) == 0


def test_a_verbose_tool(guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path, template: Path) -> None:
    """The guest's /init and guestfsd are as talkative as in a cold launch, though their template was not.

    What firmware and kernel said when that booted comes first, and is marked as recorded: all of it as the events by
    which programs hear their appliance. No clone has a network card that did not ask for one.
    """
    command = ("exec", *ACCEL, "--start", "warm", "--", "/usr/bin/python3", "-c", LISTENER, disk_image())
    result = guestlaunch(*command, environ={"LIBGUESTFS_DEBUG": "1"}).ok()
    found, told = result.stdout.split("\n", 1)
    assert found == "/dev/sda lo"
    expected = (
        f"guestlaunch: this guest is a clone of template {template.name.removeprefix('aarch64-uefi-')}; recorded",
        "UEFI firmware (version",
        "Linux version ",
        "Run /init as init process",
        "Starting /init script ...",
        "guestlaunch: end of the recording",
        "/proc/mdstat",
        "guestfsd --verbose",
        "guestfsd: <= list_devices",
    )
    places = [told.find(text) for text in expected]
    assert -1 not in places, dict(zip(expected, places, strict=True))
    assert places == sorted(places)
    assert records(evidence)[-1]["start"] == "warm"


# How many events there are when a table is written, twice by the program itself, whose first has fewer.
EVENTS_OF_SGDISK = (
    "for folder in /usr/lib/guestlaunch/real /usr/lib/guestlaunch/real /usr/sbin; do sleep 1; /usr/bin/udevadm settle; "
    "read a </sys/kernel/uevent_seqnum; $folder/sgdisk -A 1:set:2 /dev/sda >/dev/null; sleep 1; "
    "/usr/bin/udevadm settle; read b </sys/kernel/uevent_seqnum; echo $((b - a)); done"
)


def test_looking_at_a_partition_table(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """It is no event for udev, which would probe the disk again; to write to it is, and no more often than it must."""
    count = 'debug sh "cat /sys/kernel/uevent_seqnum"'
    looks = ("part-get-parttype /dev/sda", "part-get-gpt-type /dev/sda 1", "part-list /dev/sda")
    script = (
        *(f"add-drive {disk_image(filesystem=False)} format:raw", "run", "part-disk /dev/sda gpt"),
        *(count, *looks, count, "part-set-name /dev/sda 1 named", count, "part-get-name /dev/sda 1"),
        f'debug sh "{EVENTS_OF_SGDISK}"',
    )
    printed = guestfish("warm", *script)
    before, after, written, _, real, ours = map(int, re.findall(r"^\d+$", printed, re.MULTILINE))
    assert before == after < written
    assert ours < real
    for shown in ("gpt\n", "0FC63DAF-", "part_num: 1\n", "named\n"):
        assert shown in printed


def test_writing_partition_tables(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """What parted and sgdisk write is the same, byte by byte, as without our library, and so is what comes of it."""
    guid, linux = "01234567-89AB-CDEF-0123-45678900000", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
    writes = [
        *("part-init /dev/sda gpt", f"part-set-disk-guid /dev/sda {guid}0"),
        *(f"part-add /dev/sda p {2048 * number} {2048 * number + 2047}" for number in range(1, 5)),
        *(f"part-set-gpt-guid /dev/sda {number} {guid}{number}" for number in range(1, 5)),
        *(f"part-set-name /dev/sda {number} name{number}" for number in range(1, 5)),
        *(f"part-set-gpt-type /dev/sda {number} {linux}" for number in range(1, 5)),
        *("part-set-gpt-attributes /dev/sda 2 4", "part-set-bootable /dev/sda 3 true", "part-del /dev/sda 4"),
        *("part-init /dev/sdb mbr", "part-add /dev/sdb p 2048 -1", "part-set-mbr-id /dev/sdb 1 0x8e"),
    ]
    looks = (
        "part-list /dev/sda",
        "part-get-gpt-attributes /dev/sda 2",
        "blockdev-getss /dev/sda3",
        "part-list /dev/sdb",
    )
    printed, written = [], []
    for start, words in (("warm", ""), ("cold", "guestlaunch.prepared=0")):
        disks = [disk_image(f"{start}{number}.img", size_mib=16, filesystem=False) for number in range(2)]
        script = [f"set-append {words}"] * bool(words)
        script += [f"add-drive {disk} format:raw" for disk in disks]
        printed.append(guestfish(start, *script, "run", *writes, *looks).splitlines())
        written.append([disk.read_bytes() for disk in disks])
    assert printed[0] == printed[1]
    assert len(printed[0]) > 20
    assert written[0][1][446:512] == written[1][1][446:512]  # before it is a random number
    assert written[0][0] == written[1][0]


# What udev reads of a disk when it is told to look at it, in requests to the host.
READ_BY_UDEV = (
    "/usr/bin/udevadm settle; read a rest </sys/block/sda/stat; "
    "/usr/bin/udevadm trigger --settle --action=change /dev/sda; read b rest </sys/block/sda/stat; echo $((b - a))"
)


def test_udev_asks_for_little(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """It makes out what is on a disk by few requests, and the same as without our library, but for BIOSes' arrays.

    Those guestfsd knows all the same: it asks blkid.
    """
    disk = disk_image(size_mib=64)
    member = disk_image("member.img", size_mib=64, filesystem=False)
    with member.open("r+b") as file:
        file.seek(64 * MIB - 63 * 512)
        file.write(b"Promise Technology, Inc.")
    printed = []
    for start, words in (("warm", ()), ("cold", ("set-append guestlaunch.prepared=0",))):
        script = (
            *words,
            *(f"add-drive {one} readonly:true format:raw" for one in (disk, member)),
            *("run", f'debug sh "{READ_BY_UDEV}"', "list-filesystems", "vfs-type /dev/sdb"),
            'debug sh "grep -h ^E:ID_FS /run/udev/data/b8:0; ls /dev/disk/by-uuid"',
        )
        requests, *others = guestfish(start, *script).split()
        printed.append((int(requests), others))
    assert 3 * printed[0][0] < printed[1][0]
    assert printed[0][1] == printed[1][1]
    assert "promise_fasttrack_raid_member" in printed[0][1]


# The requests that a shell and what it ran have made for something to be read.
READS = "while read -r key value; do case $key in syscr:) echo $value ;; esac; done </proc/$$/io"


def test_parted_asks_for_little(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """It reads what it reads again and again once, and says the same of each partition, as sgdisk does."""
    real = "/usr/lib/guestlaunch/real"
    parted, sgdisk = "parted -m -s -- /dev/sda unit b print", "sgdisk -p -i 3 /dev/sda"
    script = (
        *(f"add-drive {disk_image(size_mib=64, filesystem=False)} format:raw", "run", "part-init /dev/sda gpt"),
        *(f"part-add /dev/sda p {8192 * number} {8192 * number + 8191}" for number in range(1, 13)),
        *("mkfs ext4 /dev/sda1", "mkfs vfat /dev/sda12", "mkswap /dev/sda3"),
        *(f'debug sh "{place}{parted}; {READS}"' for place in ("", f"{real}/")),
        *(f'debug sh "{place}{sgdisk}"' for place in ("", f"{real}/")),
    )
    printed = guestfish("warm", *script)
    tables = re.findall(r"^BYT;\n(.*?)^(\d+)$\n", printed, re.MULTILINE | re.DOTALL)
    (ours, our_reads), (reals, real_reads) = tables
    assert ours == reals
    assert "ext4" in ours
    assert len(ours.splitlines()) == 13
    assert 4 * int(our_reads) < int(real_reads)
    said = printed[printed.rindex(f"{real_reads}\n") + len(real_reads) + 1 :]
    assert "Partition unique GUID" in said
    assert said[: len(said) // 2].strip() == said[len(said) // 2 :].strip()


def test_large_sectors(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """An extended partition, of whose table parted writes more than it has: from its stack, which has room for that."""
    for number in range(3):
        disk = disk_image(f"{number}.img", size_mib=64, filesystem=False)
        script = (
            *(f"add-drive {disk} format:raw blocksize:4096", "run", "part-init /dev/sda mbr"),
            *("part-add /dev/sda p 256 2559", "part-add /dev/sda e 2560 -1", "part-add /dev/sda l 2816 -1"),
            *("part-set-mbr-id /dev/sda 5 0x8e", "part-get-mbr-id /dev/sda 5", "list-partitions"),
        )
        assert guestfish("warm", *script).split() == ["0x8e", "/dev/sda1", "/dev/sda2", "/dev/sda5"]


def test_devices_of_the_users_own(guestfish: Guestfish, disk_image: DiskFactory, template: Path) -> None:
    """A device that was added by `config` is found; what only the host sees goes with any template."""
    script = (
        f"add-drive {disk_image()} readonly:true",
        "config -msg timestamp=on",
        "config -device virtio-balloon-pci,id=balloon",
        "run",
        "list-filesystems",
        'debug sh "cat /sys/bus/pci/devices/0000:00:01.0/device"',
    )
    assert guestfish("warm", *script).split() == ["/dev/sda:", "ext4", "0x1002"]


def test_a_network(guestfish: Guestfish, disk_image: DiskFactory, tmp_path: Path, template: Path) -> None:
    """A tool that asks for a network has libguestfs's, in a clone as in a boot, though no template has any."""
    fetch = tmp_path / "fetch"
    with web_server(b"from the host\n") as port:
        fetch.write_text(fetching(port))
        script = (
            f"add-drive {disk_image()} format:raw",
            "set-network true",
            "run",
            f"debug-upload {fetch} /tmp/fetch 0755",
            'debug sh "bash /tmp/fetch"',
            'debug sh "ip -4 -o address show scope global; ip -4 route; cat /etc/resolv.conf"',
            "list-filesystems",
        )
        # An address that was had by DHCP has so many seconds left.
        cold, warm = (re.sub(r"\b\d+sec\b", "", guestfish(start, *script)) for start in ("cold", "warm"))
    assert warm == cold
    for text in ("from the host", "inet 169.254.2.15/16", "default via 169.254.2.2", "nameserver 169.254.2.3"):
        assert text in warm
    assert "/dev/sda: ext4" in warm


@pytest.mark.timeout(900)
def test_auto_learns(guestlaunch: Guestlaunch, disk_image: DiskFactory, session_dir: Path, evidence: Path) -> None:
    """A launch of a size that has no template boots; the next one like it is cloned, though nobody built anything.

    The template is made when the tool is gone, at idle priority.
    """
    command = ("guestfish", *ACCEL, "--profile", "aarch64-bare", "--start", "auto", "--", "--ro", "-a", disk_image())
    environ = {"GUESTLAUNCH_LEARN": "on", "LIBGUESTFS_MEMSIZE": "600"}
    before = look(session_dir)
    for _ in range(2):
        guestlaunch(*command, "run", environ=environ).ok()
        assert left_behind(session_dir, before, kind="process", within_s=600) == []
    assert [(one["start"], one["memory_mib"]) for one in records(evidence)] == [("cold", 600), ("warm", 600)]
    (built,) = events(evidence, "template_built")
    (listed,) = [one for one in guestlaunch("template", "list", "--json").json() if one["key"] == built["key"]]
    assert (built["learned"], listed["learned"], listed["uses"]) == (True, True, 1)


def test_what_no_template_serves_is_booted(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path, template: Path
) -> None:
    """The launch succeeds cold, and its log says why."""
    script = ["config -device usb-ehci,id=usb", f"add-drive {disk_image()} readonly:true", "run", "list-filesystems"]
    printed = guestlaunch("guestfish", *ACCEL, "--start", "auto", stdin="\n".join(script) + "\n").ok().stdout
    assert printed.endswith("/dev/sda: ext4\n")
    assert records(evidence)[-1]["start"] == "cold"
    (started,) = events(evidence, "launch_started")
    assert "-device usb-ehci" in started["start_reason"]


def test_virtio_disks(guestfish: Guestfish, disk_image: DiskFactory, tmp_path: Path) -> None:
    """Disks of both kinds have the order and the names that a boot gives them, and are written to."""
    if not bus_is_passed_on():
        return
    script = []
    for i, how in enumerate(("iface:virtio", "readonly:true", "iface:virtio readonly:true", "")):
        script.append(f"add-drive {disk_image(f'd{i}', size_mib=10 + i, files={'/n': str(i)})} format:raw {how}")
    script += ["run", *(f"blockdev-getsize64 /dev/sd{letter}" for letter in "abcd")]
    script += [
        "mount /dev/vda /",
        "write /w written",
        "cat /n",
        "echo",
        "umount /",
        "debug sh 'ls /sys/block | grep vd'",
    ]
    sizes = [str((10 + i) * MIB) for i in range(4)]
    assert guestfish("warm", *script).split() == [*sizes, "0", "vda", "vdb"]
    assert b"written" in (tmp_path / "d0").read_bytes()


def test_clones_leave_their_template_as_it_was(guestlaunch: Guestlaunch, template: Path) -> None:
    """After all that was done in clones, each file has its digest; and its memory lies on little disk."""
    (said,) = [one for one in guestlaunch("template", "list", "--json").json() if one["path"] == str(template)]
    (checked,) = guestlaunch("template", "verify", said["key"], "--json").json()
    assert checked["wrong"] is None, json.dumps(checked)


@pytest.mark.parametrize("first", ["json", "data"])
def test_images_that_name_others(
    guestlaunch: Guestlaunch, tmp_path: Path, evidence: Path, template: Path, first: str
) -> None:
    """What images name is found from the tool's directory, in the slot and beside it; untrusted or not."""
    cwd, images = naming_relatively(tmp_path)
    images.sort(key=lambda image: image[1].stem != first)
    for number, policy in enumerate(("trusted", "untrusted")):
        # The second image is only read: libguestfs lays an overlay over it. A serial does not fit the slot.
        lines = [f"add {path} readonly:{str(i == 1).lower()} format:qcow2" for i, (_, path) in enumerate(images)]
        lines[0] += " label:x" if number else ""
        reads = [f"pread-device /dev/sd{letter} 8 0\necho ''" for letter in "abcd"]
        command = ("guestfish", *ACCEL, "--start", "warm", "--image-policy", policy, "--image-roots", tmp_path)
        printed = (
            guestlaunch(*command, stdin="\n".join([*lines, "run", *reads]), cwd=cwd, environ=by_name()).ok().stdout
        )
        assert printed.split("\n")[:4] == [text for text, _ in images]
        assert records(evidence)[-1]["start"] == "warm"
