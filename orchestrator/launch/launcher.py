"""Launches for one process: its libvirt connection, its running launches, and the record of each that is over."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orchestrator.domain.model import Accel
from orchestrator.errors import DiskError, GuestlaunchError
from orchestrator.hypervisor import accel, bounded, embed
from orchestrator.hypervisor.connect import open_connection
from orchestrator.hypervisor.connection import Connection
from orchestrator.launch.context import LaunchContext, LaunchSpec
from orchestrator.launch.launch import Launch
from orchestrator.launch.plan import Plan, make_plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.start import Choose, choose_start
from orchestrator.launch.stop import Stop
from orchestrator.records.log import EventLog, write_timeline
from orchestrator.records.record import LaunchRecord, phase_event, to_event
from orchestrator.settings import Settings, private_state
from orchestrator.template import store as templates
from orchestrator.template.model import Facts, key_of
from orchestrator.timeline.phases import Kind, Phase
from orchestrator.values import dataclass

if TYPE_CHECKING:
    from orchestrator.launch.standby import Pool, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A running launch as it stands. `started_ns` is on the host's monotonic clock; `error` is why it is ending."""

    launch_id: str
    profile: str
    accel: str | None
    phase: Phase
    started_ns: int
    ready: bool
    client_pid: int | None
    error: str | None


