"""Sums up a launch that is over: what it was, how it came about, how it ended. Measures nothing."""

from __future__ import annotations

import contextlib

from orchestrator import __version__
from orchestrator.errors import GuestlaunchError
from orchestrator.launch.launch import Launch
from orchestrator.launch.plan import appliance_versions
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.stop import Stop
from orchestrator.records.record import LaunchRecord
from orchestrator.settings import Settings
from orchestrator.timeline.phases import TRANSFER_PHASES
from orchestrator.timeline.recorder import Recorder

_TAIL_LINES = 40
# Of a launch that went well: enough to see where a slow one lost its time.
_SHORT_TAIL_LINES = 10


def sum_up(launch: Launch, settings: Settings, recorder: Recorder, stop: Stop, request: LaunchRequest) -> LaunchRecord:
    """Return the record of a launch."""
    plan, domain = launch.plan, launch.domain
    outcome = "failure" if launch.error else "success" if launch.ready else "cancelled"
    sizes = dict(zip(TRANSFER_PHASES, (plan.kernel_bytes, plan.initrd_bytes), strict=True)) if plan else {}
    error = launch.error
    return LaunchRecord(
        launch_id=launch.id,
        start=recorder.start,
        start_reason=launch.way.facts().get("start_reason") if launch.way else None,
        template=launch.way.facts().get("template") if launch.way else None,
        profile=settings.profile,
        arch=str(plan.profile.arch) if plan else None,
        accel=str(plan.accel) if plan else None,
        accel_reason=plan.accel_reason if plan else "",
        fw_cfg=launch.fw_cfg,
        outcome=outcome,
        tiles=recorder.tiles(
            outcome=outcome, at=launch.error_phase or (None if launch.ready else launch.stop_phase), sizes=sizes
        ),
        wall_start_ns=recorder.wall_start_ns,
        connection=settings.connect or "qemu:///embed",
        exit_status=launch.exit_status,
        error=str(error) if error else stop.reason if outcome == "cancelled" else None,
        error_phase=str(launch.error_phase) if launch.error_phase else None,
        ready=launch.ready,
        kernel_bytes=plan.kernel_bytes if plan else None,
        initrd_bytes=plan.initrd_bytes if plan else None,
        memory_mib=domain.memory_mib if domain else None,
        vcpus=domain.vcpus if domain else None,
        cpu=domain.cpu if domain else None,
        disks=len(request.disks),
        versions=_versions(launch),
        appliance=appliance_versions(plan) if plan else {},
        console_tail=launch.ring.tail(_TAIL_LINES if error else _SHORT_TAIL_LINES),
        extra_args=request.extra_args,
        proof_failures=launch.proof_failures,
    )


def _versions(launch: Launch) -> dict[str, str | None]:
    """Return the versions of all that took part."""
    plan, connection = launch.plan, launch.connection
    found: dict[str, str | None] = {"guestlaunch": __version__, "libguestfs": plan.libguestfs if plan else None}
    found["firmware"] = launch.ring.firmware_version()
    manifest = plan.appliance.manifest if plan and plan.appliance else None
    found["kernel"] = manifest.kernel if manifest else None
    if plan is not None and connection is not None:
        with contextlib.suppress(GuestlaunchError, OSError, ValueError):
            versions = connection.versions(plan.emulator)
            found |= {"libvirt": versions.libvirt, "qemu": versions.qemu}
    return found
