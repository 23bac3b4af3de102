"""Firmware files as QEMU's flash wants them: a build's own output is smaller than the flash of some machines."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator import files
from orchestrator.domain.model import Arch
from orchestrator.errors import FirmwareError

_CHUNK = 256 * 1024
# QEMU's hw/arm/virt.c: two flash devices of this size each. Those of PCs are as large as their files.
_SIZES = {Arch.AARCH64: 64 << 20}


def fitting(path: str, arch: Arch, cache: Path) -> str:
    """Return a firmware file of the size that the machine's flash has: itself, or a copy that is filled up.

    :param cache: keeps such copies, one for each file as it is now.
    :raise FirmwareError: it is larger than the flash, cannot be read, or there is no room for the copy.
    """
    size = _SIZES.get(arch)
    try:
        status = Path(path).stat()
        if size is None or status.st_size == size:
            return path
        if status.st_size > size:
            why = f"it has {status.st_size} bytes, the flash of {arch} machines {size}"
            raise FirmwareError("cannot use the firmware", path, why)
        copy = cache / f"flash-{_key(status)}.fd"
        if not copy.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with files.written_whole(copy) as out:
                out.write(Path(path).read_bytes())
                out.truncate(size)
    except OSError as error:
        raise FirmwareError("cannot use the firmware", error.filename or path, error.strerror or error) from error
    return os.fspath(copy)


def without_padding(path: str | Path, cache: Path) -> str:
    """Return a copy of a firmware file that ends where nothing but zeros follows.

    :param cache: keeps such copies, one for each file as it is now.
    :raise FirmwareError: it cannot be read, or there is no room for the copy.
    """
    try:
        copy = cache / f"rom-{_key(Path(path).stat())}.fd"
        if not copy.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with files.written_whole(copy) as out:
                with Path(path).open("rb") as file:
                    out.write(file.read(_used(file.fileno())))
                out.flush()
                os.fsync(out.fileno())
    except OSError as error:
        raise FirmwareError("cannot use the firmware", error.filename or path, error.strerror or error) from error
    return os.fspath(copy)


def _used(descriptor: int) -> int:
    """Return how long a file is without the zeros at its end, one of which is left of nothing else."""
    end, zeros = os.fstat(descriptor).st_size, bytes(_CHUNK)
    while end > 0:
        start = max(0, end - _CHUNK)
        data = os.pread(descriptor, end - start, start)
        if data != zeros[: len(data)]:
            return start + len(data.rstrip(b"\0"))
        end = start
    return 1


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
