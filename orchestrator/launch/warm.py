"""The warm starts: a clone of a template, restored for a launch or kept ready, is given its disks and let through."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from orchestrator.domain.cloning import split_cmdline
from orchestrator.domain.model import Domain
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.boot import GUESTFSD_ALIAS, NO_TRACE, Boot, limits
from orchestrator.launch.clone import Clone, restore, stage_clone
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place
from orchestrator.launch.gate import CLOCK, attach, let_through, open_gate
from orchestrator.records.record import FwCfg
from orchestrator.template.model import Facts, Template
from orchestrator.timeline.phases import Phase, Start
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile


class _CloneStart:
    """What both have in common, once a clone is held at its gate."""

    missing: Facts | None = None  # a clone wants for no template

    def __init__(self, spec: LaunchSpec, recorder: Recorder, template: Template | None) -> None:
        self._spec, self._recorder, self._template = spec, recorder, template

    @property
    def template(self) -> Template:
        """What is cloned."""
        assert self._template is not None  # obtained first
        return self._template

    def facts(self) -> Mapping[str, str | None]:
        """Name the template."""
        return {"template": self.template.key}

    def prepare(self, guest: Guest, place: Place) -> FwCfg:
        """Plug in the tool's disks; nothing crosses fw_cfg. A tool that wants to see a boot is shown its template's."""
        if "guestfs_verbose=1" in split_cmdline(self._spec.cmdline)[1]:
            with contextlib.suppress(OSError):
                place.console.tell(self.template.recording())
        attach(guest, place, self._spec)
        return FwCfg(requested=self._spec.settings.fw_cfg_dma)

    def boot(self, place: Place) -> Boot:
        """Return what follows the clone from its gate to its launch flag."""
        settings, trace = self._spec.settings, None
        if settings.measure:
            trace = TraceFile(place.trace)
        else:
            self._recorder.unseen(Phase.WORKLOAD, NO_TRACE)
        observed = {Phase.GATE, Phase.GUESTFSD}
        return Boot(self._recorder, trace, limits(settings.deadlines), observed, GUESTFSD_ALIAS, awaits=CLOCK)

    def run(self, guest: Guest, place: Place) -> None:
        """Open the gate."""
        self._recorder.begin(Phase.GATE, "disks plugged in")
        open_gate(guest, place, self._spec)

    def let_through(self, guest: Guest, place: Place) -> None:
        """Let the guest through its gate."""
        let_through(guest, place, self._spec)


class WarmStart(_CloneStart):
    """A launch that clones; see `orchestrator.launch.start.StartPath`.

    :param template: the one for `facts`; None when it is still to be built.
    """

    kind = Start.WARM

    def __init__(
        self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder, facts: Facts, template: Template | None
    ) -> None:
        super().__init__(spec, recorder, template)
        self.id = context.launch_id
        self._context, self._facts = context, facts
        self._owned = contextlib.ExitStack()

    def close(self) -> None:
        """Remove its files."""
        self._owned.close()

    def obtain(self) -> None:
        """Build the template that is missing.

        :raise GuestlaunchError: it cannot be built.
        """
        if self._template is None:
            from orchestrator.launch.template_build import build_template  # here: once for many launches

            self._template = build_template(self._spec, self._facts, self._context)

    def stage(self) -> tuple[Domain, Place]:
        """Make directories, an overlay of the template's root, and sockets."""
        return stage_clone(self._spec, self._context, self.template, self._owned)

    def connect(self) -> Connection:
        """Return the process's connection."""
        return self._context.connect(self._spec.settings)

    def create(self, connection: Connection, domain: Domain) -> Guest:
        """Start QEMU, paused and without a state."""
        guest = connection.create_paused(domain, self._spec.settings.deadlines.create)
        self._recorder.begin(Phase.RESTORE, "libvirt started the domain")
        return guest

    def prepare(self, guest: Guest, place: Place) -> FwCfg:
        """Load the template's state, then plug in the tool's disks."""
        restore(guest, self.template, self._spec.settings.deadlines.restore)
        self._recorder.begin(Phase.ATTACH, "QEMU loaded the state")
        return super().prepare(guest, place)


class StandbyStart(_CloneStart):
    """A launch that takes a clone of the pool, and owns it; see `orchestrator.launch.start.StartPath`."""

    kind = Start.STANDBY

    def __init__(self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder, clone: Clone) -> None:
        super().__init__(spec, recorder, clone.template)
        self.id = clone.place.launch_id
        self._console, self._clone = context.console, clone

    def close(self) -> None:
        """Remove the clone's files, and end it unless it was handed over."""
        self._clone.close()

    def obtain(self) -> None:
        """Nothing: the clone is there."""

    def stage(self) -> tuple[Domain, Place]:
        """Let the client hear the clone's console."""
        self._clone.place.console.relay_to(self._console)
        return self._clone.domain, self._clone.place

    def connect(self) -> Connection:
        """Return the connection that the clone was made over."""
        return self._clone.connection

    def create(self, connection: Connection, domain: Domain) -> Guest:
        """Hand over the clone's guest."""
        del connection, domain
        self._recorder.begin(Phase.ATTACH, "a clone was taken")
        return self._clone.hand_over()

    def prepare(self, guest: Guest, place: Place) -> FwCfg:
        """Wake the clone up, then plug in the tool's disks."""
        guest.resume()
        return super().prepare(guest, place)
