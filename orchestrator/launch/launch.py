"""One launch: how it carries out each instruction of the table in `lifecycle`, and the record of it.

Plan, stage, connect, create paused, prepare, resume, watch, end; its start path decides how some of these are done.
Everything acquired sits on one `ExitStack` and is released in reverse order. The thread that calls `run` does it all.

Whatever is raised, by an instruction or by what watches the guest, becomes an event, and the table leads to the end.
What no table foresees (an interrupt, a defect in here) still goes through `_leave_nothing`, like every launch.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from orchestrator import __version__
from orchestrator.channel.ring import ConsoleRing
from orchestrator.domain.model import Domain
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import DeadlineError, DiskError, GuestlaunchError
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place, new_id
from orchestrator.launch.diagnosis import deadline_variable, defect, system_error
from orchestrator.launch.lifecycle import Event, Instruction, drive
from orchestrator.launch.plan import Plan, appliance_versions, make_plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.start import Choose, StartPath, choose_start
from orchestrator.launch.watch import FollowedLaunch, Watch
from orchestrator.records.provenance import provenance
from orchestrator.records.record import FwCfg, LaunchRecord
from orchestrator.settings import Settings
from orchestrator.timeline.phases import TRANSFER_PHASES, Kind, Phase, Start
from orchestrator.timeline.recorder import Recorder

if TYPE_CHECKING:
    from orchestrator.launch.standby import Pool
    from orchestrator.template.model import Facts

_T = TypeVar("_T")

_KILLED_SECONDS = 5.0
_SIGNALLED = 128  # QEMU's status is above when a signal ended it
_TAIL_LINES = 40
# For a launch that went well: enough to see where a slow one lost its time.
_SHORT_TAIL_LINES = 10


class Launch:
    """One launch.

    :param origin_ns: monotonic time at which it began (the client's own start).
    :param pool: clones that are kept ready.
    :param cold_reason: why it boots, whatever could be cloned for it; None lets `choose` decide.
    :param plan: makes the plan; `choose` decides the start path of a launch that is planned.
    :param kind: what is launched.
    """

    def __init__(
        self,
        request: LaunchRequest,
        settings: Settings,
        context: LaunchContext,
        origin_ns: int,
        *,
        pool: Pool | None = None,
        cold_reason: str | None = None,
        plan: Callable[[LaunchRequest, Settings], Plan] = make_plan,
        choose: Choose = choose_start,
        kind: Kind = Kind.LAUNCH,
    ) -> None:
        self.id = context.launch_id
        self.request, self.settings, self.context = request, settings, context
        self.recorder = Recorder(origin_ns, kind=kind)
        self._stop, self._emit = context.stop, context.emit
        self._pool, self._cold_reason = pool, cold_reason
        self._make_plan, self._choose = plan, choose
        self._owned = contextlib.ExitStack()
        self._start: StartPath | None = None
        self._domain: Domain | None = None
        self._place: Place | None = None
        self._connection: Connection | None = None
        self._guest: Guest | None = None
        self._watch: Watch | None = None
        self._boot: FollowedLaunch | None = None
        self._empty = ConsoleRing(1)
        self._ended = False  # the guest is gone, or was never there
        self._stop_phase: Phase | None = None  # where it was when it was asked to end before it was ready
        self._fw_cfg = FwCfg(requested=settings.fw_cfg_dma)
        self._error_phase: Phase | None = None
        self._exit_status: int | None = None
        self.spec: LaunchSpec | None = None
        self.error: GuestlaunchError | None = None
        self.ready = False
        self.ran = False  # the guest has run since it was created
        self._proof_failures: tuple[str, ...] = ()

    def again(self, cold_reason: str | None = None) -> Launch:
        """Return a launch of the same request, for the same client, that is still to be carried out."""
        return Launch(
            self.request,
            self.settings,
            replace(self.context, launch_id=new_id()),
            self.recorder.origin_ns,
            pool=self._pool,
            cold_reason=cold_reason,
            plan=self._make_plan,
            choose=self._choose,
            kind=self.recorder.kind,
        )

    @property
    def template_key(self) -> str | None:
        """The template that it was cloned from."""
        return self._start.facts().get("template") if self._start else None

    @property
    def missing(self) -> Facts | None:
        """What the template depends on for want of which it booted, if that went well."""
        return self._start.missing if self._start is not None and self.ready and self.error is None else None

    @property
    def ring(self) -> ConsoleRing:
        """What the guest's console said."""
        return self._place.console.ring if self._place else self._empty

    @property
    def fallback_reason(self) -> str | None:
        """Why a warm launch failed, if it did so before the guest ran: then a cold one can take its place."""
        if self._start is None or self._start.kind is Start.COLD or self.error is None or self.ran:
            return None
        return None if self._stop.requested or isinstance(self.error, DiskError) else str(self.error)

    def run(self) -> None:
        """Run the launch to its end; afterwards `error` says what went wrong, if anything did.

        :raise BaseException: what is no `Exception` goes on to the caller, once the guest is gone.
        """
        try:
            drive(self, self._stop)
        except BaseException as raised:
            self._keep(self._as_error(raised))
            raise
        finally:
            self._leave_nothing()

    def _leave_nothing(self) -> None:
        """End what is still there. Every launch comes through here, whatever was raised on the way."""
        try:
            if self._guest is not None and not self._ended:
                self._destroy(self._guest)
        finally:
            self._owned.close()
            self._tell_pool()

    def do(self, instruction: Instruction) -> None:
        """Carry out an instruction."""
        {
            Instruction.PLAN: self._plan,
            Instruction.STAGE: self._stage,
            Instruction.CONNECT: self._connect,
            Instruction.CREATE: self._create,
            Instruction.PREPARE: self._prepare,
            Instruction.RESUME: self._resume,
            Instruction.LET_THROUGH: self._let_through,
            Instruction.NOTE_READY: self._note_ready,
            Instruction.TERMINATE: self._terminate,
            Instruction.REAP: self._reap,
            Instruction.RELEASE: self._release,
        }[instruction]()

    def wait(self) -> Event:
        """Wait for the guest, and remember why it ended if it should not have."""
        event = _there(self._watch).wait()  # the table waits only where a guest runs
        if event not in {Event.LAUNCH_FLAG, Event.STOP, Event.ANSWERED}:
            self._explain(event)
        return event

    def note(self, event: Event) -> None:
        """Remember where the launch was when it was asked to end."""
        if event is Event.STOP and not self.ready:
            self._stop_phase = self.recorder.current()

    def failed(self, raised: Exception, instruction: Instruction | None) -> None:
        """Remember why the launch failed."""
        if isinstance(raised, OSError) and instruction is not None:
            self._keep(system_error(raised, instruction, self.settings.state_dir))
        else:
            self._keep(self._as_error(raised))

    def _as_error(self, raised: BaseException) -> GuestlaunchError:
        """Return an exception as an error for the user; one that nobody foresaw goes to the log, too."""
        if isinstance(raised, GuestlaunchError):
            return raised
        if isinstance(raised, Exception):
            text = "".join(traceback.format_exception(raised))
            self._emit("internal_error", level="error", launch_id=self.id, error=repr(raised), traceback=text)
        return defect(raised, self.recorder.current())

    def _keep(self, error: GuestlaunchError) -> None:
        """Remember the first error, which is why the launch failed; later ones follow from it."""
        if self.error is None:
            self.error, self._error_phase = error, self.recorder.current()

    def _plan(self) -> None:
        plan = self._make_plan(self.request, self.settings)
        self.spec = LaunchSpec(request=self.request, settings=self.settings, plan=plan)
        start = self._choose(self.spec, self.context, self.recorder, self._pool, self._cold_reason)
        self._owned.callback(start.close)
        start.obtain()  # before it counts as the start: a template that cannot be built is no reason to boot
        self._start, self.id = start, start.id
        self.recorder.become(start.kind)

    def _stage(self) -> None:
        self.recorder.begin(Phase.STAGE, "orchestrator")
        self._domain, self._place = _there(self._start).stage()

    def _connect(self) -> None:
        self.recorder.begin(Phase.CONNECT, "orchestrator")
        self._connection = _there(self._start).connect()

    def _create(self) -> None:
        """Have QEMU started, paused. Meanwhile the log is got ready for a clone, which is at its gate at once."""
        start = _there(self._start)
        self.recorder.begin(Phase.CREATE, "orchestrator")
        if start.kind is Start.WARM:
            self._owned.callback(self.context.prepare_log())
        self._guest = start.create(_there(self._connection), _there(self._domain))

    def _prepare(self) -> None:
        self._fw_cfg = _there(self._start).prepare(_there(self._guest), _there(self._place))

    def _resume(self) -> None:
        """Let the guest run, and follow it."""
        start, guest, place = _there(self._start), _there(self._guest), _there(self._place)
        self._boot = start.boot(place)
        trace, lost = _there(self._domain).trace_path, _there(self._connection).lost
        self._watch = Watch(guest, place, self._boot, self._stop, lost, trace=None if trace is None else Path(trace))
        self._owned.enter_context(self._watch)
        self.ran = True
        start.run(guest, place)
        if start.kind is Start.COLD:
            self._tell()

    def _let_through(self) -> None:
        """Answer a guest that waits for us. The start of a clone is logged only then."""
        start = _there(self._start)
        start.let_through(_there(self._guest), _there(self._place))
        if start.kind is not Start.COLD:
            self._tell()

    def _tell(self) -> None:
        """Log what was started and why so; the guest boots meanwhile."""
        plan, start = _there(self.spec).plan, _there(self._start)
        firmware, confinement = plan.firmware, _there(self._guest).confinement
        changed = [f"{c.before or 'nothing'} -> {c.after or 'dropped'}: {c.reason}" for c in plan.changes]
        skipped = [f"{s.descriptor}: {s.reason}" for s in firmware.skipped] if firmware else []
        self._emit(
            "launch_started",
            launch_id=self.id,
            start=str(start.kind),
            **start.facts(),
            profile=plan.profile.name,
            accel=str(plan.accel),
            accel_reason=plan.accel_reason,
            fw_cfg_dma=self._fw_cfg.verified,
            firmware=firmware.code if firmware else None,
            firmware_skipped=skipped,
            cmdline_changes=changed,
            confinement=None if confinement is None else asdict(confinement),
            domain_xml=domain_xml(_there(self._domain)),
        )

    def _note_ready(self) -> None:
        """The tool has its launch flag, or the command runs: from here on, nothing is measured until the end."""
        self.ready = True
        _there(self._boot).settle()
        _there(self._watch).stop_tracing()
        self._tell_pool()

    def _tell_pool(self) -> None:
        """Let the pool replace a clone that was taken from it."""
        if self._pool is not None:
            self._pool.launched(self.id)

    def _terminate(self) -> None:
        """Have QEMU write back what it holds and exit."""
        guest, before = _there(self._guest), self.recorder.current()
        self.recorder.begin(Phase.SHUTDOWN, f"stop requested: {self._stop.reason or self.error}")
        guest.terminate()
        seconds = self.settings.deadlines.shutdown
        try:
            code = guest.wait_exited(seconds)
        except DeadlineError as error:  # REAP follows
            if self.ready:
                hint = f"GUESTLAUNCH_{deadline_variable(Phase.SHUTDOWN)} allows more"
                why = f"not within {seconds:g} s: it is killed, and what it had not written back is lost"
                raise DeadlineError("QEMU did not end", f"phase {Phase.SHUTDOWN}", why, hint) from error
            return
        if self.error is not None or self._watch is None:
            return
        if guest.disk_error is not None:  # at the last moment, as everything was written back
            self._explain(Event.DISK_ERROR, before)
        elif code != 0 or self.ring.panic() is not None:
            # A signal other than ours, or a panic: it was dying already, and its tool noticed before we did.
            dying = code > _SIGNALLED or self.ring.panic() is not None
            self._explain(Event.QEMU_GONE, before if dying else Phase.SHUTDOWN)

    def _reap(self) -> None:
        """Make sure that QEMU is gone, and libvirt's domain with it."""
        if self._guest is None:
            self._ended = True
            return
        self._destroy(self._guest)
        self._last_words()
        if self.error is not None:
            return
        asked_ns = self._stop.requested_ns
        if not self.ready and self._boot is not None and asked_ns is not None:
            self.ready = self._boot.served(asked_ns)
        self.recorder.begin(Phase.SHUTDOWN, "QEMU ended")

    def _destroy(self, guest: Guest) -> None:
        """Make QEMU be gone, by SIGKILL if need be, and learn its exit status.

        :raise HypervisorError: it could not be ended by any means.
        """
        if not guest.exited.is_set():
            guest.kill()
            with contextlib.suppress(DeadlineError):  # `end` below goes further
                guest.wait_exited(_KILLED_SECONDS)
        guest.remove_log()
        self._exit_status = guest.exit_code
        if guest.pid is not None and self._exit_status is not None:
            # QEMU is dead and its status known. libvirt polls for that every 200 ms, which is not the
            # client's time to lose.
            threading.Thread(target=self._clear_away, args=(guest,), name=f"clear-{self.id}", daemon=True).start()
        else:
            self._exit_status = guest.remove(self.settings.deadlines.shutdown).exit_code
        self._ended = True

    def _clear_away(self, guest: Guest) -> None:
        """Wait until libvirt, too, is done with a domain whose QEMU is dead."""
        with contextlib.suppress(GuestlaunchError):
            guest.remove(_KILLED_SECONDS)

    def _release(self) -> None:
        if self.ready and self.error is None and self._boot is not None:
            self._proof_failures = self._boot.proof_failures()
        self._owned.close()

    def _last_words(self) -> None:
        """Take what the guest sent before it ended."""
        if self._watch is not None:
            self._watch.drain()
        if self._boot is not None and not self.ready:
            self._boot.settle()

    def _explain(self, event: Event, phase: Phase | None = None) -> None:
        """Remember why a guest ended that should not have; the phase is the current one if not given."""
        self._last_words()
        boot = _there(self._boot)  # only a watched guest gets here
        phase = phase or boot.current()
        error = _there(self._watch).explain(
            event, phase, ready=self.ready, allowed_s=boot.allowed_s(phase), uri=self.settings.connect
        )
        if event is Event.DISK_ERROR and error is not None:
            self._emit("disk_error", level="error", launch_id=self.id, file=error.subject, reason=error.why)
        if error is not None and self.error is None:
            self.error, self._error_phase = error, phase

    def record(self) -> LaunchRecord:
        """Return what it was, how it came about and how it ended. It must be over; nothing more is measured."""
        plan, domain, error = self.spec.plan if self.spec else None, self._domain, self.error
        facts = self._start.facts() if self._start else {}
        done = self.ready and (self._boot is None or self._boot.done)
        outcome = "failure" if error else "success" if done else "cancelled"
        sizes = dict(zip(TRANSFER_PHASES, (plan.kernel_bytes, plan.initrd_bytes), strict=True)) if plan else {}
        self.recorder.finish()
        return LaunchRecord(
            launch_id=self.id,
            start=self.recorder.start,
            start_reason=facts.get("start_reason"),
            template=facts.get("template"),
            profile=self.settings.profile,
            arch=str(plan.profile.arch) if plan else None,
            accel=str(plan.accel) if plan else None,
            accel_reason=plan.accel_reason if plan else "",
            fw_cfg=self._fw_cfg,
            outcome=outcome,
            tiles=self.recorder.tiles(
                outcome=outcome, at=self._error_phase or (None if self.ready else self._stop_phase), sizes=sizes
            ),
            wall_start_ns=self.recorder.wall_start_ns,
            connection=self.settings.connect or "qemu:///embed",
            exit_status=self._exit_status,
            error=str(error) if error else self._stop.reason if outcome == "cancelled" else None,
            error_phase=str(self._error_phase) if self._error_phase else None,
            ready=self.ready,
            kernel_bytes=plan.kernel_bytes if plan else None,
            initrd_bytes=plan.initrd_bytes if plan else None,
            memory_mib=domain.memory_mib if domain else None,
            vcpus=domain.vcpus if domain else None,
            cpu=domain.cpu if domain else None,
            disks=len(self.request.disks),
            versions=self._versions(),
            appliance=appliance_versions(plan) if plan else {},
            console_tail=self.ring.tail(_TAIL_LINES if error else _SHORT_TAIL_LINES),
            extra_args=self.request.extra_args,
            proof_failures=self._proof_failures,
            provenance=provenance(),
            kind=self.recorder.kind,
        )

    def _versions(self) -> dict[str, str | None]:
        """Return the versions of all that took part."""
        plan = self.spec.plan if self.spec else None
        found: dict[str, str | None] = {"guestlaunch": __version__, "libguestfs": plan.libguestfs if plan else None}
        found["firmware"] = self.ring.firmware_version()
        manifest = plan.appliance.manifest if plan and plan.appliance else None
        found["kernel"] = manifest.kernel if manifest else None
        if plan is not None and self._connection is not None:
            with contextlib.suppress(GuestlaunchError, OSError, ValueError):
                versions = self._connection.versions(plan.emulator)
                found |= {"libvirt": versions.libvirt, "qemu": versions.qemu}
        return found


def _there(value: _T | None) -> _T:
    """Return what an earlier instruction made; the order of the table guarantees that it is there."""
    assert value is not None
    return value
