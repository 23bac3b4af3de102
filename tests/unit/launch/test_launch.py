"""What drives a launch: whatever is raised and wherever, its guest ends, and it has one record."""

from __future__ import annotations

import dataclasses
import gc
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from orchestrator.channel.console import Console
from orchestrator.channel.control import Control
from orchestrator.channel.port import Port
from orchestrator.channel.ring import ConsoleRing
from orchestrator.errors import HypervisorError
from orchestrator.hypervisor.events import EventSource
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.boot import Boot
from orchestrator.launch.context import Place
from orchestrator.launch.launch import Launch
from orchestrator.launch.lifecycle import Instruction
from orchestrator.launch.stop import Stop
from orchestrator.launch.watch import Watch
from orchestrator.records.record import FwCfg, LaunchRecord
from orchestrator.settings import Deadlines, Settings
from orchestrator.timeline.phases import Start
from tests.unit.launch.fakes import REQUEST, FakeGuest, FakeLauncher, FakeStart, Story, serve_a_tool


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Settings with folders of their own; sockets want short names."""
    with tempfile.TemporaryDirectory(prefix="gl-") as folder:
        path = Path(folder)
        yield Settings(
            state_dir=path,
            runtime_dir=path,
            log=str(path / "log"),
            measure=False,
            deadlines=Deadlines(shutdown=0.2, firmware=20),
        )


class Outcome:
    """What has become of one launch."""

    def __init__(self, settings: Settings, story: Story = serve_a_tool, *kinds: Start) -> None:
        self._settings = settings
        self.launcher = FakeLauncher(settings, story, *kinds)
        self.raised: BaseException | None = None
        self.record: LaunchRecord | None = None
        with self.launcher as launcher, Stop() as stop:
            try:
                self.record = launcher.run(REQUEST, stop=stop)
            except BaseException as raised:  # noqa: BLE001 - whatever it is, it is looked at
                self.raised = raised
            for start in self.starts:
                if start.teller is not None:
                    start.teller.join(10)

    @property
    def starts(self) -> list[FakeStart]:
        return self.launcher.starts

    @property
    def start(self) -> FakeStart:
        return self.starts[-1]

    @property
    def guest(self) -> FakeGuest:
        assert self.start.guest is not None
        return self.start.guest

    def alive(self) -> int:
        return sum(start.guest is not None and start.guest.alive for start in self.starts)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = Path(self._settings.log_target).read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def finished(self) -> dict[str, Any]:
        """Return the one canonical line."""
        (event,) = self.events("launch_finished")
        return event

    def phases(self) -> dict[str, str]:
        """Return the outcome of each phase that was reached."""
        return {p["name"]: p["outcome"] for p in self.finished()["phases"] if p["outcome"] != "not_reached"}


def test_the_good_path(settings: Settings) -> None:
    """Each step once, in order; the tool has its guest, and all is released at the end."""
    outcome = Outcome(settings)
    assert outcome.record is not None
    assert (outcome.record.outcome, outcome.record.ready, outcome.record.exit_status) == ("success", True, 0)
    assert outcome.start.did == ["stage", "connect", "create", "prepare", "run", "released"]
    assert outcome.guest.did == ["resume", "terminate"]
    assert set(outcome.phases().values()) == {"success", "unseen"}


PLACES: list[tuple[type, str]] = [
    *[(Launch, f"_{instruction}") for instruction in Instruction if hasattr(Launch, f"_{instruction}")],
    *[(Launch, name) for name in ("_tell", "_destroy", "_last_words", "_clear_away")],
    *[(Watch, f"_{name}") for name in ("pending", "poll", "actions", "timeout_ms", "take_guest_events")],
    *[(Watch, name) for name in ("__enter__", "wait", "drain")],
    *[(Boot, n) for n in ("follow", "flag_sent", "overdue", "on_control_line", "port_opened", "settle")],
    *[(Port, name) for name in ("handle", "accept", "fileno", "drain", "close")],
    *[(Console, name) for name in ("_from_guest", "flush")],
    (ConsoleRing, "feed"),
    (ConsoleRing, "panic"),
    (Control, "_take"),
    *[(FakeStart, name) for name in ("stage", "connect", "create", "prepare", "boot", "run")],
    *[(FakeGuest, name) for name in ("on_event", "resume", "terminate", "wait_exited", "remove")],
]  # fmt: skip


def planted(kind: type[BaseException], function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Return the function with an exception before it, or after it, each time."""

    def call(*arguments: object, **options: object) -> None:
        if after:
            function(*arguments, **options)
        raise kind("planted")

    return call


