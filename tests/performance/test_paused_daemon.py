"""A libvirt daemon that is paused for a minute, as while its host is suspended, costs no launch its guest.

At each moment of a launch: before it connects, while QEMU starts, while the guest boots, and while the tool works.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.disks import DiskFactory
from tests.processes import next_qemu
from tests.records import records, wait_for_event
from tests.running import Guestlaunch
from tests.session_user import session_user

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become somebody else"),
]

PAUSE_S = float(os.environ.get("GUESTLAUNCH_TEST_PAUSE", "60"))
MOMENTS = ("connect", "qemu", "boot", "workload")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_launch_outlives_the_pause(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], disk_image: DiskFactory, session_dir: Path, moment: str
) -> None:
    """The launch goes on when the daemon does; who has to wait is told why within five seconds of the wait."""
    with session_user(guestlaunch, session_dir, appliance["aarch64"]) as user:
        disk = user.give(disk_image())

        def pause() -> None:
            user.libvirtd.send_signal(signal.SIGSTOP)

        if moment == "connect":
            pause()
        program = guestlaunch.bin_dir / "guestlaunch"
        process = user.start(program, "guestfish", "--accel", "tcg", "--start", "cold", "--", "-a", disk)
        began = time.monotonic()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("run\nlist-filesystems\n")
        process.stdin.flush()
        if moment == "qemu":
            next_qemu(session_dir, process)
            pause()
        elif moment == "boot":
            wait_for_event(user.folder, "launch_started")
            pause()
        elif moment == "workload":
            assert process.stdout.readline() == "/dev/sda: ext4\n"
            pause()
        if moment in {"connect", "qemu"}:
            assert "waiting for libvirt: qemu:///session" in process.stderr.readline()
            assert time.monotonic() - began < 20  # 5 s after the wait began; the launch had to come there
        time.sleep(max(0.0, PAUSE_S - (time.monotonic() - began)))  # the pause itself is what is tried
        user.libvirtd.send_signal(signal.SIGCONT)
        stdout, stderr = process.communicate("list-filesystems\n", timeout=600)
        assert (process.returncode, stdout[-15:], stderr) == (0, "/dev/sda: ext4\n", "")
        (record,) = records(user.folder)
        assert record["outcome"] == "success"
