"""Addresses: by-path names must sort as the disks stand, whatever their buses and however many."""

from __future__ import annotations

import itertools
import re

import pytest

from orchestrator.domain.layout import SCSI_SLOT, Layout, lay_out
from orchestrator.domain.model import Arch, Disk, DiskBus, FileSource
from orchestrator.errors import CapabilityError, DiskError

SCSI, VIRTIO, SATA = DiskBus.SCSI, DiskBus.VIRTIO, DiskBus.SATA


def disks(*buses: DiskBus) -> tuple[Disk, ...]:
    """Return one disk a bus."""
    return tuple(Disk(source=FileSource(path=f"/d{i}"), bus=bus) for i, bus in enumerate(buses))


def by_path(layout: Layout) -> list[str]:
    """Return the names that udev gives the disks (without its deprecated second names)."""
    slots = {(c.bus, c.index): c.pci for c in layout.controllers}
    names = []
    for place in layout.places:
        pci = place.pci or slots[place.bus, place.controller]
        name = f"pci-0000:00:{pci.slot:02x}.{pci.function}"
        tail = {SCSI: f"-scsi-0:0:{place.unit}:0", SATA: f"-ata-{place.unit + 1}.0", VIRTIO: ""}
        names.append(name + tail[place.bus])
    return names


def version_key(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts as `ls -v` does for these names: digits as numbers, the rest as text."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]


@pytest.mark.parametrize("count", [1, 2, 26, 27, 100, 255, 256, 257, 600])
def test_many_scsi_disks(count: int) -> None:
    """One controller takes 256 targets; then the next, higher up."""
    layout = lay_out(disks(*[SCSI] * count), Arch.AARCH64)
    names = by_path(layout)
    assert len(set(names)) == count
    assert names == sorted(names, key=version_key)
    assert len(layout.controllers) == (count + 255) // 256


@pytest.mark.parametrize("buses", list(itertools.product([SCSI, VIRTIO, SATA], repeat=4)))
def test_any_mixture_sorts(buses: tuple[DiskBus, ...]) -> None:
    """Every sequence of buses keeps its order, each disk at a place of its own bus."""
    layout = lay_out(disks(*buses), Arch.X86_64)
    names = by_path(layout)
    assert len(set(names)) == len(buses)
    assert names == sorted(names, key=version_key)
    assert [place.bus for place in layout.places] == list(buses)
    slots = [c.pci.slot for c in layout.controllers]
    assert len(set(slots)) == len(slots)


def test_virtio_disks_share_slots() -> None:
    """Eight functions a slot, function 0 saying so; a disk alone in its slot does not."""
    places = lay_out(disks(*[VIRTIO] * 9), Arch.AARCH64).places
    found = [(p.pci.slot - SCSI_SLOT, p.pci.function, p.pci.multifunction) for p in places if p.pci is not None]
    assert found == [(1, 0, True), *[(1, i, False) for i in range(1, 8)], (2, 0, False)]


def test_sata_controllers_have_six_ports() -> None:
    """The seventh SATA disk opens a second controller; controller 0 is never used."""
    layout = lay_out(disks(*[SATA] * 7), Arch.X86_64)
    assert [(p.controller, p.unit) for p in layout.places] == [(1, i) for i in range(6)] + [(2, 0)]


def test_there_is_always_a_scsi_controller() -> None:
    """Disks can be attached later to a domain that started without."""
    for some in ((), disks(VIRTIO)):
        first = lay_out(some, Arch.AARCH64).controllers[0]
        assert (first.bus, first.index, first.pci.slot) == (SCSI, 0, SCSI_SLOT)


def test_no_sata_on_aarch64() -> None:
    """The error names the disk."""
    with pytest.raises(CapabilityError, match=r"disk 1 \(/d1\): aarch64 guests have no IDE or SATA"):
        lay_out(disks(SCSI, SATA), Arch.AARCH64)


def test_full_bus() -> None:
    """Too many virtio disks are an error that names the first without a place."""
    lay_out(disks(*[VIRTIO] * 152), Arch.AARCH64)
    with pytest.raises(DiskError, match="too many disks: disk 152"):
        lay_out(disks(*[VIRTIO] * 153), Arch.AARCH64)
