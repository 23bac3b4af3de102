"""What launches, templates' guests and clones go through: each row of the life cycle table is reached, in its order."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.domain.model import Accel, Domain
from orchestrator.errors import (
    ConnectionLostError,
    DeadlineError,
    DiskError,
    HypervisorError,
    QemuExitedError,
    StoppedError,
)
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.events import EventSource
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch import lifecycle, template_build
from orchestrator.launch.clone import Clone
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place
from orchestrator.launch.gate import Rehearsal
from orchestrator.launch.launch import Launch
from orchestrator.launch.launcher import Launcher
from orchestrator.launch.lifecycle import TABLE, Event, State, Step, step
from orchestrator.launch.stop import Stop
from orchestrator.launch.warm import StandbyStart, WarmStart
from orchestrator.settings import Deadlines, Settings
from orchestrator.timeline.phases import Start
from orchestrator.timeline.recorder import Recorder
from tests.golden.domains import bare_minimum
from tests.unit.kernel.test_lifecycle import Tried, ends_and_stays_on
from tests.unit.launch.fakes import PLAN, REQUEST, FakeGuest, FakeLauncher, FakeStart, Story, serve_a_tool

_E = Event
BOOTED = [_E.BEGIN, *[_E.DONE] * 5]
IN_TIME = Deadlines(shutdown=0.2, firmware=60)
SOON = Deadlines(firmware=0.1, transfer=0.1, handoff=0.1, kernel=0.1, initrd=0.1, init=0.1, guestfsd=0.1, gate=0.1)


def fails(_: Stop) -> None:
    """Have a step fail."""
    raise HypervisorError("planted", "here")


def stops(stop: Stop) -> None:
    """Have the end asked for during a step."""
    stop.request("the user's wish")


def dies(start: FakeStart) -> None:
    """A guest whose QEMU ends by itself."""
    assert start.guest is not None
    start.guest.die(1)


def loses(start: FakeStart) -> None:
    """A guest whose connection breaks."""
    start.connection.lost.set()
    start.print(b"x")  # nothing else wakes who waits


def fills_the_disk(start: FakeStart) -> None:
    """A guest whose disk has no room left on the host."""
    assert start.guest is not None
    start.guest.emit("BLOCK_IO_ERROR", EventSource.QEMU, action="stop", nospace=True, operation="write", reason="full")


def asks_the_time(start: FakeStart) -> None:
    """A clone at its gate, which then serves a tool."""
    start.say(b"guestlaunch-marker clock 1.0 1.0\n")
    start.answered.wait(60)
    serve_a_tool(start)


def once_ready(then: Story) -> Story:
    """Return a guest that serves a tool, and then does something."""

    def story(start: FakeStart) -> None:
        start.open_port()
        deadline = time.monotonic() + 60
        while start.recorder.current() != "ready" and time.monotonic() < deadline:
            time.sleep(0.001)
        then(start)

    return story


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One launch.

    :ivar at: what is called of a pretended thing, and `does` something first.
    :ivar events: what the life cycle is told.
    """

    events: list[Event]
    story: Story = serve_a_tool
    kind: Start = Start.COLD
    at: tuple[type, str] | None = None
    does: Callable[[Stop], None] = fails
    deadlines: Deadlines = IN_TIME


def early(done: int, name: str, does: Callable[[Stop], None], event: Event) -> Case:
    """Return a launch that comes to an end in a step of its start path, when so many steps are done."""
    ending = [_E.DONE] if done >= 3 else []  # there may be a guest
    return Case(at=(FakeStart, name), does=does, events=[_E.BEGIN, *[_E.DONE] * done, event, *ending])


