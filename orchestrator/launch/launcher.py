"""Launches for one process: its libvirt connection, its running launches, and the record of each that is over."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.domain.model import Accel
from orchestrator.errors import DiskError, GuestlaunchError
from orchestrator.hypervisor import accel, bounded, embed
from orchestrator.hypervisor.connection import Connection, open_connection
from orchestrator.launch.choice import outdated, template_facts, why_not_warm
from orchestrator.launch.clone import bare
from orchestrator.launch.cold import Cold
from orchestrator.launch.launch import Launch
from orchestrator.launch.patience import explained
from orchestrator.launch.plan import Plan, make_plan
from orchestrator.launch.request import LaunchRequest, from_json
from orchestrator.launch.standby import Pool, Shape, Waiting
from orchestrator.launch.stop import Stop
from orchestrator.launch.sum_up import sum_up
from orchestrator.launch.templating import build_template
from orchestrator.launch.warm import Standby, Warm
from orchestrator.launch.way import Asked, Way
from orchestrator.records import store
from orchestrator.records.log import EventLog, write_timeline
from orchestrator.records.record import LaunchRecord, phase_event, to_event
from orchestrator.settings import Settings, private_state
from orchestrator.template import store as templates
from orchestrator.timeline.phases import Phase, Start
from orchestrator.timeline.recorder import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A running launch, as it stands. `started_ns` is the host's monotonic clock; `error` is why it is at its end."""

    launch_id: str
    profile: str
    accel: str | None
    phase: Phase
    started_ns: int
    ready: bool
    client_pid: int | None
    error: str | None


@dataclass(slots=True)
class _Running:
    """A launch under way; `unused` ends a clone that was taken for it and that it has not come to use."""

    launch: Launch
    settings: Settings
    recorder: Recorder
    client_pid: int | None
    unused: contextlib.ExitStack

    def snapshot(self) -> Snapshot:
        plan = self.launch.plan
        return Snapshot(
            launch_id=self.launch.id,
            profile=self.settings.profile,
            accel=str(plan.accel) if plan else None,
            phase=self.recorder.current(),
            started_ns=self.recorder.origin_ns,
            ready=self.launch.ready,
            client_pid=self.client_pid,
            error=str(self.launch.error) if self.launch.error else None,
        )


