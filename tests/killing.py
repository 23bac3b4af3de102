"""Kills tools the way `pkill -9 guestfish` does: with libguestfs's recovery process, at a moment that is an event."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.processes import next_qemu
from tests.records import wait_for_event
from tests.running import Guestlaunch

MOMENTS = ("qemu", "gate", "ready", "workload")


def named(name: str, folder: Path) -> list[int]:
    """Return the PIDs of a session's processes whose program has that name."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text() == f"{name}\n" and os.fsencode(folder) in (
                process / "environ"
            ).read_bytes():
                found.append(int(process.name))
    return found


def kill_all(name: str, folder: Path) -> int:
    """Kill all processes of that name in a session at once; return how many there were."""
    pids = named(name, folder)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def kill_guestfish_at(
    moment: str,
    guestlaunch: Guestlaunch,
    disk: Path,
    session_dir: Path,
    evidence: Path,
    environ: Mapping[str, str],
    *,
    is_new: Callable[[int], bool] = lambda _: True,
) -> subprocess.Popen[str]:
    """Launch guestfish and kill it together with its recovery process at that moment; return what is left of it.

    :param moment: QEMU is there, the vCPUs run, the launch is ready, the tool has begun to work.
    :param is_new: tells which QEMU is not one that ran before.
    """
    process = guestlaunch.start("guestfish", "-a", disk, environ=environ)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("run\necho ready\nlist-filesystems\nupload /dev/zero /dev/sda\n")
    process.stdin.flush()
    if moment == "qemu":
        deadline = time.monotonic() + 60
        while not is_new(next_qemu(session_dir, process)):
            assert time.monotonic() < deadline
    elif moment == "gate":
        wait_for_event(evidence, "launch_started")
    else:
        lines = 1 if moment == "ready" else 2
        for _ in range(lines):
            assert process.stdout.readline()
    assert kill_all("guestfish", session_dir) >= 1
    process.wait(10)
    return process
