"""Builds a template: boots the appliance up to the gate in its init, and saves it there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from orchestrator.domain.model import Arch
from orchestrator.errors import GuestlaunchError, LaunchError
from orchestrator.firmware.nvram import settle
from orchestrator.hypervisor import confinement, migration
from orchestrator.launch.context import LaunchContext, LaunchSpec, new_id
from orchestrator.launch.describe import describe_template
from orchestrator.launch.eligibility import outdated
from orchestrator.launch.gate import Rehearsal
from orchestrator.launch.staging import make_loader, make_place, root_overlay
from orchestrator.settings import Settings
from orchestrator.template import store
from orchestrator.template.model import CONSOLE, FIRMWARE, NVRAM, RAM, STATE, Facts, Template

_FIRMWARE_BYTES = 4096
_FULL_BYTES = 1 << 20
_END_SECONDS = 20.0


def build_template(spec: LaunchSpec, facts: Facts, context: LaunchContext, *, learned: bool = False) -> Template:
    """Return the template for facts, built now unless somebody else has just done so.

    :param facts: of `eligibility.template_facts`, for the same spec.
    :param context: of whoever needs it; its stop ends the build.
    :param learned: nobody asked for it.
    :raise GuestlaunchError: it could not be built; nothing is left behind.
    """
    settings = spec.settings
    with store.building(settings.state_dir):
        template = store.find(settings.state_dir, facts)
        if template is None:
            began = time.monotonic()
            with (
                store.staging(settings.state_dir) as directory,
                contextlib.ExitStack() as owned,
                _explaining(directory),
            ):
                _boot_and_save(spec, replace(context, launch_id=new_id(), console=None), directory, owned)
                template = store.publish(
                    settings.state_dir,
                    directory,
                    facts,
                    request=asdict(spec.without_tool().request),
                    seconds=time.monotonic() - began,
                    learned=learned,
                )
                _clear_outdated(settings, template)
    context.emit("template_built", key=template.key, seconds=template.seconds, learned=template.learned)
    return template


@contextlib.contextmanager
def _explaining(directory: Path) -> Iterator[None]:
    """Within the context, say plainly when a file system is full or cannot be written to."""
    try:
        yield
    except GuestlaunchError as error:
        if not _is_full(directory):
            raise
        # QEMU is killed when it writes to memory for which its file has no room, and cannot say why.
        hint = "free some space there: a template takes some 300 MiB"
        why = os.strerror(errno.ENOSPC)
        raise LaunchError("cannot build the template", directory.parent, why, hint) from error
    except OSError as error:
        where = error.filename or directory
        raise LaunchError("cannot build the template", where, error.strerror or error) from error


def _boot_and_save(spec: LaunchSpec, context: LaunchContext, directory: Path, owner: contextlib.ExitStack) -> None:
    plan, settings = spec.plan, spec.settings
    assert plan.appliance is not None  # eligibility.why_not_warm
    owner.enter_context(plan.appliance.hold())
    owner.enter_context(context.claim(directory))
    place = make_place(settings, context, owner)
    loader = make_loader(spec, place, owner)
    (directory / FIRMWARE).write_bytes(bytes(_FIRMWARE_BYTES))
    root = root_overlay(plan.appliance.root, plan.appliance.root_format, directory, settings.state_dir / "cache")
    domain = describe_template(spec, place, ram=str(directory / RAM), root=str(root), loader=loader)
    # QEMU reopens its images when it saves a state, and this guest sees nothing but the appliance.
    domain = replace(domain, privileges=confinement.staying_root(domain.privileges, "it builds a template"))
    connection = context.connect(settings)
    guest = connection.create_paused(domain, settings.deadlines.create)

    def save() -> None:
        migration.save(guest, directory / STATE, settings.deadlines.restore)

    try:
        Rehearsal(guest, place, connection.lost, settings, save).run(context.stop, at_gate=False)
    finally:
        guest.remove(_END_SECONDS)
    place.console.port.drain()
    (directory / CONSOLE).write_bytes(place.console.ring.content())
    if loader is None or loader.nvram is None or plan.firmware is None:
        return
    if plan.profile.arch is not Arch.AARCH64:
        shutil.copyfile(loader.nvram, directory / NVRAM)
    if settings.settled_nvram and spec.request.network is None:
        firmware, cache = plan.firmware, settings.state_dir / "cache"
        with contextlib.suppress(OSError):  # a boot without it is slower, and that is all
            settle(loader.nvram, code=firmware.code, template=firmware.nvram_template, cache=cache)


def _is_full(directory: Path) -> bool:
    try:
        return shutil.disk_usage(directory).free < _FULL_BYTES
    except OSError:
        return False


def _clear_outdated(settings: Settings, newest: Template) -> None:
    """Remove the templates of a profile that no launch can use any more: each takes hundreds of megabytes."""
    for one in store.templates(settings.state_dir):
        if one.facts["profile"] == newest.facts["profile"] and one.key != newest.key and outdated(one) is not None:
            store.remove(one)
