"""The standby pool: clones restored at their gate before anybody asks for one.

A thread keeps so many for each shape of launch that was asked for lately, one at a time and at low priority; a clone
that was taken belongs to its launch and never comes back. What to do next is decided without I/O (`next_step`).
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path

from orchestrator.errors import GuestlaunchError, LaunchError
from orchestrator.hypervisor.connection import Connection
from orchestrator.launch.choice import outdated
from orchestrator.launch.clone import Clone, make_clone
from orchestrator.launch.gate import rehearse
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.stop import Stop
from orchestrator.launch.templating import build_template
from orchestrator.launch.way import Claim
from orchestrator.settings import Settings
from orchestrator.template import store
from orchestrator.template.model import Facts, key_of

_SHAPES = 4  # so many kinds of launches are kept ready
_LOOK_SECONDS = 2.0
_AGAIN_SECONDS = 60.0  # after a failure
_LOW_MIB = 512  # the host is to have that much memory available, whatever we would like to keep
_FIRST_CLONE_MIB = 256  # what a clone may take, as long as none was measured
_NICE = 19


class Step(StrEnum):
    """What the pool does next for one shape."""

    BUILD = auto()  # its template
    CLONE = auto()
    DROP = auto()  # one clone
    REST = auto()


def next_step(
    *, ready: int, wanted: int, template: bool, private_mib: int, clone_mib: int, bound_mib: int, available_mib: int
) -> Step:
    """Decide what to do for a shape.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A kind of launch that clones can be kept for.

    :ivar facts: what its template depends on.
    """

    plan: Plan
    request: LaunchRequest
    settings: Settings
    facts: Facts

    @property
    def key(self) -> tuple[str, str | None, bool, int]:
        """What launches that can use the same clones have in common."""
        own = self.settings
        return key_of(self.facts), own.connect, own.measure, own.console_kib


@dataclass(slots=True)
class _Shelf:
    """The clones of one shape, and when something may be tried again that failed (monotonic seconds)."""

    shape: Shape
    ready: list[Clone] = field(default_factory=list)
    wanted: int = 0
    not_before_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What is shown of one shape's clones. Memory in MiB, private to the clones."""

    profile: str
    template: str
    wanted: int
    ready: int
    private_mib: int


