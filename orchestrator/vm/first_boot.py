"""One boot of a VM: started paused, listened to, followed until it is ready, and recorded like any launch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

from orchestrator import __version__
from orchestrator.channel.ring import ConsoleRing
from orchestrator.domain.model import Domain
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import GuestlaunchError, StoppedError
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.stored import StoredDomain
from orchestrator.launch.context import new_id
from orchestrator.launch.launcher import write_record
from orchestrator.launch.stop import Stop
from orchestrator.records.log import EventLog
from orchestrator.records.provenance import provenance
from orchestrator.records.record import FwCfg, LaunchRecord, VmBootRecord
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind, Phase, Start
from orchestrator.timeline.recorder import Recorder
from orchestrator.vm import ssh
from orchestrator.vm.boot import Followed, VmBoot
from orchestrator.vm.note import VmNote
from orchestrator.vm.request import ReadySign, VmRequest

_TAIL_LINES = 40
_SHORT_TAIL_LINES = 10


class VmStart:
    """One boot, from the command's start.

    :ivar settings: with the profile of the VM, once that is known.
    :ivar domain: as it was planned, if it was just now.
    :ivar record: what came of it, once it is over.
    """

    def __init__(self, request: VmRequest, settings: Settings, origin_ns: int) -> None:
        self.request, self.settings = request, settings
        self.recorder = Recorder(origin_ns, kind=Kind.VM)
        self.domain: Domain | None = None
        self.record: LaunchRecord | None = None
        self.customised = False
        self._boot: VmBoot | None = None
        self._ring = ConsoleRing(1)

    def until_ready(
        self, domain: StoredDomain, note: VmNote, connection: Connection, stop: Stop, step: Callable[[str], None]
    ) -> VmNote:
        """Start it and wait until it is ready; returns the note with that in it.

        :raise GuestlaunchError: it cannot be started, or did not become ready.
        """
        request, recorder, sign = self.request, self.recorder, self.request.awaited
        if sign is ReadySign.SSH:
            ssh.check_leads_here(request.name, ssh.network_of(note), here=connection.is_local)
        if stop.requested:
            raise StoppedError("stopped", request.name, stop.reason)
        recorder.begin(Phase.CREATE, "our own clock")
        step("QEMU starts")
        guest = connection.start(request.name, paused=True, reset_nvram=bool(note.pool) and not note.ready)
        recorder.begin(Phase.QEMU, "libvirt started QEMU, paused")
        boot = self._boot = VmBoot(recorder, self.settings, timeout_s=request.timeout_s, number=note.number, sign=sign)
        followed = Followed(guest, domain, connection, self.settings)
        self._ring = followed.ring
        with followed.listening() as answer:
            recorder.begin(Phase.FIRMWARE, "vCPUs resumed")
            guest.resume()
            if sign is not ReadySign.NONE:
                knocking = ssh.knocking(domain, note, followed.take_ssh) if sign is ReadySign.SSH else nullcontext()
                with knocking:
                    followed.wait(boot, stop, step)
                with contextlib.suppress(GuestlaunchError):
                    answer(f"acknowledged {note.number}\n".encode())
        if note.ready:  # how it was the first time is what is kept
            return note
        began = recorder.at_ns(Phase.FIRMWARE) or recorder.origin_ns
        ready_ns = recorder.at_ns(Phase.WORKLOAD)
        noted = replace(
            note,
            ready=boot.ready_by or "not waited for",
            ready_ms=str(round((ready_ns - began) / 1e6)) if ready_ns is not None else "",
        )
        domain.set_metadata(noted.metadata())
        return noted

    @contextlib.contextmanager
    def recorded(self, connection: Connection, *, image: str, created: bool) -> Iterator[None]:
        """Write a record of what is done in the context, whatever becomes of it."""
        error: GuestlaunchError | None = None
        try:
            yield
        except GuestlaunchError as raised:
            error = raised
            raise
        finally:
            self.record = self._record(connection, error, image=image, created=created)
            write_record(
                self.record, self.settings, EventLog(self.settings.log_target), timeline=self.settings.timeline
            )

    def _record(
        self, connection: Connection, error: GuestlaunchError | None, *, image: str, created: bool
    ) -> LaunchRecord:
        domain, boot, recorder = self.domain, self._boot, self.recorder
        recorder.unseen(Phase.STAGE, "its files were there")
        recorder.unseen(Phase.CUSTOMISE, "nothing on its disk was to be changed")
        for phase in (Phase.KERNEL, Phase.INITRD):
            recorder.unseen(phase, "no time stamp on the console told of it")
        ready = recorder.at_ns(Phase.WORKLOAD) is not None
        outcome = "success" if error is None else "cancelled" if isinstance(error, StoppedError) else "failure"
        recorder.finish()
        versions: dict[str, str | None] = {"guestlaunch": __version__, "firmware": self._ring.firmware_version()}
        with contextlib.suppress(GuestlaunchError, OSError, ValueError):
            found = connection.versions(domain.emulator if domain is not None else None)
            versions |= {"libvirt": found.libvirt, "qemu": found.qemu}
        return LaunchRecord(
            launch_id=new_id(),
            start=Start.COLD,
            profile=self.settings.profile,
            arch=str(load_profile(self.settings.profile).arch),
            accel=str(domain.accel) if domain is not None else None,
            accel_reason="",
            fw_cfg=FwCfg(requested=self.settings.fw_cfg_dma),
            outcome=outcome,
            tiles=recorder.tiles(outcome=outcome, at=None if ready else recorder.current()),
            wall_start_ns=recorder.wall_start_ns,
            connection=connection.uri,
            error=None if error is None else str(error),
            error_phase=None if error is None else str(recorder.current()),
            ready=ready,
            memory_mib=domain.memory_mib if domain is not None else None,
            vcpus=domain.vcpus if domain is not None else None,
            cpu=domain.cpu if domain is not None else None,
            disks=len(domain.disks) if domain is not None else 0,
            versions=versions,
            console_tail=self._ring.tail(_SHORT_TAIL_LINES if error is None else _TAIL_LINES),
            provenance=provenance(),
            kind=Kind.VM,
            vm=VmBootRecord(
                name=self.request.name,
                created=created,
                image=image,
                customised=self.customised,
                told_by=boot.ready_by if boot is not None else None,
                boot_entry=boot.boot_entry if boot is not None else None,
            ),
        )
