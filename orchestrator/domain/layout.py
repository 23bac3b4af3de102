"""Where each device of a domain sits: PCI slots, controllers and disk addresses, chosen without I/O.

guestfsd numbers disks by `ls -1v /dev/disk/by-path`, so their addresses must ascend in the asked order. All devices
sit on the root bus (2026-11-22): a root port per device, as libvirt would add, makes firmware and kernel scan more
buses.
Turning the addresses into XML or QEMU arguments is left to others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from orchestrator.domain.model import Arch, Disk, DiskBus
from orchestrator.errors import CapabilityError, DiskError
from orchestrator.values import dataclass

# 0x01-0x07 stay free: QEMU puts devices from a user's own -device arguments there, before it sees ours.
DISPLAY_SLOT = 0x01  # of domains with a display, which have no such arguments; firmware looks for it there
USB_SLOT = 0x05
PANIC_SLOT = 0x06  # of kernels that are tried, which have no such arguments
SHARE_SLOT = 0x07
SERIAL_SLOT = 0x08
RNG_SLOT = 0x09
NETWORK_SLOT = 0x0A
SCSI_SLOT = 0x0B  # of the first virtio-scsi controller, which every domain has
_LAST_SLOT = 0x1E  # q35 keeps 0x1f for its own LPC, SATA and SMBus functions
_ROOTS_INDEX = 1  # of the SCSI controller that a template's root may have

TARGETS_PER_SCSI = 256  # virtio-scsi's targets 0-255, one disk each
_PORTS_PER_SATA = 6  # ich9-ahci
_FUNCTIONS = 8
_FIRST_SATA = 1  # libvirt puts SATA controller 0 at q35's fixed place, 0x1f.2, which would sort last


@dataclass(frozen=True, slots=True, kw_only=True)
class PciAddress:
    """A place on the root bus (domain 0, bus 0)."""

    slot: int
    function: int = 0
    multifunction: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """A disk controller: `index` counts those of its bus, as libvirt does."""

    bus: DiskBus
    index: int
    pci: PciAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlace:
    """Where one disk sits: a unit of a controller (SCSI target, SATA port), or a PCI function (virtio-blk)."""

    bus: DiskBus
    controller: int = 0
    unit: int = 0
    pci: PciAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The controllers of a domain, and the place of each disk in the order of the disks."""

    controllers: tuple[Controller, ...]
    places: tuple[DiskPlace, ...]


class _Slots:
    """Hands out PCI slots in ascending order."""

    def __init__(self, first: int) -> None:
        self._next = first

    def take(self, index: int) -> int:
        """Return the next free slot, for the sake of disk number index."""
        if self._next > _LAST_SLOT:
            raise DiskError("too many disks", f"disk {index}", "the PCI root bus is full", "use the scsi bus")
        self._next += 1
        return self._next - 1


def lay_out(disks: tuple[Disk, ...], arch: Arch) -> Layout:
    """Return the layout of disks, whose by-path names sort as the disks stand.

    Disks that follow each other on the same bus share a controller (or a slot's functions) until it is full. A change
    of bus opens a new one, higher up. There is always SCSI controller 0, so that disks can be attached later.

    :raise CapabilityError: a SATA disk for a machine that has no SATA.
    :raise DiskError: more disks than the root bus holds.
    """
    scsi = Controller(bus=DiskBus.SCSI, index=0, pci=PciAddress(slot=SCSI_SLOT))
    controllers = [scsi]
    slots = _Slots(SCSI_SLOT + 1)
    counts = Counter({DiskBus.SCSI: 1, DiskBus.SATA: _FIRST_SATA})
    runs: list[DiskPlace] = []
    for i, disk in enumerate(disks):
        if disk.bus is DiskBus.SATA and arch is not Arch.X86_64:
            hint = "leave iface out, or use iface=virtio"
            raise CapabilityError("cannot attach disk", describe(disk, i), f"{arch} guests have no IDE or SATA", hint)
        place = _beside(runs[-1], disk.bus) if runs else _first_on(scsi, disk.bus)
        if place is None:
            slot = slots.take(i)
            if disk.bus is DiskBus.VIRTIO:
                place = DiskPlace(bus=disk.bus, pci=PciAddress(slot=slot))
            else:
                opened = Controller(bus=disk.bus, index=counts[disk.bus], pci=PciAddress(slot=slot))
                counts[disk.bus] += 1
                controllers.append(opened)
                place = DiskPlace(bus=disk.bus, controller=opened.index)
        runs.append(place)
    return Layout(controllers=tuple(controllers), places=_with_multifunction(runs))


