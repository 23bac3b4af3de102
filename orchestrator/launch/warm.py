"""The warm ways: a clone of a template, restored for a launch or kept ready, is given its disks and let through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.domain.model import Domain
from orchestrator.domain.xml import domain_xml
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.boot import GUESTFSD_ALIAS, NO_TRACE, Boot, limits
from orchestrator.launch.clone import Clone, restore, stage_clone
from orchestrator.launch.gate import CLOCK, attach, let_through, open_gate
from orchestrator.launch.plan import Plan
from orchestrator.launch.way import Asked, Place
from orchestrator.records.record import FwCfg
from orchestrator.template.model import Template
from orchestrator.timeline.phases import Phase, Start
from orchestrator.timeline.trace import TraceFile


class Warm:
    """A launch that clones; see `orchestrator.launch.way.Way`.

    :param connect: returns the process's libvirt connection, opening it when need be.
    """

    start = Start.WARM

    def __init__(self, asked: Asked, launch_id: str, connect: Callable[[], Connection], template: Template) -> None:
        self.id = launch_id
        self._asked, self._recorder, self._connect, self._template = asked, asked.recorder, connect, template
        self._plan: Plan
        self._domain: Domain
        self._place: Place

    def facts(self) -> Mapping[str, Any]:
        """Name the template."""
        return {"template": self._template.key}

    def stage(self, plan: Plan, files: contextlib.ExitStack) -> tuple[Domain, Place]:
        """Make directories, an overlay of the template's root, and sockets."""
        self._plan = plan
        asked = self._asked
        self._domain, self._place = stage_clone(
            plan,
            asked.request,
            asked.settings,
            self._template,
            launch_id=self.id,
            files=files,
            claim=asked.claim,
            client=asked.console,
        )
        return self._domain, self._place

    def connect(self) -> Connection:
        """Return the process's connection."""
        return self._connect()

    def create(self, connection: Connection) -> Guest:
        """Start QEMU, paused and without a state."""
        guest = connection.create(
            domain_xml(self._domain),
            paused=True,
            privileges=self._domain.privileges,
            deadline_s=self._asked.settings.deadlines.create,
        )
        self._recorder.begin(Phase.RESTORE, "libvirt started the domain")
        return guest

    def prepare(self, guest: Guest) -> FwCfg:
        """Load the template's state, and plug in the tool's disks. Nothing crosses fw_cfg."""
        restore(guest, self._template, self._asked.settings.deadlines.restore)
        self._recorder.begin(Phase.ATTACH, "QEMU loaded the state")
        attach(guest, self._plan.disks, self._plan.profile.arch, self._place)
        return FwCfg(requested=self._asked.settings.fw_cfg_dma)

    def boot(self) -> Boot:
        """Return what follows the clone from its gate."""
        return clone_boot(self._asked, self._place)

    def run(self, guest: Guest) -> None:
        """Open the gate."""
        self._recorder.begin(Phase.GATE, "disks plugged in")
        open_gate(guest, self._place, self._plan, self._asked)

    def let_through(self, guest: Guest) -> None:
        """Let the guest through its gate."""
        let_through(guest, self._place, self._plan)


class Standby:
    """A launch that takes a clone of the pool; see `orchestrator.launch.way.Way`."""

    start = Start.STANDBY

    def __init__(self, asked: Asked, clone: Clone) -> None:
        self.id = clone.id
        self._asked, self._clone = asked, clone
        self._plan: Plan

    def facts(self) -> Mapping[str, Any]:
        """Name the template."""
        return {"template": self._clone.template.key}

    def stage(self, plan: Plan, files: contextlib.ExitStack) -> tuple[Domain, Place]:
        """Take over what is the clone's own."""
        self._plan = plan
        files.push(self._clone.files)
        self._clone.place.console.relay_to(self._asked.console)
        return self._clone.domain, self._clone.place

    def connect(self) -> Connection:
        """Return the connection that the clone was made over."""
        return self._clone.connection

    def create(self, connection: Connection) -> Guest:
        """Return the clone's guest."""
        del connection
        self._asked.recorder.begin(Phase.ATTACH, "a clone was taken")
        return self._clone.guest

    def prepare(self, guest: Guest) -> FwCfg:
        """Wake the clone up, and plug in the tool's disks."""
        guest.resume()
        attach(guest, self._plan.disks, self._plan.profile.arch, self._clone.place)
        return FwCfg(requested=self._asked.settings.fw_cfg_dma)

    def boot(self) -> Boot:
        """Return what follows the clone from its gate."""
        return clone_boot(self._asked, self._clone.place)

    def run(self, guest: Guest) -> None:
        """Open the gate."""
        self._asked.recorder.begin(Phase.GATE, "disks plugged in")
        open_gate(guest, self._clone.place, self._plan, self._asked)

    def let_through(self, guest: Guest) -> None:
        """Let the guest through its gate."""
        let_through(guest, self._clone.place, self._plan)


def clone_boot(asked: Asked, place: Place) -> Boot:
    """Return what follows a clone from its gate to its launch flag."""
    settings, trace = asked.settings, None
    if settings.measure:
        trace = TraceFile(place.data / "trace.log")
    else:
        asked.recorder.unseen(Phase.WORKLOAD, NO_TRACE)
    observed = {Phase.GATE, Phase.GUESTFSD}
    return Boot(asked.recorder, trace, limits(settings.deadlines), observed, GUESTFSD_ALIAS, awaits=CLOCK)
