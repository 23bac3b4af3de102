"""The life cycle of a launch as a table, (state, event) -> (state, instructions), and what goes through it. No I/O.

A template's guest and a standby clone go through it as well, until they are held at their gate. How instructions are
carried out, and how events are waited for, is up to what is driven: `launch.Launch` and `gate.Rehearsal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum, auto
from typing import Protocol, TypeAlias

from orchestrator.errors import StoppedError
from orchestrator.launch.stop import Stop


class State(StrEnum):
    """Where a launch stands, or a guest that serves no launch yet."""

    REQUESTED = auto()
    PLANNED = auto()
    STAGED = auto()
    CONNECTED = auto()
    CREATED = auto()
    BOOTING = auto()
    READY = auto()
    APPROACHING = auto()  # no launch's guest yet; on the way to its gate
    REHEARSING = auto()
    HELD = auto()  # at its gate, rehearsed: a template, or a standby clone
    STOPPING = auto()
    GONE = auto()


class Event(StrEnum):
    """What happened."""

    BEGIN = auto()
    DONE = auto()  # the last instruction succeeded
    ANSWERED = auto()  # the guest said what we waited for: it is at its gate, has rehearsed, wants the time, is done
    LAUNCH_FLAG = auto()  # guestfsd sent its launch flag; in a kernel's run, user space is there
    STOP = auto()  # the client asked for the end, or is gone
    DEADLINE = auto()  # the current phase has lasted too long
    FAILED = auto()  # an instruction failed, or the boot did
    QEMU_GONE = auto()  # QEMU ended by itself
    DISK_ERROR = auto()  # QEMU stopped the guest: the host had no room for what it wrote


class Instruction(StrEnum):
    """What is to be done next."""

    PLAN = auto()
    STAGE = auto()
    CONNECT = auto()
    CREATE = auto()
    PREPARE = auto()
    RESUME = auto()
    LET_THROUGH = auto()  # a clone's guest, through its gate; one whose command has ended, to its end
    NOTE_READY = auto()
    REHEARSE = auto()  # have the guest do what a launch will
    HOLD = auto()  # stop it there
    TERMINATE = auto()  # let QEMU flush and exit
    REAP = auto()  # make QEMU be gone, whatever it does
    RELEASE = auto()


Step: TypeAlias = tuple[State, tuple[Instruction, ...]]

_S, _E, _I = State, Event, Instruction

TABLE: Mapping[tuple[State, Event], Step] = {
    (_S.REQUESTED, _E.BEGIN): (_S.REQUESTED, (_I.PLAN,)),
    (_S.REQUESTED, _E.DONE): (_S.PLANNED, (_I.STAGE,)),
    (_S.PLANNED, _E.DONE): (_S.STAGED, (_I.CONNECT,)),
    (_S.STAGED, _E.DONE): (_S.CONNECTED, (_I.CREATE,)),
    (_S.CONNECTED, _E.DONE): (_S.CREATED, (_I.PREPARE,)),
    (_S.CREATED, _E.DONE): (_S.BOOTING, (_I.RESUME,)),
    (_S.BOOTING, _E.ANSWERED): (_S.BOOTING, (_I.LET_THROUGH,)),
    (_S.BOOTING, _E.LAUNCH_FLAG): (_S.READY, (_I.NOTE_READY,)),
    (_S.STOPPING, _E.DONE): (_S.GONE, (_I.RELEASE,)),
    # Before there is a domain, there is nothing to end.
    **{
        (state, event): (_S.GONE, (_I.RELEASE,))
        for state in (_S.REQUESTED, _S.PLANNED, _S.STAGED)
        for event in (_E.STOP, _E.FAILED)
    },
    # A domain whose launch failed has nothing worth flushing; one that was ready, or whose client just
    # changed its mind, ends as QEMU ends on SIGTERM.
    **{(state, _E.FAILED): (_S.STOPPING, (_I.REAP,)) for state in (_S.CONNECTED, _S.CREATED, _S.BOOTING)},
    **{
        (state, _E.STOP): (_S.STOPPING, (_I.TERMINATE, _I.REAP))
        for state in (_S.CONNECTED, _S.CREATED, _S.BOOTING, _S.READY)
    },
    (_S.BOOTING, _E.DEADLINE): (_S.STOPPING, (_I.REAP,)),
    (_S.BOOTING, _E.QEMU_GONE): (_S.STOPPING, (_I.REAP,)),
    (_S.READY, _E.QEMU_GONE): (_S.STOPPING, (_I.REAP,)),
    # A kernel's run goes on: its command ends and says so, in time or not.
    (_S.READY, _E.ANSWERED): (_S.READY, (_I.LET_THROUGH,)),
    (_S.READY, _E.DEADLINE): (_S.STOPPING, (_I.TERMINATE, _I.REAP)),
    (_S.READY, _E.FAILED): (_S.STOPPING, (_I.TERMINATE, _I.REAP)),
    # What was written before is still worth being flushed.
    (_S.BOOTING, _E.DISK_ERROR): (_S.STOPPING, (_I.TERMINATE, _I.REAP)),
    (_S.READY, _E.DISK_ERROR): (_S.STOPPING, (_I.TERMINATE, _I.REAP)),
    # A guest that serves no launch never has anything worth flushing.
    (_S.APPROACHING, _E.BEGIN): (_S.APPROACHING, (_I.RESUME,)),
    (_S.APPROACHING, _E.ANSWERED): (_S.REHEARSING, (_I.REHEARSE,)),
    (_S.REHEARSING, _E.ANSWERED): (_S.HELD, (_I.HOLD,)),
    **{
        (state, event): (_S.STOPPING, (_I.REAP,))
        for state in (_S.APPROACHING, _S.REHEARSING)
        for event in (_E.STOP, _E.DEADLINE, _E.FAILED, _E.QEMU_GONE, _E.DISK_ERROR)
    },
    (_S.HELD, _E.FAILED): (_S.STOPPING, (_I.REAP,)),
    # The end of a domain may itself fail.
    (_S.STOPPING, _E.FAILED): (_S.GONE, (_I.RELEASE,)),
}


def step(state: State, event: Event) -> Step:
    """Return the state that follows, and what to do.

    :raise KeyError: when the event cannot happen in that state.
    """
    return TABLE[state, event]


_INTERRUPTIBLE = frozenset({_S.REQUESTED, _S.PLANNED, _S.STAGED, _S.CONNECTED, _S.CREATED})
_WAITING = frozenset({_S.BOOTING, _S.READY, _S.APPROACHING, _S.REHEARSING})  # for what the guest does


class Driven(Protocol):
    """What goes through the table."""

    def do(self, instruction: Instruction) -> None:
        """Carry out an instruction.

        :raise StoppedError: it gave way to a stop; any other exception means that it failed.
        """

    def wait(self) -> Event:
        """Wait for what happens to the guest."""

    def note(self, event: Event) -> None:
        """Take note of an event, before anything is done about it."""

    def failed(self, raised: Exception, instruction: Instruction | None) -> None:
        """Take what an instruction raised or, if there is none, waiting did; FAILED follows."""


def drive(driven: Driven, stop: Stop, state: State = State.REQUESTED, event: Event = Event.BEGIN) -> State:
    """Go through the table from an event in a state, and return the state in which that ends: GONE or HELD.

    A stop counts between two instructions, and while a guest is waited for.

    :raise BaseException: what is not an `Exception` is no event: the caller gets it.
    """
    due: Event | None = event
    while state is not State.GONE and (state is not State.HELD or due is Event.FAILED):
        if due is Event.DONE and state in _INTERRUPTIBLE and stop.requested:
            due = Event.STOP
        event = due or _awaited(driven)
        driven.note(event)
        state, instructions = step(state, event)
        due = _carried_out(driven, instructions)
        if due is Event.DONE and state in _WAITING:
            due = None
    return state


def _awaited(driven: Driven) -> Event:
    try:
        return driven.wait()
    except Exception as raised:  # noqa: BLE001 - whatever it is, the table leads to the end
        driven.failed(raised, None)
        return Event.FAILED


def _carried_out(driven: Driven, instructions: Sequence[Instruction]) -> Event:
    """Carry out instructions in order; a failure ends the rest."""
    for instruction in instructions:
        try:
            driven.do(instruction)
        except StoppedError:
            return Event.STOP
        except Exception as raised:  # noqa: BLE001 - as above
            driven.failed(raised, instruction)
            return Event.FAILED
    return Event.DONE
