"""Puts the files of a launch in place and describes its domain: directories, overlay, NVRAM copy, secrets, sockets.

All of it belongs to the launch's own `ExitStack`. Nothing is started here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.channel.port import listening
from orchestrator.domain.model import Disk, Domain, Loader
from orchestrator.domain.passthrough import secrets_of
from orchestrator.domain.policy import appliance_root, design
from orchestrator.firmware.nvram import copy_nvram
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.staging import directory, root_overlay, write_secret
from orchestrator.settings import Settings

Claim = Callable[[Path], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What a launch has once it is staged.

    :ivar data: its directory of files, below the state directory.
    :ivar console: the socket on which QEMU's serial console will connect; `control` likewise, for the control port.
    """

    domain: Domain
    data: Path
    console: socket.socket
    control: socket.socket


def assemble(
    plan: Plan, request: LaunchRequest, settings: Settings, *, launch_id: str, files: contextlib.ExitStack, claim: Claim
) -> Staged:
    """Make a launch's files and describe its domain.

    :param files: takes the ownership of all that is made.
    :param claim: has a path removed if this process dies.
    :raise GuestlaunchError: something cannot be read, or made.
    """
    if plan.appliance is not None:
        files.enter_context(plan.appliance.hold())
    made = []
    for parent in (settings.state_dir / "launches", settings.runtime_dir):
        files.enter_context(claim(parent / launch_id))
        made.append(files.enter_context(directory(parent, launch_id)))
    data, sockets = made
    console, control = (files.enter_context(listening(sockets / name)) for name in ("console", "control"))
    cmdline = request.cmdline
    if plan.appliance is not None and plan.appliance.markers:
        cmdline += f" guestlaunch.root={launch_id}"
    secrets = [(name, str(write_secret(text, data / name))) for name, text in secrets_of(plan.disks)]
    domain = design(
        plan.profile,
        name=launch_id,
        uuid=str(uuid.uuid4()),
        emulator=plan.emulator,
        accel=plan.accel,
        host_arch=plan.host_arch,
        kernel=request.kernel,
        initrd=request.initrd,
        cmdline=cmdline,
        loader=_loader(plan, settings, data, files),
        disks=plan.disks,
        root=_root(plan, settings, data, launch_id),
        memory_mib=settings.memory_mib or request.memory_mib,
        vcpus=settings.vcpus or request.vcpus,
        cpu=settings.cpu,
        fw_cfg_dma=settings.fw_cfg_dma,
        guestfsd_path=request.guestfsd_path,
        control_path=str(sockets / "control"),
        console_path=str(sockets / "console"),
        network=request.network,
        trace_path=str(data / "trace.log") if settings.measure else None,
        secret_paths=tuple(secrets),
        extra_args=request.extra_args,
        run_as=_own_user(settings.connect),
    )
    return Staged(domain=domain, data=data, console=console, control=control)


def _root(plan: Plan, settings: Settings, data: Path, launch_id: str) -> Disk | None:
    """Make the throw-away overlay over the appliance's root, when the appliance is on a disk."""
    if plan.appliance is None:
        return None
    overlay = root_overlay(plan.appliance.root, plan.appliance.root_format, data, settings.state_dir / "cache")
    # The launch's own name: a user's disk may carry a copy of the very file system, UUID and all.
    return appliance_root(str(overlay), name=launch_id)


def _loader(plan: Plan, settings: Settings, data: Path, files: contextlib.ExitStack) -> Loader | None:
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


def _own_user(uri: str | None) -> tuple[int, int] | None:
    """Return the user that QEMU must run as: the system daemon would take one who may not open our files."""
    if uri is None or uri == "qemu:///embed":
        return None
    # To root, libvirt's client gives the system daemon for /session, too.
    system = urlsplit(uri).path == "/system" or os.geteuid() == 0
    return (os.geteuid(), os.getegid()) if system else None
