"""A kernel's run through the life cycle of launches: its record, its answer, its end, whatever comes between them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import GuestPanicError, NoRecordError, NoUserSpaceError, QemuExitedError, TimedOutError
from orchestrator.hypervisor.guest import Guest
from orchestrator.kernel.boot import Expected, KernelBoot
from orchestrator.kernel.verdict import Cause, judge
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place
from orchestrator.launch.launch import Launch
from orchestrator.launch.launcher import Launcher
from orchestrator.launch.standby import Pool
from orchestrator.launch.stop import Stop
from orchestrator.records.record import LaunchRecord
from orchestrator.settings import Deadlines, Settings
from orchestrator.timeline.phases import Kind, Phase
from orchestrator.timeline.recorder import Recorder
from tests.unit.launch.fakes import PLAN, REQUEST, FakeStart

NUMBER = "0f" * 16


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
            deadlines=Deadlines(shutdown=60, firmware=60),
        )


class FakeKernelStart(FakeStart):
    """A pretended start whose guest is followed as a kernel that is tried."""

    following: KernelBoot
    timeout_s: float | None = None

    def boot(self, place: Place) -> KernelBoot:  # type: ignore[override] # as `ColdStart`'s is
        what = Expected(number=NUMBER, own_init=True, program=False, transfers=False, initrd=True, traced=False)
        self.following = KernelBoot(
            self.recorder, None, self.spec.settings.deadlines, what, None, timeout_s=self.timeout_s
        )
        place.console.take = self.following.on_console
        return self.following

    def let_through(self, guest: Guest, place: Place) -> None:
        self.following.note_acknowledged()
        self.recorder.begin(Phase.SHUTDOWN, "test")
        super().let_through(guest, place)

    def command(self) -> None:
        """Have the guest come to its command."""
        self.say(b"guestlaunch-marker initrd 60.0 60.0\nguestlaunch-marker command 60.0 60.0\n")

    def ends(self, status: int) -> None:
        """Have the guest write its record."""
        self.say(f"guestlaunch-exit {status} {NUMBER}\n".encode())


class Tried:
    """What has become of one pretended run."""

    def __init__(
        self, settings: Settings, story: Callable[[FakeKernelStart], None], *, timeout_s: float | None = None
    ) -> None:
        self.start: FakeKernelStart | None = None
        self.launch: Launch | None = None
        self._timeout_s, self._story = timeout_s, story
        with (
            Launcher(
                settings, plan=lambda *_: PLAN, choose=self._choose, kind=Kind.KERNEL, conclude=self._conclude
            ) as launcher,
            Stop() as stop,
        ):
            self.record = launcher.run(REQUEST, stop=stop)
            self._listen_to_the_end()

    def _listen_to_the_end(self) -> None:
        if self.start is not None and self.start.teller is not None:
            self.start.teller.join(10)

    def _choose(
        self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder, pool: Pool | None, cold_reason: str | None
    ) -> FakeKernelStart:
        del pool, cold_reason
        self.start = FakeKernelStart(spec, context, recorder, self._story)  # type: ignore[arg-type]
        self.start.timeout_s = self._timeout_s
        return self.start

    def _conclude(self, launch: Launch, record: LaunchRecord) -> LaunchRecord:
        self.launch = launch
        return record

    @property
    def cause(self) -> Cause:
        assert self.launch is not None
        assert self.start is not None
        boot = self.start.following
        return judge(self.launch.error, boot.status, acknowledged=boot.acknowledged).cause

    @property
    def guest_did(self) -> list[str]:
        assert self.start is not None
        assert self.start.guest is not None
        return self.start.guest.did


def ends_and_stays_on(start: FakeKernelStart) -> None:
    """A guest whose command ends, and whose power stays on."""
    start.command()
    start.ends(0)


def test_a_command_runs_to_its_end(settings: Settings) -> None:
    """Its record is answered, then the guest switches itself off: nothing has to end it."""

    def story(start: FakeKernelStart) -> None:
        start.command()
        start.ends(3)
        assert start.answered.wait(20)
        assert start.guest is not None
        start.guest.die(0)

    tried = Tried(settings, story)
    assert (tried.cause, tried.record.outcome, tried.record.ready) == (Cause.COMMAND, "success", True)
    assert tried.record.kind is Kind.KERNEL
    assert tried.guest_did == ["resume"]
    seen = {tile.name for tile in tried.record.tiles if tile.outcome == "success"}
    assert {Phase.FIRMWARE, Phase.INITRD, Phase.WORKLOAD, Phase.SHUTDOWN} <= seen


def test_power_that_stays_on_is_switched_off(settings: Settings) -> None:
    """The host ends such a guest in its own time, and the verdict stands."""
    tried = Tried(replace(settings, deadlines=Deadlines(shutdown=0.2, firmware=60)), ends_and_stays_on)
    assert (tried.cause, tried.record.outcome) == (Cause.COMMAND, "success")
    assert tried.guest_did == ["resume", "terminate"]


def test_a_guest_that_goes_without_a_record(settings: Settings) -> None:
    """However orderly QEMU ends: that is no success."""

    def story(start: FakeKernelStart) -> None:
        start.command()
        assert start.guest is not None
        start.guest.die(0)

    tried = Tried(settings, story)
    assert tried.launch is not None
    assert isinstance(tried.launch.error, NoRecordError)
    assert (tried.cause, tried.record.outcome) == (Cause.UNJUDGED, "failure")


def test_a_qemu_that_dies(settings: Settings) -> None:
    """While the command runs, or after its record: QEMU's end was no orderly one."""
    for ended in (False, True):

        def story(start: FakeKernelStart, *, ended: bool = ended) -> None:
            start.command()
            if ended:
                start.ends(0)
                assert start.answered.wait(20)
            assert start.guest is not None
            start.guest.die(139)

        tried = Tried(settings, story)
        assert tried.launch is not None
        assert isinstance(tried.launch.error, QemuExitedError)
        assert tried.cause is Cause.HYPERVISOR


