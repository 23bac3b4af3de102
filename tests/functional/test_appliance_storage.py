"""What the appliance can do: every kind of storage is made in one launch and found in the next, as stock would."""

from __future__ import annotations

import ast
import http.server
import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.disks import MIB, DiskFactory
from tests.running import Guestlaunch

TCG = ("--accel", "tcg")
PASSPHRASE = "open sesame"
DISKS = {
    "volumes": 256, "mirror1": 128, "mirror2": 128, "half1": 64, "half2": 64,
    "btrfs1": 160, "btrfs2": 160, "luks": 64, "plain": 1024,
}  # fmt: skip
PLAIN = {"1": "ntfs", "2": "f2fs", "3": "vfat", "4": "xfs", "5": "ext2"}  # partitions of the disk `plain`
OS_FILES = {
    "/etc/debian_version": r"12.0\n",
    "/etc/fstab": r"/dev/system/root / ext4 defaults 0 1\n/dev/system/swap none swap sw 0 0\n",
    "/etc/hosts": r"192.0.2.7 storage.example\n",
    "/etc/hostname": r"storage\n",
    "/bin/sh": "",
}

MAKE_ARRAYS_AND_VOLUMES = """
part-init /dev/sda gpt
part-add /dev/sda p 2048 262143
part-add /dev/sda p 262144 -2048
pvcreate /dev/sda1
pvcreate /dev/sda2
vgcreate system "/dev/sda1 /dev/sda2"
lvcreate root system 128
lvcreate swap system 32
mkfs ext4 /dev/system/root
mkswap /dev/system/swap
md-create mirror "/dev/sdb /dev/sdc" level:raid1
pvcreate /dev/md/mirror
vgcreate mirrored /dev/md/mirror
lvcreate data mirrored 64
mkfs ext4 /dev/mirrored/data
md-create half "/dev/sdd /dev/sde" level:raid1
mkfs ext4 /dev/md/half
mkfs-btrfs "/dev/sdf /dev/sdg" datatype:raid1 metadata:raid1
luks-format /dev/sdh 0
{passphrase}
cryptsetup-open /dev/sdh opened
{passphrase}
pvcreate /dev/mapper/opened
vgcreate hidden /dev/mapper/opened
lvcreate inner hidden 16
mkfs ext4 /dev/hidden/inner
{written_in_luks}
vg-activate false hidden
cryptsetup-close /dev/mapper/opened
"""

FIND = """
echo == filesystems
list-filesystems
echo == arrays
list-md-devices
debug sh "ls /dev/md"
echo == volumes
pvs
lvs
echo == btrfs
btrfs-filesystem-show /dev/sdb
echo == luks
cryptsetup-open /dev/sdd opened
{passphrase}
lvs
list-dm-devices
{read_in_luks}
echo == contents
{contents}
echo == inspection
inspect-os
inspect-get-distro /dev/system/root
inspect-get-hostname /dev/system/root
inspect-get-mountpoints /dev/system/root
mount-ro /dev/system/root /
aug-init / 0
aug-get /files/etc/hosts/1/canonical
aug-close
hivex-open /hive
hivex-node-name {hive_root}
hivex-close
umount-all
echo == squashfs
mount-ro /dev/sdi /
cat /hosts
umount-all
"""


def commands(*lines: str) -> str:
    """Return guestfish commands as its input."""
    return "\n".join(lines) + "\n"


def writing(device: str, text: str) -> str:
    """Return the commands that leave a word on a file system."""
    return commands(f"mount {device} /", f"write /where {text}", "umount /")


def reading(device: str) -> str:
    """Return the commands that print that word on a line of its own."""
    return commands(f"mount-ro {device} /", "cat /where", 'echo ""', "umount /")


