"""The daemon behind a benchmark's standby side: when it is ready, and how it ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.daemons import all_ready, standing_by
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


STARTER = """
import os, sys
from pathlib import Path
from orchestrator.bench.daemons import standing_by
with standing_by(Path(sys.argv[1]), os.environ, clones=1) as daemon:
    print(daemon._process.pid, flush=True)
    sys.stdin.read()
"""


def test_a_daemon_ends_with_a_benchmark_that_is_killed() -> None:
    """SIGKILL of the benchmark leaves nobody who would end its daemon: it ends by itself."""
    with tempfile.TemporaryDirectory(prefix="gl-", dir="/tmp") as folder:
        environ = {**os.environ, "GUESTLAUNCH_STATE_DIR": f"{folder}/state", "GUESTLAUNCH_LOG": f"{folder}/log"}
        command = [sys.executable, "-c", STARTER, folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as benchmark:
            assert benchmark.stdout is not None
            daemon = os.pidfd_open(int(benchmark.stdout.readline()))
            benchmark.kill()
        try:
            assert select.select([daemon], [], [], 30)[0]
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(daemon, signal.SIGKILL)
            os.close(daemon)
        assert not (Path(folder) / "daemon-1.sock").exists()
