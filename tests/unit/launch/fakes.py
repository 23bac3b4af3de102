"""A start and a guest that are only pretended, with real sockets between them: for tests of what drives a launch."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from orchestrator.channel.console import Console
from orchestrator.channel.control import Control
from orchestrator.channel.port import listening
from orchestrator.channel.ring import ConsoleRing
from orchestrator.domain.model import Accel, Arch, Domain
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import DeadlineError
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.events import EventFeed, EventSource, GuestEvent, Listener, StopReason, stops_a_guest
from orchestrator.hypervisor.guest import Ending, Guest
from orchestrator.launch.boot import GUESTFSD_ALIAS, Boot, limits
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place
from orchestrator.launch.gate import CLOCK
from orchestrator.launch.launcher import Launcher
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.standby import Pool
from orchestrator.launch.stop import Stop
from orchestrator.records.record import FwCfg
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Phase, Start
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile
from tests.golden.domains import bare_minimum

PLAN = Plan(
    profile=load_profile("aarch64-uefi"),
    emulator="/qemu",
    host_arch=Arch.X86_64,
    accel=Accel.TCG,
    accel_reason="a test",
    firmware=None,
    appliance=None,
    disks=(),
    kernel="/kernel",
    kernel_bytes=1,
    initrd_bytes=1,
    libguestfs="1.48.6",
)
REQUEST = LaunchRequest(kernel="/kernel", initrd="/initrd", cmdline="")


class FakeGuest:
    """What a launch sees of a guest. `alive` says whether there would be a QEMU.

    :ivar did: what was asked of it, in order.
    """

    def __init__(self) -> None:
        self.name, self.uuid, self.pid, self.pidfd, self.log_file = "gl-fake", "0", None, None, None
        self.exited = threading.Event()
        self.confinement = None
        self.exit_code: int | None = None
        self.disk_error: GuestEvent | None = None
        self.halted = self.broken = False
        self.did: list[str] = []
        self.stubborn = False  # SIGTERM does nothing
        self._feed = EventFeed()

    @property
    def alive(self) -> bool:
        return not self.exited.is_set()

    def die(self, code: int) -> None:
        """End, by itself or not."""
        if self.alive:
            self.exit_code = code
            self.exited.set()
            self.emit("stopped", EventSource.LIBVIRT)

    def emit(self, name: str, source: EventSource = EventSource.QEMU, **detail: object) -> None:
        """Have an event, as libvirt's thread would."""
        event = GuestEvent(source=source, name=name, detail=detail, received_ns=time.monotonic_ns())
        if stops_a_guest(event):
            self.disk_error = event
        self._feed.put(event)

    def on_event(self, listener: Listener) -> Callable[[], None]:
        return self._feed.listen(listener)

    def resume(self) -> None:
        self.did.append("resume")

    def qmp(self, command: str, arguments: Mapping[str, Any] | None = None, **_: object) -> object:
        del arguments
        self.did.append(command)
        return {}

    def kill_if_broken(self) -> None:
        self.halted, self.broken = False, True
        self.kill()

    def terminate(self) -> None:
        self.did.append("terminate")
        if not self.stubborn:
            self.die(0)

    def kill(self) -> None:
        self.did.append("kill")
        self.die(137)

    def wait_exited(self, deadline_s: float) -> int:
        if not self.exited.wait(deadline_s):
            raise DeadlineError("domain did not end", self.name)
        assert self.exit_code is not None
        return self.exit_code

    def remove(self, deadline_s: float = 60.0) -> Ending:
        del deadline_s
        if self.alive:
            self.kill()
        return Ending(reason=StopReason.SHUTDOWN, exit_code=self.exit_code or 0, exit_seen=True)

    def remove_log(self) -> None:
        """There is none."""


Story = Callable[["FakeStart"], None]


