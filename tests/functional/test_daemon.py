"""guestlaunchd with real guests: several at once, a clean stop, a sudden death."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.daemons import daemon, socket_path, wait_for_status
from tests.disks import DiskFactory
from tests.hosts import ACCEL
from tests.leftovers import GONE_WITHIN_S, Trace, left_behind, look
from tests.records import wait_for_event
from tests.running import Guestlaunch, Result

pytestmark = pytest.mark.usefixtures("without_firmware")


def wait_for_phase(guestlaunch: Guestlaunch, *, ready: bool) -> None:
    """Wait until the daemon has a launch whose QEMU is about to start, or one whose tool is at work."""
    wait_for_event(guestlaunch.evidence, "launch_started")
    wait_for_status(guestlaunch, lambda status: [one["ready"] for one in status["launches"]] == [ready], 120)


def test_several_launches_at_once(guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path) -> None:
    """Commands and plain programs use the daemon, at the same time, each launch with its own settings."""
    disk = disk_image()
    script = ("--ro", "-a", disk, "run", ":", "debug", "sh", "uname -m")
    exports = guestlaunch.exports(*ACCEL)
    results: list[Result] = []
    with daemon(guestlaunch) as process:
        assert socket_path(guestlaunch).stat().st_mode & 0o777 == 0o660
        runs = (
            lambda: guestlaunch("guestfish", *ACCEL, "--fw-cfg-dma", "off", "--", *script),
            lambda: guestlaunch.run("guestfish", *script, environ=exports),
        )
        threads = [threading.Thread(target=lambda run=run: results.append(run())) for run in runs]
        for thread in threads:
            thread.start()
        wait_for_status(guestlaunch, lambda status: len(status["launches"]) == 2, 120)
        for thread in threads:
            thread.join()
        shown = guestlaunch("status").ok().stdout
        assert f"pid {process.pid}" in shown
        assert "launches ended: 2 success" in shown
        process.terminate()
        assert process.wait(60) == 0
    assert [result.ok().stdout.strip() for result in results] == ["aarch64", "aarch64"]
    records = [json.loads(line) for line in (evidence / "timeline.jsonl").read_text().splitlines()]
    assert sorted(record["fw_cfg_dma"] for record in records) == [False, True]
    assert not socket_path(guestlaunch).exists()


@pytest.mark.parametrize("ready", [False, True])
def test_stop_ends_what_was_launched(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, session_dir: Path, ready: bool
) -> None:
    """SIGTERM ends the guests, in mid-launch and in mid-workload, removes the socket and leaves nothing; status 0."""
    before = look(session_dir)
    with daemon(guestlaunch) as process:
        command = ("guestfish", *ACCEL, "--", "--ro", "-a", disk_image(), "run", ":", "sleep", "600")
        tool = guestlaunch.start(guestlaunch.bin_dir / "guestlaunch", *command)
        wait_for_phase(guestlaunch, ready=ready)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
        assert tool.wait(60) != 0
    assert left_behind(session_dir, before, within_s=GONE_WITHIN_S) == []


def test_killed_daemon_leaves_nothing(guestlaunch: Guestlaunch, disk_image: DiskFactory, session_dir: Path) -> None:
    """SIGKILL of the daemon: its guests and its socket are gone within ten seconds, and the next daemon starts."""
    before = look(session_dir)
    with daemon(guestlaunch) as process:
        command = ("guestfish", *ACCEL, "--", "--ro", "-a", disk_image(), "run", ":", "sleep", "600")
        tool = guestlaunch.start(guestlaunch.bin_dir / "guestlaunch", *command)
        wait_for_phase(guestlaunch, ready=True)
        process.kill()
        assert tool.wait(60) != 0
    assert left_behind(session_dir, before, within_s=GONE_WITHIN_S) == []
    with daemon(guestlaunch) as process:
        assert guestlaunch("status", "--json").json()["pid"] == process.pid
    assert left_behind(session_dir, before, within_s=GONE_WITHIN_S) == []


def settled(session_dir: Path) -> Trace:
    """Return what there is because of a daemon that has done nothing yet, once libvirt is up in it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if list(session_dir.glob("state/libvirt/roots/*/run/qemu/driver.pid")):
            time.sleep(1)  # its last files follow at once, but nothing says so
            return look(session_dir)
        time.sleep(0.1)
    pytest.fail("libvirt's driver did not start")


@pytest.mark.parametrize("ready", [False, True])
def test_killed_client_ends_its_launch(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, session_dir: Path, ready: bool
) -> None:
    """SIGKILL of a command and its tool, in mid-launch and in mid-workload: their guest ends, the daemon goes on."""
    with daemon(guestlaunch) as process:
        before = settled(session_dir)
        command = ("guestfish", *ACCEL, "--", "--ro", "-a", disk_image(), "run", ":", "sleep", "600")
        tool = guestlaunch.start(guestlaunch.bin_dir / "guestlaunch", *command)
        wait_for_phase(guestlaunch, ready=ready)
        os.killpg(tool.pid, signal.SIGKILL)
        tool.wait(10)
        assert left_behind(session_dir, before, within_s=GONE_WITHIN_S) == []
        status = guestlaunch("status", "--json").json()
        assert (status["pid"], status["launches"]) == (process.pid, [])


def test_second_daemon_is_refused(guestlaunch: Guestlaunch) -> None:
    """One daemon a socket; the second says who is there."""
    with daemon(guestlaunch) as process:
        second = guestlaunch.run(guestlaunch.bin_dir / "guestlaunchd", timeout_s=30)
        assert second.error_line.startswith("guestlaunchd: guestlaunchd already runs: ")
        assert f"pid {process.pid}" in second.error_line
        assert guestlaunch("status", "--json").json()["pid"] == process.pid


def test_socket_path_too_long(guestlaunch: Guestlaunch, session_dir: Path) -> None:
    """A path that the kernel cannot take is one clear line, before anything is made."""
    result = guestlaunch.run(guestlaunch.bin_dir / "guestlaunchd", "--socket", session_dir / ("x" * 100), timeout_s=30)
    assert result.status == 2
    assert "socket path too long" in result.error_line


def test_status_without_a_daemon(guestlaunch: Guestlaunch) -> None:
    """Nobody there: status 1 and what to do."""
    result = guestlaunch("status")
    assert result.status == 1
    assert result.error_line.endswith("(start guestlaunchd)")
