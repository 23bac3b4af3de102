"""A start and a guest that are only pretended, with real sockets between them: for tests of what drives a launch."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
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
from orchestrator.launch.gate import CLOCK
from orchestrator.launch.launcher import Launcher
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.stop import Stop
from orchestrator.launch.way import Asked, Place, Way
from orchestrator.records.record import FwCfg
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Phase, Start
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

    def end(self, deadline_s: float = 60.0) -> Ending:
        del deadline_s
        if self.alive:
            self.kill()
        return Ending(reason=StopReason.SHUTDOWN, exit_code=self.exit_code or 0, exit_seen=True)


Story = Callable[["FakeStart"], None]


class FakeStart:
    """A way to a guest that then does what a story says; see `orchestrator.launch.way.Way`.

    :param story: runs on a thread of its own once the guest runs; it may use `say`, `open_port`, `stop`, `guest`.
    """

    def __init__(self, asked: Asked, data: Path, story: Story, start: Start = Start.COLD) -> None:
        self.start, self.id = start, f"gl-{start}"
        self.asked, self._data, self._story = asked, data, story
        self.guest: FakeGuest | None = None
        self.control: socket.socket
        self.console: socket.socket
        self.stop: Stop = asked.stop
        self.did: list[str] = []
        self.connection = _FakeConnection()
        self.answered, self.stop_waiting = threading.Event(), threading.Event()
        self.teller: threading.Thread | None = None
        self.trace = TraceFile(data / "trace") if asked.settings.measure else None

    def facts(self) -> Mapping[str, Any]:
        return {}

    def stage(self, plan: Plan, files: contextlib.ExitStack) -> tuple[Domain, Place]:
        del plan
        self.did.append("stage")
        files.callback(self.did.append, "released")
        ends = [files.enter_context(listening(self._data / f"{self.id}-{name}")) for name in ("console", "control")]
        self.console, self.control = (files.enter_context(socket.socket(socket.AF_UNIX)) for _ in ends)
        for mine, end in zip((self.console, self.control), ends, strict=True):
            mine.connect(end.getsockname())
        console = Console(ends[0], ConsoleRing(65536), None)
        self.place = Place(data=self._data, sockets=self._data, console=console, control=Control(ends[1]))
        return bare_minimum(), self.place

    def connect(self) -> Connection:
        self.did.append("connect")
        return cast("Connection", self.connection)

    def create(self, connection: Connection) -> Guest:
        del connection
        self.did.append("create")
        self.guest = FakeGuest()
        self.asked.recorder.begin(Phase.QEMU if self.start is Start.COLD else Phase.RESTORE, "test")
        return cast("Guest", self.guest)

    def prepare(self, guest: Guest) -> FwCfg:
        del guest
        self.did.append("prepare")
        return FwCfg(requested=True)

    def boot(self) -> Boot:
        awaits = None if self.start is Start.COLD else CLOCK
        seen = {Phase.FIRMWARE, Phase.GATE, Phase.GUESTFSD}
        return Boot(
            self.asked.recorder, self.trace, limits(self.asked.settings.deadlines), seen, GUESTFSD_ALIAS, awaits=awaits
        )

    def run(self, guest: Guest) -> None:
        self.did.append("run")
        self.asked.recorder.begin(Phase.FIRMWARE if self.start is Start.COLD else Phase.GATE, "test")
        guest.resume()
        self.teller = threading.Thread(target=self._story, args=(self,), daemon=True)
        self.teller.start()

    def let_through(self, guest: Guest) -> None:
        del guest
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
        """Have guestfsd start, and open its port."""
        assert self.guest is not None
        self.say(b"guestlaunch-marker guestfsd 1.0 1.0\n")
        self.guest.emit("VSERPORT_CHANGE", id=GUESTFSD_ALIAS, open=True)


class _FakeConnection:
    def __init__(self) -> None:
        self.lost = threading.Event()

    def versions(self, emulator: str | None = None) -> object:
        del emulator
        raise OSError("no versions in tests")


class FakeLauncher(Launcher):
    """A launcher whose launches take pretended ways, one after the other: those that `story` is told of.

    :ivar starts: the ways taken so far.
    """

    def __init__(self, settings: Settings, story: Story, *kinds: Start) -> None:
        super().__init__(settings, plan=lambda *_: PLAN)
        self._story, self._kinds = story, list(kinds)
        self.starts: list[FakeStart] = []

    def _choose(self, plan: Plan, asked: Asked, launch_id: str, fell: str | None, unused: contextlib.ExitStack) -> Way:
        del plan, launch_id, fell, unused
        kind = self._kinds.pop(0) if self._kinds else Start.COLD
        self.starts.append(FakeStart(asked, self.settings.runtime_dir, self._story, kind))
        return self.starts[-1]


def serve_a_tool(start: FakeStart) -> None:
    """A guest that boots, sends its markers, serves a tool, and is told to end."""
    start.print(b"booting\n")
    for name in (b"initrd", b"init", b"guestfsd"):
        start.say(b"guestlaunch-marker " + name + b" 1.0 1.0\n")
    start.open_port()
    start.stop.request("terminate")
