"""The ways to a running appliance: what a boot, and what a clone of a template, must know how to do.

`orchestrator.launch.launch` goes through the stages of any way in the same order; the ways are `cold` and `warm`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.channel.console import Console
from orchestrator.channel.control import Control
from orchestrator.domain.model import Domain
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.boot import Boot
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.stop import Stop
from orchestrator.records.record import FwCfg
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Start
from orchestrator.timeline.recorder import Recorder

Claim = Callable[[Path], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one launch was asked for, and where its times go.

    :ivar console: descriptors that the guest's serial console is relayed (from, to).
    :ivar claim: has a path removed if this process dies (`orchestrator.hypervisor.embed.Root.claim`).
    """

    request: LaunchRequest
    settings: Settings
    recorder: Recorder
    console: tuple[int, int] | None
    claim: Claim
    stop: Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one launch keeps what is its own.

    :ivar data: its directory of files, below the state directory; `sockets` likewise, below the runtime directory.
    :ivar console: our end of QEMU's serial console; `control` of the control port.
    """

    data: Path
    sockets: Path
    console: Console
    control: Control


class Way(Protocol):
    """One launch's way. The methods are called once each, in this order; the last one only if the guest asks for it."""

    @property
    def start(self) -> Start:
        """What the log calls it."""

    @property
    def id(self) -> str:
        """The name of the launch and of its domain."""

    def facts(self) -> Mapping[str, Any]:
        """Return what the log says of the way beyond its start."""

    def stage(self, plan: Plan, files: contextlib.ExitStack) -> tuple[Domain, Place]:
        """Put the files in place and describe the domain; `files` becomes their owner."""

    def connect(self) -> Connection:
        """Return the connection to libvirt."""

    def create(self, connection: Connection) -> Guest:
        """Have a paused guest."""

    def prepare(self, guest: Guest) -> FwCfg:
        """Do what must be done before the guest runs; return what is known of its fw_cfg transfer."""

    def boot(self) -> Boot:
        """Return what follows the guest."""

    def run(self, guest: Guest) -> None:
        """Let the guest run."""

    def let_through(self, guest: Guest) -> None:
        """Answer a guest that said what `boot` was told to wait for."""
