"""What is launched (`LaunchSpec`) and where that happens (`LaunchContext`, `Place`), as values."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.channel.console import Console
from orchestrator.channel.control import Control
from orchestrator.domain.cloning import split_cmdline
from orchestrator.domain.cmdline import fix_cmdline
from orchestrator.domain.layout import takes_slots
from orchestrator.hypervisor.connection import Connection
from orchestrator.launch.plan import Plan, named_firmware
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Phase
from orchestrator.values import dataclass

if TYPE_CHECKING:  # only kernels that are tried have any
    from orchestrator.channel.streams import Streams

Claim = Callable[[Path], contextlib.AbstractContextManager[None]]


def new_id() -> str:
    """Return a name that no other launch has."""
    return f"gl-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """What is launched: the request, the settings that apply to it, and what was decided from both."""

    request: LaunchRequest
    settings: Settings
    plan: Plan

    @property
    def memory_mib(self) -> int:
        """Memory of the guest."""
        return self.settings.memory_mib or self.request.memory_mib or self.plan.profile.memory_mib

    @property
    def vcpus(self) -> int:
        """Virtual CPUs of the guest."""
        return self.settings.vcpus or self.request.vcpus or self.plan.profile.vcpus

    @property
    def cmdline(self) -> str:
        """The kernel's command line as its guest sees it."""
        plan = self.plan
        return fix_cmdline(self.request.cmdline, plan.profile, plan.accel, aslr=self.settings.guest_aslr)[0]

    @property
    def markers(self) -> frozenset[str]:
        """Names of the events that the guest will report."""
        return self.plan.appliance.markers if self.plan.appliance is not None else frozenset()

    @property
    def traced(self) -> bool:
        """Whether QEMU is to trace: to date the launch, or because nothing else would tell guestfsd from firmware."""
        return self.settings.measure or Phase.GUESTFSD not in self.markers

    @property
    def slots(self) -> bool:
        """Whether its disks take slots of the PCI bus, for which a template must have left room."""
        return self.request.slots or takes_slots(self.plan.disks)

    def without_tool(self, *, attached: bool = False) -> LaunchSpec:
        """Return what a template is made from: the same without anything that a clone is given later.

        Firmware that the client named is the one that was found for it: its own copy of the variables goes with it.

        :param attached: it keeps what is only a clone's, and there from its start: network, the user's own arguments.
        """
        pflash, firmware = named_firmware(self.request, self.plan.profile), self.plan.firmware
        if pflash is not None and firmware is not None:
            pflash = firmware.code, firmware.nvram_template
        request = replace(
            self.request,
            pflash=pflash,
            cmdline=split_cmdline(self.request.cmdline)[0],
            disks=(),
            guestfsd_path=None,
            network=self.request.network if attached else None,
            extra_args=self.request.extra_args if attached else (),
            start_paused=False,
            cwd="/",
            slots=self.slots,
        )
        return replace(self, request=request, plan=replace(self.plan, disks=()))


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchContext:
    """Where a launch happens, and for whom.

    :ivar launch_id: the name of the launch and of its domain.
    :ivar stop: asks it to end.
    :ivar connect: returns this process's connection to libvirt for some settings, opening it when need be.
    :ivar claim: has a path removed if this process dies (`orchestrator.hypervisor.embed.Root.claim`).
    :ivar emit: takes events for the log.
    :ivar prepare_log: gets the log ready beside what the caller does; returns what waits for that.
    :ivar console: descriptors that the guest's serial console is relayed (from, to).
    :ivar client_pid: the process that asked for the launch.
    """

    launch_id: str = field(default_factory=new_id)
    stop: Stop
    connect: Callable[[Settings], Connection]
    claim: Claim
    emit: Callable[..., None]
    prepare_log: Callable[[], Callable[[], object]] = lambda: lambda: None
    console: tuple[int, int] | None = None
    client_pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one launch keeps its files and sockets.

    :ivar launch_id: the name of the launch and of its domain.
    :ivar data: its directory of files, below the state directory; `sockets` likewise, below the runtime directory.
    :ivar console: our end of QEMU's serial console; `control` of the control port.
    :ivar streams: our ends of the streams of a program in the guest, where one is run there.
    """

    launch_id: str
    data: Path
    sockets: Path
    console: Console
    control: Control
    streams: Streams | None = None

    @property
    def trace(self) -> Path:
        """QEMU's trace, where it is on."""
        return self.data / "trace.log"
