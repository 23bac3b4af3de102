"""One cold launch: carries out what the life cycle table says, and feeds back what happened.

Plan, stage, connect, create paused, verify the fw_cfg path, resume, watch, end. Everything acquired sits on one
`ExitStack` and goes in reverse order, whatever happens. The thread that calls `run` does all of it.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from orchestrator.channel.console import Console
from orchestrator.channel.port import LineBuffer, Port
from orchestrator.channel.ring import ConsoleRing
from orchestrator.domain.model import Domain, FirmwareKind
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import (
    DeadlineError,
    GuestlaunchError,
    LaunchError,
    MonitorError,
    QemuExitedError,
)
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.assembly import assemble
from orchestrator.launch.boot import NO_MARKER, NO_MARKERS, NO_TRACE, Boot, limits, observed_phases
from orchestrator.launch.diagnosis import Evidence, diagnose
from orchestrator.launch.lifecycle import Event, Instruction, State, step
from orchestrator.launch.plan import Plan, make_plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.stop import Stop
from orchestrator.launch.verification import verify_fw_cfg
from orchestrator.launch.watch import Ends, Watch
from orchestrator.settings import Settings
from orchestrator.timeline.phases import TRANSFER_PHASES, Phase
from orchestrator.timeline.record import FwCfg
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import FLUSH_EVENT, TraceFile

_TAIL_LINES = 20
_KILLED_SECONDS = 5.0
# libvirt's alias of the first channel of a domain, which `design` makes guestfsd's.
_GUESTFSD_ALIAS = "channel0"
_INTERRUPTIBLE = frozenset({State.REQUESTED, State.PLANNED, State.STAGED, State.CONNECTED, State.CREATED})


class Cold:
    """One cold launch.

    :param connect: returns the process's libvirt connection, opening it when need be.
    :param claim: has a path removed if this process dies (`orchestrator.hypervisor.embed.Root.claim`).
    :param console: descriptors that the guest's serial console is relayed (from, to).
    :param emit: takes events for the log.
    """

    def __init__(
        self,
        request: LaunchRequest,
        settings: Settings,
        recorder: Recorder,
        stop: Stop,
        *,
        connect: Callable[[], Connection],
        claim: Callable[[Path], contextlib.AbstractContextManager[None]],
        console: tuple[int, int] | None,
        emit: Callable[..., None],
    ) -> None:
        self.id = f"gl-{uuid.uuid4().hex[:12]}"
        self._request, self._settings, self._recorder, self._stop = request, settings, recorder, stop
        self._connect, self._claim, self._client, self._emit = connect, claim, console, emit
        self._files = contextlib.ExitStack()
        self._queue: deque[Event] = deque([Event.BEGIN])
        self._watch: Watch | None = None
        self._boot: Boot | None = None
        self._guest: Guest | None = None
        self._data = Path()
        self.ring = ConsoleRing(settings.console_kib * 1024)
        self.state = State.REQUESTED
        self.plan: Plan | None = None
        self.domain: Domain | None = None
        self.connection: Connection | None = None
        self.fw_cfg = FwCfg(requested=settings.fw_cfg_dma)
        self.error: GuestlaunchError | None = None
        self.error_phase: Phase | None = None
        self.exit_status: int | None = None
        self.ready = False

    def run(self) -> None:
        """Run the launch to its end; afterwards `error` says what went wrong, if anything did."""
        do = {
            Instruction.PLAN: self._plan,
            Instruction.STAGE: self._stage,
            Instruction.CONNECT: self._open,
            Instruction.CREATE: self._create,
            Instruction.VERIFY: self._verify,
            Instruction.RESUME: self._resume,
            Instruction.NOTE_READY: self._note_ready,
            Instruction.END: self._end,
            Instruction.KILL: self._kill,
            Instruction.RELEASE: self._release,
        }
        while self.state is not State.GONE:
            event = self._next()
            self.state, instructions = step(self.state, event)
            self._carry_out(instructions, do)

    def _next(self) -> Event:
        """Return the next event: one that is due, a stop request, or what the guest does."""
        if self._stop.requested and self.state in _INTERRUPTIBLE and self._queue and self._queue[0] is Event.DONE:
            self._queue.clear()
            return Event.STOP
        if self._queue:
            return self._queue.popleft()
        assert self._watch is not None  # the table waits only where a guest runs
        event = self._watch.wait()
        if event not in {Event.LAUNCH_FLAG, Event.STOP}:
            self._explain(event)
        return event

    def _carry_out(self, instructions: tuple[Instruction, ...], do: Mapping[Instruction, Callable[[], None]]) -> None:
        """Carry out instructions in order; a failure ends the rest and becomes an event."""
        for instruction in instructions:
            try:
                do[instruction]()
            except GuestlaunchError as error:
                self._fail(error)
                return
            except OSError as error:
                self._fail(LaunchError("cannot launch", error.filename or instruction, error.strerror or error))
                return
        if instructions and self.state not in {State.READY, State.GONE, State.BOOTING}:
            self._queue.append(Event.DONE)

    def _fail(self, error: GuestlaunchError) -> None:
        if self.error is None:
            self.error, self.error_phase = error, self._recorder.current()
        self._queue.append(Event.FAILED)

    def _plan(self) -> None:
        self.plan = make_plan(self._request, self._settings)

    def _stage(self) -> None:
        assert self.plan is not None  # the table plans first
        self._recorder.begin(Phase.STAGE, "orchestrator")
        staged = assemble(
            self.plan, self._request, self._settings, launch_id=self.id, files=self._files, claim=self._claim
        )
        self.domain, self._data = staged.domain, staged.data
        self._console = Console(staged.console, self.ring, self._client)
        lines = LineBuffer(lambda line: self._boot.on_control_line(line) if self._boot else None)
        self._control = Port(staged.control, lines.feed)
        self._files.callback(self._console.port.close)
        self._files.callback(self._control.close)

    def _open(self) -> None:
        self._recorder.begin(Phase.CONNECT, "orchestrator")
        self.connection = self._connect()

    def _create(self) -> None:
        """Start QEMU, paused."""
        assert self.domain is not None and self.connection is not None  # noqa: PT018 - the table's order
        self._recorder.begin(Phase.CREATE, "orchestrator")
        self._guest = self.connection.create(domain_xml(self.domain), paused=True)
        self._recorder.begin(Phase.QEMU, "libvirt started the domain")

    def _verify(self) -> None:
        """Read back which fw_cfg path is in force, before the launch is called DMA.

        :raise TransferPathError: it is not the one that was asked for.
        """
        assert self._guest is not None and self.plan is not None  # noqa: PT018 - the table's order
        self.fw_cfg = verify_fw_cfg(
            self._guest, requested=self._settings.fw_cfg_dma, arch=self.plan.profile.arch, scratch=self._data
        )

    def _resume(self) -> None:
        """Let the guest run, and follow it."""
        assert self._guest is not None and self.plan is not None  # noqa: PT018 - the table's order
        plan, measure = self.plan, self._settings.measure
        uefi = plan.profile.firmware is not FirmwareKind.NONE
        markers = frozenset[str]() if plan.appliance is None else plan.appliance.markers
        self._explain_unseen(transfers=uefi, markers=markers)
        trace = TraceFile(self._data / "trace.log") if measure else None
        observed = observed_phases(traced=measure, transfers=uefi, markers=markers)
        self._boot = Boot(self._recorder, trace, limits(self._settings.deadlines), observed, _GUESTFSD_ALIAS)
        ends = Ends(console=self._console, control=self._control)
        assert self.connection is not None  # it made the guest
        self._watch = Watch(self._guest, self._stop, ends, self._boot, self.connection.lost)
        self._files.enter_context(self._watch)
        self._recorder.begin(Phase.FIRMWARE, "vCPUs resumed")
        if not self._request.start_paused:
            self._guest.resume()
        self._tell()

    def _tell(self) -> None:
        """Log what was started and why so; the guest boots meanwhile, and structlog is imported."""
        assert self.plan is not None and self.domain is not None  # noqa: PT018 - the table's order
        firmware = self.plan.firmware
        changed = [f"{c.before} -> {c.after or 'dropped'}: {c.reason}" for c in self.plan.changes]
        skipped = [f"{s.descriptor}: {s.reason}" for s in firmware.skipped] if firmware else []
        self._emit(
            "launch_started",
            launch_id=self.id,
            profile=self.plan.profile.name,
            accel=str(self.plan.accel),
            accel_reason=self.plan.accel_reason,
            fw_cfg_dma=self.fw_cfg.verified,
            firmware=firmware.code if firmware else None,
            firmware_skipped=skipped,
            cmdline_changes=changed,
            domain_xml=domain_xml(self.domain),
        )

    def _explain_unseen(self, *, transfers: bool, markers: Collection[str]) -> None:
        """Tell the recorder why it will not see some phases."""
        if not self._settings.measure:
            for phase in (*TRANSFER_PHASES, Phase.FIRMWARE_HANDOFF, Phase.WORKLOAD):
                self._recorder.unseen(phase, NO_TRACE)
        elif not transfers:
            for phase in (*TRANSFER_PHASES, Phase.FIRMWARE_HANDOFF):
                self._recorder.unseen(phase, "QEMU places kernel and initrd in memory itself: there is no transfer")
        for phase in (Phase.KERNEL, Phase.INITRD, Phase.INIT, Phase.GUESTFSD):
            if not markers:
                self._recorder.unseen(phase, NO_MARKERS)
            elif phase is not Phase.KERNEL and phase not in markers:  # any marker dates the kernel's start
                self._recorder.unseen(phase, NO_MARKER)

    def _note_ready(self) -> None:
        """The tool has its launch flag: from here on, nothing is measured until the end."""
        assert self._guest is not None and self._boot is not None  # noqa: PT018 - the table's order
        self.ready = True
        self._boot.settle()
        if self._settings.measure:
            with contextlib.suppress(MonitorError, QemuExitedError):
                self._guest.qmp("trace-event-set-state", {"name": FLUSH_EVENT, "enable": False})

    def _end(self) -> None:
        """Have QEMU write back what it holds, and exit."""
        assert self._guest is not None  # the table's order
        self._recorder.begin(Phase.SHUTDOWN, f"stop requested: {self._stop.reason}")
        self._guest.terminate()
        with contextlib.suppress(DeadlineError):  # KILL follows, and the ending says that it was forced
            code = self._guest.wait_exited(self._settings.deadlines.shutdown)
            if self._watch is not None and (code != 0 or self.ring.panic() is not None):
                # It was dying by itself already: its tool saw that sooner than we did.
                self._explain(Event.QEMU_GONE)

    def _kill(self) -> None:
        """Make sure that QEMU is gone, and libvirt's domain with it."""
        if self._boot is not None and not self.ready:
            self._boot.settle()
        if self.ready or self._stop.requested:
            self._recorder.begin(Phase.SHUTDOWN, "QEMU ended" if self._guest else "stop requested")
        if self._guest is None:
            return
        if not self._guest.exited.is_set():
            self._guest.kill()
            with contextlib.suppress(DeadlineError):  # `end` below goes further
                self._guest.wait_exited(_KILLED_SECONDS)
        if self._guest.log_file is not None:
            self._files.callback(self._guest.log_file.unlink, missing_ok=True)
        self.exit_status = self._guest.exit_code
        if self._watch is not None:
            self._watch.drain()
        if self._guest.pid is not None and self.exit_status is not None:
            # QEMU is dead and its status known. libvirt polls for that with pauses of 200 ms, which are not the
            # client's to wait for.
            threading.Thread(target=self._clear_away, args=(self._guest,), name=f"clear-{self.id}", daemon=True).start()
            return
        self.exit_status = self._guest.end(self._settings.deadlines.shutdown).exit_code

    def _clear_away(self, guest: Guest) -> None:
        """Wait until libvirt, too, is done with a domain whose QEMU is dead: its last act is a line in the log."""
        with contextlib.suppress(GuestlaunchError):
            guest.end(_KILLED_SECONDS)
        if guest.log_file is not None:
            guest.log_file.unlink(missing_ok=True)

    def _release(self) -> None:
        self._files.close()

    def _explain(self, event: Event) -> None:
        """Keep the reason why a guest is at its end that should not be."""
        assert self._watch is not None and self._boot is not None  # noqa: PT018 - only a watched guest gets here
        self._watch.drain()
        self._boot.settle()
        phase = self._boot.current()
        assert self._guest is not None  # only a watched guest gets here
        evidence = Evidence(
            phase=phase,
            ready=self.ready,
            exit_code=self._guest.exit_code,
            last_line=next(iter(self.ring.tail(1)), None),
            panic=self.ring.panic(),
            allowed_s=self._boot.allowed_s(phase),
            uri=self._settings.connect,
        )
        error = diagnose(event, evidence)
        if error is not None:
            error.phase, error.domain = str(phase), self.id
            error.console = "\n".join(self.ring.tail(_TAIL_LINES))
            self.error, self.error_phase = error, phase
