"""A tree that installs in seconds: the appliance's kernel, and an initrd that writes a disk and a boot entry.

What it writes boots by that entry alone: there is nothing on the disk that firmware would find by itself. The installer
does as the file /answers says, if one was injected.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.appliance.initrd import CpioEntry, write_cpio
from orchestrator.appliance.store import resolve
from orchestrator.domain.model import Arch
from orchestrator.kernel.builtin import busybox
from orchestrator.kernel.modules import module_entries
from tests.disks import MIB, host
from tests.unified import stub_of, unify

GLOBALS = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_SECTOR = 512
_FOLDER = 0x10
_MODULES = ("virtio_pci", "virtio_console", "virtio_scsi", "virtio_blk", "sd_mod", "efivarfs")
_FIRST = 2048
_PARTITION = uuid.UUID("6b1e0b5c-6f3c-4a5e-9a0d-1f2e3d4c5b6a")
_BASE = (
    "#!/bin/busybox sh\n/bin/busybox --install -s /bin; export PATH=/bin\n"
    "mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev\n"
    "for module in /modules/*; do insmod $module 2>/dev/null; done\n"
)
_INSTALLER = (
    "write=yes record=0\n[ ! -e /answers ] || . /answers\n"
    "until [ -b /dev/sda ]; do sleep 0.05; done\n"
    "[ -z $write ] || dd if=/payload of=/dev/sda bs=1M conv=fsync 2>/dev/null\n"
    "mount -t efivarfs e /sys/firmware/efi/efivars\n"
    f"cat /entry >/sys/firmware/efi/efivars/Boot0007-{GLOBALS}\n"
    f"cat /order >/sys/firmware/efi/efivars/BootOrder-{GLOBALS}\n"
    "echo installed\n[ -z $record ] || sh /guestlaunch/record $record\npoweroff -f\n"
)
_SYSTEM = (
    "until [ -c /dev/vport0p1 ] || [ -c /dev/vport1p1 ]; do sleep 0.05; done\n"
    "for port in /dev/vport?p1; do exec 9<>$port; done\n"
    'printf "\\nguest login: "; read -r answer <&9; echo $answer; poweroff -f\n'
)


def make_tree(folder: Path, store: Path, arch: Arch = Arch.AARCH64) -> Path:
    """Make the tree, with checksums.

    :param store: where the appliances are.
    """
    made = resolve(store, arch)
    assert made.manifest is not None
    modules = module_entries(None, made.kernel, made.manifest.kernel, made, _MODULES)
    folder.mkdir()
    program = busybox(arch, made)
    payload = folder / "payload"
    (entry,) = make_disk(payload, store, arch, _SYSTEM)
    images = folder / "images" / "pxeboot"
    images.mkdir(parents=True)
    shutil.copyfile(made.kernel, images / "vmlinuz")
    extra = [
        CpioEntry(name="payload", mode=0o100644, data=payload.read_bytes()),
        CpioEntry(name="entry", mode=0o100644, data=struct.pack("<I", 7) + entry),
        CpioEntry(name="order", mode=0o100644, data=struct.pack("<IH", 7, 7)),
    ]
    _initrd(images / "initrd.img", program, modules, _INSTALLER, extra)
    payload.unlink()
    lines = ["[general]", f"arch = {arch}", "family = Tiny", "version = 1", f"[images-{arch}]"]
    lines += ["kernel = images/pxeboot/vmlinuz", "initrd = images/pxeboot/initrd.img", "[checksums]"]
    for path in sorted(images.iterdir()):
        lines.append(f"images/pxeboot/{path.name} = sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
    (folder / ".treeinfo").write_text("\n".join([*lines, ""]))
    return folder


def make_disk(
    path: Path, store: Path, arch: Arch = Arch.AARCH64, script: str = _SYSTEM, cmdlines: Sequence[str] = ("",)
) -> list[bytes]:
    """Make a disk that boots by a boot entry alone; returns one for each command line that is added.

    :param script: what the system does.
    """
    made = resolve(store, arch)
    assert made.manifest is not None
    modules = module_entries(None, made.kernel, made.manifest.kernel, made, _MODULES)
    system = _initrd(path.with_suffix(".initrd"), busybox(arch, made), modules, script, [])
    console = {Arch.AARCH64: "ttyAMA0", Arch.X86_64: "ttyS0"}[arch]
    make_esp_disk(path, {"LINUX": made.kernel.read_bytes(), "INITRD": system.read_bytes()})
    system.unlink()
    sectors = path.stat().st_size // _SECTOR - 2 * _FIRST
    return [_boot_entry(sectors, f"initrd=\\initrd console={console} panic=-1 {more}".strip()) for more in cmdlines]


def make_removable_disk(path: Path, store: Path, arch: Arch, script: str) -> Path:
    """Make a disk that any firmware boots: a unified kernel image where it looks by itself."""
    made = resolve(store, arch)
    assert made.manifest is not None
    stub = stub_of(arch)
    if not stub.exists():
        pytest.skip("systemd-boot-efi is not installed")
    modules = module_entries(None, made.kernel, made.manifest.kernel, made, _MODULES)
    system = _initrd(path.with_suffix(".initrd"), busybox(arch, made), modules, script, [])
    console, name = {Arch.AARCH64: ("ttyAMA0", "BOOTAA64"), Arch.X86_64: ("ttyS0", "BOOTX64 ")}[arch]
    sections = {
        ".cmdline": f"console={console} panic=-1 no_timer_check".encode(),
        ".linux": made.kernel.read_bytes(),
        ".initrd": system.read_bytes(),
    }
    system.unlink()
    return make_esp_disk(path, {f"EFI/BOOT/{name}EFI": unify(stub.read_bytes(), sections)})


def _initrd(path: Path, program: bytes, modules: Sequence[CpioEntry], script: str, extra: Sequence[CpioEntry]) -> Path:
    folders = ("bin", "dev", "modules", "proc", "sys")
    entries = [
        *(CpioEntry(name=name, mode=0o40755) for name in folders),
        CpioEntry(name="dev/console", mode=0o20600, device=(5, 1)),
        CpioEntry(name="bin/busybox", mode=0o100755, data=program),
        CpioEntry(name="init", mode=0o100755, data=(_BASE + script).encode()),
        *(
            CpioEntry(name=entry.name.removeprefix("guestlaunch/"), mode=entry.mode, data=entry.data)
            for entry in modules
        ),
        *extra,
    ]
    with path.open("wb") as out:
        write_cpio(entries, out)
    return path


def make_esp_disk(path: Path, files: dict[str, bytes]) -> Path:
    """Make a GPT disk, whose one partition is a FAT file system with these files."""
    size_mib = sum(map(len, files.values())) // MIB + 8
    with path.open("wb") as disk:
        disk.truncate((size_mib + 2) * MIB)
    table = f"label: gpt\nstart={_FIRST}, size={size_mib * MIB // _SECTOR}, type=uefi, uuid={_PARTITION}\n"
    host("/usr/sbin/sfdisk", "--quiet", path, stdin=table)
    with path.open("r+b") as disk:
        disk.seek(_FIRST * _SECTOR)
        disk.write(_fat(size_mib * MIB // _SECTOR, files))
    return path


def _fat(sectors: int, files: dict[str, bytes]) -> bytes:
    """Return a FAT16 file system, as far as there is anything in it; a name's extension begins at its ninth byte."""
    per_cluster, reserved, roots = 4, 1, 512
    per_fat = (sectors // per_cluster + 2) * 2 // _SECTOR + 1
    boot = struct.pack(
        "<3s8sHBHBHHBHHHII", b"\xeb\x3c\x90", b"MSDOS5.0", _SECTOR, per_cluster, reserved, 1, roots,
        0, 0xF8, per_fat, 32, 64, _FIRST, sectors,
    )  # fmt: skip
    boot += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 1, b"NO NAME    ", b"FAT16   ")
    boot = boot.ljust(510, b"\0") + b"\x55\xaa"
    table, folders, data = [0xFFF8, 0xFFFF], {"": b""}, {}
    size = per_cluster * _SECTOR

    def add(path: str, attributes: int, content: bytes) -> int:
        first, count = len(table), max(1, -(-len(content) // size))
        table.extend([*range(first + 1, first + count), 0xFFFF])
        folder, _, name = path.rpartition("/")
        length = 0 if attributes == _FOLDER else len(content)
        folders[folder] += struct.pack("<11sB14xHI", name.encode().ljust(11), attributes, first, length)
        data[path] = content.ljust(count * size, b"\0")
        return first

    numbers = {"": 0}
    for name, content in files.items():
        parts = name.split("/")[:-1]
        for depth in range(len(parts)):
            above, folder = "/".join(parts[:depth]), "/".join(parts[: depth + 1])
            if folder not in folders:
                numbers[folder] = add(folder, _FOLDER, b"")
                own = ((b".", numbers[folder]), (b"..", numbers[above]))
                folders[folder] = b"".join(struct.pack("<11sB14xHI", n.ljust(11), _FOLDER, at, 0) for n, at in own)
        add(name, 0x20, content)
    fat = struct.pack(f"<{len(table)}H", *table).ljust(per_fat * _SECTOR, b"\0")
    blocks = b"".join(folders[path].ljust(size, b"\0") if path in folders else block for path, block in data.items())
    return boot + fat + folders[""].ljust(roots * 32, b"\0") + blocks


def _boot_entry(sectors: int, cmdline: str) -> bytes:
    """Return an EFI_LOAD_OPTION (UEFI 2.10, 3.1.3): the kernel on the partition, by its GUID, and its command line."""
    path = "\\linux\0".encode("utf-16-le")
    nodes = struct.pack("<BBHIQQ16sBB", 4, 1, 42, 1, _FIRST, sectors, _PARTITION.bytes_le, 2, 2)
    nodes += struct.pack("<BBH", 4, 4, 4 + len(path)) + path + b"\x7f\xff\x04\x00"
    return struct.pack("<IH", 1, len(nodes)) + "Tiny\0".encode("utf-16-le") + nodes + f"{cmdline}\0".encode("utf-16-le")
