"""Puts the files of a launch in place and describes its domain: directories, overlay, NVRAM copy, secrets, sockets.

All of it belongs to the launch's own `ExitStack`. Nothing is started here.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.channel.console import Console
from orchestrator.channel.control import Control
from orchestrator.channel.port import listening
from orchestrator.channel.ring import ConsoleRing
from orchestrator.domain.model import Disk, Domain, Loader
from orchestrator.domain.passthrough import secrets_of
from orchestrator.domain.policy import appliance_root, design
from orchestrator.firmware.nvram import copy_nvram
from orchestrator.hypervisor import confinement
from orchestrator.hypervisor.handing import chain_of
from orchestrator.launch.boot import needs_trace
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.staging import directory, root_overlay, write_secret
from orchestrator.launch.way import Asked, Claim, Place
from orchestrator.settings import Settings


def make_place(
    settings: Settings, launch_id: str, files: contextlib.ExitStack, claim: Claim, client: tuple[int, int] | None = None
) -> Place:
    """Make the directories of a launch, and listen where its QEMU will connect.

    :param files: takes the ownership of all that is made.
    :param client: descriptors that the console is relayed (from, to).
    :raise GuestlaunchError: something cannot be made.
    """
    made = []
    for parent in (settings.state_dir / "launches", settings.runtime_dir):
        files.enter_context(claim(parent / launch_id))
        made.append(files.enter_context(directory(parent, launch_id)))
    data, sockets = made
    console, control = (files.enter_context(listening(sockets / name)) for name in ("console", "control"))
    ring = ConsoleRing(settings.console_kib * 1024)
    return Place(data=data, sockets=sockets, console=Console(console, ring, client), control=Control(control))


def assemble(plan: Plan, asked: Asked, *, launch_id: str, files: contextlib.ExitStack) -> tuple[Domain, Place]:
    """Make the files of a cold launch and describe its domain.

    :param files: takes the ownership of all that is made.
    :raise GuestlaunchError: something cannot be read, or made.
    """
    if plan.appliance is not None:
        files.enter_context(plan.appliance.hold())
    settings = asked.settings
    place = make_place(settings, launch_id, files, asked.claim, asked.console)
    domain = describe(
        plan,
        asked.request,
        settings,
        place,
        launch_id=launch_id,
        root_name=launch_id,
        loader=make_loader(plan, settings, place.data, files),
        root=make_root(plan, settings, place.data, launch_id),
        disks=plan.disks,
        secret_paths=store_secrets(plan.disks, place.data),
    )
    return domain, place


def store_secrets(disks: tuple[Disk, ...], data: Path) -> tuple[tuple[str, str], ...]:
    """Write the secrets of disks to files of the launch, and return object ids with the files' paths."""
    return tuple((name, str(write_secret(text, data / name))) for name, text in secrets_of(disks))


def describe(
    plan: Plan,
    request: LaunchRequest,
    settings: Settings,
    place: Place,
    *,
    launch_id: str,
    root_name: str | None = None,
    loader: Loader | None,
    root: Disk | None,
    disks: tuple[Disk, ...] = (),
    secret_paths: tuple[tuple[str, str], ...] = (),
) -> Domain:
    """Return the domain that boots for a request, with the files and sockets that were made for it.

    :param root_name: by which the appliance's initrd finds its root; None for its UUID.
    """
    cmdline = request.cmdline
    markers = plan.appliance.markers if plan.appliance is not None else ()
    if markers and root_name is not None:
        cmdline += f" guestlaunch.root={root_name}"
    memory_mib = settings.memory_mib or request.memory_mib or plan.profile.memory_mib
    privileges = confinement.privileges(
        settings.confine,
        settings.connect,
        plan.emulator,
        settings.state_dir / "libvirt" / "cache",
        host_network=_needs_network(request, disks),
        memory_mib=None if request.extra_args else memory_mib,
        disks=len(disks),
    )
    if any(disk.graph is not None for disk in disks) and not confinement.sees_others():
        why = "root has no CAP_SYS_PTRACE here to see what another user's QEMU has opened"
        privileges = confinement.staying_root(privileges, why)
    return design(
        plan.profile,
        name=launch_id,
        uuid=str(uuid.uuid4()),
        emulator=plan.emulator,
        accel=plan.accel,
        host_arch=plan.host_arch,
        kernel=plan.kernel,
        initrd=request.initrd,
        cmdline=cmdline,
        aslr=settings.guest_aslr,
        loader=loader,
        disks=disks,
        root=root,
        memory_mib=memory_mib,
        vcpus=settings.vcpus or request.vcpus,
        cpu=settings.cpu,
        fw_cfg_dma=settings.fw_cfg_dma,
        guestfsd_path=request.guestfsd_path,
        control_path=str(place.sockets / "control"),
        console_path=str(place.sockets / "console"),
        network=request.network,
        trace_path=str(place.data / "trace.log") if needs_trace(measure=settings.measure, markers=markers) else None,
        secret_paths=secret_paths,
        extra_args=request.extra_args,
        run_as=own_user(settings.connect),
        privileges=privileges,
    )


def _needs_network(request: LaunchRequest, disks: tuple[Disk, ...]) -> str | None:
    """Return why a guest's QEMU must have the host's network, None when it needs none."""
    if request.network is not None:
        return "the tool asked for a network"
    if request.extra_args:
        return "QEMU has arguments of the user's own"
    # Images that are not trusted name nothing on the network: their policy sees to that.
    chains = (chain_of(disk) for disk in disks if disk.graph is None)
    return next((chain.obstacle for chain in chains if chain.obstacle), None)


def make_root(plan: Plan, settings: Settings, data: Path, launch_id: str) -> Disk | None:
    """Make the throw-away overlay over the appliance's root, when the appliance is on a disk."""
    if plan.appliance is None:
        return None
    overlay = root_overlay(plan.appliance.root, plan.appliance.root_format, data, settings.state_dir / "cache")
    # The launch's own name: a user's disk may carry a copy of the very file system, UUID and all.
    return appliance_root(str(overlay), name=launch_id)


def make_loader(plan: Plan, settings: Settings, data: Path, files: contextlib.ExitStack) -> Loader | None:
    """Make this launch's own variable store."""
    if plan.firmware is None:
        return None
    nvram = files.enter_context(copy_nvram(plan.firmware.nvram_template, data, cache=settings.state_dir / "cache"))
    return Loader(
        code=plan.firmware.code,
        nvram=str(nvram),
        code_format=plan.firmware.code_format,
        nvram_format=plan.firmware.nvram_format,
    )


def own_user(uri: str | None) -> tuple[int, int] | None:
    """Return the user that QEMU must run as: the system daemon would take one who may not open our files."""
    if uri is None or uri == "qemu:///embed":
        return None
    # To root, libvirt's client gives the system daemon for /session, too.
    system = urlsplit(uri).path == "/system" or os.geteuid() == 0
    return (os.geteuid(), os.getegid()) if system else None
