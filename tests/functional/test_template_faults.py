"""Warm launches that go wrong: damaged templates, sudden deaths, interrupted builds. Nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.disks import DiskFactory
from tests.hosts import ACCEL
from tests.killing import kill_guestfish_at
from tests.leftovers import left_behind, look
from tests.processes import next_qemu, qemus
from tests.records import events, records, wait_for_event
from tests.running import Guestlaunch

RUN = ("run", ":", "list-filesystems")


@pytest.fixture
def own(guestlaunch: Guestlaunch, session_dir: Path, state_dir: Path) -> Iterator[Path]:
    """A state directory of the test's own, without templates."""
    folder = session_dir / "own"
    folder.mkdir(mode=0o700)
    (folder / "appliances").symlink_to(state_dir / "appliances")
    before = look(session_dir)
    yield folder
    # What outlives a killed command by a moment writes its record first.
    assert left_behind(session_dir, before, kind="process") == []
    shutil.rmtree(folder)


@pytest.fixture
def own_template(guestlaunch: Guestlaunch, template: Path, own: Path) -> Path:
    """A copy of the template to be damaged, in a state directory of the test's own, which is used."""
    copy = own / "templates" / template.name
    copy.parent.mkdir(mode=0o700)
    subprocess.run(["cp", "--archive", "--sparse=always", template, copy], check=True, timeout=60)
    guestlaunch.environ["GUESTLAUNCH_STATE_DIR"] = str(own)
    return copy


