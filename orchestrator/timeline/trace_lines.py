"""The lines of QEMU's log trace back end: their prefix, and what a fw_cfg key stands for.

Fixed keys are those of QEMU's include/standard-headers/linux/qemu_fw_cfg.h. The others belong to named files: QEMU
inserts each into a directory, and a file's key is 0x20 and its place there. From 10.0 on, QEMU on PCs names the kernel
there, too, and firmware that knows it reads that file alone (hw/i386/x86-common.c; edk2's QemuKernelLoaderFsDxe).
"""

from __future__ import annotations

from enum import StrEnum, auto

# Thread and wall clock, as with `-msg timestamp=on`: `1383@1795347152.761005:`. Groups: seconds, microseconds.
PREFIX = rb"^\d+@(\d{1,12})\.(\d{6}):"
# `fw_cfg_select 0x55af29530040 key 0x0011 'kernel_data', ret: 1`
SELECT = rb"fw_cfg_select 0x[0-9a-f]+ key 0x([0-9a-f]{1,4}) "
# `fw_cfg_add_file 0x55af29530040 #5: etc/boot/kernel (8210432 bytes)`
ADD_FILE = rb"fw_cfg_add_file 0x[0-9a-f]+ #(\d{1,5}): (.{1,56}) \(\d+ bytes\)$"

_FIRST_FILE_KEY = 0x20
_MOST_FILES = 0x4000 - _FIRST_FILE_KEY


class Blob(StrEnum):
    """What firmware loads from fw_cfg to boot it."""

    KERNEL = auto()
    INITRD = auto()
    SHIM = auto()


_FIXED = {0x11: Blob.KERNEL, 0x12: Blob.INITRD}
_NAMED = {b"etc/boot/kernel": Blob.KERNEL, b"etc/boot/initrd": Blob.INITRD, b"etc/boot/shim": Blob.SHIM}


class Directory:
    """The fw_cfg files of one QEMU, in the order of their keys."""

    def __init__(self) -> None:
        self._names: list[bytes] = []
        self._whole = True

    def add(self, index: int, name: bytes) -> None:
        """Insert a file, as QEMU did. One that does not follow from those before it makes all places unknown."""
        self._whole = self._whole and index <= len(self._names) < _MOST_FILES
        if self._whole:
            self._names.insert(index, name)

    def blob(self, key: int) -> Blob | None:
        """Return what a key stands for now, None for all that is not loaded to be booted."""
        index = key - _FIRST_FILE_KEY
        if index < 0:
            return _FIXED.get(key)
        return _NAMED.get(self._names[index]) if self._whole and index < len(self._names) else None


def wall_ns(seconds: bytes, micros: bytes) -> int:
    """Return a prefix's time stamp in wall-clock nanoseconds."""
    return int(seconds) * 10**9 + int(micros) * 1000
