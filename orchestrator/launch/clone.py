"""Clones of a template: their files, their domain, their state. What the host says to them is in `gate`.

A clone for a launch (`warm`) and one that waits for a launch (`standby`) are made by the same functions.
"""

from __future__ import annotations

import contextlib

from orchestrator.domain.model import Arch, Domain, Loader
from orchestrator.errors import GuestlaunchError
from orchestrator.firmware.nvram import copy_nvram
from orchestrator.hypervisor import migration
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place
from orchestrator.launch.describe import describe_clone
from orchestrator.launch.staging import make_place, root_overlay
from orchestrator.template.model import Template
from orchestrator.values import dataclass

_END_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Clone:
    """A restored clone, and the owner of all that is its own.

    :ivar handed_over: somebody else ends its guest.
    """

    template: Template
    domain: Domain
    place: Place
    connection: Connection
    guest: Guest
    files: contextlib.ExitStack
    handed_over: bool = False

    def hand_over(self) -> Guest:
        """Return the guest, which the caller must end from now on; the clone keeps the files."""
        self.handed_over = True
        return self.guest

    def close(self) -> None:
        """End it and remove what it owns. Nothing that it holds is worth writing back."""
        if not self.handed_over:
            self.guest.kill()
            with contextlib.suppress(GuestlaunchError):
                self.guest.remove(_END_SECONDS)
        self.files.close()


def stage_clone(
    spec: LaunchSpec, context: LaunchContext, template: Template, owner: contextlib.ExitStack
) -> tuple[Domain, Place]:
    """Make the files of a clone and describe its domain.

    :param owner: owns all that is made, and keeps template and appliance from being removed.
    :raise GuestlaunchError: something cannot be read, or made.
    """
    plan, settings = spec.plan, spec.settings
    if plan.appliance is not None:
        owner.enter_context(plan.appliance.hold())
    owner.enter_context(template.hold())
    place = make_place(settings, context, owner)
    loader = None
    if plan.firmware is not None:
        nvram = None
        if plan.profile.arch is not Arch.AARCH64:
            nvram = str(owner.enter_context(copy_nvram(template.nvram, place.data)))
        loader = Loader(code=plan.firmware.code, code_format=plan.firmware.code_format, nvram=nvram)
    root = root_overlay(template.root, "qcow2", place.data, settings.state_dir / "cache")
    return describe_clone(spec, place, template, root=str(root), loader=loader), place


def restore(guest: Guest, template: Template, deadline_s: float) -> None:
    """Load the template's state into a guest that was started for it, and let it run, held at its gate.

    Until it runs, its slot shares its image with everybody: QEMU puts the permissions of disks into force when the
    vCPUs first start, and then only prints a conflict (block-backend.c, `blk_vm_state_changed`). A disk that is put
    behind the slot from now on is locked, or refused, as at the start of any QEMU.

    :raise GuestlaunchError: QEMU refused, gave up, or took too long.
    """
    migration.load(guest, template.state, deadline_s)
    guest.resume()


def make_clone(spec: LaunchSpec, context: LaunchContext, template: Template) -> Clone:
    """Return a clone that is restored and runs, held at its gate, for whatever launch comes.

    :raise GuestlaunchError: it could not be made; nothing is left behind.
    """
    with contextlib.ExitStack() as files:
        domain, place = stage_clone(spec, context, template, files)
        connection = context.connect(spec.settings)
        guest = connection.create_paused(domain, spec.settings.deadlines.create)
        clone = Clone(
            template=template, domain=domain, place=place, connection=connection, guest=guest, files=files.pop_all()
        )
    try:
        restore(clone.guest, template, spec.settings.deadlines.restore)
    except BaseException:
        clone.close()
        raise
    return clone