def make(squashfs: Path, hive: Path) -> str:
    """Return the commands that make one of everything on the disks, which come in the order of DISKS."""
    lines = [
        MAKE_ARRAYS_AND_VOLUMES.format(passphrase=PASSPHRASE, written_in_luks=writing("/dev/hidden/inner", "luks"))
    ]
    lines.append("part-init /dev/sdi gpt")
    lines += [f"part-add /dev/sdi p {at} {at + 131071}" for at in (2048, 133120, 264192)]
    lines += ["part-add /dev/sdi p 395264 1443839", "part-add /dev/sdi p 1443840 1574911"]
    lines += [f"mkfs {kind} /dev/sdi{number}" for number, kind in PLAIN.items()]
    lines += [writing(f"/dev/sdi{number}", kind) for number, kind in PLAIN.items()]
    lines += [writing("/dev/mirrored/data", "mirror"), writing("/dev/md/half", "half")]
    lines += ["mount /dev/sdf /", "write /where btrfs", "btrfs-subvolume-create /sub", "umount /"]
    lines += ["mount /dev/system/root /", *(f"mkdir-p /{name}" for name in ("bin", "boot", "etc", "var"))]
    lines += [f'write {name} "{text}"' for name, text in OS_FILES.items()]
    lines += [f"upload {hive} /hive", f"mksquashfs /etc {squashfs}", "umount-all"]
    return commands("run", *lines)


def write_hive(path: Path) -> int:
    """Write a Windows registry hive whose root is the only node, and return hivex's handle of that."""
    name, offset = b"rootnode", 0x20
    node = struct.pack("<2sHQIIIIIIIIIIIIIIIHH", b"nk", 0x2C, 0, 0, 0, 0, 0, *[0xFFFFFFFF] * 2, 0,
                       *[0xFFFFFFFF] * 3, *[0] * 5, len(name), 0) + name  # fmt: skip
    size = -(-(len(node) + 4) // 8) * 8
    cell = struct.pack("<i", -size) + node.ljust(size - 4, b"\0")
    rest = 0x1000 - offset - size
    page = struct.pack("<4sIIQQI", b"hbin", 0, 0x1000, 0, 0, 0) + cell + struct.pack("<i", rest)
    head = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, 0, 1, 3, 0, 1, offset, 0x1000, 1).ljust(0x1FC, b"\0")
    checksum = 0
    for (word,) in struct.iter_unpack("<I", head):
        checksum ^= word
    path.write_bytes((head + struct.pack("<I", checksum)).ljust(0x1000, b"\0") + page.ljust(0x1000, b"\0"))
    return 0x1000 + offset


