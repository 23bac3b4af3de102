"""Finds a kernel's modules: those that reach the host from the guest, in the order in which they are loaded.

A distribution's kernel has the drivers of virtio-serial as modules. They are taken from a directory, as depmod left
it, or out of an appliance of ours whose kernel is of the same version.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator import scratch
from orchestrator.appliance.command import require
from orchestrator.appliance.initrd import CpioEntry, driver_entries, module_order
from orchestrator.appliance.model import Appliance
from orchestrator.errors import ApplianceError, UsageError
from orchestrator.kernel.share import ShareBy

# What is always of use; what a kernel does not have as a module, it has built in, or not at all.
ALWAYS = ("virtio_pci", "virtio_mmio", "virtio_console", "virtio_rng", "pvpanic_pci")
FOR_DISKS = ("sd_mod", "virtio_scsi", "ext4")
FOR_SHARE = {ShareBy.P9: ("9p", "9pnet_virtio"), ShareBy.VIRTIOFS: ("virtiofs",)}
FOR_FW_CFG = ("qemu_fw_cfg",)
FOR_CREDENTIALS = ("dmi_sysfs",)
_INDEX = ("modules.dep", "modules.builtin")
_DEBUGFS_S = 60.0


def wanted(
    *, disks: bool = False, share: ShareBy | None = None, fw_cfg: bool = False, credentials: bool = False
) -> tuple[str, ...]:
    """Return the names of the modules that a run needs."""
    more = ((disks, FOR_DISKS), (fw_cfg, FOR_FW_CFG), (credentials, FOR_CREDENTIALS))
    sharing = FOR_SHARE[share] if share is not None else ()
    return (*ALWAYS, *sharing, *(name for needed, names in more if needed for name in names))


def module_entries(
    given: Path | None, kernel: Path, version: str | None, appliance: Appliance | None, names: Sequence[str]
) -> list[CpioEntry]:
    """Return the modules of a kernel as members of an initrd; none where there are none to be found.

    :param given: the directory that the user named.
    :param appliance: the current one of the guest's arch, if any.
    :raise UsageError: there are no modules in the directory that the user named.
    :raise ApplianceError: they cannot be read.
    """
    folder = _folder(given, kernel, version)
    if folder is not None:
        return _entries(folder, names)
    if version is None or appliance is None or appliance.manifest is None or appliance.manifest.kernel != version:
        return []
    with _from_root(appliance.root, version, names) as folder:
        return _entries(folder, names)


def lacks_driver(given: Path | None, kernel: Path, version: str | None, way: ShareBy) -> bool:
    """Tell whether a kernel is known to have no driver for a way of sharing: its modules are at hand, and none of them.

    :raise UsageError: there are no modules in the directory that the user named.
    """
    folder = _folder(given, kernel, version)
    if folder is None:
        return False
    with contextlib.suppress(OSError):
        has = {
            line.partition(":")[0].rpartition("/")[2].partition(".")[0]
            for name in _INDEX
            for line in (folder / name).read_text().splitlines()
        }
        return FOR_SHARE[way][0] not in has
    return False


def _folder(given: Path | None, kernel: Path, version: str | None) -> Path | None:
    """Return the directory of the modules, `.../lib/modules/VERSION`, or None."""
    if given is not None:
        places = [given, *([given / "lib/modules" / version, given / version] if version else [])]
        found = next((place for place in places if (place / _INDEX[0]).is_file()), None)
        if found is None:
            why = f"no {_INDEX[0]} in it, nor in its lib/modules/{version or 'VERSION'}"
            raise UsageError("cannot find the kernel's modules", given, why, "depmod makes that file")
        return found
    if version is None:
        return None
    near = kernel.resolve().parent
    tops = (near, near.parent, Path("/"), Path("/usr"))
    places = [top / "lib/modules" / version for top in tops]
    return next((place for place in places if (place / _INDEX[0]).is_file()), None)


def _entries(folder: Path, names: Sequence[str]) -> list[CpioEntry]:
    try:
        if not (folder / _INDEX[1]).exists():
            raise ApplianceError("cannot use the kernel's modules", folder, f"no {_INDEX[1]}", "install them whole")
        return list(driver_entries("guestlaunch/modules", module_order(folder, (), names)))
    except OSError as error:
        raise ApplianceError("cannot read the kernel's modules", error.filename or folder, error.strerror) from error


@contextlib.contextmanager
def _from_root(root: Path, version: str, names: Sequence[str]) -> Iterator[Path]:
    """Take what is needed out of an appliance's file system, into a directory that is gone afterwards."""
    home = f"/usr/lib/modules/{version}"
    with scratch.folder() as folder:
        _dump(root, [(f"{home}/{name}", folder / name) for name in _INDEX])
        wanted_files = module_order(folder, (), names)
        for path in wanted_files:
            path.parent.mkdir(parents=True, exist_ok=True)
        _dump(root, [(f"{home}/{path.relative_to(folder)}", path) for path in wanted_files])
        yield folder


def _dump(root: Path, pairs: Sequence[tuple[str, Path]]) -> None:
    """Copy files out of an ext file system that is not mounted.

    :raise ApplianceError: one of them is not there.
    """
    if not pairs:
        return
    program = require("debugfs", "e2fsprogs", what="cannot take modules out of the appliance")
    commands = "".join(f"dump {source} {target}\n" for source, target in pairs)
    try:
        answer = subprocess.run(
            [program, "-f", "-", str(root)], input=commands, capture_output=True, text=True, timeout=_DEBUGFS_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ApplianceError("cannot read the appliance's root", root, f"not done after {_DEBUGFS_S:g} s") from error
    for source, target in pairs:
        if not target.is_file():
            said = answer.stderr.strip().splitlines()
            raise ApplianceError("cannot read the appliance's root", source, said[-1] if said else "not there")
