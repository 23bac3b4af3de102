"""The cold way: the appliance boots, through firmware and fw_cfg, for this one launch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from orchestrator.domain.model import Domain, FirmwareKind
from orchestrator.domain.xml import domain_xml
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.assembly import assemble
from orchestrator.launch.boot import (
    GUESTFSD_ALIAS,
    NO_MARKER,
    NO_MARKERS,
    NO_TRACE,
    Boot,
    limits,
    needs_trace,
    observed_phases,
)
from orchestrator.launch.opened import files_of, own_files, require_checked
from orchestrator.launch.plan import Plan
from orchestrator.launch.verification import verify_fw_cfg
from orchestrator.launch.way import Asked, Place
from orchestrator.records.record import FwCfg
from orchestrator.timeline.phases import TRANSFER_PHASES, Phase, Start
from orchestrator.timeline.trace import TraceFile


class Cold:
    """A launch that boots; see `orchestrator.launch.way.Way`.

    :param connect: returns the process's libvirt connection, opening it when need be.
    :param reason: why it is no warm one; None when nobody asked for that.
    """

    start = Start.COLD

    def __init__(self, asked: Asked, launch_id: str, connect: Callable[[], Connection], reason: str | None) -> None:
        self.id = launch_id
        self._asked, self._recorder, self._connect, self._reason = asked, asked.recorder, connect, reason
        self._measure = asked.settings.measure
        self._plan: Plan
        self._domain: Domain
        self._data = Path()

    def facts(self) -> Mapping[str, Any]:
        """Say why the launch is cold."""
        return {"start_reason": self._reason}

    def stage(self, plan: Plan, files: contextlib.ExitStack) -> tuple[Domain, Place]:
        """Make directories, overlay, NVRAM copy, secrets and sockets."""
        self._plan = plan
        self._domain, place = assemble(plan, self._asked, launch_id=self.id, files=files)
        self._data = place.data
        return self._domain, place

    def connect(self) -> Connection:
        """Return the process's connection."""
        return self._connect()

    def create(self, connection: Connection) -> Guest:
        """Start QEMU, paused."""
        guest = connection.create(
            domain_xml(self._domain),
            paused=True,
            privileges=self._domain.privileges,
            deadline_s=self._asked.settings.deadlines.create,
        )
        self._recorder.begin(Phase.QEMU, "libvirt started the domain")
        return guest

    def prepare(self, guest: Guest) -> FwCfg:
        """Read back which fw_cfg path is in force, before the launch is called DMA.

        :raise TransferPathError: it is not the one that was asked for.
        :raise ImagePolicyError: QEMU has opened another file than was checked.
        """
        self._check_images(guest)
        requested = self._asked.settings.fw_cfg_dma
        return verify_fw_cfg(guest, requested=requested, arch=self._plan.profile.arch, scratch=self._data)

    def _check_images(self, guest: Guest) -> None:
        disks = [disk for disk in self._plan.disks if disk.graph is not None]
        if not disks:
            return
        files = files_of(guest)
        shared = [self._plan.appliance.root] if self._plan.appliance else []
        shared += [Path(self._plan.firmware.code)] if self._plan.firmware else []
        # Disks that nobody has checked are the network's, and have no files.
        require_checked(files, disks, own_files(files, self.id, self._data, shared))

    def boot(self) -> Boot:
        """Return what follows the boot, and tell the recorder what cannot be seen of it."""
        uefi = self._plan.profile.firmware is not FirmwareKind.NONE
        markers = frozenset[str]() if self._plan.appliance is None else self._plan.appliance.markers
        self._explain_unseen(transfers=uefi, markers=markers)
        trace = TraceFile(self._data / "trace.log") if needs_trace(measure=self._measure, markers=markers) else None
        observed = observed_phases(traced=self._measure, transfers=uefi, markers=markers)
        allowed = limits(self._asked.settings.deadlines)
        return Boot(self._recorder, trace, allowed, observed, GUESTFSD_ALIAS, measured=self._measure)

    def run(self, guest: Guest) -> None:
        """Resume the vCPUs."""
        self._recorder.begin(Phase.FIRMWARE, "vCPUs resumed")
        if not self._asked.request.start_paused:
            guest.resume()

    def let_through(self, guest: Guest) -> None:
        """Nothing is waited for in a boot."""

    def _explain_unseen(self, *, transfers: bool, markers: Collection[str]) -> None:
        """Tell the recorder why it will not see some phases."""
        if not self._measure:
            # Of an appliance that tells nothing, the launch flag is traced all the same: it says that it is ready.
            for phase in (*TRANSFER_PHASES, Phase.FIRMWARE_HANDOFF, Phase.WORKLOAD):
                self._recorder.unseen(phase, NO_TRACE)
        elif not transfers:
            for phase in (*TRANSFER_PHASES, Phase.FIRMWARE_HANDOFF):
                self._recorder.unseen(phase, "QEMU places the kernel in memory itself: there is no transfer")
        for phase in (Phase.KERNEL, Phase.INITRD, Phase.INIT, Phase.GUESTFSD):
            if not markers:
                self._recorder.unseen(phase, NO_MARKERS)
            elif phase is not Phase.KERNEL and phase not in markers:  # any marker dates the kernel's start
                self._recorder.unseen(phase, NO_MARKER)