CASES = {
    "good": Case(events=[*BOOTED, _E.LAUNCH_FLAG, _E.STOP, _E.DONE]),
    "warm": Case(story=asks_the_time, kind=Start.WARM, events=[*BOOTED, _E.ANSWERED, _E.LAUNCH_FLAG, _E.STOP, _E.DONE]),
    "plan fails": Case(at=(FakeLauncher, "pretend"), events=[_E.BEGIN, _E.FAILED]),
    "plan stops": Case(at=(FakeLauncher, "pretend"), does=stops, events=[_E.BEGIN, _E.STOP]),
    "obtain fails": Case(at=(FakeStart, "obtain"), kind=Start.WARM, events=[_E.BEGIN, _E.FAILED]),
    "obtain stops": Case(at=(FakeStart, "obtain"), kind=Start.WARM, does=stops, events=[_E.BEGIN, _E.STOP]),
    **{f"{name} fails": early(done, name, fails, _E.FAILED) for done, name in enumerate(
        ("stage", "connect", "create", "prepare", "run"), 1
    )},
    **{f"{name} stops": early(done, name, stops, _E.STOP) for done, name in enumerate(
        ("stage", "connect", "create", "prepare"), 1
    )},
    "boot stops": Case(story=lambda start: stops(start.stop), events=[*BOOTED, _E.STOP, _E.DONE]),
    "boot takes too long": Case(story=lambda _: None, deadlines=SOON, events=[*BOOTED, _E.DEADLINE, _E.DONE]),
    "boot dies": Case(story=dies, events=[*BOOTED, _E.QEMU_GONE, _E.DONE]),
    "boot loses": Case(story=loses, events=[*BOOTED, _E.FAILED, _E.DONE]),
    "boot fills the disk": Case(story=fills_the_disk, events=[*BOOTED, _E.DISK_ERROR, _E.DONE]),
    "session dies": Case(story=once_ready(dies), events=[*BOOTED, _E.LAUNCH_FLAG, _E.QEMU_GONE, _E.DONE]),
    "session loses": Case(story=once_ready(loses), events=[*BOOTED, _E.LAUNCH_FLAG, _E.FAILED, _E.DONE]),
    "session fills the disk": Case(
        story=once_ready(fills_the_disk), events=[*BOOTED, _E.LAUNCH_FLAG, _E.DISK_ERROR, _E.DONE]
    ),
    "end fails": Case(at=(FakeGuest, "terminate"), events=[*BOOTED, _E.LAUNCH_FLAG, _E.STOP, _E.FAILED]),
}  # fmt: skip
GOING_WELL = {"good", "warm"}
STOPPING = {"plan stops", "obtain stops", "stage stops", "connect stops", "create stops", "prepare stops", "boot stops"}


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Settings with folders of their own; sockets want short names."""
    with tempfile.TemporaryDirectory(prefix="gl-") as folder:
        path = Path(folder)
        yield Settings(state_dir=path, runtime_dir=path, log=str(path / "log"), measure=False, deadlines=IN_TIME)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[State, Event]]:
    """The rows of the table that are looked up, in order."""
    seen: list[tuple[State, Event]] = []

    def look_up(state: State, event: Event) -> Step:
        seen.append((state, event))
        return step(state, event)

    monkeypatch.setattr(lifecycle, "step", look_up)
    return seen


def first(does: Callable[[Stop], None], stop: Stop, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does something before it does what it did."""

    def call(*arguments: object, **options: object) -> object:
        does(stop)
        return function(*arguments, **options)

    return call


def carry_out(case: Case, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> FakeLauncher:
    """Carry out one launch to its end."""
    with Stop() as stop, monkeypatch.context() as patch:
        if case.at is not None:
            patch.setattr(*case.at, first(case.does, stop, getattr(*case.at)))
        own = dataclasses.replace(settings, deadlines=case.deadlines)
        with FakeLauncher(own, case.story, case.kind) as launcher:
            launcher.run(REQUEST, stop=stop)
        for start in launcher.starts:
            if start.teller is not None:
                start.teller.join(60)
    return launcher


@pytest.mark.parametrize("name", CASES)
def test_events_come_in_this_order(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[State, Event]], name: str
) -> None:
    """A launch has these events and no others; it ends in GONE with its one line, and neither guest nor files."""
    launcher = carry_out(CASES[name], settings, monkeypatch)
    assert [event for _, event in rows] == CASES[name].events
    assert step(*rows[-1])[0] is State.GONE
    assert all(start.did[-1:] in ([], ["released"]) for start in launcher.starts)
    assert not any(start.guest is not None and start.guest.alive for start in launcher.starts)
    [line] = events(settings, "launch_finished")
    assert line["outcome"] == ("success" if name in GOING_WELL else "cancelled" if name in STOPPING else "failure")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """A guest of no launch: one that becomes a template or, `at_gate`, a clone to be kept.

    :ivar raises: how its owner hears that it is not held.
    """

    events: list[Event]
    story: Story
    at_gate: bool = False
    raises: type[Exception] | None = None
    resumes: Callable[[Stop], None] = lambda _: None
    holds: Callable[[Stop], None] = lambda _: None


