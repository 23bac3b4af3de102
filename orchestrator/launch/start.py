"""The start paths: how a launch comes to a running appliance, and which of them a launch takes.

`orchestrator.launch.launch` goes through the stages of any of them in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

from orchestrator.domain.model import Domain
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.cold import ColdStart
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place
from orchestrator.launch.eligibility import template_facts, why_not_warm
from orchestrator.launch.warm import StandbyStart, WarmStart
from orchestrator.launch.watch import FollowedLaunch
from orchestrator.records.record import FwCfg
from orchestrator.template import store as templates
from orchestrator.template.model import Facts
from orchestrator.timeline.phases import Start
from orchestrator.timeline.recorder import Recorder

if TYPE_CHECKING:
    from orchestrator.launch.standby import Pool


class StartPath(Protocol):
    """How one launch gets its guest, and the owner of everything made for that.

    The methods are called once each, in this order; `let_through` only if the guest asks for it, `close` always.
    """

    @property
    def kind(self) -> Start:
        """What the log calls it."""

    @property
    def id(self) -> str:
        """The name of the launch and of its domain."""

    @property
    def missing(self) -> Facts | None:
        """What the template depends on that it could have been cloned from; None if nothing is wanting."""

    def facts(self) -> Mapping[str, str | None]:
        """Return what the log says of it beyond its kind."""

    def obtain(self) -> None:
        """Make what it starts from, where that is missing."""

    def stage(self) -> tuple[Domain, Place]:
        """Put the files in place and describe the domain."""

    def connect(self) -> Connection:
        """Return the connection to libvirt."""

    def create(self, connection: Connection, domain: Domain) -> Guest:
        """Return a paused guest, which the caller must end from now on."""

    def prepare(self, guest: Guest, place: Place) -> FwCfg:
        """Do what must be done before the guest runs; return what is known of its fw_cfg transfer."""

    def boot(self, place: Place) -> FollowedLaunch:
        """Return what follows the guest."""

    def run(self, guest: Guest, place: Place) -> None:
        """Let the guest run."""

    def let_through(self, guest: Guest, place: Place) -> None:
        """Answer a guest that has said what `boot` was told to wait for."""

    def close(self) -> None:
        """Release what was made, and end a guest that nobody has taken."""


Choose: TypeAlias = "Callable[[LaunchSpec, LaunchContext, Recorder, Pool | None, str | None], StartPath]"


def choose_start(
    spec: LaunchSpec, context: LaunchContext, recorder: Recorder, pool: Pool | None, cold_reason: str | None
) -> StartPath:
    """Decide whether a launch boots or clones a template, be it one that is still to be built.

    :param pool: clones that are kept ready; it learns that this kind of launch is wanted.
    :param cold_reason: why it boots, even if there is something to clone.
    """
    settings = spec.settings
    if settings.start == "cold" or cold_reason is not None:
        return ColdStart(spec, context, recorder, cold_reason)
    cold_reason = why_not_warm(spec)
    if cold_reason is not None:
        return ColdStart(spec, context, recorder, cold_reason)
    facts = template_facts(spec)
    if pool is not None:
        network = spec.request.network
        # A clone that is kept ready cannot have joined the socket of a tool that has not come yet.
        # Nor has it PCI devices for disks that are not known yet.
        waits = (network is None or network.stream_path is None) and not spec.request.extra_args and not spec.slots
        pool.want(spec if waits else spec.without_tool(), facts)
        clone = pool.take(spec, facts) if waits else None
        if clone is not None:
            return StandbyStart(spec, context, recorder, clone)
    template = templates.find(settings.state_dir, facts)
    if template is None and settings.start != "warm":
        cold_reason = "there is no template for it (guestlaunch template build makes one)"
        return ColdStart(spec, context, recorder, cold_reason, facts)
    return WarmStart(spec, context, recorder, facts, template)
