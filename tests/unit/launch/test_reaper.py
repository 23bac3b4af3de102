"""The reaper and the ward over it, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from orchestrator.launch.reaper import processes
from orchestrator.launch.staging import directory, write_secret
from orchestrator.launch.stop import Stop
from orchestrator.launch.ward import Ward


def sleeper(name: str) -> subprocess.Popen[bytes]:
    """Start a process that looks to the reaper like QEMU running the domain."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "-uuid", name])


def gone(path: Path, seconds: float = 10.0) -> bool:
    """Wait until a path is gone."""
    deadline = time.monotonic() + seconds
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not path.exists()


def test_finds_processes_by_uuid_only() -> None:
    """Only the domain with that UUID is found."""
    name = str(uuid.uuid4())
    process = sleeper(name)
    try:
        deadline = time.monotonic() + 5
        while processes({name}) != [process.pid] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert processes({name}) == [process.pid]
        assert processes({str(uuid.uuid4())}) == []
    finally:
        process.kill()
        process.wait()


def test_sigkilled_owner_leaves_nothing(tmp_path: Path) -> None:
    """When the owner is killed, the reaper kills the domain and removes the files of both."""
    name = str(uuid.uuid4())
    mine, launch = tmp_path / "mine", tmp_path / "launch"
    for path in (mine, launch):
        path.mkdir()
        (path / "file").touch()
    process = sleeper(name)
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.launch.ward import Ward\n"
        f"ward = Ward(); ward.own(Path({str(mine)!r}))\n"
        f"with ward.over({name!r}, Path({str(launch)!r})):\n"
        "    print('listed', flush=True); time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"listed\n"
        os.killpg(owner.pid, signal.SIGKILL)
        owner.wait(5)
        assert process.wait(10) == -signal.SIGKILL
        assert gone(launch)
        assert gone(mine)
    finally:
        process.kill()
        owner.kill()
        owner.stdout.close()
        process.wait()


def test_struck_off_paths_stay(tmp_path: Path) -> None:
    """What left the context in order is not the reaper's business any more."""
    ward = Ward()
    kept = tmp_path / "kept"
    kept.touch()
    with ward.over(str(uuid.uuid4()), kept):
        pass
    ward.close()
    assert kept.exists()


def test_killed_reaper_is_replaced_with_the_whole_list(tmp_path: Path) -> None:
    """A reaper that somebody killed is started again and told everything."""
    ward = Ward()
    mine = tmp_path / "mine"
    mine.mkdir()
    ward.own(mine)
    assert ward._process is not None
    ward._process.kill()
    ward._process.wait()
    ward.start()
    ward.close()
    assert gone(mine)


def test_stop_is_waitable_and_keeps_its_first_reason() -> None:
    """A stop request makes its descriptor readable."""
    with Stop() as stop:
        assert not stop.requested
        stop.request("first")
        stop.request("second")
        assert stop.reason == "first"
        assert os.eventfd_read(stop.fileno()) == 2


def test_launch_directory_is_private_and_goes(tmp_path: Path) -> None:
    """The directory is ours alone, holds secrets as 0600, and is removed with its content."""
    with directory(tmp_path / "launches", "gl-1") as path:
        secret = write_secret("s3cret", path / "key")
        assert path.stat().st_mode & 0o777 == 0o700
        assert secret.stat().st_mode & 0o777 == 0o600
        assert secret.read_text() == "s3cret"
    assert not path.exists()
