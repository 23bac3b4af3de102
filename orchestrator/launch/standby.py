"""The standby pool: clones restored at their gate before anybody asks for one.

A thread makes some for each recent kind of launch, one at a time and at low priority; a clone that is taken belongs
to its launch and never comes back. The next one is made once that launch is ready, so that it does not cost the launch
what it is to save it. What to do next is decided without I/O (`next_step`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum, auto
from typing import TypeAlias

from orchestrator.domain.model import Network
from orchestrator.errors import GuestlaunchError, LaunchError
from orchestrator.launch import learning
from orchestrator.launch.clone import Clone, make_clone
from orchestrator.launch.context import LaunchContext, LaunchSpec, new_id
from orchestrator.launch.eligibility import outdated, template_facts
from orchestrator.launch.gate import Rehearsal
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest, from_json
from orchestrator.settings import Settings
from orchestrator.template import store
from orchestrator.template.model import Facts, key_of

_KINDS = 4  # for so many kinds of launches
_LOOK_SECONDS = 2.0
_AGAIN_SECONDS = 60.0  # after a failure
_GIVE_WAY_SECONDS = 2.0  # to a launch that took a clone; one that takes longer has other troubles
_LOW_MIB = 512  # the host keeps that much memory available, however many clones we would like
_FIRST_CLONE_MIB = 256  # what a clone may take, until one was measured
_NICE = 19


class Step(StrEnum):
    """What the pool does next for one kind of launch."""

    BUILD = auto()  # its template
    CLONE = auto()
    DROP = auto()  # one clone
    REST = auto()


def next_step(
    *, ready: int, wanted: int, template: bool, private_mib: int, clone_mib: int, bound_mib: int, available_mib: int
) -> Step:
    """Decide what to do for a kind of launch.

    :param ready: clones of it that wait; `wanted` how many are to.
    :param template: there is one for it.
    :param private_mib: memory of all waiting clones; `clone_mib` of one; `bound_mib` what all may have.
    :param available_mib: memory that the host has available.
    """
    if ready and (ready > wanted or available_mib < _LOW_MIB or private_mib > bound_mib):
        return Step.DROP
    room = available_mib - clone_mib >= 2 * _LOW_MIB and private_mib + clone_mib <= bound_mib
    if ready >= wanted or not room:
        return Step.REST
    return Step.CLONE if template else Step.BUILD


# What launches that can use the same clones have in common.
_Kind: TypeAlias = tuple[str, str | None, bool, int, Network | None]


def _kind(spec: LaunchSpec, facts: Facts) -> _Kind:
    own = spec.settings
    return key_of(facts), own.connect, own.measure, own.console_kib, spec.request.network


@dataclass(slots=True)
class _Kept:
    """The clones of one kind of launch.

    :ivar spec: the launch, without its tool.
    :ivar facts: what its template depends on.
    :ivar not_before_s: when what failed may be tried again (monotonic).
    """

    spec: LaunchSpec
    facts: Facts
    ready: list[Clone] = field(default_factory=list)
    wanted: int = 0
    not_before_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The clones of one kind of launch as they are shown. Memory in MiB, private to the clones."""

    profile: str
    template: str
    wanted: int
    ready: int
    private_mib: int