class FakeStart:
    """A path to a guest that then does what a story says; see `orchestrator.launch.start.StartPath`.

    :param story: runs on a thread of its own once the guest runs; it may use `say`, `open_port`, `stop`, `guest`.
    """

    def __init__(
        self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder, story: Story, kind: Start = Start.COLD
    ) -> None:
        self.kind, self.id, self.missing = kind, f"gl-{kind}", None
        self.spec, self.context, self.recorder, self._story = spec, context, recorder, story
        self._data = data = spec.settings.runtime_dir
        self._owned = contextlib.ExitStack()
        self.guest: FakeGuest | None = None
        self.control: socket.socket
        self.console: socket.socket
        self.stop: Stop = context.stop
        self.did: list[str] = []
        self.connection = _FakeConnection()
        self.answered, self.stop_waiting = threading.Event(), threading.Event()
        self.teller: threading.Thread | None = None
        self.trace = TraceFile(data / "trace") if spec.settings.measure else None

    def facts(self) -> Mapping[str, Any]:
        return {}

    def obtain(self) -> None:
        """It starts from nothing."""

    def stage(self) -> tuple[Domain, Place]:
        self.did.append("stage")
        owned = self._owned
        owned.callback(self.did.append, "released")
        ends = [owned.enter_context(listening(self._data / f"{self.id}-{name}")) for name in ("console", "control")]
        self.console, self.control = (owned.enter_context(socket.socket(socket.AF_UNIX)) for _ in ends)
        for mine, end in zip((self.console, self.control), ends, strict=True):
            mine.connect(end.getsockname())
        console = Console(ends[0], ConsoleRing(65536), None)
        control = Control(ends[1])
        owned.callback(console.port.close)
        owned.callback(control.port.close)
        self.place = Place(launch_id=self.id, data=self._data, sockets=self._data, console=console, control=control)
        return bare_minimum(), self.place

    def close(self) -> None:
        self._owned.close()

    def connect(self) -> Connection:
        self.did.append("connect")
        return cast("Connection", self.connection)

    def create(self, connection: Connection, domain: Domain) -> Guest:
        del connection, domain
        self.did.append("create")
        self.guest = FakeGuest()
        self.recorder.begin(Phase.QEMU if self.kind is Start.COLD else Phase.RESTORE, "test")
        return cast("Guest", self.guest)

    def prepare(self, guest: Guest, place: Place) -> FwCfg:
        del guest, place
        self.did.append("prepare")
        return FwCfg(requested=True)

    def boot(self, place: Place) -> Boot:
        del place
        awaits = None if self.kind is Start.COLD else CLOCK
        seen = {Phase.FIRMWARE, Phase.GATE, Phase.GUESTFSD}
        return Boot(
            self.recorder, self.trace, limits(self.spec.settings.deadlines), seen, GUESTFSD_ALIAS, awaits=awaits
        )

    def run(self, guest: Guest, place: Place) -> None:
        del place
        self.did.append("run")
        self.recorder.begin(Phase.FIRMWARE if self.kind is Start.COLD else Phase.GATE, "test")
        guest.resume()
        self.teller = threading.Thread(target=self._story, args=(self,), daemon=True)
        self.teller.start()

    def let_through(self, guest: Guest, place: Place) -> None:
        del guest, place
        self.did.append("let_through")
        self.answered.set()

    def say(self, text: bytes) -> None:
        """Have the guest write to its control port."""
        with contextlib.suppress(OSError):  # the launch is over
            self.control.sendall(text)

    def print(self, text: bytes) -> None:
        """Have the guest write to its console."""
        with contextlib.suppress(OSError):
            self.console.sendall(text)

    def open_port(self) -> None:
        """Have guestfsd, which started a second ago, open its port."""
        assert self.guest is not None
        self.say(b"guestlaunch-marker guestfsd 59.0 60.0\n")
        self.guest.emit("VSERPORT_CHANGE", id=GUESTFSD_ALIAS, open=True)


class _FakeConnection:
    def __init__(self) -> None:
        self.lost = threading.Event()

    def versions(self, emulator: str | None = None) -> object:
        del emulator
        raise OSError("no versions in tests")


class FakeLauncher(Launcher):
    """A launcher whose launches take pretended start paths, one after the other: those that `story` is told of.

    :ivar starts: the start paths taken so far.
    :ivar plan: of the launches that come.
    """

    def __init__(self, settings: Settings, story: Story, *kinds: Start) -> None:
        super().__init__(settings, plan=lambda *_: self.plan, choose=self.pretend)
        self._story, self._kinds = story, list(kinds)
        self.starts: list[FakeStart] = []
        self.plan = PLAN

    def pretend(
        self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder, pool: Pool | None, cold_reason: str | None
    ) -> FakeStart:
        """Return the next start path."""
        del pool, cold_reason
        kind = self._kinds.pop(0) if self._kinds else Start.COLD
        self.starts.append(FakeStart(spec, context, recorder, self._story, kind))
        return self.starts[-1]


def serve_a_tool(start: FakeStart) -> None:
    """A guest that boots, sends its markers, serves a tool, and is told to end.

    It has been up for so long that a test on a busy host takes no opening of its port for the firmware's.
    """
    start.print(b"booting\n")
    for name in (b"initrd", b"init", b"guestfsd"):
        start.say(b"guestlaunch-marker " + name + b" 60.0 60.0\n")
    start.open_port()
    start.stop.request("terminate")
