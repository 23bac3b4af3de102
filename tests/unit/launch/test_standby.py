"""The standby pool: what it does next, and for whom it no longer does it. Its clones are only pretended."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.launch import learning, standby
from orchestrator.launch.context import LaunchContext, LaunchSpec
from orchestrator.launch.gate import Rehearsal
from orchestrator.launch.standby import Pool, Step, next_step
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.template import store
from tests.unit.launch.fakes import PLAN, REQUEST

QUIET: dict[str, Any] = {
    "ready": 0,
    "wanted": 1,
    "template": True,
    "private_mib": 0,
    "clone_mib": 200,
    "bound_mib": 2048,
    "available_mib": 8192,
}


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({}, Step.CLONE),
        ({"template": False}, Step.BUILD),
        ({"ready": 1}, Step.REST),
        ({"ready": 1, "wanted": 2}, Step.CLONE),
        ({"ready": 2}, Step.DROP),
        ({"ready": 1, "wanted": 0}, Step.DROP),
        ({"wanted": 0}, Step.REST),
        # Its own bound: what would not fit is not made, what has outgrown it goes.
        ({"bound_mib": 199}, Step.REST),
        ({"bound_mib": 199, "template": False}, Step.REST),
        ({"bound_mib": 200}, Step.CLONE),
        ({"ready": 1, "wanted": 2, "private_mib": 200, "bound_mib": 399}, Step.REST),
        ({"ready": 1, "private_mib": 200, "bound_mib": 199}, Step.DROP),
        # The host's memory: between the two bounds, what is there stays, and nothing is added.
        ({"available_mib": 1223}, Step.REST),
        ({"available_mib": 1224}, Step.CLONE),
        ({"ready": 1, "wanted": 2, "available_mib": 512}, Step.REST),
        ({"ready": 1, "available_mib": 511}, Step.DROP),
    ],
)
def test_next_step(changes: dict[str, Any], step: Step) -> None:
    """As many as are wanted and have room, of a template that is there."""
    assert next_step(**QUIET | changes) is step


SETTINGS = Settings(state_dir=Path("/state"), runtime_dir=Path("/run/gl"))
SPEC = LaunchSpec(plan=PLAN, request=REQUEST, settings=SETTINGS)
FACTS = {"profile": "aarch64-uefi"}


class Clone:
    """A clone of which only its end can be seen."""

    def __init__(self) -> None:
        self.place, self.closed = SimpleNamespace(launch_id="gl-1"), threading.Event()
        self.connection = SimpleNamespace(lost=threading.Event())
        self.guest = SimpleNamespace(
            exited=threading.Event(), exit_code=137, set_nice=lambda _: None, private_mib=lambda: 200,
            resume=lambda: None, suspend=lambda: None, kill=lambda: None,
        )  # fmt: skip

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Clone]:
    """The clones that were made so far, of a template that is there."""
    clones: list[Clone] = []

    def make(*_: object, **__: object) -> Clone:
        clones.append(Clone())
        return clones[-1]

    monkeypatch.setattr(standby, "make_clone", make)
    monkeypatch.setattr(Rehearsal, "run", lambda *_, **__: None)
    monkeypatch.setattr(store, "find", lambda *_: "a template")
    monkeypatch.setattr(standby, "outdated", lambda _: None)
    monkeypatch.setattr(learning, "available_mib", lambda: 8192)
    monkeypatch.setattr(standby, "_LOOK_SECONDS", 0.01)
    return clones


def pool(emit: Callable[..., None]) -> Pool:
    """A pool that keeps one clone."""
    nothing: Any = None
    context = LaunchContext(stop=Stop(), connect=lambda _: nothing, claim=lambda _: contextlib.nullcontext(), emit=emit)
    return Pool(1, 2048, context)


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as that holds; fail the test when it does not come to it."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ready(kept: Pool) -> list[int]:
    """How many clones are ready of each kind of launch."""
    return [one.ready for one in kept.waiting()]


def test_what_was_taken_is_replaced_and_the_rest_ends_with_the_pool(made: list[Clone]) -> None:
    """A clone that was taken is its launch's: the pool makes another, and closes only that one."""
    kept = pool(lambda *_, **__: None)
    kept.start()
    kept.want(SPEC, FACTS)
    wait_for(lambda: ready(kept) == [1])
    taken: Any = kept.take(SPEC, FACTS)
    assert taken is made[0]
    kept.launched(taken.place.launch_id)
    wait_for(lambda: ready(kept) == [1])
    kept.close()
    assert [clone.closed.is_set() for clone in made] == [False, True]
    assert kept.take(SPEC, FACTS) is None


