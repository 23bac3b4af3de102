"""Makes the disks of benchmarks, with the host's own tools: a file system, or a small operating system to be found.

No guest, no root, no loop device. The same disk serves every side of a benchmark.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import CapabilityError, WorkloadError

_MIB = 1 << 20
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
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
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
    _truncate(path, _DISK_MIB)
    _run(_program("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", str(path))


def operating_system(path: Path) -> None:
    """Make a disk that looks like an installed Debian: a partition with what inspection knows a Debian by.

    :raise CapabilityError: without sfdisk or mke2fs.
    """
    name = str(uuid.uuid4())
    _truncate(path, _OS_DISK_MIB)
    _run(_program("sfdisk", "fdisk"), "--quiet", str(path), stdin="label: dos\nstart=1MiB, type=83, bootable\n")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        content = Path(folder)
        for directory in _DIRECTORIES:
            (content / directory).mkdir(parents=True)
        for file, text in _FILES.items():
            (content / file).parent.mkdir(parents=True, exist_ok=True)
            (content / file).write_text(text.replace("{uuid}", name), encoding="utf-8")
        _run(
            _program("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-U", name, "-d", folder,
            "-E", f"offset={_MIB},root_owner=0:0", str(path), f"{_OS_DISK_MIB - 1}M",
        )  # fmt: skip


def _truncate(path: Path, mib: int) -> None:
    with path.open("wb") as file:
        file.truncate(mib * _MIB)


def _program(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=_SBIN)
    if found is None:
        hint = f"install {package}, or name a --disk"
        raise CapabilityError("cannot make a disk for the benchmark", name, "not found", hint)
    return found


def _run(*command: str, stdin: str = "") -> None:
    try:
        done = subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=_PROGRAM_S, check=False)
    except subprocess.TimeoutExpired as error:
        why = f"not done after {_PROGRAM_S:g} s"
        raise WorkloadError("cannot make a disk for the benchmark", Path(command[0]).name, why) from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        why = said[-1] if said else f"exit status {done.returncode}"
        raise WorkloadError("cannot make a disk for the benchmark", Path(command[0]).name, why)