class Pool:
    """Keeps clones ready; its thread runs from `start` to `close`.

    :param size: how many for each shape.
    :param connect: returns the connection for a launch's settings.
    :param emit: takes events for the log.
    """

    def __init__(
        self,
        size: int,
        bound_mib: int,
        *,
        connect: Callable[[Settings], Connection],
        claim: Claim,
        emit: Callable[..., None],
    ) -> None:
        self._size, self._bound_mib = size, bound_mib
        self._connect, self._claim, self._emit = connect, claim, emit
        self._shelves: OrderedDict[tuple[str, str | None, bool, int], _Shelf] = OrderedDict()
        self._changed = threading.Condition()
        self._news = False  # something has changed since the thread last looked
        self._stop = Stop()
        self._clone_mib = _FIRST_CLONE_MIB
        self._thread = threading.Thread(target=self._keep, name="standby", daemon=True)

    def start(self) -> None:
        """Begin to keep clones."""
        self._thread.start()

    def want(self, shape: Shape) -> None:
        """Have clones of a shape kept from now on; the shape that was wanted longest ago may go for it."""
        with self._changed:
            shelf = self._shelves.setdefault(shape.key, _Shelf(shape))
            shelf.wanted = self._size
            self._shelves.move_to_end(shape.key)
            for old in list(self._shelves.values())[:-_SHAPES]:
                old.wanted = 0
            self._wake()

    def take(self, shape: Shape) -> Clone | None:
        """Return a clone that is ready, which is the caller's from now on; None when there is none.

        One that is dead stays for the pool's own thread, which tells of it and clears it away.
        """
        with self._changed:
            ready = self._shelves[shape.key].ready if shape.key in self._shelves else []
            clone = next((one for one in ready if not one.guest.exited.is_set()), None)
            if clone is None:
                return None
            ready.remove(clone)
            self._wake()
        clone.guest.set_nice(0)
        return clone

    def waiting(self) -> list[Waiting]:
        """Return what there is, for people."""
        with self._changed:
            shelves = [(shelf.shape, shelf.wanted, list(shelf.ready)) for shelf in self._shelves.values()]
        return [
            Waiting(
                profile=shape.settings.profile,
                template=key_of(shape.facts),
                wanted=wanted,
                ready=len(ready),
                private_mib=sum(clone.guest.private_mib() for clone in ready),
            )
            for shape, wanted, ready in shelves
            if wanted or ready
        ]

    def close(self) -> None:
        """End all clones, and the thread."""
        self._stop.request("guestlaunchd is stopping")
        with self._changed:
            self._wake()
        self._thread.join()
        with self._changed:
            clones = [clone for shelf in self._shelves.values() for clone in shelf.ready]
            self._shelves.clear()
        for clone in clones:
            clone.guest.kill()
        for clone in clones:
            clone.close()
        self._stop.close()

    def _wake(self) -> None:
        """Have the thread look again, now or when it is done with what it does; to be called with the lock held."""
        self._news = True
        self._changed.notify_all()

    def _keep(self) -> None:
        """Do what is to be done, one thing after the other, until told to stop."""
        while not self._stop.requested:
            with self._changed:
                self._news = False
                shelves = list(reversed(self._shelves.values()))
            if not any(self._serve(shelf) for shelf in shelves):
                with self._changed:
                    self._changed.wait_for(lambda: self._news, _LOOK_SECONDS)

    def _serve(self, shelf: _Shelf) -> bool:
        """Take one step for a shape; tell whether anything was done."""
        self._bury(shelf)
        shape, now_s = shelf.shape, time.monotonic()
        template = store.find(shape.settings.state_dir, shape.facts)
        past = template is not None and outdated(template) is not None
        with self._changed:
            if past:
                shelf.wanted = 0  # no launch is to come for them, and they keep the template from being removed
            every = [clone for one in self._shelves.values() for clone in one.ready]
            ready, wanted = len(shelf.ready), shelf.wanted
        step = next_step(
            ready=ready,
            wanted=wanted,
            template=template is not None,
            private_mib=sum(clone.guest.private_mib() for clone in every),
            clone_mib=self._clone_mib,
            bound_mib=self._bound_mib,
            available_mib=_available_mib(),
        )
        if step is Step.DROP:
            self._drop(shelf)
            return True
        if step is Step.REST or now_s < shelf.not_before_s or self._stop.requested:
            return False
        try:
            if template is None:
                built = build_template(
                    shape.plan,
                    shape.request,
                    shape.settings,
                    shape.facts,
                    connect=lambda: self._connect(shape.settings),
                    claim=self._claim,
                    stop=self._stop,
                )
                self._emit("template_built", key=built.key, seconds=built.seconds)
                return True
            self._add(shelf)
        except (GuestlaunchError, OSError) as error:
            shelf.not_before_s = time.monotonic() + _AGAIN_SECONDS
            if not self._stop.requested:
                self._emit("standby_failed", level="warning", template=key_of(shape.facts), error=str(error))
            return False
        return True

    def _add(self, shelf: _Shelf) -> None:
        """Make one clone and put it on its shelf."""
        shape = shelf.shape
        template = store.find(shape.settings.state_dir, shape.facts)
        if template is None:
            raise LaunchError("cannot clone", key_of(shape.facts), "the template has just been removed")
        clone = make_clone(
            shape.plan,
            shape.request,
            shape.settings,
            template,
            launch_id=f"gl-{uuid.uuid4().hex[:12]}",
            connect=lambda: self._connect(shape.settings),
            claim=self._claim,
        )
        try:
            clone.guest.set_nice(_NICE)
            lost, deadline_s = clone.connection.lost, shape.settings.deadlines.gate
            rehearse(clone.guest, clone.place, self._stop, lost=lost, deadline_s=deadline_s)
            clone.guest.suspend()
        except BaseException:
            clone.close()
            raise
        self._clone_mib = clone.guest.private_mib() or self._clone_mib
        with self._changed:
            if not self._stop.requested:
                shelf.ready.append(clone)
                return
        clone.close()

    def _drop(self, shelf: _Shelf) -> None:
        with self._changed:
            clone = shelf.ready.pop() if shelf.ready else None
        if clone is not None:
            clone.close()

    def _bury(self, shelf: _Shelf) -> None:
        """Clear away clones whose QEMU has ended by itself, and a shelf that nobody wants."""
        with self._changed:
            dead = [clone for clone in shelf.ready if clone.guest.exited.is_set()]
            shelf.ready = [clone for clone in shelf.ready if clone not in dead]
            if not shelf.ready and not shelf.wanted:
                self._shelves.pop(shelf.shape.key, None)
        for clone in dead:
            self._emit("standby_died", level="warning", launch_id=clone.id, exit_status=clone.guest.exit_code)
            clone.close()


def _available_mib() -> int:
    """Return how much memory the host has available (proc(5), MemAvailable)."""
    with contextlib.suppress(OSError, ValueError, IndexError), Path("/proc/meminfo").open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    return 0
