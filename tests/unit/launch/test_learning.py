"""What `auto` learns by itself has bounds: no room, no memory, too many failures and there is nothing to be built."""

from __future__ import annotations

import contextlib
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import LaunchError, StoppedError
from orchestrator.launch import learning
from orchestrator.launch.context import LaunchContext, LaunchSpec
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.template import failures, store
from orchestrator.template.model import Facts, key_of
from tests.unit.launch.fakes import PLAN, REQUEST

FACTS: Facts = {"profile": "aarch64-uefi", "memory_mib": 1024}
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil's own


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a host with room and memory."""
    monkeypatch.setattr(learning, "available_mib", lambda: 4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1 << 40))
    return Settings(state_dir=tmp_path, runtime_dir=tmp_path)


def test_nothing_speaks_against_it(settings: Settings) -> None:
    """On a host with room and memory, for a template that has not failed."""
    assert learning.why_not(settings, FACTS) is None


def test_a_host_without_memory_or_room(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest's memory and some more must be available, and room on the disk that nobody misses."""
    monkeypatch.setattr(learning, "available_mib", lambda: 1024 + 511)
    assert "memory" in str(learning.why_not(settings, FACTS))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, (2 << 30) - 1))
    assert "2048 MiB" in str(learning.why_not(settings, FACTS))


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (LaunchError("cannot build", "it", "why"), True),
        (OSError(28, "No space left on device"), True),
        (StoppedError("stopped", "it", "why"), False),
    ],
)
def test_a_failure_is_remembered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception, counts: bool
) -> None:
    """It is not tried again at once; an end that was asked for is no failure."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(learning, "build_template", fail)
    nothing: Any = None
    with Stop() as stop:
        context = LaunchContext(
            stop=stop, connect=lambda _: nothing, claim=lambda _: contextlib.nullcontext(), emit=lambda *_, **__: None
        )
        with pytest.raises(type(error)):
            learning.build(LaunchSpec(plan=PLAN, request=REQUEST, settings=settings), FACTS, context)
    assert (failures.why_not_again(settings.state_dir, key_of(FACTS)) is not None) is counts
    assert (learning.why_not(settings, FACTS) is not None) is counts


def test_one_that_is_larger_than_all_may_be(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not stay, drives no other out, and is not built after each launch."""
    settings = replace(settings, learned_mib=1)
    other, *made = (
        SimpleNamespace(key=key, path=settings.state_dir / key, disk_bytes=size << 20, learned=True, used_s=0.0)
        for key, size in (("small", 1), ("large", 2))
    )
    for one in (other, *made):
        one.path.mkdir()
    monkeypatch.setattr(learning, "build_template", lambda *_, **__: made[0])
    monkeypatch.setattr(store, "templates", lambda _: [other, *made])
    nothing: Any = None
    with Stop() as stop:
        context = LaunchContext(
            stop=stop, connect=lambda _: nothing, claim=lambda _: contextlib.nullcontext(), emit=lambda *_, **__: None
        )
        with pytest.raises(LaunchError, match="large: it takes 2 MiB, and learned_mib is 1"):
            learning.build(LaunchSpec(plan=PLAN, request=REQUEST, settings=settings), FACTS, context)
    assert (other.path.exists(), made[0].path.exists()) == (True, False)
    assert failures.why_not_again(settings.state_dir, key_of(FACTS)) is not None