class Launcher:
    """Launches domains; a context manager, one a process, used by as many threads as there are launches.

    Connections are opened when first needed and kept: the embedded driver takes tens of milliseconds to start.

    :param standby: how many clones to keep ready for each kind of launch.
    :param plan: decides what is launched for a request.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        standby: int = 0,
        plan: Callable[[LaunchRequest, Settings], Plan] = make_plan,
    ) -> None:
        self.settings = settings
        private_state(settings.state_dir)
        self._make_plan = plan
        self.log = EventLog(settings.log_target)
        self._pool: Pool | None = None
        if standby:
            self._pool = Pool(
                standby,
                settings.standby_memory_mib,
                connect=self._connection,
                claim=self._claim,
                emit=self.log.emit,
            )
        self._stack = contextlib.ExitStack()
        self._connections: dict[str | None, Connection] = {}
        self._opening = threading.Lock()
        self._running: dict[int, _Running] = {}
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
        """Open the connection that launches will need, on a thread of its own; errors wait for the launch.

        Then clear up after processes that were killed together with their guardian.
        """

        def run() -> None:
            with contextlib.suppress(GuestlaunchError):
                self._connection(self.settings)
            try:
                swept = embed.sweep(self.settings.state_dir)
            except OSError as error:
                self.log.emit("sweep_failed", level="warning", reason=str(error))
                return
            for line in swept:
                self.log.emit("swept", level="warning", what=line)
            self._restock()

        threading.Thread(target=run, name="prewarm", daemon=True).start()

    def _restock(self) -> None:
        """Have clones kept of the templates that earlier launches have left."""
        if self._pool is None:
            return
        for template in templates.templates(self.settings.state_dir):
            if template.facts["profile"] != self.settings.profile or outdated(template) is not None:
                continue
            with contextlib.suppress(GuestlaunchError, OSError, TypeError, ValueError):
                request = from_json(template.request)
                plan = self._make_plan(request, self.settings)
                shape = Shape(
                    plan=plan,
                    request=request,
                    settings=self.settings,
                    facts=template_facts(plan, request, self.settings),
                )
                if shape.facts == template.facts:
                    self._pool.want(shape)

    def running(self) -> list[Snapshot]:
        """Return the launches that are not over yet."""
        with self._changing:
            running = list(self._running.values())
        return [one.snapshot() for one in running]

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

        A launch that failed has a record as any: its `outcome` and `error` say so.

        :param settings: settings of this launch, where they differ from the process's.
        :param console: descriptors that the guest's console is relayed (from, to).
        :param origin_ns: monotonic time at which the client started; now, when it is not known.
        :param tell: takes a line for whoever waits for the launch.
        """
        own = settings or self.settings
        origin = origin_ns or time.monotonic_ns()
        running = self._prepared(request, own, stop, console=console, origin_ns=origin, client_pid=client_pid)

        def say(text: str) -> None:
            self.log.emit("launch_waits", level="warning", launch_id=running.launch.id, reason=text)
            if tell is not None:
                tell(text)

        thread = threading.get_ident()

        def asked_ns() -> int | None:
            """Tell since when libvirt's answer is waited for; a tool that has its guest does not wait with us."""
            return None if running.launch.ready and not stop.requested else bounded.asked_ns(thread)

        try:
            with explained(asked_ns, own.connect, say):
                self._carry_out(running)
            if self._lacks_kvm(running.launch, own, stop):
                running = self._prepared(request, own, stop, console=console, origin_ns=origin, client_pid=client_pid)
                self._carry_out(running)
            fell = _fell(running.launch, stop)
            if fell is not None:
                broken = running.launch
                self.log.emit("warm_failed", level="warning", launch_id=broken.id, error=fell)
                running = self._prepared(
                    request, own, stop, console=console, origin_ns=origin, client_pid=client_pid, fell=fell
                )
                self._carry_out(running)
                self._distrust(own, broken)
        finally:
            # Whatever was raised, each launch has its one line.
            running.recorder.finish()
            record = sum_up(running.launch, own, running.recorder, stop, request)
            self._write(record, own)
        return record

    def _lacks_kvm(self, launch: Launch, settings: Settings, stop: Stop) -> bool:
        """Tell whether `auto` chose KVM, QEMU then refused it, and the tool still waits.

        The next plan knows, and chooses TCG. A QEMU that gave up late had called the tool before, and that saw its end.
        """
        plan, error = launch.plan, launch.error
        if plan is None or error is None or launch.ran or isinstance(error, DiskError):
            return False
        if plan.accel is not Accel.KVM or plan.accel_reason == accel.ASKED_FOR or not accel.is_refusal(error.why):
            return False
        self.log.emit("kvm_refused", level="warning", launch_id=launch.id, error=str(error))
        accel.note_refusal(plan.emulator, settings.state_dir, error.why)
        return not stop.requested

    def _distrust(self, settings: Settings, broken: Launch) -> None:
        """Remove the template of a clone that failed, if its files are not what they were: no other would do better."""
        key = broken.way.facts().get("template") if broken.way else None
        try:
            for template in templates.templates(settings.state_dir):
                if template.key == key and (why := templates.damage(template)) is not None:
                    removed = templates.remove(template)
                    self.log.emit("template_damaged", level="warning", key=key, reason=why, removed=removed)
        except (GuestlaunchError, OSError) as error:  # the launch itself went well by then
            self.log.emit("template_check_failed", level="warning", key=key, reason=str(error))

    def _prepared(
        self, request: LaunchRequest, settings: Settings, stop: Stop, *, console: tuple[int, int] | None,
        origin_ns: int, client_pid: int | None, fell: str | None = None,
    ) -> _Running:  # fmt: skip
        """Return a launch that is still to be carried out.

        :param fell: why a warm launch of the same request has failed; this one then boots.
        """
        recorder = Recorder(origin_ns)
        asked = Asked(
            request=request, settings=settings, recorder=recorder, console=console, claim=self._claim, stop=stop
        )
        launch_id = f"gl-{uuid.uuid4().hex[:12]}"
        unused = contextlib.ExitStack()

        def choose(plan: Plan) -> Way:
            return self._choose(plan, asked, launch_id, fell, unused)

        launch = Launch(asked, stop, launch_id=launch_id, choose=choose, emit=self.log.emit, plan=self._make_plan)
        return _Running(launch, settings, recorder, client_pid, unused)

    def _carry_out(self, running: _Running) -> None:
        """Carry out a launch to its end."""
        with running.unused, self._listed(running):
            running.launch.run()
            if running.launch.created:
                running.unused.pop_all()

    def _choose(self, plan: Plan, asked: Asked, launch_id: str, fell: str | None, unused: contextlib.ExitStack) -> Way:
        """Decide whether a launch boots or clones a template; one that is asked for is built when there is none.

        :param unused: ends a clone that was taken for the launch, should it not come to use it.
        """
        settings, request = asked.settings, asked.request

        def connect() -> Connection:
            return self._connection(settings)

        if settings.start == "cold" or fell is not None:
            return Cold(asked, launch_id, connect, fell)
        reason = why_not_warm(plan, request, settings)
        if reason is not None:
            return Cold(asked, launch_id, connect, reason)
        facts = template_facts(plan, request, settings)
        if self._pool is not None:
            shape = Shape(plan=plan, request=bare(request), settings=settings, facts=facts)
            self._pool.want(shape)
            clone = self._pool.take(shape)
            if clone is not None:
                unused.callback(clone.close)
                return Standby(asked, clone)
        template = templates.find(settings.state_dir, facts)
        if template is None and settings.start == "warm":
            template = build_template(
                plan, request, settings, facts, connect=connect, claim=self._claim, stop=asked.stop
            )
            self.log.emit("template_built", key=template.key, seconds=template.seconds)
        if template is None:
            return Cold(asked, launch_id, connect, "there is no template for it (guestlaunch template build makes one)")
        return Warm(asked, launch_id, connect, template)

    @contextlib.contextmanager
    def _listed(self, running: _Running) -> Iterator[None]:
        with self._changing:
            self._running[id(running)] = running
        try:
            yield
        finally:
            with self._changing:
                del self._running[id(running)]

    @contextlib.contextmanager
    def _claim(self, path: Path) -> Iterator[None]:
        """Have a path removed if this process dies within the context."""
        claim = embed.private_root(self.settings.state_dir).claim(path)
        try:
            yield
        finally:
            claim.unlink(missing_ok=True)

    def _connection(self, settings: Settings) -> Connection:
        """Return the connection for these settings, opening it or, when it broke, opening it anew."""
        with self._opening:
            connection = self._connections.get(settings.connect)
            if connection is None or connection.lost.is_set():
                context = open_connection(
                    settings.connect,
                    self.settings.state_dir,
                    emit=self.log.emit,
                    deadline_s=settings.deadlines.connect,
                )
                connection = self._stack.enter_context(context)
                self._connections[settings.connect] = connection
            return connection

    def _write(self, record: LaunchRecord, settings: Settings) -> None:
        """Write the phases and the canonical line to the log, and the line where the launch asked for it."""
        for tile in record.tiles:
            if tile.outcome != "not_reached":
                self.log.emit(**phase_event(record, tile))
        event = to_event(record)
        if record.proof_failures:
            reason = "; ".join(record.proof_failures)
            self.log.emit("proof_failed", level="error", launch_id=record.launch_id, reason=reason)
        self.log.emit(**event)
        trouble = store.append(
            self.settings.state_dir,
            event,
            keep_launches=self.settings.keep_launches,
            keep_days=self.settings.keep_days,
        )
        if trouble is not None:
            self.log.emit("store_failed", level="warning", launch_id=record.launch_id, reason=trouble)
        if settings.timeline is not None:
            write_timeline(settings.timeline, event)


def _fell(launch: Launch, stop: Stop) -> str | None:
    """Return why a warm launch failed, when it did so before the guest went on: then a cold one can take its place."""
    warm = launch.way is not None and launch.way.start is not Start.COLD
    if not warm or launch.error is None or launch.ran or stop.requested or isinstance(launch.error, DiskError):
        return None
    return str(launch.error)