@contextmanager
def web_server(answer: bytes) -> Iterator[int]:
    """Serve one answer on a port of the loopback interface, which slirp's gateway address leads to."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def sections(output: str) -> dict[str, list[str]]:
    """Split what guestfish printed at its `echo == name` lines; empty lines are left out."""
    parts = re.split(r"^== (.*)\n", output, flags=re.MULTILINE)[1:]
    return {name: [line for line in text.splitlines() if line] for name, text in zip(*[iter(parts)] * 2, strict=True)}


@pytest.mark.timeout(900)
def test_storage_is_found_again(guestlaunch: Guestlaunch, disk_image: DiskFactory, tmp_path: Path) -> None:
    """LVM, MD, btrfs of two disks, LUKS, ntfs, f2fs and all: activated at start, named and readable in a new order."""
    disks = {name: disk_image(f"{name}.img", size_mib=size, filesystem=False) for name, size in DISKS.items()}
    hive_root = write_hive(tmp_path / "hive")
    added = [word for disk in disks.values() for word in ("-a", disk)]
    making = make(tmp_path / "squashfs.img", tmp_path / "hive")
    command = ("guestfish", *TCG, "--", "--keys-from-stdin", "--format=raw")
    guestlaunch(*command, *added, stdin=making, timeout_s=400).ok()

    disks["squashfs"] = tmp_path / "squashfs.img"
    order = ("plain", "btrfs2", "mirror2", "luks", "volumes", "mirror1", "half2", "btrfs1", "squashfs")
    added = [word for name in order for word in ("-a", disks[name])]
    places = ["/dev/mirrored/data", "/dev/sdb", *(f"/dev/sda{number}" for number in PLAIN)]
    finding = FIND.format(
        passphrase=PASSPHRASE,
        read_in_luks=reading("/dev/hidden/inner"),
        contents="".join(map(reading, places)),
        hive_root=hive_root,
    )
    result = guestlaunch(*command, "--ro", *added, stdin=commands("run", finding), timeout_s=400).ok()
    found = sections(result.stdout)
    assert found["filesystems"] == [
        *("/dev/sdb: btrfs", "btrfsvol:/dev/sdb/sub: btrfs", "/dev/sdh: btrfs", "btrfsvol:/dev/sdh/sub: btrfs"),
        "/dev/sdi: squashfs",
        *(f"/dev/sda{number}: {kind}" for number, kind in PLAIN.items()),
        "/dev/mirrored/data: ext4",
        "/dev/system/root: ext4",
        "/dev/system/swap: swap",
    ]  # fmt: skip
    assert found["arrays"] == ["/dev/md127", "mirror"]
    outer = ["/dev/mirrored/data", "/dev/system/root", "/dev/system/swap"]
    assert found["volumes"] == ["/dev/md127", "/dev/sde1", "/dev/sde2", *outer]
    assert sorted(found["btrfs"]) == ["/dev/sdb", "/dev/sdh"]
    assert found["luks"] == ["/dev/hidden/inner", *outer, "/dev/mapper/opened", "luks"]
    assert found["contents"] == ["mirror", "btrfs", *PLAIN.values()]
    assert found["inspection"] == [
        *("/dev/system/root", "debian", "storage", "/: /dev/system/root", "storage.example", "rootnode")
    ]
    assert found["squashfs"] == ["192.0.2.7 storage.example"]


def test_surroundings_of_the_daemon(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """What guestfsd and its programs rely on: network and DNS, machine-id, /dev/fd, links, time-outs, virtio disks."""
    disk = disk_image("first.img")
    virtio = disk_image("second.img", size_mib=32, filesystem=False)
    with web_server(b"from the host\n") as port:
        script = commands(
            f"add-drive {disk} readonly:true format:raw",
            f"add-drive {virtio} readonly:true format:raw iface:virtio",
            "set-network true",
            "run",
            "blockdev-getsize64 /dev/sdb",
            f'debug sh "curl --silent --show-error --max-time 30 http://169.254.2.2:{port}/"',
            'debug sh "cat /etc/resolv.conf"',
            'debug sh "cat /etc/machine-id /etc/machine-id | tr -d 0-9a-f | wc -c; wc -c </etc/machine-id"',
            'debug sh "echo through | cat /dev/fd/0; ls -d /dev/vda"',
            'debug sh "readlink /var/run /var/lock; sort -u /sys/block/sd*/device/timeout"',
        )
        lines = guestlaunch("guestfish", *TCG, stdin=script).ok().stdout.split()
    assert lines == [
        str(32 * MIB), "from", "the", "host", "nameserver", "169.254.2.3", "2", "33", "through", "/dev/vda",
        "../run", "../run/lock", "300",
    ]  # fmt: skip


def groups(guestlaunch: Guestlaunch, *command: str, environ: dict[str, str]) -> set[str]:
    """Return the feature groups that an appliance has."""
    code = (
        "import guestfs\n"
        "g = guestfs.GuestFS(python_return_dict=True)\n"
        "g.add_drive_scratch(1 << 20)\n"
        "g.launch()\n"
        "print([name for name in g.available_all_groups() if g.feature_available([name])])\n"
    )
    run = guestlaunch.run(*command, "/usr/bin/python3", "-c", code, environ=environ, timeout_s=400)
    return set(ast.literal_eval(run.ok().stdout))


@pytest.mark.timeout(900)
def test_feature_groups_are_those_of_stock(guestlaunch: Guestlaunch) -> None:
    """Stock's appliance on this host has no feature that ours lacks, but for what Debian makes for x86 alone.

    Ours has more where the host does without libguestfs's feature packages (libguestfs-xfs, libguestfs-rsync).
    """
    if not any(os.access(kernel, os.R_OK) for kernel in Path("/boot").glob("vmlinu*")):
        pytest.skip("stock libguestfs needs a readable kernel in /boot")
    direct = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    stock = groups(guestlaunch, environ=direct)
    assert {"lvm2", "mdadm", "ldm", "luks", "btrfs", "ntfs3g", "f2fs", "squashfs", "augeas", "hivex"} <= stock
    host = os.uname().machine
    profiles = {"x86_64": "x86_64-seabios", "aarch64": "aarch64-uefi"}
    for arch, profile in profiles.items():
        ours = groups(guestlaunch, "guestlaunch", "exec", *TCG, "--profile", profile, "--", environ={})
        bootloaders = {"extlinux", "syslinux"} if arch != host else set()
        assert stock - ours <= bootloaders, arch
        assert ours - stock <= {"rsync", "xfs"} | bootloaders, arch
        assert {"rsync", "xfs"} <= ours, arch
