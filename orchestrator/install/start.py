"""How the steps of an installation start: the installer as a kernel that is tried, and then the disk alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.domain.model import Domain, Graphics, Loader
from orchestrator.errors import GuestlaunchError
from orchestrator.firmware.descriptors import Firmware
from orchestrator.hypervisor.guest import Guest
from orchestrator.install.boot import DiskBoot, InstallerBoot
from orchestrator.kernel.boot import Expected, KernelBoot
from orchestrator.kernel.plan import KernelPlan
from orchestrator.kernel.start import Attached, KernelStart, on_panic
from orchestrator.launch.cold import ColdStart
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place
from orchestrator.launch.describe import describe
from orchestrator.launch.staging import make_place
from orchestrator.timeline.phases import TRANSFER_PHASES, Phase
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile

_SAY_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMachine:
    """What both steps have in common.

    :ivar nvram: the firmware's variables, which stay.
    :ivar graphics: their display, if they have one.
    """

    firmware: Firmware
    nvram: Path
    graphics: Graphics | None = None

    @property
    def loader(self) -> Loader:
        """The firmware, with these variables."""
        return Loader(
            code=self.firmware.code,
            nvram=os.fspath(self.nvram),
            code_format=self.firmware.code_format,
            nvram_format=self.firmware.nvram_format,
        )


class InstallerStart(KernelStart):
    """The installer boots; see `orchestrator.launch.start.StartPath`."""

    def __init__(
        self, run: KernelPlan, attached: Attached, spec: LaunchSpec, context: LaunchContext, recorder: Recorder,
        *, machine: KeptMachine,
    ) -> None:  # fmt: skip
        super().__init__(run, attached, spec, context, recorder)
        self._machine = machine

    def stage(self) -> tuple[Domain, Place]:
        """Make directories, initrd and sockets."""
        domain, place = super().stage()
        return replace(domain, graphics=self._machine.graphics), place

    def _make_loader(self, place: Place) -> Loader:
        del place
        return self._machine.loader

    def _followed(self, trace: TraceFile | None, expected: Expected, place: Place) -> KernelBoot:
        del place
        timeout_s = self._run.request.timeout_s
        assert timeout_s is not None  # an installation always has a bound
        numbered = replace(expected, numbered=True)
        return InstallerBoot(self._recorder, trace, self._spec.settings.deadlines, numbered, timeout_s=timeout_s)


class DiskStart(ColdStart):
    """What was installed boots from its disk, without any kernel of ours; see `orchestrator.launch.start.StartPath`."""

    def __init__(
        self, attached: Attached, spec: LaunchSpec, context: LaunchContext, recorder: Recorder,
        *, machine: KeptMachine, timeout_s: float,
    ) -> None:  # fmt: skip
        super().__init__(spec, context, recorder, None)
        self._machine, self._timeout_s, self._attached = machine, timeout_s, attached
        self.following: DiskBoot | None = None

    def stage(self) -> tuple[Domain, Place]:
        """Make directories and sockets."""
        place = make_place(self._spec.settings, self._context, self._owned)
        domain = describe(self._spec, place, loader=self._machine.loader, root=None, verbatim=True)
        more = replace(domain, graphics=self._machine.graphics, panic_device=True)
        return replace(more, trace_path=None, restarts=True), place

    def boot(self, place: Place) -> DiskBoot:
        """Return what follows it, and tell the recorder what cannot be seen of it."""
        for phase in (*TRANSFER_PHASES, Phase.FIRMWARE_HANDOFF):
            self._recorder.unseen(phase, "it boots from its disk: nothing is transferred")
        for phase in (Phase.KERNEL, Phase.INITRD):
            self._recorder.unseen(phase, "no time stamp on the console told of it")
        boot = DiskBoot(self._recorder, self._spec.settings.deadlines, timeout_s=self._timeout_s)
        place.console.take = _both(boot.on_console, self._attached.take_console)
        if self._attached.escape is not None:
            stop = self._context.stop
            place.console.escape = (self._attached.escape, lambda: stop.request("ended at its console"))
        self.following = boot
        return boot

    def run(self, guest: Guest, place: Place) -> None:
        """Let it run."""
        assert self.following is not None  # `boot` comes first
        self._owned.callback(on_panic(guest, self.following.on_panic))
        super().run(guest, place)

    def let_through(self, guest: Guest, place: Place) -> None:
        """Press the power button of a system that is there, and tell it so if it listens."""
        boot = self.following
        assert boot is not None
        boot.note_acknowledged()
        self._recorder.begin(Phase.SHUTDOWN, "power button pressed")
        # One that ends by itself in this moment was there, all the same; one that does not end is ended.
        with contextlib.suppress(GuestlaunchError):
            guest.qmp("system_powerdown")
            place.control.say("acknowledged", _SAY_SECONDS)


def _both(first: Callable[[bytes], None], second: Callable[[bytes], None] | None) -> Callable[[bytes], None]:
    """Return what hands a block on to both."""

    def take(block: bytes) -> None:
        first(block)
        if second is not None:
            second(block)

    return take