class Pool:
    """Keeps clones ready; its thread runs from `start` to `close`.

    :param size: how many for each kind of launch; `bound_mib` what all may have of memory.
    :param context: that of the process; each clone gets a name of its own.
    """

    def __init__(self, size: int, bound_mib: int, context: LaunchContext) -> None:
        self._size, self._bound_mib, self._context = size, bound_mib, context
        self._kinds: OrderedDict[_Kind, _Kept] = OrderedDict()
        self._changed = threading.Condition()
        self._news = False  # something has changed since the thread last looked
        self._taken: dict[str, float] = {}  # launches that are not ready yet, and how long to give way (monotonic)
        self._clone_mib = _FIRST_CLONE_MIB
        self._thread = threading.Thread(target=self._keep, name="standby", daemon=True)

    def start(self) -> None:
        """Begin to keep clones."""
        self._thread.start()

    def want(self, spec: LaunchSpec, facts: Facts) -> None:
        """Keep clones for such launches from now on; the kind that was wanted longest ago may give way."""
        kind = _kind(spec, facts)
        with self._changed:
            kept = self._kinds.setdefault(kind, _Kept(spec.without_tool(attached=True), facts))
            kept.wanted = self._size
            self._kinds.move_to_end(kind)
            for old in list(self._kinds.values())[:-_KINDS]:
                old.wanted = 0
            self._wake()

    def restock(self, settings: Settings, plan: Callable[[LaunchRequest, Settings], Plan]) -> None:
        """Keep clones of the templates that earlier launches left and launches of today would use."""
        for template in store.templates(settings.state_dir):
            if template.facts["profile"] != settings.profile or outdated(template) is not None:
                continue
            with contextlib.suppress(GuestlaunchError, OSError, TypeError, ValueError):
                request = from_json(template.request)
                spec = LaunchSpec(request=request, settings=settings, plan=plan(request, settings))
                facts = template_facts(spec)
                if facts == template.facts:
                    self.want(spec, facts)

    def take(self, spec: LaunchSpec, facts: Facts) -> Clone | None:
        """Return a ready clone, which belongs to the caller from now on; None when there is none.

        Until `launched` is called for it, or for some seconds, no other is made. A dead one is left to the pool's own
        thread, which logs it and clears it away.
        """
        with self._changed:
            kept = self._kinds.get(_kind(spec, facts))
            ready = kept.ready if kept is not None else []
            clone = next((one for one in ready if not one.guest.exited.is_set()), None)
            if clone is None:
                return None
            ready.remove(clone)
            self._taken[clone.place.launch_id] = time.monotonic() + _GIVE_WAY_SECONDS
        clone.guest.set_nice(0)
        return clone

    def launched(self, launch_id: str) -> None:
        """Note that a launch is ready, or over: a clone that it took may be replaced now."""
        with self._changed:
            if self._taken.pop(launch_id, None) is not None:
                self._wake()

    def waiting(self) -> list[Waiting]:
        """Return what there is, to be shown."""
        with self._changed:
            kinds = [(kept, kept.wanted, list(kept.ready)) for kept in self._kinds.values()]
        return [
            Waiting(
                profile=kept.spec.settings.profile,
                template=key_of(kept.facts),
                wanted=wanted,
                ready=len(ready),
                private_mib=sum(clone.guest.private_mib() for clone in ready),
            )
            for kept, wanted, ready in kinds
            if wanted or ready
        ]

    def close(self) -> None:
        """End all clones, and the thread."""
        self._context.stop.request("guestlaunchd is stopping")
        with self._changed:
            self._wake()
        self._thread.join()
        with self._changed:
            clones = [clone for kept in self._kinds.values() for clone in kept.ready]
            self._kinds.clear()
        for clone in clones:
            clone.guest.kill()
        for clone in clones:
            clone.close()
        self._context.stop.close()

    def _wake(self) -> None:
        """Have the thread look again, at once or when it has finished; call it with the lock held."""
        self._news = True
        self._changed.notify_all()

    @property
    def _closing(self) -> bool:
        return self._context.stop.requested

    def _keep(self) -> None:
        """Do what is to be done, one thing after the other, until told to stop."""
        while not self._closing:
            with self._changed:
                self._news = False
                kinds = list(reversed(self._kinds.values()))
            if not any(self._serve(kept) for kept in kinds):
                with self._changed:
                    self._changed.wait_for(lambda: self._news, _LOOK_SECONDS)

    def _serve(self, kept: _Kept) -> bool:
        """Take one step for a kind of launch; tell whether anything was done."""
        self._bury(kept)
        now_s = time.monotonic()
        template = store.find(kept.spec.settings.state_dir, kept.facts)
        past = template is not None and outdated(template) is not None
        # No launch will come for a clone, and it would keep the template from being removed; or none could take it.
        unwanted = past or (template is not None and kept.spec.slots)
        with self._changed:
            if unwanted:
                kept.wanted = 0
            every = [clone for one in self._kinds.values() for clone in one.ready]
            ready, wanted = len(kept.ready), kept.wanted
        step = next_step(
            ready=ready,
            wanted=wanted,
            template=template is not None,
            private_mib=sum(clone.guest.private_mib() for clone in every),
            clone_mib=self._clone_mib,
            bound_mib=self._bound_mib,
            available_mib=learning.available_mib(),
        )
        if step is Step.DROP:
            self._drop(kept)
            return True
        if step is Step.REST or now_s < kept.not_before_s or self._closing or self._gives_way(now_s):
            return False
        if step is Step.BUILD and learning.why_not(kept.spec.settings, kept.facts) is not None:
            kept.not_before_s = now_s + _AGAIN_SECONDS
            return False
        try:
            if template is None:
                learning.build(kept.spec, kept.facts, self._context)
            else:
                self._add(kept)
        except (GuestlaunchError, OSError) as error:
            kept.not_before_s = time.monotonic() + _AGAIN_SECONDS
            if not self._closing:
                self._context.emit("standby_failed", level="warning", template=key_of(kept.facts), error=str(error))
            return False
        return True

    def _gives_way(self, now_s: float) -> bool:
        """Tell whether a launch that took a clone is still to become ready."""
        with self._changed:
            self._taken = {launch_id: until_s for launch_id, until_s in self._taken.items() if now_s < until_s}
            return bool(self._taken)

    def _add(self, kept: _Kept) -> None:
        """Make one clone and keep it."""
        spec, context = kept.spec, replace(self._context, launch_id=new_id())
        template = store.find(spec.settings.state_dir, kept.facts)
        if template is None:
            raise LaunchError("cannot clone", key_of(kept.facts), "the template has just been removed")
        clone = make_clone(spec, context, template)
        try:
            clone.guest.set_nice(_NICE)
            guest, place, lost = clone.guest, clone.place, clone.connection.lost
            Rehearsal(guest, place, lost, spec.settings, guest.suspend).run(context.stop, at_gate=True)
        except BaseException:
            clone.close()
            raise
        self._clone_mib = clone.guest.private_mib() or self._clone_mib
        with self._changed:
            if not self._closing:
                kept.ready.append(clone)
                return
        clone.close()

    def _drop(self, kept: _Kept) -> None:
        with self._changed:
            clone = kept.ready.pop() if kept.ready else None
        if clone is not None:
            clone.close()

    def _bury(self, kept: _Kept) -> None:
        """Clear away clones whose QEMU has ended by itself, and a kind that nobody wants any more."""
        with self._changed:
            dead = [clone for clone in kept.ready if clone.guest.exited.is_set()]
            kept.ready = [clone for clone in kept.ready if clone not in dead]
            if not kept.ready and not kept.wanted:
                self._kinds.pop(_kind(kept.spec, kept.facts), None)
        for clone in dead:
            launch_id, status = clone.place.launch_id, clone.guest.exit_code
            self._context.emit("standby_died", level="warning", launch_id=launch_id, exit_status=status)
            clone.close()
