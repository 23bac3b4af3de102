"""The cold start: the appliance boots, through firmware and fw_cfg, for this one launch."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path

from orchestrator.domain.model import Domain, FirmwareKind
from orchestrator.errors import TransferPathError
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.fw_cfg import examine
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.boot import (
    GUESTFSD_ALIAS,
    NO_MARKER,
    NO_MARKERS,
    NO_TRACE,
    Boot,
    limits,
    observed_phases,
)
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place
from orchestrator.launch.describe import describe
from orchestrator.launch.staging import make_loader, make_place, make_rom, make_root, store_secrets
from orchestrator.launch.watch import FollowedLaunch
from orchestrator.records.record import FwCfg
from orchestrator.template.model import Facts
from orchestrator.timeline.phases import TRANSFER_PHASES, Phase, Start
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile


class ColdStart:
    """A launch that boots; see `orchestrator.launch.start.StartPath`.

    :param reason: why it is not warm; None when nobody asked for a warm start.
    :ivar missing: what the template depends on that it could have been cloned from.
    """

    kind = Start.COLD

    def __init__(
        self,
        spec: LaunchSpec,
        context: LaunchContext,
        recorder: Recorder,
        reason: str | None,
        missing: Facts | None = None,
    ) -> None:
        self.id, self.missing = context.launch_id, missing
        self._spec, self._context, self._recorder, self._reason = spec, context, recorder, reason
        self._owned = contextlib.ExitStack()

    def close(self) -> None:
        """Remove its files."""
        self._owned.close()

    def facts(self) -> Mapping[str, str | None]:
        """Say why the launch is cold."""
        return {"start_reason": self._reason}

    def obtain(self) -> None:
        """Nothing: what it boots is there."""

    def stage(self) -> tuple[Domain, Place]:
        """Make directories, overlay, NVRAM copy, secrets and sockets."""
        spec, plan = self._spec, self._spec.plan
        if plan.appliance is not None:
            self._owned.enter_context(plan.appliance.hold())
        place = make_place(spec.settings, self._context, self._owned)
        rom = make_rom(spec)
        loader = make_loader(spec, place, self._owned) if rom is None else None
        root = make_root(spec, place)
        secrets = store_secrets(plan.disks, place.data)
        return describe(spec, place, loader=loader, rom=rom, root=root, secret_paths=secrets), place

    def connect(self) -> Connection:
        """Return the process's connection."""
        return self._context.connect(self._spec.settings)

    def create(self, connection: Connection, domain: Domain) -> Guest:
        """Start QEMU, paused."""
        guest = connection.create_paused(domain, self._spec.settings.deadlines.create)
        self._recorder.begin(Phase.QEMU, "libvirt started the domain")
        return guest

    def prepare(self, guest: Guest, place: Place) -> FwCfg:
        """Read back which fw_cfg path is in force, before any record says DMA.

        :raise TransferPathError: it is not the one that was asked for.
        :raise ImagePolicyError: QEMU has opened another file than was checked.
        """
        self._check_images(guest, place)
        return verify_fw_cfg(guest, self._spec, place.data)

    def _check_images(self, guest: Guest, place: Place) -> None:
        plan = self._spec.plan
        disks = [disk for disk in plan.disks if disk.graph is not None]
        if not disks:
            return
        from orchestrator.hypervisor.opened import files_of, own_files, require_checked  # here: most images are trusted

        files = files_of(guest)
        shared = [plan.appliance.root] if plan.appliance else []
        shared += [Path(plan.firmware.code)] if plan.firmware else []
        # Disks without a checked graph are on the network, and have no files.
        require_checked(files, disks, own_files(files, self.id, place.data, shared))

    def boot(self, place: Place) -> FollowedLaunch:
        """Return what follows the boot, and tell the recorder what cannot be seen of it."""
        plan, settings = self._spec.plan, self._spec.settings
        uefi = plan.profile.firmware is not FirmwareKind.NONE
        markers = self._spec.markers
        self._explain_unseen(transfers=uefi, markers=markers)
        trace = TraceFile(place.trace) if self._spec.traced else None
        observed = observed_phases(traced=settings.measure, transfers=uefi, markers=markers)
        allowed = limits(settings.deadlines, silent=Phase.GUESTFSD not in observed)
        return Boot(self._recorder, trace, allowed, observed, GUESTFSD_ALIAS, measured=settings.measure)

    def run(self, guest: Guest, place: Place) -> None:
        """Resume the vCPUs."""
        del place
        self._recorder.begin(Phase.FIRMWARE, "vCPUs resumed")
        if not self._spec.request.start_paused:
            guest.resume()

    def let_through(self, guest: Guest, place: Place) -> None:
        """Nothing is waited for in a boot."""

    def _explain_unseen(self, *, transfers: bool, markers: Collection[str]) -> None:
        """Tell the recorder why it will not see some phases."""
        if not self._spec.settings.measure:
            # For an appliance without markers the launch flag is traced even so: nothing else says that it is ready.
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


def verify_fw_cfg(guest: Guest, spec: LaunchSpec, scratch: Path) -> FwCfg:
    """Read back the fw_cfg path: QEMU's property, the guest's device tree (on Arm), the DMA register itself.

    :raise TransferPathError: the property is not what was asked for, or the guest could not use DMA.
    """
    requested = spec.settings.fw_cfg_dma
    found = examine(guest, spec.plan.profile.arch, scratch)
    if found.dma_enabled is not requested:
        asked, got = ("on", "off") if requested else ("off", "on")
        raise TransferPathError("fw_cfg DMA is not as asked for", guest.name, f"asked for {asked}, QEMU says {got}")
    if not found.agrees:
        why = f"its window {found.node} or its register (answers: {found.register_answers}) says otherwise"
        raise TransferPathError("fw_cfg DMA is not what QEMU's property says", guest.name, why)
    node = found.node
    return FwCfg(
        requested=requested,
        dma_property=found.dma_enabled,
        window_base=node.base if node else None,
        window_size=node.size if node else None,
        window_has_dma=node.holds_dma_register if node else None,
        register_answers=found.register_answers,
        unseen=found.unseen or None,
    )
