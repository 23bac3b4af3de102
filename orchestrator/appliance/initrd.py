"""Writes the initrd: a static busybox, the drivers to reach the root, and an /init. Runs nothing of it."""

from __future__ import annotations

import io
import lzma
import os
import re
import stat
import struct
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from orchestrator.appliance.command import require
from orchestrator.appliance.guest_files import INITRD_FILES, INITRD_INIT, guest_file
from orchestrator.errors import ApplianceError

_FILTER_S = 300.0  # of one file; a loaded machine takes a hundred times as long as an idle one

# virtio_net and virtio_blk must be there before guestfsd starts: it looks for disks and networks once.
REQUIRED = (
    "virtio_pci",
    "virtio_console",
    "sd_mod",
    "virtio_scsi",
    "virtio_blk",
    "ext4",
    "virtio_net",
    "virtio_rng",
    "sg",
    "dm_mod",
)
# Where the kernel has them; loading may fail there, harmlessly. Newer ones have ext4's checksum built in.
OPTIONAL = ("crc32c_generic", "virtio_mmio", "crc32c_intel")
# Drivers lie in the first without the signatures that distributions append, and these in the second (2026-11-26):
# the kernel verifies what is signed, whatever it does without. Of the 614 M instructions of an arm64 guest from its
# first driver to guestfsd that was 270 M on Debian 12, and with ECDSA 570 M of 1,070 M on 13.
DRIVERS, SIGNATURES = "modules", "signatures"
_SIGNED = b"~Module signature appended~\n"
APPLETS = ("sh", "hexdump", "insmod", "mount", "reboot", "sleep", "strings", "switch_root")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpioEntry:
    """One member of the archive."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def write_cpio(entries: Iterable[CpioEntry], out: IO[bytes]) -> None:
    """Write a "newc" archive, the one format the kernel unpacks; all of it owned by root, dated 0."""
    for inode, entry in enumerate([*entries, CpioEntry(name="TRAILER!!!", mode=0)], 1):
        name = entry.name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out.write(header + bytes(-len(header) % 4))
        out.write(entry.data + bytes(-len(entry.data) % 4))


def read_cpio(archive: bytes) -> Iterator[CpioEntry]:
    """Yield the members of a "newc" archive, as far as its end.

    :raise ValueError: it is none, or cut off.
    """
    at = 0
    while True:
        header = archive[at : at + 110]
        if len(header) < 110 or header[:6] != b"070701":
            raise ValueError("not a cpio archive, or cut off")
        fields = [int(header[begin : begin + 8], 16) for begin in range(6, 110, 8)]
        mode, size, device, length = fields[1], fields[6], (fields[9], fields[10]), fields[11]
        begin = at + 110 + length
        name = archive[at + 110 : begin - 1].decode("utf-8", "surrogateescape")
        begin += -begin % 4
        if name == "TRAILER!!!":
            return
        if begin + size > len(archive):
            raise ValueError(f"cut off in {name}")
        yield CpioEntry(name=name, mode=mode, data=archive[begin : begin + size], device=device)
        at = begin + size + -(begin + size) % 4


def _canonical(path: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", PurePosixPath(path).name).replace("-", "_")


def module_order(modules: Path, required: Sequence[str], optional: Sequence[str]) -> list[Path]:
    """Return the files of the modules to load, in an order in which each finds what it needs.

    :param modules: `lib/modules/VERSION`, with the index that depmod made.
    :param optional: modules that are left out where the kernel has them not.
    :raise ApplianceError: the kernel has one of the required modules neither built in nor as a file.
    """
    needs: dict[str, tuple[str, list[str]]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[_canonical(path)] = (path, [_canonical(need) for need in rest.split()])
    built_in = {_canonical(line) for line in (modules / "modules.builtin").read_text().splitlines()}
    order: dict[str, Path] = {}

    def add(name: str) -> None:
        if name not in order:
            path, wanted = needs[name]
            for need in reversed(wanted):
                add(need)
            order[name] = modules / path

    must = set(required)
    for name in (*required, *optional):
        if name in needs:
            add(name)
        elif name in must and name not in built_in:
            raise ApplianceError("cannot make the initrd", modules.name, f"the kernel has no module {name}")
    return list(order.values())


def _plain_module(path: Path) -> bytes:
    """Return a module uncompressed: busybox does not unpack it, and the host is faster than the guest."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    return _filtered(["zstd", "-d"], data) if path.suffix == ".zst" else data


