"""The daemon behind a benchmark's standby side: when it is ready, and how it ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.bench_standby import all_ready, standing_by
from orchestrator.errors import CapabilityError


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        ({}, False),
        ({"standby": []}, False),
        ({"standby": [{"ready": 0, "wanted": 1}]}, False),
        ({"standby": [{"ready": 1, "wanted": 1}]}, True),
        ({"standby": [{"ready": 1, "wanted": 1}, {"ready": 1, "wanted": 2}]}, False),
    ],
)
def test_ready(status: dict[str, Any], ready: bool) -> None:
    """Ready is a daemon that has all the clones it wants, and not one that wants none."""
    assert all_ready(status) is ready


def test_a_daemon_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The reason is the daemon's own last line."""
    environ = {**os.environ, "GUESTLAUNCH_MEMORY_MIB": "much", "GUESTLAUNCH_STATE_DIR": str(tmp_path / "state")}
    with (
        pytest.raises(CapabilityError, match=r"cannot measure: guestlaunchd: .*much"),
        standing_by(tmp_path, environ, clones=1),
    ):
        pytest.fail("it started")
