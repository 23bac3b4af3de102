"""One of every kind of storage, made in the appliance by a guestfish script: no test needs root or loop devices.

But partition tables and the encrypted container are made by the host: what takes an emulated guest seconds takes it
none. A guest formats and opens one in tests/functional/test_template.py. What is told to guestfish and how its output
is taken apart is here too. Empty images come from tests/disks.py.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.disks import DiskFactory, encrypted
from tests.hosts import ACCEL
from tests.running import Guestlaunch
from tests.shared import once

PASSPHRASE = "open sesame"
# Name: size in MiB and format, in the order in which they are attached when they are made.
DISKS = {
    "volumes": (256, "qcow2"), "mirror1": (128, "raw"), "mirror2": (128, "raw"), "half1": (64, "raw"),
    "half2": (64, "qcow2"), "btrfs1": (160, "raw"), "btrfs2": (160, "qcow2"), "luks": (64, "raw"),
    "plain": (160, "raw"), "f2fs": (64, "raw"), "xfs": (320, "qcow2"), "boot": (64, "raw"),
}  # fmt: skip
# Partitions by sfdisk on the host, which takes no time; parted and udev need seconds each in an emulated guest.
TABLES = {
    "volumes": """label: gpt
start=2048, size=260096
start=262144
""",
    "plain": """label: gpt
start=2048, size=131072, name=windows, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
start=133120, size=131072
""",
}
# What is no volume, array or the like: kind, and the disk and its partition.
PLAIN = {"ntfs": ("plain", "1"), "vfat": ("plain", "2"), "f2fs": ("f2fs", ""), "xfs": ("xfs", ""), "ext2": ("boot", "")}
# Where a hive's first cell is: in the first page after the head.
_HIVE_FIRST, _HIVE_PAGE = 0x20, 0x1000
OS_FILES = {
    "/etc/debian_version": r"12.0\n",
    "/etc/os-release": r"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n",
    "/etc/fstab": (
        r"/dev/system/root / ext4 defaults 0 1\n/dev/system/swap none swap sw 0 0\n"
        r"LABEL=boot /boot ext2 ro 0 2\n"
    ),
    "/etc/hosts": r"192.0.2.7 storage.example\n",
    "/etc/hostname": r"storage\n",
    "/bin/sh": "",
    "/var/lib/dpkg/status": (
        r"Package: hello\nStatus: install ok installed\nArchitecture: arm64\nVersion: 2.10-3\n"
        r"Description: example package\n\n"
        r"Package: gone\nStatus: deinstall ok config-files\nArchitecture: arm64\nVersion: 1:1.0-1\n"
    ),
}

MAKE_ARRAYS_AND_VOLUMES = """
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The images, closed and at rest. They are shared by all tests of a session: attach them read-only.

    :ivar disks: images by name: those of DISKS, and `squashfs`.
    :ivar hive: a Windows registry hive on the host; `/hive` in the guest that is on `volumes` is the same.
    :ivar hive_root: hivex's handle of its root.
    """

    disks: dict[str, Path]
    hive: Path
    hive_root: int


def commands(*lines: str) -> str:
    """Return guestfish commands as its input."""
    return "\n".join(lines) + "\n"


def writing(device: str, text: str) -> str:
    """Return the commands that leave a word on a file system."""
    return commands(f"mount {device} /", f"write /where {text}", "umount /")


def reading(device: str) -> str:
    """Return the commands that print that word on a line of its own."""
    return commands(f"mount-ro {device} /", "cat /where", 'echo ""', "umount /")


def attached(disks: Iterable[Path]) -> list[str]:
    """Return guestfish's options for these disks in this order: raw ones by name, the format of others is probed."""
    return [
        word for disk in disks for word in ("--format=raw" if disk.suffix == ".img" else "--format", "-a", f"{disk}")
    ]


def device(name: str, order: Iterable[str]) -> str:
    """Return libguestfs's name of the disk that is attached at this place."""
    return f"/dev/sd{chr(ord('a') + list(order).index(name))}"


def split(output: str) -> dict[str, str]:
    """Return what guestfish printed after each of its `echo == name` lines; what came before has the name ""."""
    head, *parts = re.split(r"^== (.*)\n", output, flags=re.MULTILINE)
    return {"": head} | dict(zip(parts[::2], parts[1::2], strict=True))


