"""How far a VM has come, and whether it is ready: its console, its control port, its guest agent's port."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from orchestrator.channel.port import LineBuffer
from orchestrator.channel.ring import ConsoleRing
from orchestrator.domain.policy import CONTROL_CHANNEL
from orchestrator.errors import ConnectionLostError, GuestlaunchError, StoppedError, VmError
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.events import GuestEvent
from orchestrator.hypervisor.guest import Guest
from orchestrator.hypervisor.stored import StoredDomain
from orchestrator.install.boot import DiskBoot
from orchestrator.launch.diagnosis import Evidence
from orchestrator.launch.lifecycle import Event
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Phase
from orchestrator.timeline.recorder import Recorder
from orchestrator.vm.describe import AGENT_ALIAS
from orchestrator.vm.request import ReadySign

_TICK_S = 0.2
_STEPS = {
    Phase.FIRMWARE: "the firmware runs",
    Phase.KERNEL: "its kernel boots",
    Phase.INITRD: "its user space starts",
    Phase.WORKLOAD: "it is ready",
}
_SIGNS = {
    "the system's record": ReadySign.RECORD,
    "a login prompt": ReadySign.LOGIN,
    "its guest agent": ReadySign.AGENT,
    "its ssh server": ReadySign.SSH,
}


class VmBoot(DiskBoot):
    """Follows a VM until it is ready; see `orchestrator.launch.watch.FollowedLaunch`.

    :param sign: what counts.
    """

    what = "the VM"
    error_type = VmError
    late_hint = "--timeout allows more; --ready names another sign"

    def __init__(
        self, recorder: Recorder, settings: Settings, *, timeout_s: float, number: str, sign: ReadySign
    ) -> None:
        super().__init__(recorder, settings.deadlines, timeout_s=timeout_s, number=number)
        self._sign = sign

    def on_guest_event(self, event: GuestEvent) -> None:
        """Take what QEMU said. Firmware opens ports, too: the agent's counts once there is a kernel."""
        opened = event.name == "VSERPORT_CHANGE" and event.detail.get("open")
        if opened and event.detail.get("id") == AGENT_ALIAS and self._kernel_seen_ns is not None:
            self._note_ready("its guest agent")

    def on_ssh(self) -> None:
        """Take that its ssh server answers."""
        self._note_ready("its ssh server")

    def _timed_out(self, now_ns: int) -> bool:
        began = self._recorder.at_ns(Phase.FIRMWARE)
        return self._timeout_s is not None and began is not None and now_ns - began > self._timeout_s * 1e9

    def _note_ready(self, sign: str) -> None:
        if self._sign in {ReadySign.ANY, _SIGNS[sign]}:
            super()._note_ready(sign)


class Followed:
    """A VM that boots, with what comes from it.

    :ivar ring: what its console said.
    """

    def __init__(self, guest: Guest, domain: StoredDomain, connection: Connection, settings: Settings) -> None:
        self._guest, self._domain, self._connection = guest, domain, connection
        self.ring = ConsoleRing(settings.console_kib * 1024)
        self._came: queue.SimpleQueue[Callable[[VmBoot], None]] = queue.SimpleQueue()

    @contextmanager
    def listening(self) -> Iterator[Callable[[bytes], object]]:
        """Listen to it, before it runs; yields what answers on its control port."""
        lines = LineBuffer(lambda line: self._came.put(partial(_control, line)))
        with ExitStack() as stack:
            stack.callback(self._guest.on_event(lambda event: self._came.put(partial(_event, event))))
            stack.enter_context(self._domain.console(self._take_console))
            yield stack.enter_context(self._domain.channel(CONTROL_CHANNEL, lines.feed))

    def take_ssh(self) -> None:
        """Take, from any thread, that its ssh server answers."""
        self._came.put(VmBoot.on_ssh)

    def _take_console(self, block: bytes) -> None:
        self.ring.feed(block)
        self._came.put(partial(_console, block))

    def wait(self, boot: VmBoot, stop: Stop, step: Callable[[str], None]) -> None:
        """Wait until it is ready.

        :param step: takes how far it is, in words, whenever that changes.
        :raise GuestlaunchError: it will not be, or nobody waits any more.
        """
        phase: Phase | None = None
        while not boot.flag_sent():
            if phase is not (phase := boot.current()):
                step(_STEPS.get(phase, str(phase)))
            self._take(boot)
            if boot.flag_sent():
                break
            if stop.requested:
                raise StoppedError("stopped", self._domain.name, stop.reason)
            if self._connection.lost.is_set():
                hint = "the same command again goes on"
                raise ConnectionLostError(
                    "the connection to libvirt broke", self._connection.uri, f"phase {phase}", hint
                )
            if self._guest.halted:
                self._guest.kill_if_broken()
            if self._guest.exited.is_set():
                raise self._why(Event.QEMU_GONE, boot)
            if boot.overdue(time.monotonic_ns()):
                raise self._why(Event.DEADLINE, boot)
        boot.settle()
        step(_STEPS[Phase.WORKLOAD])

    def _take(self, boot: VmBoot) -> None:
        """Hand on what came, waiting for a moment if that is nothing."""
        try:
            self._came.get(timeout=_TICK_S)(boot)
            while True:
                self._came.get_nowait()(boot)
        except queue.Empty:
            boot.follow()

    def _why(self, event: Event, boot: VmBoot) -> GuestlaunchError:
        self._take(boot)
        boot.settle()
        phase = boot.current()
        evidence = Evidence(
            phase=phase,
            ready=False,
            exit_code=self._guest.exit_code,
            last_line=next(iter(self.ring.tail(1)), None),
            panic=self.ring.panic(),
            allowed_s=boot.allowed_s(phase),
            uri=self._connection.uri,
            broken=self._guest.broken,
        )
        return boot.diagnose(event, evidence) or VmError("the VM ended", f"phase {phase}", "before it was ready")


def _console(block: bytes, boot: VmBoot) -> None:
    boot.on_console(block)


def _control(line: bytes, boot: VmBoot) -> None:
    boot.on_control_line(line)


def _event(event: GuestEvent, boot: VmBoot) -> None:
    boot.on_guest_event(event)
