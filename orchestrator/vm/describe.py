"""A VM's domain: planned by the policy of a user's own domains, with its disk, variables, ports and our note."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.domain.model import Backing, Channel, Disk, DiskBus, Domain, FileSource
from orchestrator.domain.policy import CONTROL_CHANNEL
from orchestrator.settings import Settings
from orchestrator.vm.folder import DISK, NVRAM, SEED
from orchestrator.vm.image import VmImage
from orchestrator.vm.note import VmNote
from orchestrator.vm.request import VmRequest
from orchestrator.workload.user_domain import BootSource, Wish, plan_domain

AGENT_CHANNEL = "org.qemu.guest_agent.0"
AGENT_ALIAS = "channel1"  # libvirt's name for the second of the channels below
MEMORY_MIB = 2048  # no profile, which is an appliance's, has enough for any system


def describe(request: VmRequest, image: VmImage, note: VmNote, settings: Settings) -> Domain:
    """Return the domain, for a folder that has its files.

    :param settings: with the profile of the image's architecture.
    :raise GuestlaunchError: the host lacks what is needed.
    """
    folder = Path(note.folder)
    settings = replace(settings, memory_mib=request.memory_mib or MEMORY_MIB, vcpus=request.vcpus or settings.vcpus)
    planned = plan_domain(Wish(name=request.name, boot=BootSource.DISK, disks=(folder / DISK,)), settings)
    assert planned.loader is not None  # the profile is one with UEFI
    backing = None if request.copy else Backing(path=str(image.path), format=image.format)
    disks = [
        Disk(
            source=FileSource(path=str(folder / DISK)), format="qcow2", described=True, bus=DiskBus.VIRTIO,
            backing=backing, boot_order=1,
        )
    ]  # fmt: skip
    if SEED in note.files.split():
        seed = FileSource(path=str(folder / SEED))
        disks.append(Disk(source=seed, format="raw", bus=DiskBus.VIRTIO, readonly=True))
    return replace(
        planned,
        disks=tuple(disks),
        loader=replace(planned.loader, nvram=str(folder / NVRAM), template=None),
        channels=tuple(Channel(name=name, path=None, kept=True) for name in (CONTROL_CHANNEL, AGENT_CHANNEL)),
        interface=request.interface(),
        metadata=note.metadata(),
    )
