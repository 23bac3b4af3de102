"""Functional tests leave nothing behind: each is checked for guests, files, sockets and mounts after its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.conftest import failed_key
from tests.leftovers import left_behind, look

if TYPE_CHECKING:
    from orchestrator.hypervisor.connection import Connection
    from orchestrator.hypervisor.guest import Guest

Create: TypeAlias = "Callable[..., Guest]"


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest, session_dir: Path, state_dir: Path, evidence: Path) -> Iterator[None]:
    """Fail a test that leaves a guest, a process, a file, a socket or a mount of its session behind."""
    assert state_dir.is_relative_to(session_dir)
    before = look(session_dir)
    yield
    if remaining := left_behind(session_dir, before):
        request.node.stash[failed_key] = True
        pytest.fail(f"left behind (evidence kept in {evidence}):\n" + "\n".join(remaining), pytrace=False)


@pytest.fixture(scope="session")
def embedded(state_dir: Path) -> Iterator[Connection]:
    """The embedded driver, which a process can start only once."""
    # By way of our binding, which keeps libvirt from writing to stderr.
    pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")
    from orchestrator.hypervisor.connection import open_connection

    with open_connection(None, state_dir) as connection:
        yield connection


@pytest.fixture
def create(embedded: Connection) -> Iterator[Create]:
    """Start guests, each of which is ended and its log removed whatever becomes of the test."""
    started: list[Guest] = []

    def start(xml: str, *, paused: bool = True) -> Guest:
        started.append(embedded.create(xml, paused=paused))
        return started[-1]

    yield start
    for guest in started:
        guest.end(5)
        assert guest.log_file is not None
        guest.log_file.unlink(missing_ok=True)
