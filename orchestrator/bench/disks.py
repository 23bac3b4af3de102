"""Makes the disks of benchmarks, with the host's own tools: a file system, or a small operating system to be found.

No guest, no root, no loop device. The same disk serves every side of a benchmark.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.errors import CapabilityError, WorkloadError

MIB = 1 << 20
_DISK_MIB = 64
_OS_DISK_MIB = 256
_PROGRAM_S = 60.0
_SBIN = "/usr/sbin:/sbin"

# What inspection looks at in a Debian: where things are mounted, what it is, how packages are installed.
_DIRECTORIES = ("bin", "boot", "dev", "home", "lib", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "var/log")
_FILES: Mapping[str, str] = {
    "etc/os-release": (
        'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
        'VERSION="12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\n'
    ),
    "etc/debian_version": "12.5\n",
    "etc/hostname": "bench\n",
    "etc/fstab": "UUID={uuid} / ext4 errors=remount-ro 0 1\nproc /proc proc defaults 0 0\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/group": "root:x:0:\n",
    "etc/apt/sources.list": "deb http://deb.debian.org/debian bookworm main\n",
    "var/lib/dpkg/status": (
        "Package: base-files\nStatus: install ok installed\nPriority: required\nSection: admin\n"
        "Architecture: amd64\nVersion: 12.4+deb12u5\nDescription: Debian base system miscellaneous files\n\n"
    ),
}


def file_system(path: Path) -> None:
    """Make a disk that is one ext4 file system.

    :raise CapabilityError: without mke2fs.
    """
    truncate(path, _DISK_MIB)
    program("mke2fs", "-q", "-F", "-t", "ext4", str(path), package="e2fsprogs")


def operating_system(path: Path) -> None:
    """Make a disk that looks like an installed Debian: a partition with what inspection knows a Debian by.

    :raise CapabilityError: without sfdisk or mke2fs.
    """
    name = str(uuid.uuid4())
    truncate(path, _OS_DISK_MIB)
    partition(path, "label: dos\nstart=1MiB, type=83, bootable\n")
    with system_tree(path.parent, name) as content:
        fill(path, content, name=name, mib=_OS_DISK_MIB - 1, offset=MIB)


@contextlib.contextmanager
def directory(folder: Path) -> Iterator[Path]:
    """Yield a new directory in another, which is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        yield Path(made)


@contextlib.contextmanager
def system_tree(folder: Path, name: str) -> Iterator[Path]:
    """Yield a directory with what inspection looks at in a Debian, whose root is the file system of a UUID."""
    with directory(folder) as content:
        for directory_name in _DIRECTORIES:
            (content / directory_name).mkdir(parents=True)
        for file, text in _FILES.items():
            (content / file).parent.mkdir(parents=True, exist_ok=True)
            (content / file).write_text(text.replace("{uuid}", name), encoding="utf-8")
        yield content


def fill(path: Path, content: Path, *, name: str, mib: int, offset: int = 0) -> None:
    """Make an ext4 file system with a directory's content in an image, from an offset in bytes on.

    :param name: its UUID.
    :raise CapabilityError: without mke2fs.
    """
    program(
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-U", name, "-d", str(content),
        "-E", f"offset={offset},root_owner=0:0", str(path), f"{mib}M", package="e2fsprogs",
    )  # fmt: skip


def partition(path: Path, script: str) -> None:
    """Write a partition table, as a script for sfdisk describes it.

    :raise CapabilityError: without sfdisk.
    """
    program("sfdisk", "--quiet", str(path), package="fdisk", stdin=script)


def truncate(path: Path, mib: int) -> None:
    """Make an empty image of a size."""
    with path.open("wb") as file:
        file.truncate(mib * MIB)


def program(
    name: str, *arguments: str, package: str, stdin: str = "", environ: Mapping[str, str] | None = None,
    deadline_s: float | None = None,
) -> None:  # fmt: skip
    """Run a program that makes a disk, or a part of one.

    :param environ: its own; None for ours.
    :raise CapabilityError: it is not there.
    :raise WorkloadError: it fails, or takes too long.
    """
    found = shutil.which(name) or shutil.which(name, path=_SBIN)
    if found is None:
        hint = f"install {package}, or name a --disk"
        raise CapabilityError("cannot make a disk for the benchmark", name, "not found", hint)
    command, deadline_s = (found, *arguments), deadline_s or _PROGRAM_S
    try:
        done = subprocess.run(
            command, input=stdin, env=environ, text=True, capture_output=True, timeout=deadline_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        why = f"not done after {deadline_s:g} s"
        raise WorkloadError("cannot make a disk for the benchmark", name, why) from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        why = said[-1] if said else f"exit status {done.returncode}"
        raise WorkloadError("cannot make a disk for the benchmark", name, why)
