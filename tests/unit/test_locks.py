"""Locks of folders and files: between processes, and out of reach of other users."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import locks

TOP = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from orchestrator import locks
with locks.locked(sys.argv[1], exclusive=sys.argv[2] == "exclusive") as lock:
    print(lock, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("held", "wanted", "got"), [
    ("shared", False, True), ("shared", True, False), ("exclusive", False, False), ("exclusive", True, False),
])  # fmt: skip
def test_lock_between_processes(tmp_path: Path, held: str, wanted: bool, got: bool) -> None:
    """Any number share the lock of a folder, one alone has it for itself, and whoever holds it can be named."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), held],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TOP,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with locks.locked(tmp_path, exclusive=wanted) as lock:
            assert lock is got
            if not lock:
                assert locks.holders(tmp_path) == f"pid {process.pid}"
        process.communicate("")
    with locks.locked(tmp_path, exclusive=True) as lock:
        assert lock
    assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o600


def test_lock_of_a_folder_that_is_gone(tmp_path: Path) -> None:
    """Nobody has the lock of a folder that is not there, nor of one that was removed by him who had it."""
    with locks.locked(tmp_path / "none", exclusive=False) as lock:
        assert not lock
    (tmp_path / "doomed").mkdir()
    with locks.locked(tmp_path / "doomed", exclusive=True) as first:
        (tmp_path / "doomed").rename(tmp_path / "gone")
        with locks.locked(tmp_path / "doomed", exclusive=False) as second:
            assert (first, second) == (True, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_reader_cannot_lock_a_folder(tmp_path: Path) -> None:
    """Who can read a folder can lock the folder itself, and every file that he can open: not what we lock."""
    with locks.locked(tmp_path, exclusive=False):
        pass
    tmp_path.chmod(0o755)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with locks.locked(tmp_path, exclusive=True) as lock:
            assert lock
    finally:
        os.close(folder)
    os.seteuid(4321)
    try:
        with pytest.raises(PermissionError):
            os.open(tmp_path / ".lock", os.O_RDONLY)
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_folder_of_another_is_used_without_a_lock(tmp_path: Path) -> None:
    """A shared appliance is another user's: it is used, nothing is made in it, and it is never had for ourselves."""
    os.chown(tmp_path, 4321, 4321)
    with locks.locked(tmp_path, exclusive=False) as shared, locks.locked(tmp_path, exclusive=True) as alone:
        assert (shared, alone) == (True, False)
    assert list(tmp_path.iterdir()) == []


def test_lock_file_is_no_link(tmp_path: Path) -> None:
    """A link that stands where a lock file should be is not followed; a lock file that all could open is closed."""
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        locks.open_lock(tmp_path / "link")
    assert not (tmp_path / "victim").exists()
    (tmp_path / "lock").touch(0o644)
    os.close(locks.open_lock(tmp_path / "lock"))
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_lock_of_a_file_is_waited_for(tmp_path: Path) -> None:
    """One has it at a time; whoever has waited long enough goes without."""
    path = tmp_path / "lock"
    with locks.locked_file(path) as first, locks.locked_file(path, seconds=0.1) as second:
        assert (first, second) == (True, False)
    with locks.locked_file(path, seconds=0) as later:
        assert later
