"""An appliance as a value: the files that are booted, and what is known of them. Reads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator import locks
from orchestrator.appliance.manifest import Init, Manifest
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError
from orchestrator.values import dataclass

FILES = ("kernel", "initrd", "root")
VMLINUX = "vmlinux"  # the kernel unpacked, where QEMU can start that


@dataclass(frozen=True, slots=True, kw_only=True)
class Appliance:
    """A libguestfs fixed appliance. Paths are absolute.

    :ivar path: its directory, what LIBGUESTFS_PATH names.
    :ivar root_format: "raw" or "qcow2".
    :ivar root_uuid: UUID of the root's ext file system, None where it cannot be read (qcow2).
    :ivar vmlinux: the kernel unpacked, None where there is none.
    :ivar manifest: None for an appliance that guestlaunch did not build.
    :ivar markers: events that its guest tells the host of; none where its initrd is not ours, which alone understands
        `guestlaunch.root=`.
    """

    path: Path
    arch: Arch
    kernel: Path
    initrd: Path
    root: Path
    root_format: str
    root_uuid: str | None
    manifest: Manifest | None
    markers: frozenset[str]
    vmlinux: Path | None = None

    @property
    def init(self) -> Init | None:
        """Whose init it has, None where that is not known."""
        return None if self.manifest is None else self.manifest.init

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the appliance from being removed while it is in use. Foreign appliances need no hold.

        :raise ApplianceError: it has been removed meanwhile.
        """
        if self.manifest is None:
            yield
            return
        with locks.locked(self.path, exclusive=False) as lock:
            if not lock:
                hint = "guestlaunch appliance build makes a new one"
                raise ApplianceError("cannot use the appliance", self.path, "it has just been removed", hint)
            yield
