"""Warm launches in numbers: many in a row, many a minute. Prints figures; what it asserts is that each launch worked.

Run with `tools/test -m performance -s tests/performance/test_warm.py` on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.daemons import standing_by
from orchestrator.settings import load
from orchestrator.workload.environment import tool_environment
from tests.disks import DiskFactory
from tests.running import Guestlaunch

IN_A_ROW = int(os.environ.get("IN_A_ROW", "500"))
A_MINUTE = int(os.environ.get("A_MINUTE", "80"))
AT_A_TIME = 4

pytestmark = [pytest.mark.performance, pytest.mark.timeout(7200)]


class Tool:
    """Plain guestfish, which launches through a daemon of the test's own."""

    def __init__(self, environ: dict[str, str], socket: Path, disks: list[Path], timelines: Path) -> None:
        self._environ = dict(tool_environment(environ, load(environ=environ), socket=socket).variables)
        self._disks, self._timelines = disks, timelines

    def run(self, number: int) -> tuple[float, dict[str, Any]]:
        """Launch once, and return the seconds that it took with its record."""
        timeline = self._timelines / f"{number}.jsonl"
        began = time.monotonic()
        subprocess.run(
            ["guestfish", "--format=raw", "-a", self._disks[number % len(self._disks)], "run"],
            env={**self._environ, "GUESTLAUNCH_TIMELINE": str(timeline)},
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=180,
        )
        seconds = time.monotonic() - began
        return seconds, json.loads(timeline.read_text())


def first(tool: Tool) -> None:
    """Have the template made: that is no launch to be counted."""
    tool._environ["GUESTLAUNCH_START"] = "warm"
    tool.run(-1)


def show(title: str, seconds: list[float], records: list[dict[str, Any]]) -> None:
    """Print what was measured."""
    starts = Counter(f"{record['start']} {record['outcome']}" for record in records)
    spread = f"median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f}"
    sys.stdout.write(f"\n{title} ({records[0]['accel']}): {len(seconds)} launches, {spread}; {dict(starts)}\n")


def test_many_in_a_row(guestlaunch: Guestlaunch, disk_image: DiskFactory, tmp_path: Path) -> None:
    """So many warm launches, one after the other, succeed without an exception, and all of them are warm."""
    environ = dict(guestlaunch.environ)
    with standing_by(tmp_path, environ, clones=0) as daemon:
        tool = Tool(environ, daemon.socket, [disk_image()], tmp_path)
        first(tool)
        done = [tool.run(number) for number in range(IN_A_ROW)]
    show("warm launches in a row", [seconds for seconds, _ in done], [record for _, record in done])
    assert all(record["start"] == "warm" and record["outcome"] == "success" for _, record in done)


def test_many_a_minute(guestlaunch: Guestlaunch, disk_image: DiskFactory, tmp_path: Path) -> None:
    """Launches four at a time through one daemon with four clones: how many a minute."""
    environ = dict(guestlaunch.environ)
    disks = [disk_image(name=f"disk{number}.img") for number in range(AT_A_TIME)]
    with standing_by(tmp_path, environ, clones=AT_A_TIME) as daemon:
        tool = Tool(environ, daemon.socket, disks, tmp_path)
        first(tool)
        daemon.wait()
        began = time.monotonic()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            lanes = pool.map(
                lambda lane: [tool.run(lane + AT_A_TIME * turn) for turn in range(A_MINUTE // AT_A_TIME)],
                range(AT_A_TIME),
            )
            done = [one for lane in lanes for one in lane]
        took = time.monotonic() - began
    show(f"{AT_A_TIME} at a time", [seconds for seconds, _ in done], [record for _, record in done])
    sys.stdout.write(f"  {len(done) / took * 60:.0f} launches a minute\n")
    assert all(record["outcome"] == "success" for _, record in done)
