"""Clones of a template: their files, their domain, their state. What is said to them then is in `gate`.

What a launch needs of it at once (`warm`), and what waits for a launch (`pool`), is done by the same functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from orchestrator.domain.cloning import as_clone, as_template, split_cmdline
from orchestrator.domain.model import Arch, Domain, Loader
from orchestrator.domain.policy import appliance_root
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import GuestlaunchError
from orchestrator.firmware.nvram import copy_nvram
from orchestrator.hypervisor import migration
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.assembly import describe, make_place
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.staging import root_overlay
from orchestrator.launch.way import Claim, Place
from orchestrator.settings import Settings
from orchestrator.template.model import Template

_END_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Clone:
    """A restored clone, and all that is its own."""

    id: str
    template: Template
    domain: Domain
    place: Place
    connection: Connection
    guest: Guest
    files: contextlib.ExitStack

    def close(self) -> None:
        """End it, and remove what is its own. Nothing that it holds is worth being written back."""
        self.guest.kill()
        with contextlib.suppress(GuestlaunchError):
            self.guest.end(_END_SECONDS)
        if self.guest.log_file is not None:
            self.guest.log_file.unlink(missing_ok=True)
        self.files.close()


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
        cwd="/",
    )


def template_domain(
    plan: Plan, request: LaunchRequest, settings: Settings, place: Place, *, launch_id: str, ram: str,
    root: str, loader: Loader | None,
) -> Domain:  # fmt: skip
    """Return the domain of a template, or what a clone of it is made from.

    :param root: the overlay of the appliance's root; `ram` the file of the guest's memory.
    """
    # There is no other disk that the initrd could take for the root: its UUID will do.
    domain = describe(
        plan, bare(request), settings, place, launch_id=launch_id, loader=loader, root=appliance_root(root)
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
        ram=str(template.ram),
        root=str(root_overlay(template.root, "qcow2", place.data, settings.state_dir / "cache")),
        loader=loader,
    )
    return as_clone(domain, ram=str(template.ram), firmware=str(template.firmware)), place


def restore(guest: Guest, template: Template, deadline_s: float) -> None:
    """Load the template's state into a guest that was started for it, and let it run, held at its gate.

    Until it runs, its slot shares its image with everybody: QEMU puts the permissions of disks into force when the
    vCPUs first start, and then only prints a conflict (block-backend.c, `blk_vm_state_changed`). A disk that is put
    behind the slot from now on is locked, or refused, as at the start of any QEMU.

    :raise GuestlaunchError: QEMU refused, gave up, or took too long.
    """
    migration.load(guest, template.state, deadline_s)
    guest.resume()


def make_clone(
    plan: Plan, request: LaunchRequest, settings: Settings, template: Template, *, launch_id: str,
    connect: Callable[[], Connection], claim: Claim,
) -> Clone:  # fmt: skip
    """Return a clone that is restored and runs, held at its gate, for whatever launch comes.

    :raise GuestlaunchError: it could not be made; nothing is left behind.
    """
    with contextlib.ExitStack() as files:
        domain, place = stage_clone(
            plan, bare(request), settings, template, launch_id=launch_id, files=files, claim=claim
        )
        files.callback(place.console.port.close)
        files.callback(place.control.port.close)
        connection = connect()
        clone = Clone(
            id=launch_id,
            template=template,
            domain=domain,
            place=place,
            connection=connection,
            guest=connection.create(
                domain_xml(domain),
                paused=True,
                privileges=domain.privileges,
                deadline_s=settings.deadlines.create,
            ),
            files=files.pop_all(),
        )
    try:
        restore(clone.guest, template, settings.deadlines.restore)
    except BaseException:
        clone.close()
        raise
    return clone