def test_a_panic_ends_a_run(settings: Settings) -> None:
    """By the console alone, in a guest that restarts, which ends it."""

    def story(start: FakeKernelStart) -> None:
        start.print(b"[    1.000000] Kernel panic - not syncing: Attempted to kill init!\n")
        assert start.guest is not None
        start.guest.die(0)

    tried = Tried(settings, story)
    assert tried.launch is not None
    assert isinstance(tried.launch.error, GuestPanicError)
    assert (tried.cause, tried.record.outcome) == (Cause.PANIC, "failure")


def test_a_run_that_is_interrupted(settings: Settings) -> None:
    """Is cancelled, also while its command runs: it has no record."""

    def story(start: FakeKernelStart) -> None:
        start.command()
        start.stop.request("test")

    tried = Tried(settings, story)
    assert (tried.cause, tried.record.outcome) == (Cause.INTERRUPTED, "cancelled")
    assert tried.guest_did[-1] == "terminate"


def test_deadlines(settings: Settings) -> None:
    """A guest that comes to no user space, and a command that goes on for too long, are told apart."""
    soon = Settings(
        state_dir=settings.state_dir, runtime_dir=settings.runtime_dir, log=settings.log, measure=False,
        deadlines=Deadlines(shutdown=0.2, firmware=0.05, transfer=0.05, handoff=0.05, kernel=0.05),
    )  # fmt: skip
    silent = Tried(soon, lambda _: None)
    assert silent.launch is not None
    assert isinstance(silent.launch.error, NoUserSpaceError)
    assert silent.cause is Cause.NO_USER_SPACE
    late = Tried(settings, FakeKernelStart.command, timeout_s=0.5)
    assert late.launch is not None
    assert isinstance(late.launch.error, TimedOutError)
    assert late.cause is Cause.TIMED_OUT
