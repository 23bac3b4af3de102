"""The two steps of an installation, as they are carried out: the installer, and the first boot of what it made."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.domain.model import Disk, Graphics, Network
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import GuestlaunchError
from orchestrator.install.answers import archive, arguments
from orchestrator.install.media import Media
from orchestrator.install.request import InstallRequest
from orchestrator.install.start import DiskStart, InstallerStart, KeptMachine
from orchestrator.kernel.builtin import joined_size
from orchestrator.kernel.plan import KernelPlan, plan_run
from orchestrator.kernel.request import KernelRequest
from orchestrator.kernel.start import Attached
from orchestrator.kernel.verdict import Cause, judge
from orchestrator.launch.context import LaunchContext, LaunchSpec
from orchestrator.launch.launch import Launch
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.records.record import InstallStepRecord, LaunchRecord
from orchestrator.settings import Settings
from orchestrator.timeline.recorder import Recorder

DONE, FAILED = "done", "failed"


class InstallStep(StrEnum):
    """Which step it is."""

    INSTALLER = "installer"
    FIRST_BOOT = "first_boot"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationFacts:
    """What the steps have in common.

    :ivar number: this installation's own, by which its records are known.
    """

    request: InstallRequest
    settings: Settings
    media: Media
    number: str
    attached: Attached

    @property
    def graphics(self) -> Graphics | None:
        """The display, at a socket of this installation's own."""
        kind = self.request.graphics
        if kind is None:
            return None
        return Graphics(kind=kind, path=os.fspath(self.settings.runtime_dir / f"display-{self.number[:12]}"))

    @property
    def arguments(self) -> tuple[str, ...]:
        """What is added to the installer's command line."""
        serial = None if self.request.graphics is None else load_profile(self.settings.profile).console
        return arguments(self.request.answers, self.request.cmdline, serial)

    def step_record(self, step: InstallStep, verdict: str) -> InstallStepRecord:
        """Return what a record says of a step."""
        media = self.media
        return InstallStepRecord(
            installation=self.number,
            step=str(step),
            verdict=verdict,
            location=self.request.location or str(media.kernel),
            tree=media.tree.name,
            verification=str(media.verification),
        )


class InstallerStep:
    """The installer runs; see `orchestrator.kernel.runner.Carried`.

    :ivar plan_made: the plan, for the next step; None before there is one.
    """

    def __init__(self, installation: InstallationFacts) -> None:
        self.installation, self.settings = installation, installation.settings
        self.plan_made: KernelPlan | None = None
        self.machine: KeptMachine | None = None
        self._start: InstallerStart | None = None

    @property
    def placeholder(self) -> LaunchRequest:
        """See `Carried`."""
        return LaunchRequest(kernel=str(self.installation.media.kernel), initrd="", cmdline="")

    def plan(self) -> Plan:
        """Decide what it will be.

        :raise GuestlaunchError: it cannot work.
        """
        made = self.installation
        request, media = made.request, made.media
        seed = None if request.answers.autoinstall is None else request.seed
        media_disks = ((path, True) for path in (media.image, seed) if path is not None)
        run = KernelRequest(
            kernel=media.kernel,
            initrds=(media.initrd,),
            cmdline=" ".join([*made.arguments, *filter(None, [request.cmdline])]),
            disks=(*((disk, False) for disk in request.disks), *media_disks),
            timeout_s=request.timeout_s,
        )
        planned = plan_run(run, made.settings)
        own = archive(request.answers, media.tree.family, made.number)
        network = Network() if request.network else None
        self.plan_made = replace(
            planned,
            number=made.number,
            own_initrd=own,
            launch=replace(planned.launch, network=network),
            plan=replace(planned.plan, initrd_bytes=joined_size(run.initrds, own)),
        )
        assert planned.plan.firmware is not None  # the profile is one with UEFI
        self.machine = KeptMachine(firmware=planned.plan.firmware, nvram=request.kept_nvram, graphics=made.graphics)
        return self.plan_made.plan

    def start(self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder) -> InstallerStart:
        """See `Carried`."""
        assert self.plan_made is not None
        assert self.machine is not None
        spec = replace(spec, request=self.plan_made.launch)
        attached = self.installation.attached
        self._start = InstallerStart(self.plan_made, attached, spec, context, recorder, machine=self.machine)
        return self._start

    def conclude(self, launch: Launch, record: LaunchRecord) -> LaunchRecord:
        """See `Carried`. An installer that says that it failed has failed, in all order."""
        made, boot = self.installation, self._start.following if self._start is not None else None
        status = boot.status if boot is not None else None
        judged = judge(launch.error, status, acknowledged=boot is not None and boot.acknowledged)
        verdict = str(judged.cause)
        if judged.cause is Cause.COMMAND:
            verdict = FAILED if status else DONE
        if verdict == FAILED:
            why = f"the installer failed: phase {record.error_phase or 'workload'}: its record says status {status}"
            record = replace(record, outcome="failure", error=why)
        run = self.plan_made
        step = replace(
            made.step_record(InstallStep.INSTALLER, verdict),
            cmdline=run.launch.cmdline if run is not None else "",
            fetched_bytes=made.media.bytes,
            fetch_ns=made.media.duration_ns,
            told_by="the installer's record" if verdict in {DONE, FAILED} else None,
        )
        version = run.image.version if run is not None else None
        return replace(record, install=step, versions={**record.versions, "kernel": version})


class FirstBootStep:
    """What was installed boots for the first time; see `orchestrator.kernel.runner.Carried`.

    :param installer: the step before, whose machine it is.
    """

    def __init__(self, installation: InstallationFacts, installer: InstallerStep) -> None:
        assert installer.plan_made is not None
        assert installer.machine is not None
        self.installation, self.settings = installation, installation.settings
        self._before, self._machine = installer.plan_made, installer.machine
        self._start: DiskStart | None = None

    @property
    def placeholder(self) -> LaunchRequest:
        """See `Carried`."""
        return LaunchRequest(kernel="", initrd="", cmdline="", disks=self._disks)

    @property
    def _disks(self) -> tuple[Disk, ...]:
        return self._before.launch.disks[: len(self.installation.request.disks)]

    def plan(self) -> Plan:
        """Return the installer's plan, without its kernel."""
        return replace(self._before.plan, disks=self._disks, kernel="", kernel_bytes=0, initrd_bytes=0)

    def start(self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder) -> DiskStart:
        """See `Carried`."""
        request = replace(self.placeholder, network=self._before.launch.network, console=False)
        spec = replace(spec, request=request)
        made = self.installation
        self._start = DiskStart(
            made.attached, spec, context, recorder, machine=self._machine, timeout_s=made.request.boot_timeout_s
        )
        return self._start

    def conclude(self, launch: Launch, record: LaunchRecord) -> LaunchRecord:
        """See `Carried`."""
        boot = self._start.following if self._start is not None else None
        there = boot is not None and boot.ready_by is not None and boot.acknowledged
        step = replace(
            self.installation.step_record(InstallStep.FIRST_BOOT, _verdict(launch.error, there=there)),
            told_by=boot.ready_by if boot is not None else None,
            boot_entry=boot.boot_entry if boot is not None else None,
        )
        return replace(record, install=step)


def _verdict(error: GuestlaunchError | None, *, there: bool) -> str:
    if error is None and there:
        return DONE
    return str(judge(error, None, acknowledged=False).cause)