def lay_out_apart(disks: tuple[Disk, ...], arch: Arch) -> Layout:
    """Return the layout of disks of which the last one, an appliance's root, leaves the slots behind others' free.

    It is on a SCSI controller of its own, in the last slot: the kernel finds it after all that stands before it.
    """
    layout = lay_out(disks[:-1], arch)
    own = Controller(bus=DiskBus.SCSI, index=_ROOTS_INDEX, pci=PciAddress(slot=_LAST_SLOT))
    place = DiskPlace(bus=DiskBus.SCSI, controller=own.index)
    return Layout(controllers=(*layout.controllers, own), places=(*layout.places, *((place,) if disks else ())))


def takes_slots(disks: tuple[Disk, ...]) -> bool:
    """Tell whether disks take PCI slots beside the first SCSI controller's: their own, or further controllers'."""
    return any(disk.bus is not DiskBus.SCSI for disk in disks) or len(disks) > TARGETS_PER_SCSI


def lay_out_beside(disks: tuple[Disk, ...], arch: Arch) -> Layout:
    """Return the layout of a tool's disks in a clone, beside what its template has.

    :raise CapabilityError: as `lay_out`; DiskError likewise, or a disk would be where the root's controller is.
    """
    layout = lay_out(disks, arch)
    if not takes_slots(disks):
        return layout
    used = {one.pci.slot for one in layout.controllers} | {one.pci.slot for one in layout.places if one.pci is not None}
    if _LAST_SLOT in used:
        raise DiskError("too many disks", f"{len(disks)} of them", "the template's root stands in the last PCI slot")
    return Layout(
        controllers=tuple(replace(one, index=_beyond_root(one.bus, one.index)) for one in layout.controllers),
        places=tuple(replace(one, controller=_beyond_root(one.bus, one.controller)) for one in layout.places),
    )


def _beyond_root(bus: DiskBus, index: int) -> int:
    """Return the number of a controller where the root's has a number, too."""
    return index + 1 if bus is DiskBus.SCSI and index >= _ROOTS_INDEX else index


def describe(disk: Disk, index: int) -> str:
    """Return how errors name a disk: its number and its path or protocol."""
    where = getattr(disk.source, "path", None) or f"{getattr(disk.source, 'driver', '')} source"
    return f"disk {index} ({where})"


def _first_on(scsi: Controller, bus: DiskBus) -> DiskPlace | None:
    """Return the place of the first disk when the controller that is always there serves it."""
    return DiskPlace(bus=bus, controller=scsi.index) if bus is scsi.bus else None


def _beside(last: DiskPlace, bus: DiskBus) -> DiskPlace | None:
    """Return the place right after last, or None when the bus changes or is full."""
    if bus is not last.bus:
        return None
    if last.pci is not None:
        if last.pci.function + 1 == _FUNCTIONS:
            return None
        return DiskPlace(bus=bus, pci=PciAddress(slot=last.pci.slot, function=last.pci.function + 1))
    limit = TARGETS_PER_SCSI if bus is DiskBus.SCSI else _PORTS_PER_SATA
    if last.unit + 1 == limit:
        return None
    return DiskPlace(bus=bus, controller=last.controller, unit=last.unit + 1)


def _with_multifunction(places: list[DiskPlace]) -> tuple[DiskPlace, ...]:
    """Return places with function 0 marked where its slot has more functions."""
    crowded = {p.pci.slot for p in places if p.pci is not None and p.pci.function > 0}
    return tuple(
        DiskPlace(bus=p.bus, pci=PciAddress(slot=p.pci.slot, multifunction=True))
        if p.pci is not None and p.pci.function == 0 and p.pci.slot in crowded
        else p
        for p in places
    )
