"""Temporary folders: gone with their makers, or with the next one that is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator import scratch


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files belong."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_gone_when_done_with(home: Path) -> None:
    """It is ours alone, and gone with all that is in it."""
    with scratch.folder() as folder:
        assert folder.parent == home
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "below").mkdir()
        (folder / "below/file").touch()
        (folder / "below").chmod(0)
    assert list(home.iterdir()) == []


def test_one_whose_maker_was_killed(home: Path) -> None:
    """It goes when the next is made, while that of a living maker stays."""
    code = (
        "import signal\nfrom orchestrator import scratch\n"
        "with scratch.folder() as folder: print(folder, flush=True); signal.pause()"
    )
    makers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        killed, living = (Path(maker.stdout.readline().strip()) for maker in makers if maker.stdout)
        (killed / "disk.img").touch()
        makers[0].send_signal(signal.SIGKILL)
        makers[0].wait(60)
        assert killed.exists()
        with scratch.folder() as folder:
            assert sorted(home.iterdir()) == sorted([living, folder])
    finally:
        for maker in makers:
            maker.terminate()
            maker.communicate(timeout=60)


def test_what_is_not_ours_stays(home: Path) -> None:
    """A link, a file, or a folder of another user's of such a name is not touched."""
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (home / "guestlaunch-scratch-link").symlink_to(elsewhere)
    (home / "guestlaunch-scratch-file").touch()
    others = home / "guestlaunch-scratch-others"
    others.mkdir()
    if os.geteuid() == 0:
        os.chown(others, 65534, 65534)
    with scratch.folder():
        assert (elsewhere / "precious").exists()
        assert (home / "guestlaunch-scratch-link").is_symlink()
        assert (home / "guestlaunch-scratch-file").exists()
        assert others.exists() == (os.geteuid() == 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
def test_what_something_is_mounted_in_stays(home: Path) -> None:
    """A guestmount may have outlived its benchmark: what it shows is not emptied."""
    left = home / "guestlaunch-scratch-left" / "mount"
    left.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "none", left], capture_output=True, check=False).returncode != 0:
        pytest.skip("cannot mount here")
    try:
        (left / "file").touch()
        with scratch.folder():
            assert (left / "file").exists()
    finally:
        subprocess.run(["umount", left], check=True)
    with scratch.folder():
        assert not left.parent.exists()