class Launcher:
    """Launches domains; a context manager, one a process, used by as many threads as there are launches.

    Connections are opened when first needed and kept: the embedded driver takes tens of milliseconds to start.

    :param standby: how many clones to keep ready for each kind of launch.
    :param plan: decides what is launched for a request; `choose` how that starts.
    :param kind: what all its launches are; `conclude` adds to a record what is said of that kind alone.
    :param missed: is told of a launch that booted for want of a template, and what that depends on, once it is over,
        where no clones are kept ready for its like.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        standby: int = 0,
        plan: Callable[[LaunchRequest, Settings], Plan] = make_plan,
        choose: Choose = choose_start,
        kind: Kind = Kind.LAUNCH,
        conclude: Callable[[Launch, LaunchRecord], LaunchRecord] = lambda _, record: record,
        missed: Callable[[LaunchSpec, Facts, Callable[..., None]], None] | None = None,
    ) -> None:
        self.settings, self._kind, self._conclude = settings, kind, conclude
        private_state(settings.state_dir)
        self._make_plan, self._choose, self._missed = plan, choose, missed
        self.log = EventLog(settings.log_target)
        self._pool: Pool | None = None
        if standby:
            from orchestrator.launch.standby import Pool  # here: most processes keep no clones

            self._pool = Pool(standby, settings.standby_memory_mib, self._context(Stop()))
        self._stack = contextlib.ExitStack()
        self._connections: dict[str | None, Connection] = {}
        self._opening = threading.Lock()
        self._running: dict[int, Launch] = {}
        self._changing = threading.Lock()

    def __enter__(self) -> Self:
        if self._pool is not None:
            self._pool.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.close()
        with self._opening:
            self._connections.clear()
            self._stack.close()

    def prewarm(self) -> None:
        """Open the connection that launches will need, on a thread of its own; the launch reports any error.

        Then clear up after processes that were killed together with their guardian.
        """

        def run() -> None:
            with contextlib.suppress(GuestlaunchError):
                self._connection(self.settings)
            try:
                swept = embed.sweep(self.settings.state_dir, self.settings.runtime_dir)
            except OSError as error:
                self.log.emit("sweep_failed", level="warning", reason=str(error))
                return
            for line in swept:
                self.log.emit("swept", level="warning", what=line)
            if self._pool is not None:
                self.log.prepare()
                self._pool.restock(self.settings, self._make_plan)

        threading.Thread(target=run, name="prewarm", daemon=True).start()

    def running(self) -> list[Snapshot]:
        """Return the launches that are not over yet."""
        with self._changing:
            running = list(self._running.values())
        return [_snapshot(launch) for launch in running]

    def waiting(self) -> list[Waiting]:
        """Return the clones that wait for a launch."""
        return self._pool.waiting() if self._pool is not None else []

    def run(
        self,
        request: LaunchRequest,
        *,
        settings: Settings | None = None,
        console: tuple[int, int] | None = None,
        origin_ns: int | None = None,
        stop: Stop,
        client_pid: int | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> LaunchRecord:
        """Launch, wait until the domain is gone, write the canonical line, and return the record of it.

        A launch that failed has a record like any other: its `outcome` and `error` say so.

        :param settings: settings of this launch, where they differ from the process's.
        :param console: descriptors between which and the guest's console bytes are relayed (from, to).
        :param origin_ns: monotonic time at which the client started; now, when it is not known.
        :param tell: passes a line on to whoever waits for the launch.
        """
        launch = Launch(
            request,
            settings or self.settings,
            self._context(stop, console, client_pid),
            origin_ns or time.monotonic_ns(),
            pool=self._pool,
            plan=self._make_plan,
            choose=self._choose,
            kind=self._kind,
        )
        try:
            self._carry_out(launch, tell)
            if self._lacks_kvm(launch):  # the next plan knows, and chooses TCG
                launch = launch.again()
                self._carry_out(launch, tell)
            reason = launch.fallback_reason
            if reason is not None:
                self.log.emit("warm_failed", level="warning", launch_id=launch.id, error=reason)
                broken, launch = launch, launch.again(cold_reason=reason)
                self._carry_out(launch, tell)
                self._distrust(broken)
        finally:
            # Whatever was raised, each launch has its one line.
            record = self._conclude(launch, launch.record())
            write_record(record, self.settings, self.log, timeline=launch.settings.timeline)
        if self._missed is not None and self._pool is None and launch.spec is not None and launch.missing is not None:
            self._missed(launch.spec, launch.missing, self.log.emit)
        return record

    def learn(self, spec: LaunchSpec, facts: Facts, stop: Stop) -> None:
        """Build a template that nobody asked for; what comes of it is in the log."""
        from orchestrator.launch import learning  # here: once for many launches

        try:
            learning.build(spec, facts, self._context(stop))
        except (GuestlaunchError, OSError) as error:
            self.log.emit("not_learned", level="warning", key=key_of(facts), reason=str(error))

    def _carry_out(self, launch: Launch, tell: Callable[[str], None] | None) -> None:
        """Carry out a launch to its end, and say so when libvirt keeps it waiting."""

        def say(text: str) -> None:
            self.log.emit("launch_waits", level="warning", launch_id=launch.id, reason=text)
            if tell is not None:
                tell(text)

        thread = threading.get_ident()

        def asked_ns() -> int | None:
            """Return since when we have waited for libvirt; a tool that has its guest does not wait with us."""
            return None if launch.ready and not launch.context.stop.requested else bounded.asked_ns(thread)

        with self._listed(launch), bounded.explained(asked_ns, launch.settings.connect, say):
            launch.run()

    def _lacks_kvm(self, launch: Launch) -> bool:
        """Tell whether `auto` chose KVM, QEMU then refused it, and the tool still waits; note it for the next plan.

        A QEMU that gave up late had connected to the tool before, which saw it end.
        """
        error = launch.error
        if launch.spec is None or error is None or launch.ran or isinstance(error, DiskError):
            return False
        plan = launch.spec.plan
        if plan.accel is not Accel.KVM or plan.accel_reason == accel.ASKED_FOR or not accel.is_refusal(error.why):
            return False
        self.log.emit("kvm_refused", level="warning", launch_id=launch.id, error=str(error))
        from orchestrator.hypervisor import kvm_proof  # here: it hardly ever happens

        kvm_proof.note_refusal(plan.emulator, launch.settings.state_dir, accel.DEVICE, error.why)
        return not launch.context.stop.requested

    def _distrust(self, broken: Launch) -> None:
        """Remove the template of a clone that failed if its files have changed: no other clone would fare better."""
        key = broken.template_key
        try:
            for template in templates.templates(broken.settings.state_dir):
                if template.key == key and (why := templates.damage(template)) is not None:
                    removed = templates.remove(template)
                    self.log.emit("template_damaged", level="warning", key=key, reason=why, removed=removed)
        except (GuestlaunchError, OSError) as error:  # by now the launch itself has gone well
            self.log.emit("template_check_failed", level="warning", key=key, reason=str(error))

    def _context(
        self, stop: Stop, console: tuple[int, int] | None = None, client_pid: int | None = None
    ) -> LaunchContext:
        """Return where launches of this process happen."""
        return LaunchContext(
            stop=stop,
            connect=self._connection,
            claim=self._claim,
            emit=self.log.emit,
            prepare_log=self.log.prepare_beside,
            console=console,
            client_pid=client_pid,
        )

    @contextlib.contextmanager
    def _listed(self, launch: Launch) -> Iterator[None]:
        with self._changing:
            self._running[id(launch)] = launch
        try:
            yield
        finally:
            with self._changing:
                del self._running[id(launch)]

    @contextlib.contextmanager
    def _claim(self, path: Path) -> Iterator[None]:
        """Have a path removed if this process dies within the context."""
        claim = embed.private_root(self.settings.state_dir, self.settings.runtime_dir).claim(path)
        try:
            yield
        finally:
            claim.unlink(missing_ok=True)

    def _connection(self, settings: Settings) -> Connection:
        """Return the connection for these settings, opening it or, when it broke, opening it anew."""
        with bounded.asking(), self._opening:  # by this thread, or by one that came first
            connection = self._connections.get(settings.connect)
            if connection is None or connection.lost.is_set():
                context = open_connection(
                    settings.connect,
                    self.settings.state_dir,
                    runtime_dir=self.settings.runtime_dir,
                    emit=self.log.emit,
                    deadline_s=settings.deadlines.connect,
                )
                connection = self._stack.enter_context(context)
                self._connections[settings.connect] = connection
            return connection


def write_record(record: LaunchRecord, settings: Settings, log: EventLog, *, timeline: str | None) -> None:
    """Write the phases and the canonical line to the log and the store, and the line where the launch asked for it.

    :param settings: the process's; `timeline` is where the launch wants its line.
    """
    for tile in record.tiles:
        if tile.outcome != "not_reached":
            log.emit(**phase_event(record, tile))
    event = to_event(record)
    if record.proof_failures:
        reason = "; ".join(record.proof_failures)
        log.emit("proof_failed", level="error", launch_id=record.launch_id, reason=reason)
    log.emit(**event)
    from orchestrator.records import store  # here: no guest waits for it

    trouble = store.append(
        settings.state_dir, event, keep_launches=settings.keep_launches, keep_days=settings.keep_days
    )
    if trouble is not None:
        log.emit("store_failed", level="warning", launch_id=record.launch_id, reason=trouble)
    if timeline is not None:
        write_timeline(timeline, event)


def _snapshot(launch: Launch) -> Snapshot:
    return Snapshot(
        launch_id=launch.id,
        profile=launch.settings.profile,
        accel=str(launch.spec.plan.accel) if launch.spec else None,
        phase=launch.recorder.current(),
        started_ns=launch.recorder.origin_ns,
        ready=launch.ready,
        client_pid=launch.context.client_pid,
        error=str(launch.error) if launch.error else None,
    )