class Looks:
    """Counts how often the pool looked for a template, which it does each time that it decides what to do."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *_: object) -> str:
        self.count += 1
        return "a template"

    def more(self, times: int) -> None:
        """Wait until it has looked so many times more."""
        enough = self.count + times
        wait_for(lambda: self.count >= enough)


def test_no_clone_is_made_on_the_time_of_a_launch(made: list[Clone], monkeypatch: pytest.MonkeyPatch) -> None:
    """While a launch that took a clone is not ready, the pool looks and makes none; then it makes the next."""
    looks = Looks()
    monkeypatch.setattr(store, "find", looks)
    monkeypatch.setattr(standby, "_GIVE_WAY_SECONDS", 60.0)
    kept = pool(lambda *_, **__: None)
    kept.start()
    kept.want(SPEC, FACTS)
    wait_for(lambda: ready(kept) == [1])
    taken: Any = kept.take(SPEC, FACTS)
    kept.want(SPEC, FACTS)
    looks.more(3)
    assert made == [taken]
    kept.launched("gl-of another")
    looks.more(3)
    assert made == [taken]
    kept.launched(taken.place.launch_id)
    wait_for(lambda: ready(kept) == [1])
    kept.close()


def test_a_launch_that_never_gets_ready_holds_nothing_up(made: list[Clone], monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds the pool makes the next clone whatever became of the launch."""
    monkeypatch.setattr(standby, "_GIVE_WAY_SECONDS", 0.05)
    kept = pool(lambda *_, **__: None)
    kept.start()
    kept.want(SPEC, FACTS)
    wait_for(lambda: ready(kept) == [1])
    assert kept.take(SPEC, FACTS) is not None
    wait_for(lambda: ready(kept) == [1])
    kept.close()
    assert len(made) == 2


def test_the_dead_are_not_taken(made: list[Clone]) -> None:
    """A clone that has died is no launch's; the pool tells of it, clears it away and makes another."""
    said: list[dict[str, Any]] = []
    kept = pool(lambda event, **facts: said.append({"event": event, **facts}))
    kept.start()
    kept.want(SPEC, FACTS)
    wait_for(lambda: ready(kept) == [1])
    made[0].guest.exited.set()
    taken: Any = kept.take(SPEC, FACTS)
    assert taken is not made[0]
    wait_for(made[0].closed.is_set)
    wait_for(lambda: made[-1] is not made[0] and ready(kept) == [1])
    kept.close()
    assert said == [{"event": "standby_died", "level": "warning", "launch_id": "gl-1", "exit_status": 137}]


def test_clones_of_an_outdated_template_go(made: list[Clone], monkeypatch: pytest.MonkeyPatch) -> None:
    """When what their template depends on has changed, no launch is to come for them."""
    kept = pool(lambda *_, **__: None)
    kept.start()
    kept.want(SPEC, FACTS)
    wait_for(lambda: ready(kept) == [1])
    monkeypatch.setattr(standby, "outdated", lambda _: "there is a newer appliance")
    wait_for(lambda: kept.waiting() == [])
    kept.close()
    assert [clone.closed.is_set() for clone in made] == [True]