def _filtered(command: Sequence[str], data: bytes) -> bytes:
    """Return what a (de)compressor, which is in the package of its name, makes of data.

    :raise ApplianceError: it fails or takes too long.
    """
    program = [require(command[0], command[0]), "-c", *command[1:]]
    try:
        return subprocess.run(program, input=data, capture_output=True, check=True, timeout=_FILTER_S).stdout
    except subprocess.TimeoutExpired as error:
        raise ApplianceError("cannot make the initrd", command[0], f"not done after {_FILTER_S:g} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip() or f"exit status {error.returncode}"
        raise ApplianceError("cannot make the initrd", command[0], said) from error


def split_signature(module: bytes) -> tuple[bytes, bytes]:
    """Return a module and the signature behind it, empty where there is none.

    Its end is a `struct module_signature` (lengths of the signer's name, the key's and the signature) and a word.
    """
    if not module.endswith(_SIGNED):
        return module, b""
    head = len(module) - len(_SIGNED) - 12
    signer, key, signature = struct.unpack_from(">3xBB3xI", module, head)
    begin = head - signer - key - signature
    return module[:begin], module[begin:]


def driver_entries(directory: str, modules: Iterable[Path], signatures: str | None = None) -> Iterator[CpioEntry]:
    """Yield a directory of modules whose names sort in loading order.

    :param signatures: the directory for their signatures, by the same names; None leaves them where they are.
    """
    yield CpioEntry(name=directory, mode=stat.S_IFDIR | 0o755)
    if signatures is not None:
        yield CpioEntry(name=signatures, mode=stat.S_IFDIR | 0o755)
    for number, path in enumerate(modules):
        name, module = f"{number:02}-{_canonical(path.name)}.ko", _plain_module(path)
        if signatures is not None:
            module, signature = split_signature(module)
            yield CpioEntry(name=f"{signatures}/{name}", mode=stat.S_IFREG | 0o644, data=signature)
        yield CpioEntry(name=f"{directory}/{name}", mode=stat.S_IFREG | 0o644, data=module)


def _entries(busybox: Path) -> Iterator[CpioEntry]:
    for name in ("bin", "dev", "proc", "root", "sys"):
        yield CpioEntry(name=name, mode=stat.S_IFDIR | 0o755)
    yield CpioEntry(name="dev/console", mode=stat.S_IFCHR | 0o600, device=(5, 1))
    for name in INITRD_FILES:
        known_as, mode = ("init", 0o755) if name == INITRD_INIT else (name, 0o644)
        yield CpioEntry(name=known_as, mode=stat.S_IFREG | mode, data=guest_file(name))
    yield CpioEntry(name="bin/busybox", mode=stat.S_IFREG | 0o755, data=busybox.read_bytes())
    for applet in APPLETS:
        yield CpioEntry(name=f"bin/{applet}", mode=stat.S_IFLNK | 0o777, data=b"busybox")


def write_initrd(path: Path, busybox: Path, modules: Path) -> list[str]:
    """Write the initrd and return the names of the modules that it loads, in that order.

    It is compressed (2026-11-23), as each byte costs without DMA; and by LZ4 in the kernel's own format (`lz4 -l`), as
    an emulated guest is slow to unpack anything tighter.

    :param busybox: a static busybox of the guest's arch.
    :param modules: `lib/modules/VERSION` of the root directory.
    :raise ApplianceError: a required module is missing.
    """
    order = module_order(modules, REQUIRED, OPTIONAL)
    entries = [*_entries(busybox), *driver_entries(DRIVERS, order, SIGNATURES)]
    archive = io.BytesIO()
    write_cpio(entries, archive)
    with path.open("wb") as out:
        out.write(_filtered(["lz4", "-l", "--best"], archive.getvalue()))
        out.flush()
        os.fsync(out.fileno())
    return [_canonical(module.name) for module in order]