def overwrite(file: Path) -> None:
    """Overwrite the middle third of a file, whose size and head stay."""
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(size // 3)
        stream.write(b"\xa5" * (size // 3))


def empty(file: Path) -> None:
    """Leave a file of zeros of the same size."""
    size = file.stat().st_size
    os.truncate(file, 0)
    os.truncate(file, size)


@pytest.mark.parametrize("harm", [overwrite, empty])
def test_a_damaged_state_is_replaced_by_a_boot(
    guestlaunch: Guestlaunch,
    disk_image: DiskFactory,
    evidence: Path,
    own: Path,
    own_template: Path,
    harm: Callable[[Path], None],
) -> None:
    """The tool gets its launch, a cold one; the log says that the warm one failed, and why."""
    harm(own_template / "state")
    command = ("guestfish", *ACCEL, "--start", "auto", "--", "--ro", "-a", disk_image(), *RUN)
    assert guestlaunch(*command).ok().stdout == "/dev/sda: ext4\n"
    (failed,) = events(evidence, "warm_failed")
    (record,) = records(evidence)
    (started,) = events(evidence, "launch_started")
    assert (record["start"], record["outcome"]) == ("cold", "success")
    assert started["start_reason"] == failed["error"] != ""
    assert list((own / "launches").iterdir()) == []
    assert [path.name for path in own_template.parent.iterdir()] in ([own_template.name], [])


@pytest.mark.parametrize("name", ["ram", "root.qcow2", "template.json"])
def test_a_template_that_lacks_a_file_is_not_used(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path, own_template: Path, name: str
) -> None:
    """The launch boots, and the template counts as none."""
    (own_template / name).unlink()
    command = ("guestfish", *ACCEL, "--start", "auto", "--", "--ro", "-a", disk_image(), *RUN)
    assert guestlaunch(*command).ok().stdout == "/dev/sda: ext4\n"
    (started,) = events(evidence, "launch_started")
    assert started["start"] == "cold"
    assert "no template" in started["start_reason"]
    assert events(evidence, "warm_failed") == []


def children(pid: int) -> Iterator[tuple[int, bytes]]:
    """Yield PIDs and command lines of a process's children, theirs, and so on."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            yield int(child), Path(f"/proc/{child}/cmdline").read_bytes()
            yield from children(int(child))


def victim(command: int, qemu: int, which: str) -> int:
    """Return the process to kill: QEMU, the tool, our command, or the process of ours that serves the launch."""
    if which in {"qemu", "command"}:
        return {"qemu": qemu, "command": command}[which]
    words = {"tool": b"guestfish\0--ro", "server": b"guestlaunch\0guestfish\0"}[which]
    # libguestfs's recovery process has the tool's own command line; the tool is the elder.
    return min(pid for pid, line in children(command) if words in line)


@pytest.mark.parametrize("which", ["tool", "command", "server", "qemu"])
@pytest.mark.parametrize("phase", ["restore", "gate"])
def test_sudden_death(
    guestlaunch: Guestlaunch,
    disk_image: DiskFactory,
    evidence: Path,
    session_dir: Path,
    template: Path,
    phase: str,
    which: str,
) -> None:
    """Whoever is killed while the clone is restored, or at its gate: guest and files are gone soon afterwards.

    Where only QEMU died before the clone went on, the tool gets a cold launch instead.
    """
    before = look(session_dir)
    command = (guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, "--start", "warm")
    process = guestlaunch.start(*command, "--", "--ro", "-a", disk_image(), *RUN)
    qemu = next_qemu(session_dir, process)
    if phase == "restore":
        os.kill(qemu, signal.SIGSTOP)  # it takes no state, until it is killed by somebody
    else:
        wait_for_event(evidence, "launch_started")
    os.kill(victim(process.pid, qemu, which), signal.SIGKILL)
    if phase == "restore" and which in {"tool", "command"}:
        os.kill(qemu, signal.SIGCONT)  # those who served the launch are there, and end it
    stdout, stderr = process.communicate(timeout=120)
    if (phase, which) == ("restore", "qemu"):
        assert (process.returncode, stdout) == (0, "/dev/sda: ext4\n")
        assert len(events(evidence, "warm_failed")) == 1
        assert records(evidence)[-1]["start"] == "cold"
    else:
        assert process.returncode != 0
        assert "Traceback" not in stderr
    if which == "qemu" and phase == "gate":
        # The clone went on when the log said so, and may be ready before anybody reads that.
        assert re.search("QEMU ended before (the launch was ready|its tool did)", stderr), stderr
    assert left_behind(session_dir, before) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing(
    guestlaunch: Guestlaunch, session_dir: Path, own: Path, sent: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM clean up; so is, by the guardian or by the next build, what SIGKILL leaves.

    Killed alone, the command takes its guestfish along, which would build to the end.
    """
    guestlaunch.environ["GUESTLAUNCH_STATE_DIR"] = str(own)
    process = guestlaunch.start(guestlaunch.bin_dir / "guestlaunch", "template", "build", *ACCEL)
    next_qemu(session_dir, process)
    assert len(list((own / "templates").glob(".building-*"))) == 1
    time.sleep(1.0)  # into the boot
    if sent is signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[sent], stderr
    assert "Traceback" not in stderr
    deadline = time.monotonic() + 10
    while (qemus(session_dir) or any((own / "launches").iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert qemus(session_dir) == []
    assert list((own / "launches").iterdir()) == []
    if sent is signal.SIGKILL:
        assert guestlaunch("template", "remove", "--stale", "--json").json() == {"removed": []}
    assert [path.name for path in (own / "templates").iterdir()] == [".lock"]
    # A guestfish that a signal ends leaves its own files behind: in a folder that goes with the command, or after it.
    assert list((session_dir / "tmp").glob("libguestfs*")) == []
    left = list((session_dir / "tmp").glob("guestlaunch-scratch-*"))
    assert len(left) == (1 if sent is signal.SIGKILL else 0)
    for folder in left:
        shutil.rmtree(folder)


@pytest.mark.parametrize(("start", "moment"), [("cold", "qemu"), ("warm", "gate"), ("warm", "workload")])
def test_tool_killed_together_with_its_recovery_process(
    guestlaunch: Guestlaunch,
    disk_image: DiskFactory,
    evidence: Path,
    session_dir: Path,
    template: Path,
    start: str,
    moment: str,
) -> None:
    """`pkill -9 guestfish` leaves nobody who ends the wrapper: it, server, guest and files go all the same."""
    environ = guestlaunch.exports(*ACCEL, "--start", start)
    before = look(session_dir)
    kill_guestfish_at(moment, guestlaunch, disk_image(), session_dir, evidence, environ)
    assert left_behind(session_dir, before) == []
    (record,) = records(evidence)
    assert record["start"] == start
    # A QEMU that was about to call the tool may have found nobody there.
    assert record["outcome"] in {"qemu": {"cancelled", "failure"}, "gate": {"cancelled"}}.get(moment, {"success"})