# A port whose own end fails is closed by nobody.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name"), PLACES, ids=[f"{owner.__name__}.{name}" for owner, name in PLACES])
def test_whatever_is_raised_the_guest_ends_and_the_launch_is_recorded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, *, after: bool
) -> None:
    """At every instruction, watch callback and port handler, before it and after it: no guest, one line."""
    if (owner, name, after) == (FakeStart, "create", True):
        return  # a guest that was started and not handed over is ended by the connection
    for kind in (OverflowError, KeyboardInterrupt):
        Path(settings.log_target).unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, planted(kind, getattr(owner, name), after=after))
            outcome = Outcome(settings)
        assert outcome.alive() == 0, kind
        assert len(outcome.events("launch_finished")) == 1, kind
        assert all(start.did.count("stage") == start.did.count("released") for start in outcome.starts), kind
        finished = outcome.finished()
        if outcome.raised is None:
            assert outcome.record is not None
            assert outcome.record.outcome == finished["outcome"], kind
        else:
            assert (type(outcome.raised), finished["outcome"]) == (kind, "failure")
        assert finished["error"] or finished["outcome"] == "success", kind
        del outcome
    if owner is Port:
        gc.collect()  # here, and not in a later test, is it known why a socket is left to it


@pytest.mark.parametrize("kind", [OSError, HypervisorError, MemoryError, RecursionError, SystemExit])
def test_any_exception_will_do(settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]) -> None:
    """Whichever it is: what is no error of a program goes on to the caller, once all is done."""
    monkeypatch.setattr(Watch, "wait", planted(kind, Watch.wait, after=False))
    outcome = Outcome(settings)
    assert (outcome.alive(), outcome.finished()["outcome"]) == (0, "failure")
    assert type(outcome.raised) is (SystemExit if kind is SystemExit else type(None))


@pytest.mark.parametrize(
    "line",
    [
        b"guestlaunch-marker init inf inf",
        b"guestlaunch-marker init nan nan",
        b"guestlaunch-marker init -1 -1",
        b"guestlaunch-marker init 1e999 1e999",
        b"guestlaunch-marker init " + b"9" * 4000 + b" " + b"9" * 4000,
        b"guestlaunch-marker guestfsd 9999999999.999999999 9999999999.999999999",
        b"guestlaunch-marker init 5 1",
        b"guestlaunch-marker \xff\xfe 1 1",
        "guestlaunch-marker init ١ ٢".encode(),
        b"guestlaunch-marker init 1_0 1_0",
        b"\0" * 5000,
        b"",
    ],
)
def test_what_the_guest_says_ends_nothing(settings: Settings, line: bytes) -> None:
    """No line of the guest's does harm, neither while it boots nor while it serves its tool."""

    def story(start: FakeStart) -> None:
        start.say(line + b"\n")
        start.open_port()
        start.say(line + b"\n")
        start.stop.request("terminate")

    outcome = Outcome(settings, story)
    assert outcome.raised is None
    assert outcome.finished()["outcome"] == "success"
    assert sum(phase["duration_ns"] or 0 for phase in outcome.finished()["phases"]) == outcome.finished()["total_ns"]


