"""The launch request: what a client asks for, as values that travel as JSON. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.domain.model import Disk, Network
from orchestrator.values import dataclass

_LIBGUESTFS_FOLDER = re.compile(r"libguestfs[A-Za-z0-9]{6}")
_LIBGUESTFS_VARIABLES = re.compile(r"vars\d+\.fd")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One launch, as the hv wrapper or a command of ours asks for it.

    Paths are absolute. `None` means: not asked for, the profile or the settings decide.

    :ivar cwd: the client's working directory, in which QEMU would look for relative names inside images.
    :ivar kernel: guest kernel; `initrd` and `root` (fixed appliance's root image) likewise.
    :ivar cmdline: kernel command line, complete.
    :ivar disks: in guest order, the appliance's root not among them.
    :ivar guestfsd_path: unix socket on which libguestfs waits for guestfsd.
    :ivar accel: "kvm", "tcg", or None if the client does not care.
    :ivar pflash: (code, vars) when the client named UEFI firmware itself.
    :ivar console: True when the client's stdin/stdout carry the serial console.
    :ivar extra_args: the user's own QEMU arguments (`guestfs_config`), verbatim.
    :ivar start_paused: `-S` was asked for (libguestfs's gdb setting).
    :ivar slots: of a launch without its disks: these took slots of the PCI bus.
    """

    kernel: str
    initrd: str
    cmdline: str
    root: str | None = None
    disks: tuple[Disk, ...] = ()
    guestfsd_path: str | None = None
    memory_mib: int | None = None
    vcpus: int | None = None
    accel: str | None = None
    pflash: tuple[str, str] | None = None
    network: Network | None = None
    console: bool = True
    extra_args: tuple[str, ...] = ()
    start_paused: bool = False
    cwd: str = "/"
    slots: bool = False


def from_json(values: Mapping[str, Any]) -> LaunchRequest:
    """Return a request without disks and network from its fields as JSON values.

    :raise TypeError: they are not a request's.
    """
    pflash = values.get("pflash")
    lists = {
        "disks": (),
        "extra_args": tuple(values.get("extra_args", ())),
        "pflash": tuple(pflash) if pflash else None,
    }
    return LaunchRequest(**{**values, **lists})


def in_libguestfs_folder(path: Path) -> bool:
    """Tell whether a file lies in a folder named as libguestfs names its own (lib/tmpdirs.c); people may do so, too."""
    return path.is_absolute() and _LIBGUESTFS_FOLDER.fullmatch(path.parent.name) is not None


def is_libguestfs_variables(path: Path) -> bool:
    """Tell whether a file is named as libguestfs names its copy of UEFI variables (lib/appliance-uefi.c)."""
    return in_libguestfs_folder(path) and _LIBGUESTFS_VARIABLES.fullmatch(path.name) is not None
