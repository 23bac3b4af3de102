"""One launch: carries out what the life cycle table says, and feeds back what happened.

Plan, stage, connect, create paused, prepare, resume, watch, end; how some of these are done is the launch's `Way`.
Everything acquired sits on one `ExitStack` and goes in reverse order. The thread that calls `run` does all of it.

Whatever is raised, by an instruction or by what watches the guest, becomes the event FAILED, and the table leads to the
end. What no table foresees (an interrupt, a defect in here) passes `_leave_nothing`, as every launch does.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from orchestrator.channel.ring import ConsoleRing
from orchestrator.domain.model import Domain
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import (
    DeadlineError,
    DiskError,
    GuestlaunchError,
    LaunchError,
    StoppedError,
)
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.disk_error import stopped_by_disk
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.boot import Boot
from orchestrator.launch.diagnosis import Evidence, deadline_variable, diagnose
from orchestrator.launch.lifecycle import Event, Instruction, State, step
from orchestrator.launch.plan import Plan, make_plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.stop import Stop
from orchestrator.launch.watch import Ends, Watch
from orchestrator.launch.way import Asked, Place, Way
from orchestrator.launch.written import Written
from orchestrator.records.record import FwCfg
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Phase, Start

_T = TypeVar("_T")

_KILLED_SECONDS = 5.0
_SIGNALLED = 128  # QEMU's status is above when a signal ended it
_INTERRUPTIBLE = frozenset({State.REQUESTED, State.PLANNED, State.STAGED, State.CONNECTED, State.CREATED})


class Launch:
    """One launch.

    :param launch_id: its name until its way has one.
    :param choose: decides the way of a launch that is planned.
    :param plan: makes the plan.
    :param emit: takes events for the log.
    """

    def __init__(
        self, asked: Asked, stop: Stop, *, launch_id: str, choose: Callable[[Plan], Way], emit: Callable[..., None],
        plan: Callable[[LaunchRequest, Settings], Plan] = make_plan,
    ) -> None:  # fmt: skip
        self.id = launch_id
        self._asked, self._stop, self._choose, self._emit = asked, stop, choose, emit
        self._make_plan = plan
        self._settings, self._recorder = asked.settings, asked.recorder
        self._files = contextlib.ExitStack()
        self._queue: deque[Event] = deque([Event.BEGIN])
        self._place: Place | None = None
        self._watch: Watch | None = None
        self._written: Written | None = None
        self._boot: Boot | None = None
        self._guest: Guest | None = None
        self._empty = ConsoleRing(1)
        self._ended = False  # the guest is gone, or was never there
        self.state = State.REQUESTED
        self.plan: Plan | None = None
        self.way: Way | None = None
        self.domain: Domain | None = None
        self.connection: Connection | None = None
        self.fw_cfg = FwCfg(requested=asked.settings.fw_cfg_dma)
        self.error: GuestlaunchError | None = None
        self.error_phase: Phase | None = None
        self.stop_phase: Phase | None = None  # where a launch that was not ready was asked to end
        self.exit_status: int | None = None
        self.ready = False
        self.ran = False  # the guest went on from where it was created
        self.proof_failures: tuple[str, ...] = ()

    @property
    def ring(self) -> ConsoleRing:
        """What the guest's console said."""
        return self._place.console.ring if self._place else self._empty

    @property
    def created(self) -> bool:
        """Whether there was a guest, which then ended with the launch."""
        return self._guest is not None

    def run(self) -> None:
        """Run the launch to its end; afterwards `error` says what went wrong, if anything did.

        :raise BaseException: what is no `Exception` goes on to the caller, once the guest is gone.
        """
        do = {
            Instruction.PLAN: self._plan,
            Instruction.STAGE: self._stage,
            Instruction.CONNECT: self._open,
            Instruction.CREATE: self._create,
            Instruction.PREPARE: self._prepare,
            Instruction.RESUME: self._resume,
            Instruction.LET_THROUGH: self._let_through,
            Instruction.NOTE_READY: self._note_ready,
            Instruction.END: self._end,
            Instruction.KILL: self._kill,
            Instruction.RELEASE: self._release,
        }
        try:
            while self.state is not State.GONE:
                event = self._next()
                if event is Event.STOP and not self.ready:
                    self.stop_phase = self._recorder.current()
                self.state, instructions = step(self.state, event)
                self._carry_out([(instruction, do[instruction]) for instruction in instructions])
        except BaseException as raised:
            self._keep(self._as_error(raised))
            raise
        finally:
            self._leave_nothing()

    def _leave_nothing(self) -> None:
        """End what is still there. Every launch comes by here, whatever was raised on its way."""
        try:
            if self._guest is not None and not self._ended:
                self._destroy(self._guest)
        finally:
            self.state = State.GONE
            self._files.close()

    def _next(self) -> Event:
        """Return the next event: one that is due, a stop request, or what the guest does."""
        if self._stop.requested and self.state in _INTERRUPTIBLE and self._queue and self._queue[0] is Event.DONE:
            self._queue.clear()
            return Event.STOP
        if self._queue:
            return self._queue.popleft()
        try:
            event = _there(self._watch).wait()  # the table waits only where a guest runs
            if event not in {Event.LAUNCH_FLAG, Event.STOP, Event.ANSWERED}:
                self._explain(event)
        except Exception as raised:  # noqa: BLE001 - see the module
            self._keep(self._as_error(raised))
            return Event.FAILED
        return event

    def _carry_out(self, instructions: Sequence[tuple[Instruction, Callable[[], None]]]) -> None:
        """Carry out instructions in order; a failure ends the rest and becomes an event."""
        for instruction, do in instructions:
            try:
                do()
            except StoppedError:
                self._queue.append(Event.STOP)
                return
            except OSError as error:
                self._keep(self._system_error(error, instruction))
            except Exception as raised:  # noqa: BLE001 - see the module
                self._keep(self._as_error(raised))
            else:
                continue
            self._queue.append(Event.FAILED)
            return
        if instructions and self.state not in {State.READY, State.GONE, State.BOOTING}:
            self._queue.append(Event.DONE)

    def _system_error(self, error: OSError, instruction: Instruction) -> LaunchError:
        """Return an operating system's error as one for the user; all that a launch writes is in two directories."""
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        where = error.filename or (self._settings.state_dir if full else instruction)
        hint = "free some space there" if full else ""
        return LaunchError("cannot launch", where, error.strerror or error, hint)

    def _as_error(self, raised: BaseException) -> GuestlaunchError:
        """Return an exception as an error for the user; one that nobody foresaw goes to the log, too."""
        if isinstance(raised, GuestlaunchError):
            return raised
        where = f"phase {self._recorder.current()}"
        if not isinstance(raised, Exception):
            return LaunchError("the launch was interrupted", where, type(raised).__name__)
        text = "".join(traceback.format_exception(raised))
        self._emit("internal_error", level="error", launch_id=self.id, error=repr(raised), traceback=text)
        error = LaunchError("internal error", where, repr(raised), "this is a bug; the log has more")
        error.__cause__ = raised
        return error

    def _keep(self, error: GuestlaunchError) -> None:
        """Keep the first error, which is why the launch failed; what follows from it is no news."""
        if self.error is None:
            self.error, self.error_phase = error, self._recorder.current()

    def _plan(self) -> None:
        self.plan = self._make_plan(self._asked.request, self._settings)
        self.way = self._choose(self.plan)
        self.id = self.way.id
        self._recorder.become(self.way.start)

    def _stage(self) -> None:
        self._recorder.begin(Phase.STAGE, "orchestrator")
        self.domain, self._place = _there(self.way).stage(_there(self.plan), self._files)
        self._files.callback(self._place.console.port.close)
        self._files.callback(self._place.control.port.close)

    def _open(self) -> None:
        self._recorder.begin(Phase.CONNECT, "orchestrator")
        self.connection = _there(self.way).connect()

    def _create(self) -> None:
        """Have QEMU there, paused."""
        self._recorder.begin(Phase.CREATE, "orchestrator")
        self._guest = _there(self.way).create(_there(self.connection))

    def _prepare(self) -> None:
        self.fw_cfg = _there(self.way).prepare(_there(self._guest))

    def _resume(self) -> None:
        """Let the guest run, and follow it."""
        way, guest, place = _there(self.way), _there(self._guest), _there(self._place)
        self._boot = way.boot()
        place.control.listener = self._boot.on_control_line
        trace_path = _there(self.domain).trace_path
        self._written = Written(guest, Path(trace_path) if trace_path is not None else None)
        ends = Ends(console=place.console, control=place.control.port, written=self._written)
        self._watch = Watch(guest, self._stop, ends, self._boot, _there(self.connection).lost)
        self._files.enter_context(self._watch)
        self.ran = True
        way.run(guest)
        if way.start is Start.COLD:
            self._tell()

    def _let_through(self) -> None:
        """Answer a clone's guest at its gate. What was started is told only now: the guest has waited for us."""
        _there(self.way).let_through(_there(self._guest))
        self._tell()

    def _tell(self) -> None:
        """Log what was started and why so; the guest boots meanwhile, and structlog is imported."""
        plan, way = _there(self.plan), _there(self.way)
        firmware, confinement = plan.firmware, _there(self._guest).confinement
        changed = [f"{c.before or 'nothing'} -> {c.after or 'dropped'}: {c.reason}" for c in plan.changes]
        skipped = [f"{s.descriptor}: {s.reason}" for s in firmware.skipped] if firmware else []
        self._emit(
            "launch_started",
            launch_id=self.id,
            start=str(way.start),
            **way.facts(),
            profile=plan.profile.name,
            accel=str(plan.accel),
            accel_reason=plan.accel_reason,
            fw_cfg_dma=self.fw_cfg.verified,
            firmware=firmware.code if firmware else None,
            firmware_skipped=skipped,
            cmdline_changes=changed,
            confinement=None if confinement is None else asdict(confinement),
            domain_xml=domain_xml(_there(self.domain)),
        )

    def _note_ready(self) -> None:
        """The tool has its launch flag: from here on, nothing is measured until the end."""
        self.ready = True
        _there(self._boot).settle()
        _there(self._written).stop_tracing()

    def _end(self) -> None:
        """Have QEMU write back what it holds, and exit."""
        guest, before = _there(self._guest), self._recorder.current()
        self._recorder.begin(Phase.SHUTDOWN, f"stop requested: {self._stop.reason}")
        guest.terminate()
        seconds = self._settings.deadlines.shutdown
        try:
            code = guest.wait_exited(seconds)
        except DeadlineError as error:  # KILL follows
            if self.ready:
                hint = f"GUESTLAUNCH_{deadline_variable(Phase.SHUTDOWN)} allows more"
                why = f"not within {seconds:g} s: it is killed, and what it had not written back is lost"
                raise DeadlineError("QEMU did not end", f"phase {Phase.SHUTDOWN}", why, hint) from error
            return
        if self.error is not None or self._watch is None:
            return
        if guest.disk_error is not None:  # in the last moment, when all was written back
            self._explain(Event.DISK_ERROR, before)
        elif code != 0 or self.ring.panic() is not None:
            # A signal other than ours, or a panic: it was dying already, and its tool saw that sooner than we did.
            dying = code > _SIGNALLED or self.ring.panic() is not None
            self._explain(Event.QEMU_GONE, before if dying else Phase.SHUTDOWN)

    def _kill(self) -> None:
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
        self._recorder.begin(Phase.SHUTDOWN, "QEMU ended")

    def _destroy(self, guest: Guest) -> None:
        """Have QEMU gone, by SIGKILL unless it is, and its exit status known.

        :raise HypervisorError: it could not be ended by any means.
        """
        if not guest.exited.is_set():
            guest.kill()
            with contextlib.suppress(DeadlineError):  # `end` below goes further
                guest.wait_exited(_KILLED_SECONDS)
        if guest.log_file is not None:
            self._files.callback(guest.log_file.unlink, missing_ok=True)
        self.exit_status = guest.exit_code
        if guest.pid is not None and self.exit_status is not None:
            # QEMU is dead and its status known. libvirt polls for that with pauses of 200 ms, which are not the
            # client's to wait for.
            threading.Thread(target=self._clear_away, args=(guest,), name=f"clear-{self.id}", daemon=True).start()
        else:
            self.exit_status = guest.end(self._settings.deadlines.shutdown).exit_code
        self._ended = True

    def _clear_away(self, guest: Guest) -> None:
        """Wait until libvirt, too, is done with a domain whose QEMU is dead: its last act is a line in the log."""
        with contextlib.suppress(GuestlaunchError):
            guest.end(_KILLED_SECONDS)
        if guest.log_file is not None:
            guest.log_file.unlink(missing_ok=True)

    def _release(self) -> None:
        if self.ready and self.error is None and self._boot is not None:
            self.proof_failures = self._boot.proof_failures()
        self._files.close()

    def _last_words(self) -> None:
        """Take what the guest sent before it ended."""
        if self._watch is not None:
            self._watch.drain()
        if self._boot is not None and not self.ready:
            self._boot.settle()

    def _explain(self, event: Event, phase: Phase | None = None) -> None:
        """Keep the reason why a guest is at its end that should not be; the phase is the current one if not given."""
        self._last_words()
        boot = _there(self._boot)  # only a watched guest gets here
        phase = phase or boot.current()
        evidence = Evidence(
            phase=phase,
            ready=self.ready,
            exit_code=_there(self._guest).exit_code,
            last_line=next(iter(self.ring.tail(1)), None),
            panic=self.ring.panic(),
            allowed_s=boot.allowed_s(phase),
            uri=self._settings.connect,
        )
        error = self._disk_error() if event is Event.DISK_ERROR else diagnose(event, evidence)
        if error is not None and self.error is None:
            self.error, self.error_phase = error, phase

    def _disk_error(self) -> DiskError | None:
        """Return why a disk has stopped the guest, and log it."""
        error = stopped_by_disk(_there(self._guest))
        if error is not None:
            self._emit("disk_error", level="error", launch_id=self.id, file=error.subject, reason=error.why)
        return error


def _there(value: _T | None) -> _T:
    """Return what an earlier instruction made: the table's order sees to it that it is there."""
    assert value is not None
    return value