def test_a_defect_is_told_with_its_traceback(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has one line, the log the rest."""
    monkeypatch.setattr(Boot, "follow", planted(ZeroDivisionError, Boot.follow, after=False))
    outcome = Outcome(settings)
    assert "internal error: phase" in outcome.finished()["error"]
    assert "ZeroDivisionError('planted')" in outcome.finished()["error"]
    assert "Traceback" in outcome.events("internal_error")[0]["traceback"]
    assert outcome.finished()["outcome"] == "failure"


def test_cold_in_place_of_warm(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone that fails before its guest ran gives way to a boot; there is one line, which is the boot's."""
    prepare = FakeStart.prepare

    def fail_warm(start: FakeStart, guest: Guest, place: Place) -> FwCfg:
        if start.kind is Start.WARM:
            raise HypervisorError("QEMU did not take the state", "f")
        return prepare(start, guest, place)

    monkeypatch.setattr(FakeStart, "prepare", fail_warm)
    outcome = Outcome(settings, serve_a_tool, Start.WARM)
    assert outcome.record is not None
    assert [start.kind for start in outcome.starts] == [Start.WARM, Start.COLD]
    assert outcome.alive() == 0
    assert (outcome.finished()["start"], outcome.finished()["outcome"]) == ("cold", "success")
    assert [event["launch_id"] for event in outcome.events("warm_failed")] == ["gl-warm"]


def test_a_qemu_that_does_not_end_fails_the_launch(settings: Settings) -> None:
    """What it had not written back is lost: that is no success."""

    def story(start: FakeStart) -> None:
        assert start.guest is not None
        start.guest.stubborn = True
        serve_a_tool(start)

    outcome = Outcome(settings, story)
    assert "QEMU did not end: phase shutdown: not within 0.2 s" in outcome.finished()["error"]
    assert outcome.phases()["shutdown"] == "failure"
    assert outcome.alive() == 0


def test_a_qemu_that_is_killed_fails_where_it_was(settings: Settings) -> None:
    """In mid-session that is the workload; what comes behind it is the end, and was not reached."""

    def story(start: FakeStart) -> None:
        start.open_port()
        assert start.guest is not None
        while start.recorder.current() != "ready":
            pass
        start.guest.die(137)
        start.stop.request("terminate")

    outcome = Outcome(settings, story)
    assert outcome.finished()["outcome"] == "failure"
    assert outcome.finished()["error_phase"] in {"ready", "workload"}
    assert "shutdown" not in outcome.phases()


def test_a_start_that_is_refused_fails_in_create(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tool hears of QEMU's end sooner than we do, and asks for the end: the launch has failed all the same."""

    def refuse(start: FakeStart, *_: object) -> NoReturn:
        start.stop.request("terminate")
        raise HypervisorError("cannot start domain", "gl-fake", "'nonsense' is not a valid device")

    monkeypatch.setattr(FakeStart, "create", refuse)
    outcome = Outcome(settings)
    assert outcome.finished()["error_phase"] == "create"
    assert outcome.phases() == {"plan": "success", "stage": "success", "connect": "success", "create": "failure"}
    create = next(phase for phase in outcome.finished()["phases"] if phase["name"] == "create")
    assert "includes" not in create


def test_a_stop_while_it_boots_cancels(settings: Settings) -> None:
    """It is cancelled in the phase that it was in."""
    outcome = Outcome(settings, lambda start: start.stop.request("the user's wish"))
    assert outcome.finished()["outcome"] == "cancelled"
    assert outcome.phases()["firmware"] == "cancelled"
    assert outcome.phases()["shutdown"] == "success"


def asks_the_time(start: FakeStart) -> None:
    """A clone at its gate, which then serves a tool."""
    start.say(b"guestlaunch-marker clock 1.0 1.0\n")
    start.answered.wait(20)
    serve_a_tool(start)


def test_a_clone_is_let_through_its_gate(settings: Settings) -> None:
    """Once, when it asks for it; launches are told of when that is done."""
    outcome = Outcome(settings, asks_the_time, Start.WARM)
    assert outcome.start.did == ["stage", "connect", "create", "prepare", "run", "let_through", "released"]
    assert (outcome.finished()["start"], outcome.finished()["outcome"]) == ("warm", "success")
    assert len(outcome.events("launch_started")) == 1


@pytest.mark.parametrize("kind", [Start.COLD, Start.WARM, Start.STANDBY])
def test_a_stop_cancels_every_kind_of_launch(settings: Settings, kind: Start) -> None:
    """At the gate as in a boot."""
    outcome = Outcome(settings, lambda start: start.stop.request("the user's wish"), kind)
    assert outcome.raised is None
    finished = outcome.finished()
    assert (finished["outcome"], finished["error"], finished["start"]) == ("cancelled", "the user's wish", kind)
    assert outcome.guest.did == ["resume", "terminate"]


@pytest.mark.parametrize("kind", [Start.COLD, Start.WARM])
def test_a_death_a_panic_and_a_lost_connection_are_told_alike(settings: Settings, kind: Start) -> None:
    """At the gate as in a boot, too."""

    def dies(start: FakeStart) -> None:
        assert start.guest is not None
        start.guest.die(1)

    def panics(start: FakeStart) -> None:
        start.print(b"Kernel panic - not syncing: no init\n")
        dies(start)

    def loses(start: FakeStart) -> None:
        start.connection.lost.set()
        start.print(b"x")  # nothing else wakes who waits

    for story, says in ((dies, "exit status 1"), (panics, "no init"), (loses, "connection to libvirt broke")):
        Path(settings.log_target).unlink(missing_ok=True)
        outcome = Outcome(settings, story, kind)
        assert says in outcome.finished()["error"]
        assert outcome.finished()["outcome"] == "failure"
        assert outcome.phases()["gate" if kind is Start.WARM else "firmware"] == "failure"


def test_a_deadline_counts_from_the_last_sign_of_progress(settings: Settings) -> None:
    """A guest that tells of something now and then may take longer than one that does not."""
    slow = dataclasses.replace(settings, deadlines=Deadlines(gate=1.5, init=1, guestfsd=0.5, shutdown=2))

    def story(start: FakeStart) -> None:
        began = time.monotonic()
        while time.monotonic() - began < 3:
            start.say(b"guestlaunch-marker progress 1.0 1.0\n")
            start.stop_waiting.wait(0.2)
        asks_the_time(start)

    outcome = Outcome(slow, story, Start.WARM)
    assert outcome.finished()["outcome"] == "success"
    Path(settings.log_target).unlink()
    silent = Outcome(slow, lambda _: None, Start.WARM)
    assert "the launch took too long: phase gate: not over after 1.5 s" in silent.finished()["error"]


def traced(start: FakeStart, *lines: str) -> None:
    """Have QEMU write to its trace."""
    now_ns = time.time_ns()
    with (start.place.data / "trace").open("a") as trace:
        trace.writelines(f"7@{now_ns // 10**9}.{now_ns // 1000 % 10**6:06}:{line}\n" for line in lines)


OPENED = (
    "virtio_serial_handle_control_message event 6, value 1",
    "virtio_serial_handle_control_message_port port 1",
)
FLAG = "virtio_console_flush_buf port 1, in_len 4, out_len 4"


@pytest.mark.parametrize(
    ("lines", "event", "outcome", "seen"),
    [
        ((*OPENED, FLAG), True, "success", True),
        # Read to its end, the trace is evidence: a port that is open is no launch flag.
        (OPENED, True, "cancelled", False),
        # The trace is not whole: who asks for the end in order has had a guest.
        ((), True, "success", False),
        ((), False, "cancelled", False),
        # What is not the flag, but comes after it.
        ((*OPENED, "virtio_console_flush_buf port 1, in_len 40, out_len 40"), True, "success", False),
        # Four bytes on another port are not it.
        ((*OPENED, "virtio_console_flush_buf port 2, in_len 4, out_len 4"), True, "cancelled", False),
    ],
)
def test_the_outcome_follows_what_was_seen(
    settings: Settings, lines: tuple[str, ...], outcome: str, *, event: bool, seen: bool
) -> None:
    """However late it is read: the trace of a QEMU that is gone is looked at once more."""

    def story(start: FakeStart) -> None:
        traced(start, *lines)
        if event:
            start.open_port()
        start.stop.request("terminate")

    finished = Outcome(dataclasses.replace(settings, measure=True), story).finished()
    assert (finished["outcome"], finished["launch_ns"] is not None) == (outcome, seen)
    workload = next(phase for phase in finished["phases"] if phase["name"] == "workload")
    if outcome == "success" and not seen:
        assert (workload["outcome"], workload["reason"]) == ("unseen", "QEMU's trace did not show the launch flag")


def test_a_tool_is_done_while_its_launch_is_still_told_of(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a loaded host that takes longer than the whole tool: it has had its guest all the same."""
    tell, opened = Launch._tell, threading.Event()

    def told_late(launch: Launch) -> None:
        assert opened.wait(10)
        launch._stop.request("terminate")
        tell(launch)

    monkeypatch.setattr(Launch, "_tell", told_late)

    def story(start: FakeStart) -> None:
        start.open_port()
        opened.set()

    assert Outcome(settings, story).finished()["outcome"] == "success"


def test_a_million_bytes_on_the_control_port(settings: Settings) -> None:
    """Bytes without sense, and lines that almost make sense, do nothing to a launch."""
    dice = random.Random(20261126)
    words = [b"guestlaunch-marker", b"init", b"initrd", b"clock", b"inf", b"nan", b"1", b"-0", b"1e400", b"\xff", b"\n"]

    def story(start: FakeStart) -> None:
        sent = 0
        while sent < 1_000_000:
            block = dice.randbytes(2048) + b" ".join(dice.choices(words, k=400)) + b"\n"
            start.say(block)
            sent += len(block)
        start.open_port()
        start.stop.request("terminate")

    assert Outcome(settings, story).finished()["outcome"] == "success"


def full_disk(start: FakeStart, action: str = "stop") -> None:
    """A guest that serves a tool, whose disk then finds no room on the host."""
    serve_a_tool_until(start)
    assert start.guest is not None
    detail = {"node-name": "n1", "action": action, "nospace": True, "operation": "write", "reason": "No space left"}
    start.guest.emit("BLOCK_IO_ERROR", EventSource.QEMU, **detail)


def serve_a_tool_until(start: FakeStart) -> None:
    start.say(b"guestlaunch-marker guestfsd 1.0 1.0\n")
    start.open_port()


def test_a_full_disk_ends_the_launch_in_order(settings: Settings) -> None:
    """A guest that QEMU has stopped for want of room is told to end; the reason is the error, and one event."""
    outcome = Outcome(settings, full_disk)
    assert "terminate" in outcome.guest.did
    assert outcome.finished()["error"].startswith("cannot write to the disk: n1: No space left (free some space there")
    assert (outcome.finished()["outcome"], outcome.alive()) == ("failure", 0)
    [event] = outcome.events("disk_error")
    assert (event["file"], event["reason"]) == ("n1", "No space left")


def test_a_guest_that_qemu_has_stopped_for_good_is_ended(settings: Settings) -> None:
    """It would stand still for ever, and so would its tool."""

    def story(start: FakeStart) -> None:
        serve_a_tool_until(start)
        assert start.guest is not None
        start.guest.halted = True
        start.guest.emit("suspended", EventSource.LIBVIRT)

    outcome = Outcome(settings, story)
    assert outcome.finished()["error"].startswith("QEMU stopped the guest: ")
    assert (outcome.finished()["outcome"], outcome.alive()) == ("failure", 0)


def test_a_tool_that_ends_with_a_full_disk_did_not_succeed(settings: Settings) -> None:
    """What the guest wrote back in its last moment had no room: the tool does not know, the record does."""

    def story(start: FakeStart) -> None:
        full_disk(start)
        start.stop.request("terminate")

    outcome = Outcome(settings, story)
    assert outcome.finished()["outcome"] == "failure"
    assert len(outcome.events("disk_error")) == 1


def test_an_error_that_the_guest_is_told_is_its_own(settings: Settings) -> None:
    """What QEMU reports to the guest as an I/O error is the guest's and the tool's to deal with."""

    def story(start: FakeStart) -> None:
        full_disk(start, "report")
        start.stop.request("terminate")

    assert Outcome(settings, story).finished()["outcome"] == "success"
