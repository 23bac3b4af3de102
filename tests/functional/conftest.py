"""Functional tests leave nothing behind: each is checked for guests, files, sockets and mounts after its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import failed_key
from tests.leftovers import left_behind, look


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest, session_dir: Path, state_dir: Path, evidence: Path) -> Iterator[None]:
    """Fail a test that leaves a guest, a process, a file, a socket or a mount of its session behind."""
    assert state_dir.is_relative_to(session_dir)
    before = look(session_dir)
    yield
    if remaining := left_behind(session_dir, before):
        request.node.stash[failed_key] = True
        pytest.fail(f"left behind (evidence kept in {evidence}):\n" + "\n".join(remaining), pytrace=False)