def comes_to_its_gate(start: FakeStart, then: Story = lambda _: None) -> None:
    """A template's guest, which then does something."""
    start.say(b"guestlaunch-marker gate 1.0 1.0\n")
    then(start)


def rehearses(
    start: FakeStart, then: Story = lambda start: start.say(b"guestlaunch-marker rehearse 1.0 1.0\n")
) -> None:
    """A guest at its gate that is told to rehearse, and does so or something else."""
    start.control.settimeout(60)
    with contextlib.suppress(OSError):  # nobody tells it
        assert start.control.recv(100) == b"rehearse\n"
        then(start)


ENDS: dict[str, tuple[Story, Event, type[Exception]]] = {
    "stops": (lambda start: stops(start.stop), _E.STOP, StoppedError),
    "takes too long": (lambda _: None, _E.DEADLINE, DeadlineError),
    "dies": (dies, _E.QEMU_GONE, QemuExitedError),
    "loses": (loses, _E.FAILED, ConnectionLostError),
    "fills the disk": (fills_the_disk, _E.DISK_ERROR, DiskError),
}
HELD = {
    "template": Held(
        story=lambda start: comes_to_its_gate(start, rehearses), events=[_E.BEGIN, _E.ANSWERED, _E.ANSWERED]
    ),
    "clone": Held(story=rehearses, at_gate=True, events=[_E.ANSWERED, _E.ANSWERED]),
    "resume fails": Held(
        story=lambda _: None, resumes=fails, events=[_E.BEGIN, _E.FAILED, _E.DONE], raises=HypervisorError
    ),
    "hold fails": Held(
        story=rehearses, at_gate=True, holds=fails, events=[_E.ANSWERED, _E.ANSWERED, _E.FAILED, _E.DONE],
        raises=HypervisorError,
    ),
    **{f"approach {name}": Held(
        story=story, events=[_E.BEGIN, event, _E.DONE], raises=error
    ) for name, (story, event, error) in ENDS.items()},
    **{f"rehearsal {name}": Held(
        story=functools.partial(rehearses, then=story), at_gate=True, events=[_E.ANSWERED, event, _E.DONE], raises=error
    ) for name, (story, event, error) in ENDS.items()},
}  # fmt: skip


def hold(case: Held, settings: Settings) -> tuple[FakeGuest, list[str]]:
    """Have a guest held, or not; return it, and what was done with it there."""
    own = dataclasses.replace(settings, deadlines=SOON if _E.DEADLINE in case.events else IN_TIME)
    nothing: Any = None
    did: list[str] = []
    with Stop() as stop:
        context = LaunchContext(stop=stop, connect=nothing, claim=nothing, emit=lambda *_, **__: None)
        spec = LaunchSpec(request=REQUEST, settings=own, plan=PLAN)
        with contextlib.closing(FakeStart(spec, context, Recorder(1), case.story)) as start:
            _, place = start.stage()
            guest = start.guest = FakeGuest()
            teller = threading.Thread(target=case.story, args=(start,), daemon=True)

            def resume() -> None:
                case.resumes(stop)

            def keep() -> None:
                case.holds(stop)
                did.append("held")

            guest.resume = resume  # type: ignore[method-assign]
            teller.start()
            expected = contextlib.nullcontext() if case.raises is None else pytest.raises(case.raises)
            with expected:
                Rehearsal(cast("Guest", guest), place, start.connection.lost, own, keep).run(stop, at_gate=case.at_gate)
        teller.join(60)
    return guest, did


