"""A VM's domain: planned by the policy of a user's own domains, with its disk, variables, ports and our note."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.domain.model import Backing, Channel, Disk, DiskBus, Domain, Graphics
from orchestrator.domain.policy import CONTROL_CHANNEL
from orchestrator.settings import Settings
from orchestrator.vm.home import Home
from orchestrator.vm.image import VmImage
from orchestrator.vm.note import VmNote
from orchestrator.vm.request import VmRequest
from orchestrator.workload.user_domain import BootSource, Wish, plan_domain

AGENT_CHANNEL = "org.qemu.guest_agent.0"
AGENT_ALIAS = "channel1"  # libvirt's name for the second of the channels below
MEMORY_MIB = 2048  # no profile, which is an appliance's, has enough for any system


def describe(request: VmRequest, image: VmImage, note: VmNote, home: Home, settings: Settings) -> Domain:
    """Return the domain, whose files may have to be made yet.

    :param settings: with the profile of the image's architecture.
    :raise GuestlaunchError: the host lacks what is needed.
    """
    settings = replace(settings, memory_mib=request.memory_mib or MEMORY_MIB, vcpus=request.vcpus or settings.vcpus)
    backing = None if request.copy else Backing(path=str(image.path), format=image.format, pooled=bool(home.pool))
    disks = [
        Disk(
            source=home.source(home.disk), format="qcow2", described=True, bus=DiskBus.VIRTIO,
            backing=backing, boot_order=1,
        )
    ]  # fmt: skip
    if home.seed in note.files.split():
        disks.append(Disk(source=home.source(home.seed), format="raw", bus=DiskBus.VIRTIO, readonly=True))
    planned = plan_domain(Wish(name=request.name, boot=BootSource.DISK), settings, tuple(disks))
    return replace(
        home.described(planned),
        channels=tuple(Channel(name=name, path=None, kept=True) for name in (CONTROL_CHANNEL, AGENT_CHANNEL)),
        interface=request.interface(),
        graphics=None if request.graphics is None else Graphics(kind=request.graphics),
        metadata=note.metadata(),
    )
