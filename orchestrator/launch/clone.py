"""Clones of a template: described, restored, given the user's disks, and let through the gate.

What a launch needs of it at once (`warm`), and what waits for a launch (`pool`), is done by the same functions.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace

from orchestrator.domain.cloning import as_clone, as_template, plugs, split_cmdline
from orchestrator.domain.cmdline import fix_cmdline
from orchestrator.domain.model import Arch, Disk, Domain, Loader
from orchestrator.domain.policy import appliance_root
from orchestrator.errors import DiskError, GuestlaunchError, MonitorError
from orchestrator.firmware.nvram import copy_nvram
from orchestrator.hypervisor import migration
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.assembly import describe, make_place, store_secrets
from orchestrator.launch.boot import GUESTFSD_ALIAS
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.staging import root_overlay
from orchestrator.launch.way import Claim, Place
from orchestrator.settings import Settings
from orchestrator.template.model import Template

_SAY_SECONDS = 10.0
_ENTROPY_BYTES = 64


def bare(request: LaunchRequest) -> LaunchRequest:
    """Return the request of a template: one without anything that a clone is given later."""
    return replace(
        request,
        cmdline=split_cmdline(request.cmdline)[0],
        disks=(),
        guestfsd_path=None,
        network=None,
        extra_args=(),
        start_paused=False,
    )


def template_domain(
    plan: Plan, request: LaunchRequest, settings: Settings, place: Place, *, launch_id: str, key: str, ram: str,
    root: str, loader: Loader | None,
) -> Domain:  # fmt: skip
    """Return the domain of a template with this key, or what a clone of it is made from.

    :param root: the overlay of the appliance's root; `ram` the file of the guest's memory.
    """
    # Clones have the root's name from their template, which is what the guest knows it by.
    disk = appliance_root(root, name=f"gl-{key}")
    domain = describe(
        plan, bare(request), settings, place, launch_id=launch_id, root_name=f"gl-{key}", loader=loader, root=disk
    )
    return as_template(domain, ram)


def stage_clone(
    plan: Plan, request: LaunchRequest, settings: Settings, template: Template, *, launch_id: str,
    files: contextlib.ExitStack, claim: Claim, client: tuple[int, int] | None = None,
) -> tuple[Domain, Place]:  # fmt: skip
    """Make the files of a clone and describe its domain.

    :param files: takes the ownership of all that is made, and holds template and appliance.
    :raise GuestlaunchError: something cannot be read, or made.
    """
    if plan.appliance is not None:
        files.enter_context(plan.appliance.hold())
    files.enter_context(template.hold())
    place = make_place(settings, launch_id, files, claim, client)
    loader = None
    if plan.firmware is not None:
        nvram = None
        if plan.profile.arch is not Arch.AARCH64:
            nvram = str(files.enter_context(copy_nvram(template.nvram, place.data)))
        loader = Loader(code=plan.firmware.code, code_format=plan.firmware.code_format, nvram=nvram)
    domain = template_domain(
        plan,
        request,
        settings,
        place,
        launch_id=launch_id,
        key=template.key,
        ram=str(template.ram),
        root=str(root_overlay(template.root, "qcow2", place.data, settings.state_dir / "cache")),
        loader=loader,
    )
    return as_clone(domain, ram=str(template.ram), firmware=str(template.firmware)), place


def restore(guest: Guest, template: Template, place: Place, deadline_s: float) -> None:
    """Load the template's state into a guest that was started for it; it stays paused.

    :raise GuestlaunchError: QEMU refused, gave up, or took too long.
    """
    migration.load(guest, template.state, place.sockets / "state", deadline_s)


def attach(guest: Guest, disks: tuple[Disk, ...], arch: Arch, place: Place) -> None:
    """Plug a tool's disks into a clone, in their order.

    :raise DiskError: QEMU or libvirt refused a disk.
    """
    for disk, plug in zip(disks, plugs(disks, arch, store_secrets(disks, place.data)), strict=True):
        if plug.xml is not None:
            guest.attach_device(plug.xml)
        for command, arguments in plug.commands:
            try:
                answer = guest.qmp(command, arguments)
            except MonitorError as error:
                raise _refused(disk, error.why) from error
            if command == "human-monitor-command" and answer.strip() != "OK":
                raise _refused(disk, answer.strip())


def _refused(disk: Disk, why: object) -> GuestlaunchError:
    where = getattr(disk.source, "path", None) or "a network disk"
    return DiskError("cannot attach the disk", str(where), str(why).strip())


def release(guest: Guest, place: Place, plan: Plan, request: LaunchRequest) -> None:
    """Resume a clone and let it through its gate, with fresh entropy, the host's time, and what its tool asks of /init.

    :raise MonitorError: QEMU cannot connect guestfsd's channel.
    :raise DeadlineError: QEMU does not take what the guest is told.
    """
    guest.resume()
    if request.guestfsd_path is not None:
        # QEMU changes the back end of a port only while the guest runs.
        guest.join_channel(GUESTFSD_ALIAS, request.guestfsd_path)
    cmdline, _ = fix_cmdline(request.cmdline, plan.profile, plan.accel)
    words = (*split_cmdline(cmdline)[1], f"guestlaunch.disks={len(plan.disks)}")
    entropy = os.urandom(_ENTROPY_BYTES).hex()
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    place.control.say(f"open {seconds}.{nanoseconds // 1000:06} {entropy} {' '.join(words)}", _SAY_SECONDS)
