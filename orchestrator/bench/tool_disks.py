"""The disks on which whole tools are timed: one file system, a Debian-like root in LVM, twelve partitions.

They are made here, from nothing; only LVM takes a guest. What a tool changes is a copy of its own: `tools`.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from orchestrator.bench import disks
from orchestrator.domain.model import Arch
from orchestrator.errors import GuestlaunchError
from orchestrator.values import dataclass
from orchestrator.workload.tools import swept

_FILE_SYSTEM_MIB = 64
_ROOT_MIB = 96
_DATA_MIB = 16
_PARTITIONS = 12
_GUEST_S = 900.0  # it may have to boot, on a busy host
_EMPTY = "0\n"
# Directories, and files in each: what there is to be listed.
_FILES = (10, 20)
# Of a root, to what can run a shell; a loader is named in each program.
_LOADERS = {Arch.AARCH64: "lib/ld-linux-aarch64.so.1", Arch.X86_64: "lib64/ld-linux-x86-64.so.2"}


class DiskLayout(StrEnum):
    """What is on a disk."""

    FILE_SYSTEM = "file-system"
    LVM = "lvm"
    PARTITIONS = "partitions"
    GIVEN = "given"  # a user's own, with an operating system


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDisk:
    """A disk, and what tools have to be told of it.

    :ivar device: what is mounted where there is no operating system that says it.
    :ivar grows: the partition that can be expanded; None where there is none, or it is not known.
    """

    layout: DiskLayout
    path: Path
    device: str | None = None
    grows: str | None = None


def make(layout: DiskLayout, folder: Path, *, arch: Arch, root: Path, environ: Mapping[str, str]) -> ToolDisk:
    """Make a disk of a layout.

    :param root: the appliance's, from which the systems' shell is.
    :param environ: with which guestfish launches, for what takes a guest.
    :raise GuestlaunchError: it cannot be made.
    """
    path = folder / f"{layout}.img"
    if layout is DiskLayout.FILE_SYSTEM:
        disks.truncate(path, _FILE_SYSTEM_MIB)
        with _data(folder) as content:
            disks.fill(path, content, name=str(uuid.uuid4()), mib=_FILE_SYSTEM_MIB)
        return ToolDisk(layout=layout, path=path, device="/dev/sda")
    name = str(uuid.uuid4())
    with disks.system_tree(folder, name) as content:
        _list(content / "srv")
        _add_shell(content, root, arch)
        if layout is DiskLayout.PARTITIONS:
            _partitions(path, folder, content, name)
            return ToolDisk(layout=layout, path=path, grows=f"/dev/sda{_PARTITIONS}")
        _lvm(path, folder, content, name, environ)
    return ToolDisk(layout=layout, path=path, grows="/dev/sda1")


def _partitions(path: Path, folder: Path, content: Path, name: str) -> None:
    sizes = [_ROOT_MIB, *[_DATA_MIB] * (_PARTITIONS - 1)]
    disks.truncate(path, sum(sizes) + 2)  # a table before them, and its copy behind
    starts = [1 + sum(sizes[:number]) for number in range(_PARTITIONS)]
    table = "".join(
        f"start={start}MiB, size={size}MiB, type=linux\n" for start, size in zip(starts, sizes, strict=True)
    )
    disks.partition(path, f"label: gpt\n{table}")
    disks.fill(path, content, name=name, mib=_ROOT_MIB, offset=starts[0] * disks.MIB)
    with _data(folder) as data:
        for start in starts[1:]:
            disks.fill(path, data, name=str(uuid.uuid4()), mib=_DATA_MIB, offset=start * disks.MIB)


def _lvm(path: Path, folder: Path, content: Path, name: str, environ: Mapping[str, str]) -> None:
    """Make a volume group in a guest, and put a file system that is made here into its volume."""
    made = folder / "root.img"
    disks.truncate(made, _ROOT_MIB)
    disks.fill(made, content, name=name, mib=_ROOT_MIB)
    disks.truncate(path, _ROOT_MIB + 32)
    script = (
        "run\npart-disk /dev/sda mbr\npvcreate /dev/sda1\nvgcreate vg /dev/sda1\n"
        f"lvcreate root vg {_ROOT_MIB}\ncopy-device-to-device /dev/sdb /dev/vg/root sparse:true\n"
    )
    try:
        with swept(environ) as variables:
            disks.program(
                "guestfish", "--format=raw", "-a", str(path), "--format=raw", "-a", str(made),
                package="libguestfs-tools", stdin=script, environ=variables, deadline_s=_GUEST_S,
            )  # fmt: skip
    finally:
        made.unlink()


@contextlib.contextmanager
def _data(folder: Path) -> Iterator[Path]:
    """Yield a directory that is no operating system's."""
    with disks.directory(folder) as content:
        (content / "etc").mkdir()
        (content / "etc" / "hostname").write_text("bench\n")
        _list(content)
        yield content


def _list(folder: Path) -> None:
    directories, files = _FILES
    for directory in range(directories):
        made = folder / f"list-{directory}"
        made.mkdir(parents=True)
        for number in range(files):
            (made / f"file-{number}").write_text(_EMPTY)


def _add_shell(content: Path, root: Path, arch: Arch) -> None:
    """Add a shell of the guest's own architecture: by it inspection knows which that is, and commands run in it."""
    libraries, loader = f"usr/lib/{arch}-linux-gnu", _LOADERS[arch]
    taken = {
        "usr/bin/dash": "bin/sh",
        f"{libraries}/libc.so.6": f"lib/{arch}-linux-gnu/libc.so.6",
        f"{libraries}/{Path(loader).name}": loader,
    }
    for source, target in taken.items():
        path = content / target
        path.parent.mkdir(parents=True, exist_ok=True)
        disks.program("debugfs", "-R", f'dump /{source} "{path}"', os.fspath(root), package="e2fsprogs")
        if not path.exists():
            raise GuestlaunchError("cannot make a disk for the benchmark", root, f"it has no /{source}")
        path.chmod(0o755)
