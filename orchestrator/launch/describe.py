"""Describes the domain of a launch, from what was planned and the files and sockets made for it. Makes nothing."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from urllib.parse import urlsplit

from orchestrator.domain.cloning import as_clone, as_template, network_words
from orchestrator.domain.model import Disk, Domain, Loader, Privileges, Rom
from orchestrator.domain.policy import BootFiles, Machine, Ports, appliance_root, design
from orchestrator.hypervisor import confinement
from orchestrator.launch.context import LaunchSpec, Place
from orchestrator.launch.request import LaunchRequest
from orchestrator.template.model import Template


def describe(
    spec: LaunchSpec,
    place: Place,
    *,
    loader: Loader | None,
    rom: Rom | None = None,
    root: Disk | None,
    secret_paths: tuple[tuple[str, str], ...] = (),
    verbatim: bool = False,
) -> Domain:
    """Return the domain that boots for a launch.

    :param root: the appliance's; one that has a name is found by it, by the appliance's initrd.
    :param verbatim: the kernel's command line is the user's own, and stays as it is.
    """
    plan, request, settings = spec.plan, spec.request, spec.settings
    cmdline = request.cmdline
    if spec.markers and root is not None and root.alias is not None:
        cmdline = " ".join((cmdline, f"guestlaunch.root={place.launch_id}", *network_words(request.network)))
    domain = design(
        place.launch_id,
        str(uuid.uuid4()),
        Machine(
            profile=plan.profile,
            emulator=plan.emulator,
            accel=plan.accel,
            host_arch=plan.host_arch,
            memory_mib=spec.memory_mib,
            vcpus=spec.vcpus,
            cpu=settings.cpu,
            fw_cfg_dma=settings.fw_cfg_dma,
        ),
        BootFiles(
            kernel=plan.kernel,
            initrd=request.initrd,
            cmdline=cmdline,
            verbatim=verbatim,
            aslr=settings.guest_aslr,
            loader=loader,
            rom=rom,
            disks=plan.disks,
            root=root,
        ),
        Ports(
            guestfsd_path=request.guestfsd_path,
            control_path=str(place.sockets / "control"),
            console_path=str(place.sockets / "console"),
        ),
    )
    return replace(
        domain,
        network=request.network,
        trace_path=str(place.trace) if spec.traced else None,
        secret_paths=secret_paths,
        extra_args=request.extra_args,
        run_as=own_user(settings.connect),
        privileges=_privileges(spec),
    )


def describe_template(
    spec: LaunchSpec, place: Place, *, ram: str, root: str, loader: Loader | None, attached: bool = False
) -> Domain:
    """Return the domain of a template, or what a clone of it is made from.

    :param root: the overlay of the appliance's root; `ram` the file of the guest's memory.
    :param attached: it is for a clone, whose QEMU may have a network, and arguments of the user's own.
    """
    # There is no other disk that the initrd could take for the root: finding it by UUID is safe.
    bare = spec.without_tool(attached=attached)
    return as_template(describe(bare, place, loader=loader, root=appliance_root(root)), ram, slots=spec.slots)


def describe_clone(spec: LaunchSpec, place: Place, template: Template, *, root: str, loader: Loader | None) -> Domain:
    """Return the domain of a clone.

    :param root: its overlay of the template's root.
    """
    ram, firmware = str(template.ram), str(template.firmware)
    domain = describe_template(spec, place, ram=ram, root=root, loader=loader, attached=True)
    return as_clone(
        domain,
        ram=ram,
        firmware=firmware,
        network=spec.request.network,
        disks=spec.plan.disks,
        extra_args=spec.request.extra_args,
    )


def _privileges(spec: LaunchSpec) -> Privileges | None:
    """Return what QEMU may still do once it has opened the files it was started with."""
    plan, request, settings = spec.plan, spec.request, spec.settings
    if not confinement.applies(settings.connect):
        return None
    privileges = confinement.privileges(
        settings.confine,
        settings.connect,
        plan.emulator,
        settings.state_dir / "libvirt" / "cache",
        host_network=_needs_network(request, plan.disks),
        memory_mib=None if request.extra_args else spec.memory_mib,
        disks=len(plan.disks),
    )
    if any(disk.graph is not None for disk in plan.disks) and (why := confinement.unseen()):
        privileges = confinement.staying_root(privileges, why)
    return privileges


def _needs_network(request: LaunchRequest, disks: tuple[Disk, ...]) -> str | None:
    """Return why a guest's QEMU must have the host's network, None when it needs none."""
    if request.network is not None:
        return "the tool asked for a network"
    if request.extra_args:
        return "QEMU has arguments of the user's own"
    from orchestrator.hypervisor.handing import chain_of  # here: only QEMUs that we confine are asked about

    # Untrusted images name nothing on the network: their policy sees to that.
    chains = (chain_of(disk) for disk in disks if disk.graph is None)
    return next((chain.obstacle for chain in chains if chain.obstacle), None)


def own_user(uri: str | None) -> tuple[int, int] | None:
    """Return the user that QEMU must run as: the system daemon would take one who may not open our files."""
    if uri is None or uri == "qemu:///embed":
        return None
    # To root, libvirt's client gives the system daemon for /session, too.
    system = urlsplit(uri).path == "/system" or os.geteuid() == 0
    return (os.geteuid(), os.getegid()) if system else None