def make(guestlaunch: Guestlaunch, folder: Path) -> Storage:
    """Make everything in one launch, in a folder of its own, unless another worker of this run has."""
    return _lies_in(once(folder, lambda staging: _fill(guestlaunch, _lies_in(staging))))


def _lies_in(folder: Path) -> Storage:
    """Return the images of a folder."""
    disks = {name: folder / f"{name}.{'img' if kind == 'raw' else kind}" for name, (_, kind) in DISKS.items()}
    return Storage(
        disks=disks | {"squashfs": folder / "squashfs.img"}, hive=folder / "hive", hive_root=_HIVE_PAGE + _HIVE_FIRST
    )


def _fill(guestlaunch: Guestlaunch, storage: Storage) -> None:
    """Make the images."""
    factory = DiskFactory(storage.hive.parent)
    for name, (size, kind) in DISKS.items():
        factory(
            storage.disks[name].name,
            size_mib=size,
            image_format=kind,
            filesystem=False,
            table=TABLES.get(name, ""),
        )
    encrypted(storage.disks["luks"], PASSPHRASE)
    _write_hive(storage.hive)
    how = (*ACCEL, "--profile", "aarch64-bare", "--start", "cold")
    command = ("guestfish", *how, "--", "--keys-from-stdin")
    disks = attached(storage.disks[name] for name in DISKS)
    guestlaunch(*command, *disks, stdin=_script(storage.disks["squashfs"], storage.hive), timeout_s=400).ok()


def _script(squashfs: Path, hive: Path) -> str:
    """Return the commands that make one of everything on the disks, which come in the order of DISKS."""
    lines = [
        MAKE_ARRAYS_AND_VOLUMES.format(passphrase=PASSPHRASE, written_in_luks=writing("/dev/hidden/inner", "luks"))
    ]
    places = {kind: device(disk, DISKS) + partition for kind, (disk, partition) in PLAIN.items()}
    lines += [f"mkfs {kind} {place}" for kind, place in places.items()]
    lines += [writing(place, kind) for kind, place in places.items()]
    lines += [f"set-label {places['ext2']} boot"]
    lines += [writing("/dev/mirrored/data", "mirror"), writing("/dev/md/half", "half")]
    lines += ["mount /dev/sdf /", "write /where btrfs", "btrfs-subvolume-create /sub", "umount /"]
    folders = ("bin", "boot", "etc", "var/lib/dpkg")
    lines += ["mount /dev/system/root /", *(f"mkdir-p /{name}" for name in folders)]
    lines += [f'write {name} "{text}"' for name, text in OS_FILES.items()]
    lines += [f"upload {hive} /hive", f"mksquashfs /etc {squashfs}", "umount-all"]
    return commands("run", *lines)


def _write_hive(path: Path) -> None:
    """Write a Windows registry hive whose root is the only node."""
    first, page_size = _HIVE_FIRST, _HIVE_PAGE
    none, name = 0xFFFFFFFF, b"rootnode"
    node_size = 0x58
    descriptor = first + node_size
    node = struct.pack(
        "<2sHQIIIIIIIIIIIIIIIHH",
        b"nk",
        0x2C,
        0,
        0,
        0,
        0,
        0,
        none,
        none,
        0,
        none,
        descriptor,
        none,
        *[0] * 5,
        len(name),
        0,
    )
    # New nodes share the security descriptor of their parent.
    security = struct.pack("<2sHIIII", b"sk", 0, descriptor, descriptor, 1, 20) + struct.pack(
        "<BBHIIII", 1, 0, 0x8000, 0, 0, 0, 0
    )
    cells = _cell(node + name, node_size) + _cell(security, 0x30)
    rest = page_size - first - len(cells)
    page = struct.pack("<4sIIQQI", b"hbin", 0, page_size, 0, 0, 0) + cells + struct.pack("<i", rest)
    head = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, 0, 1, 3, 0, 1, first, page_size, 1).ljust(0x1FC, b"\0")
    checksum = 0
    for (word,) in struct.iter_unpack("<I", head):
        checksum ^= word
    head += struct.pack("<I", checksum)
    path.write_bytes(head.ljust(page_size, b"\0") + page.ljust(page_size, b"\0"))


def _cell(content: bytes, size: int) -> bytes:
    """Return a cell of a hive that is in use."""
    return (struct.pack("<i", -size) + content).ljust(size, b"\0")
