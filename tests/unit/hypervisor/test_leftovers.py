"""Guests left behind are found by what they are, not only by a number, and are ended."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.hypervisor import leftovers

STUBBORN = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the folder for pid files."""
    (tmp_path / "root" / "run" / "qemu").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def guest(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that names the root in its command line, as QEMU does, and ignores SIGTERM."""
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN, f"{root}/lib/qemu/domain-1-x/monitor.sock"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_only_processes_of_the_root_are_its_guests(root: Path, guest: subprocess.Popen[bytes]) -> None:
    """A pid file whose number belongs to somebody else, to nobody or to us, or that is damaged, names no guest."""
    folder = root / "run" / "qemu"
    (folder / "own.pid").write_text(f"{guest.pid}")
    (folder / "stranger.pid").write_text("1")
    (folder / "nobody.pid").write_text("4194303")
    (folder / "damaged.pid").write_text("")
    (folder / "us.pid").write_text(f"{os.getpid()}")
    assert list(leftovers.guests_of(root)) == [guest.pid]


def test_stubborn_process_is_killed(guest: subprocess.Popen[bytes]) -> None:
    """What ignores SIGTERM is killed after the grace, not before."""
    start = time.monotonic()
    leftovers.end_process(guest.pid, 0.3)
    assert 0.3 <= time.monotonic() - start < 5
    assert guest.wait(5) == -9


def test_ending_what_has_ended() -> None:
    """A process that is gone already is no error."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    leftovers.end_process(process.pid)


def test_remove_tells_what_it_did(root: Path, guest: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing a root ends its guest and says so."""
    monkeypatch.setattr(leftovers.end_process, "__defaults__", (0.1,))
    (root / "run" / "qemu" / "x.pid").write_text(f"{guest.pid}")
    assert leftovers.remove(root) == [f"ended QEMU {guest.pid}", f"removed {root}"]
    assert guest.wait(5) == -9
    assert not root.exists()


def test_lock_decides_about_a_claimed_socket(root: Path, tmp_path: Path) -> None:
    """A dead owner's socket goes with its lock file; while a successor holds the lock, both are his."""
    path, lock = tmp_path / "d.sock", tmp_path / "d.sock.lock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    lock.touch()
    (root / leftovers.CLAIMS).mkdir()
    (root / leftovers.CLAIMS / "1").write_text(str(path))
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert leftovers.remove(root) == [f"removed {root}"]
    assert path.exists()
    assert lock.exists()
    (root / leftovers.CLAIMS).mkdir(parents=True)
    (root / leftovers.CLAIMS / "1").write_text(str(path))
    assert leftovers.remove(root) == [f"removed {path}", f"removed {root}"]
    assert not path.exists()
    assert not lock.exists()
