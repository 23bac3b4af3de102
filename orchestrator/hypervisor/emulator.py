"""Finds the QEMU program for a guest arch, and its version. Which options it gets is decided elsewhere."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError

_BIN_DIRS = ("/usr/bin", "/usr/local/bin")
# Red Hat's one QEMU, for the host's own arch.
_NATIVE_ONLY = "/usr/libexec/qemu-kvm"
_ANSWER_S = 20


def host_arch() -> Arch | None:
    """Return the arch of this host, or None when it is one that no profile knows."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine(), platform.machine())
    return Arch(machine) if machine in set(Arch) else None


def find_emulator(arch: Arch, *, native: Arch | None = None) -> str:
    """Return the absolute path of the QEMU that emulates arch.

    :param native: the host's arch; found out when None.
    :raise CapabilityError: there is none; names the package to install.
    """
    name = f"qemu-system-{arch}"
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(_BIN_DIRS))
    if found:
        return str(Path(found).absolute())
    if arch == (native or host_arch()) and os.access(_NATIVE_ONLY, os.X_OK):
        return _NATIVE_ONLY
    from orchestrator.distributions import QEMU, hint  # here: no launch that works needs it

    raise CapabilityError("no QEMU for guests of arch", arch, f"{name} is not there", hint(QEMU[arch]))


def emulator_version(emulator: str) -> str:
    """Return the version of a QEMU program ("7.2.22"); asked once for each state of its file.

    :raise CapabilityError: it cannot be run or does not say.
    """
    try:
        status = Path(emulator).stat()
    except OSError as error:
        raise CapabilityError("cannot run QEMU", emulator, error.strerror or error) from error
    return _version(emulator, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _version(emulator: str, _inode: int, _size: int, _mtime_ns: int) -> str:
    try:
        done = subprocess.run(
            [emulator, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CapabilityError("cannot run QEMU", emulator, error) from error
    found = re.search(rb"version (\d+(?:\.\d+)+)", done.stdout)
    if done.returncode or not found:
        why = done.stderr.decode("utf-8", "replace").strip() or f"exit status {done.returncode}, no version"
        raise CapabilityError("cannot run QEMU", emulator, why)
    return found.group(1).decode()
