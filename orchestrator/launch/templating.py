"""Builds a template: boots the appliance up to the gate in its init, and saves it there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from orchestrator.domain.model import Arch
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import GuestlaunchError, LaunchError
from orchestrator.hypervisor import confinement, migration
from orchestrator.hypervisor.connection import Connection
from orchestrator.launch.assembly import make_loader, make_place
from orchestrator.launch.boot import limits
from orchestrator.launch.choice import outdated
from orchestrator.launch.clone import bare, template_domain
from orchestrator.launch.gate import GATE, rehearse, wait_for_marker
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.staging import root_overlay
from orchestrator.launch.stop import Stop
from orchestrator.launch.way import Claim
from orchestrator.settings import Settings
from orchestrator.template import store
from orchestrator.template.model import FIRMWARE, NVRAM, RAM, STATE, Facts, Template

_FIRMWARE_BYTES = 4096
_FULL_BYTES = 1 << 20
_END_SECONDS = 20.0


def build_template(
    plan: Plan, request: LaunchRequest, settings: Settings, facts: Facts, *, connect: Callable[[], Connection],
    claim: Claim, stop: Stop,
) -> Template:  # fmt: skip
    """Return the template for facts, built now unless somebody else has just done so.

    :param facts: of `choice.template_facts`, for the same plan, request and settings.
    :raise GuestlaunchError: it could not be built; nothing is left behind.
    """
    with store.building(settings.state_dir):
        found = store.find(settings.state_dir, facts)
        if found is not None:
            return found
        began = time.monotonic()
        with store.staging(settings.state_dir) as directory, contextlib.ExitStack() as files:
            try:
                _boot_and_save(
                    plan,
                    request,
                    settings,
                    directory=directory,
                    files=files,
                    connect=connect,
                    claim=claim,
                    stop=stop,
                )
                template = store.publish(
                    settings.state_dir,
                    directory,
                    facts,
                    request=asdict(bare(request)),
                    seconds=time.monotonic() - began,
                )
                _clear_outdated(settings, template)
                return template
            except GuestlaunchError as error:
                if not _is_full(directory):
                    raise
                # QEMU is killed where it writes to memory that its file has no room for, and cannot say why.
                hint = "free some space there: a template takes some 300 MiB"
                why = os.strerror(errno.ENOSPC)
                raise LaunchError("cannot build the template", directory.parent, why, hint) from error
            except OSError as error:
                where = error.filename or directory
                raise LaunchError("cannot build the template", where, error.strerror or error) from error


def _boot_and_save(
    plan: Plan, request: LaunchRequest, settings: Settings, *, directory: Path,
    files: contextlib.ExitStack, connect: Callable[[], Connection], claim: Claim, stop: Stop,
) -> None:  # fmt: skip
    assert plan.appliance is not None  # choice.why_not_warm
    files.enter_context(plan.appliance.hold())
    files.enter_context(claim(directory))
    launch_id = f"gl-{uuid.uuid4().hex[:12]}"
    place = make_place(settings, launch_id, files, claim)
    files.callback(place.console.port.close)
    files.callback(place.control.port.close)
    loader = make_loader(plan, settings, place.data, files)
    (directory / FIRMWARE).write_bytes(bytes(_FIRMWARE_BYTES))
    root = root_overlay(plan.appliance.root, plan.appliance.root_format, directory, settings.state_dir / "cache")
    domain = template_domain(
        plan,
        request,
        settings,
        place,
        launch_id=launch_id,
        ram=str(directory / RAM),
        root=str(root),
        loader=loader,
    )
    # QEMU opens its images anew when it saves a state, and this guest sees nothing but the appliance.
    domain = replace(domain, privileges=confinement.staying_root(domain.privileges, "it builds a template"))
    connection = connect()
    guest = connection.create(
        domain_xml(domain), paused=True, privileges=domain.privileges, deadline_s=settings.deadlines.create
    )
    try:
        guest.resume()
        allowed_s = sum(limits(settings.deadlines).values())
        wait_for_marker(GATE, guest, place, stop, lost=connection.lost, deadline_s=allowed_s)
        rehearse(guest, place, stop, lost=connection.lost, deadline_s=settings.deadlines.gate)
        migration.save(guest, directory / STATE, settings.deadlines.restore)
    finally:
        guest.end(_END_SECONDS)
        if guest.log_file is not None:
            guest.log_file.unlink(missing_ok=True)
    if loader is not None and loader.nvram is not None and plan.profile.arch is not Arch.AARCH64:
        shutil.copyfile(loader.nvram, directory / NVRAM)


def _is_full(directory: Path) -> bool:
    try:
        return shutil.disk_usage(directory).free < _FULL_BYTES
    except OSError:
        return False


def _clear_outdated(settings: Settings, newest: Template) -> None:
    """Remove the templates of a profile that no launch can use any more: each takes some hundred megabytes."""
    for one in store.templates(settings.state_dir):
        if one.facts["profile"] == newest.facts["profile"] and one.key != newest.key and outdated(one) is not None:
            store.remove(one)