@pytest.mark.parametrize("name", HELD)
def test_a_guest_of_no_launch_goes_through_the_same_table(
    settings: Settings, rows: list[tuple[State, Event]], name: str
) -> None:
    """A template's guest, and a clone for the pool, are held at their gate, or killed and their owner told why."""
    case = HELD[name]
    guest, did = hold(case, settings)
    assert [event for _, event in rows] == case.events
    assert step(*rows[-1])[0] is (State.GONE if case.raises else State.HELD)
    assert (guest.alive, did) == ((False, []) if case.raises else (True, ["held"]))


def test_no_row_is_without_a_launch(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[State, Event]]
) -> None:
    """What neither a launch nor a guest that is to be held ever comes to is no part of the table."""
    for case in CASES.values():
        carry_out(case, settings, monkeypatch)
    for held in HELD.values():
        hold(held, settings)
    Tried(dataclasses.replace(settings, deadlines=IN_TIME), ends_and_stays_on)
    assert set(rows) == set(TABLE)


def events(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Return the events of a name in the log."""
    return [
        event for event in map(json.loads, Path(settings.log_target).read_text().splitlines()) if event["event"] == name
    ]


def test_a_refused_kvm_is_noted_and_done_without(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch for which `auto` chose KVM is made again: planned anew, it is the one that has a line."""
    create = FakeStart.create

    def refuse_once(start: FakeStart, *given: Any) -> Guest:  # noqa: ANN401 - whatever `create` takes
        if start.spec.plan.accel is Accel.KVM:
            launcher.plan = PLAN  # as `make_plan` does, which reads what was noted
            raise HypervisorError("cannot start domain", "gl-cold", "failed to initialize kvm: Permission denied")
        return create(start, *given)

    monkeypatch.setattr(FakeStart, "create", refuse_once)
    with FakeLauncher(settings, serve_a_tool) as launcher, Stop() as stop:
        launcher.plan = dataclasses.replace(PLAN, accel=Accel.KVM)
        record = launcher.run(REQUEST, stop=stop)
    assert (record.outcome, record.accel) == ("success", "tcg")
    assert [start.did[-1] for start in launcher.starts] == ["released", "released"]
    assert len(events(settings, "kvm_refused")) == len(events(settings, "launch_finished")) == 1


@pytest.mark.parametrize("kind", [Start.WARM, Start.STANDBY])
@pytest.mark.parametrize("name", ["stage", "connect", "create", "prepare"])
def test_whatever_fails_before_a_clone_goes_on_it_is_booted_instead(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: Start, name: str
) -> None:
    """The clone is gone by then, and the reason is in the log."""
    function = getattr(FakeStart, name)

    def fail_warm(start: FakeStart, *given: object) -> object:
        if start.kind is not Start.COLD:
            raise HypervisorError("planted", name)
        return function(start, *given)

    monkeypatch.setattr(FakeStart, name, fail_warm)
    with FakeLauncher(settings, serve_a_tool, kind) as launcher, Stop() as stop:
        assert launcher.run(REQUEST, stop=stop).outcome == "success"
    assert [start.kind for start in launcher.starts] == [kind, Start.COLD]
    assert [event["error"] for event in events(settings, "warm_failed")] == [f"planted: {name}"]


def test_a_template_that_was_asked_for_and_cannot_be_built_is_a_failure(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is booted in its place: there was no clone yet that could have failed."""

    def fail(*_: object) -> None:
        raise HypervisorError("planted", "template")

    monkeypatch.setattr(template_build, "build_template", fail)

    def choose(spec: LaunchSpec, context: LaunchContext, recorder: Recorder, *_: object) -> WarmStart:
        return WarmStart(spec, context, recorder, {}, None)

    with Launcher(settings, plan=lambda *_: PLAN, choose=choose) as launcher, Stop() as stop:
        record = launcher.run(REQUEST, stop=stop)
    assert (record.outcome, record.error, record.error_phase) == ("failure", "planted: template", "plan")
    assert not events(settings, "warm_failed")


class ReadyClone:
    """A clone that waits, of which only its end can be seen."""

    def __init__(self) -> None:
        self.guest, self.files = FakeGuest(), contextlib.ExitStack()
        self.gone: list[str] = []
        self.files.callback(self.gone.append, "files")

    def clone(self) -> Clone:
        """Return it as the pool would."""
        template, place = SimpleNamespace(key="k"), SimpleNamespace(launch_id="gl-1", console=self)
        domain, connection = bare_minimum(), SimpleNamespace(lost=threading.Event())
        given: Any = {"template": template, "place": place, "domain": domain, "connection": connection}
        return Clone(guest=cast("Guest", self.guest), files=self.files, **given)

    def relay_to(self, client: object) -> None:
        """Nobody listens."""


@pytest.mark.parametrize("at", ["stage", "connect"])
def test_a_clone_that_a_launch_did_not_come_to_use_ends_with_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Whoever takes a clone of the pool owns it: a launch that is stopped before it has the guest ends it."""
    kept = ReadyClone()
    nothing: Any = None
    with Stop() as stop:
        monkeypatch.setattr(StandbyStart, at, first(stops, stop, getattr(StandbyStart, at)))
        launch = Launch(
            REQUEST,
            settings,
            LaunchContext(stop=stop, connect=nothing, claim=nothing, emit=lambda *_, **__: None),
            time.monotonic_ns(),
            plan=lambda *_: PLAN,
            choose=lambda spec, context, recorder, *_: StandbyStart(spec, context, recorder, kept.clone()),
        )
        launch.run()
    assert (kept.guest.did, kept.guest.alive, kept.gone) == (["kill"], False, ["files"])
    assert (launch.error, launch.id) == (None, "gl-1")


@pytest.mark.parametrize(("dies_first", "times"), [(False, 2), (True, 1)])
def test_the_pool_hears_when_a_launch_is_ready_and_over(settings: Settings, *, dies_first: bool, times: int) -> None:
    """As soon as the tool has its launch flag, and in any case at the end: the pool waits for it to make a clone."""
    told: list[str] = []
    heard = threading.Event()

    def hear(launch_id: str) -> None:
        told.append(launch_id)
        heard.set()

    def story(start: FakeStart) -> None:
        start.open_port()
        heard.wait(60)
        start.stop.request("terminate")

    pool: Any = SimpleNamespace(launched=hear)
    nothing: Any = None
    plays = dies if dies_first else story
    with Stop() as stop:
        launch = Launch(
            REQUEST,
            settings,
            LaunchContext(stop=stop, connect=nothing, claim=nothing, emit=lambda *_, **__: None),
            time.monotonic_ns(),
            pool=pool,
            plan=lambda *_: PLAN,
            choose=lambda spec, context, recorder, *_: FakeStart(spec, context, recorder, plays, Start.STANDBY),
        )
        launch.run()
    assert told == ["gl-standby"] * times


@pytest.mark.parametrize("kind", [Start.WARM, Start.COLD])
def test_the_log_is_ready_when_a_clone_runs(settings: Settings, kind: Start) -> None:
    """What that takes is done beside libvirt's start of QEMU, and not while its markers come; a boot leaves time."""
    did: list[str] = []

    class Told(FakeStart):
        def create(self, connection: Connection, domain: Domain) -> Guest:
            did.append("create")
            return super().create(connection, domain)

        def run(self, guest: Guest, place: Place) -> None:
            did.append("run")
            super().run(guest, place)

    def prepare() -> Callable[[], None]:
        did.append("prepare")
        return lambda: did.append("prepared")

    nothing: Any = None
    with Stop() as stop:
        launch = Launch(
            REQUEST,
            settings,
            LaunchContext(stop=stop, connect=nothing, claim=nothing, emit=lambda *_, **__: None, prepare_log=prepare),
            time.monotonic_ns(),
            plan=lambda *_: PLAN,
            choose=lambda spec, context, recorder, *_: Told(spec, context, recorder, dies, kind),
        )
        launch.run()
    beside = kind is Start.WARM
    assert did == [*["prepare"] * beside, "create", "run", *["prepared"] * beside]
