"""The life cycle of a launch as a table: (state, event) -> (state, instructions). No I/O.

`orchestrator.launch.launch` carries the instructions out and feeds the events back.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, auto
from typing import TypeAlias


class State(StrEnum):
    """Where a launch stands."""

    REQUESTED = auto()
    PLANNED = auto()
    STAGED = auto()
    CONNECTED = auto()
    CREATED = auto()
    BOOTING = auto()
    READY = auto()
    STOPPING = auto()
    GONE = auto()


class Event(StrEnum):
    """What happened."""

    BEGIN = auto()
    DONE = auto()  # the last instruction succeeded
    ANSWERED = auto()  # the guest, at its gate, said what was waited for
    LAUNCH_FLAG = auto()  # guestfsd sent its launch flag
    STOP = auto()  # the client asked for the end, or is gone
    DEADLINE = auto()  # the current phase has lasted too long
    FAILED = auto()  # an instruction failed, or the boot did
    QEMU_GONE = auto()  # QEMU ended by itself
    DISK_ERROR = auto()  # QEMU stopped the guest: what it wrote had no room on the host


class Instruction(StrEnum):
    """What is to be done next."""

    PLAN = auto()
    STAGE = auto()
    CONNECT = auto()
    CREATE = auto()
    PREPARE = auto()
    RESUME = auto()
    LET_THROUGH = auto()  # a clone's guest, through its gate
    NOTE_READY = auto()
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
    (_S.READY, _E.FAILED): (_S.STOPPING, (_I.TERMINATE, _I.REAP)),
    # What was written before is still worth being flushed.
    (_S.BOOTING, _E.DISK_ERROR): (_S.STOPPING, (_I.TERMINATE, _I.REAP)),
    (_S.READY, _E.DISK_ERROR): (_S.STOPPING, (_I.TERMINATE, _I.REAP)),
    # The end of a domain may itself fail.
    (_S.STOPPING, _E.FAILED): (_S.GONE, (_I.RELEASE,)),
}


def step(state: State, event: Event) -> Step:
    """Return the state that follows, and what to do.

    :raise KeyError: when the event cannot happen in that state.
    """
    return TABLE[state, event]
