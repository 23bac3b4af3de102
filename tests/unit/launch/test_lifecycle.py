"""The life cycle table: every path ends in GONE with everything released."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.launch.lifecycle import TABLE, Event, Instruction, State, step


def test_the_good_path() -> None:
    """Plan to ready, then a stop, in the order of the phases."""
    state = State.REQUESTED
    done: list[Instruction] = []
    for event in (Event.BEGIN, *[Event.DONE] * 5, Event.LAUNCH_FLAG, Event.STOP, Event.DONE):
        state, instructions = step(state, event)
        done += instructions
    assert state is State.GONE
    assert done == [
        Instruction.PLAN,
        Instruction.STAGE,
        Instruction.CONNECT,
        Instruction.CREATE,
        Instruction.PREPARE,
        Instruction.RESUME,
        Instruction.NOTE_READY,
        Instruction.TERMINATE,
        Instruction.REAP,
        Instruction.RELEASE,
    ]


def test_every_state_can_fail_and_stop() -> None:
    """No state but the last is without a way out on failure.

    What is ending already needs no other to stop; what is held is its owner's.
    """
    beyond = {(State.STOPPING, Event.STOP), (State.HELD, Event.STOP)}
    for state, event in itertools.product(set(State) - {State.GONE}, (Event.FAILED, Event.STOP)):
        assert ((state, event) in TABLE) is ((state, event) not in beyond), (state, event)


def test_a_domain_is_always_killed_before_release() -> None:
    """From every state in which a domain may exist, each way to GONE passes through REAP."""
    for (state, event), (following, instructions) in TABLE.items():
        if following is State.STOPPING and state is not State.STOPPING:
            assert instructions[-1] is Instruction.REAP, (state, event)
        if following is State.GONE:
            assert instructions == (Instruction.RELEASE,)
            assert state in {State.REQUESTED, State.PLANNED, State.STAGED, State.STOPPING}, (state, event)


def test_nothing_follows_gone() -> None:
    """A launch that is over stays over."""
    assert not any(state is State.GONE for state, _ in TABLE)
    with pytest.raises(KeyError):
        step(State.GONE, Event.BEGIN)
