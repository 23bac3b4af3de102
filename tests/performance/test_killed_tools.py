"""Tools killed together with libguestfs's recovery process, many times in each state: nothing stays after ten seconds.

How often is in GUESTLAUNCH_TEST_KILLS; the functional tests have the same once each.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.daemons import daemon, wait_for_status
from tests.disks import DiskFactory
from tests.killing import MOMENTS, kill_guestfish_at
from tests.leftovers import left_behind, look
from tests.running import Guestlaunch

pytestmark = pytest.mark.timeout(7200)

KILLS = int(os.environ.get("GUESTLAUNCH_TEST_KILLS", "20"))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("start", ["cold", "warm"])
def test_killed_without_a_daemon(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, session_dir: Path, evidence: Path, start: str, moment: str
) -> None:
    """The server is the wrapper's own."""
    environ = guestlaunch.exports("--accel", "tcg", "--start", start)
    if start == "warm":
        guestlaunch("template", "build", "--accel", "tcg").ok()
    disk = disk_image()
    for number in range(KILLS):
        (evidence / "events.jsonl").unlink(missing_ok=True)
        before = look(session_dir)
        kill_guestfish_at(moment, guestlaunch, disk, session_dir, evidence, environ)
        assert left_behind(session_dir, before) == [], f"kill {number}"


@pytest.mark.parametrize("moment", MOMENTS[1:])
def test_killed_with_a_standby_clone(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, session_dir: Path, evidence: Path, moment: str
) -> None:
    """The server is a daemon, which lives on and makes the next clone."""
    environ = guestlaunch.exports("--accel", "tcg", "--start", "auto")
    guestlaunch("template", "build", "--accel", "tcg").ok()
    disk = disk_image()
    with daemon(guestlaunch, "--standby", "1"):
        for _ in range(KILLS):
            wait_for_status(guestlaunch, lambda status: bool(status["standby"]) and status["standby"][0]["ready"] == 1)
            (evidence / "events.jsonl").unlink(missing_ok=True)
            kill_guestfish_at(moment, guestlaunch, disk, session_dir, evidence, environ)
            wait_for_status(guestlaunch, lambda status: not status["launches"], seconds=10)
