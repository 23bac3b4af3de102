"""The daemon's standby clones with real aarch64 guests: taken, never twice, replaced, and gone with their daemon."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.bench.daemons import all_ready
from orchestrator.wrapper import protocol
from tests.daemons import daemon, socket_path, wait_for_status
from tests.disks import DiskFactory, by_name, naming_relatively
from tests.hosts import ACCEL
from tests.identities import assert_unlike, identities
from tests.leftovers import launches, left_behind, look
from tests.processes import next_qemu, qemus
from tests.records import events, records, seen, wait_for_event
from tests.running import Guestlaunch

AUTO = (*ACCEL, "--start", "auto")
PHASES = ["plan", "attach", "gate", "guestfsd", "ready", "workload", "shutdown"]
SETTLED_S = 20.0


def wait_for_clones(guestlaunch: Guestlaunch, session_dir: Path, count: int) -> set[str]:
    """Wait until so many clones are ready, and nothing is there of any other launch; return their names."""
    wait_for_status(guestlaunch, lambda status: all_ready(status) and not status["launches"])
    deadline = time.monotonic() + SETTLED_S
    while len(found := launches(session_dir)) != count:
        assert time.monotonic() < deadline, f"{found} instead of {count}"
        time.sleep(0.05)
    return found


@pytest.fixture
def standby(guestlaunch: Guestlaunch, template: Path) -> Iterator[subprocess.Popen[str]]:
    """A daemon that is to keep one clone."""
    with daemon(guestlaunch, "--standby", "1") as process:
        yield process


@pytest.fixture
def motd(guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path) -> Callable[[], str]:
    """Launch guestfish, check what it reads from a disk, and return how the launch started."""
    disk = disk_image(files={"/motd": "from the disk"})
    script = ("run", ":", "mount-ro", "/dev/sda", "/", ":", "cat", "/motd")

    def read() -> str:
        said = guestlaunch("guestfish", *AUTO, "--", "--ro", "-a", disk, *script).ok().stdout
        assert said.strip() == "from the disk"
        record = records(evidence)[-1]
        assert (record["outcome"], record["ready"]) == ("success", True)
        return str(record["start"])

    return read


def test_a_launch_takes_the_clone(
    guestlaunch: Guestlaunch,
    session_dir: Path,
    evidence: Path,
    standby: subprocess.Popen[str],
    motd: Callable[[], str],
    template: Path,
) -> None:
    """A daemon has a clone of the template that it finds; a launch takes it, restores nothing, and says so."""
    (waiting,) = wait_for_clones(guestlaunch, session_dir, 1)
    (kept,) = guestlaunch("status", "--json").json()["standby"]
    assert (kept["profile"], kept["wanted"], kept["ready"]) == ("aarch64-uefi", 1, 1)
    assert template.name == f"aarch64-uefi-{kept['template']}"
    assert motd() == "standby"
    (record,) = records(evidence)
    assert record["launch_id"] == waiting
    assert [phase["name"] for phase in record["phases"]] == PHASES
    assert seen(record) == set(PHASES)
    assert record["transfer_ns"] is None
    (started,) = events(evidence, "launch_started")
    assert (started["start"], started["template"]) == ("standby", kept["template"])


def test_images_that_name_others(
    guestlaunch: Guestlaunch, tmp_path: Path, session_dir: Path, evidence: Path, template: Path
) -> None:
    """What an image names is found from the tool's directory by a QEMU that was there before the tool; untrusted."""
    cwd, ((text, path), *_) = naming_relatively(tmp_path)
    guestlaunch.environ |= by_name()
    command = ("guestfish", *AUTO, "--image-policy", "untrusted", "--image-roots", tmp_path, "--", "--format=qcow2")
    script = ("-a", path, "run", ":", "pread-device", "/dev/sda", "8", "0")
    with daemon(guestlaunch, "--standby", "1"):
        wait_for_clones(guestlaunch, session_dir, 1)
        assert guestlaunch(*command, *script, cwd=cwd).ok().stdout == text
    assert records(evidence)[-1]["start"] == "standby"


def test_no_clone_is_used_twice(
    guestlaunch: Guestlaunch,
    disk_image: DiskFactory,
    session_dir: Path,
    evidence: Path,
    standby: subprocess.Popen[str],
) -> None:
    """Each launch has the clone that waited for it, the next one another; random bytes and ids are each one's own."""
    disk = disk_image()
    found: list[list[str]] = []
    waited: list[str] = []
    for _ in range(2):
        waited += wait_for_clones(guestlaunch, session_dir, 1)
        found.append(identities(guestlaunch, disk, "--start", "auto"))
    assert wait_for_clones(guestlaunch, session_dir, 1).isdisjoint(waited)
    assert_unlike(found)
    assert [(record["launch_id"], record["start"]) for record in records(evidence)] == [
        (name, "standby") for name in waited
    ]


def test_two_launches_at_once(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, session_dir: Path, evidence: Path, template: Path
) -> None:
    """Two clones serve two tools at the same time."""
    disk = disk_image()
    with daemon(guestlaunch, "--standby", "2"), ThreadPoolExecutor(2) as threads:
        waiting = wait_for_clones(guestlaunch, session_dir, 2)
        assert_unlike(list(threads.map(lambda _: identities(guestlaunch, disk, "--start", "auto"), range(2))))
        found = records(evidence)
        assert {record["launch_id"] for record in found} == waiting
        assert [record["start"] for record in found] == ["standby"] * 2
        assert wait_for_clones(guestlaunch, session_dir, 2).isdisjoint(waiting)


def test_a_clone_that_died_is_replaced(
    guestlaunch: Guestlaunch,
    session_dir: Path,
    evidence: Path,
    standby: subprocess.Popen[str],
    motd: Callable[[], str],
) -> None:
    """When a clone's QEMU is killed, the log says so, nothing stays of it, and the next launch takes another."""
    (killed,) = wait_for_clones(guestlaunch, session_dir, 1)
    (qemu,) = qemus(session_dir)
    os.kill(qemu, signal.SIGKILL)
    died = wait_for_event(evidence, "standby_died")
    assert (died["launch_id"], died["exit_status"]) == (killed, 128 + signal.SIGKILL)
    (other,) = wait_for_clones(guestlaunch, session_dir, 1)
    assert other != killed
    assert motd() == "standby"
    assert records(evidence)[-1]["launch_id"] == other


def test_a_clone_that_has_just_died_is_not_taken(
    guestlaunch: Guestlaunch,
    session_dir: Path,
    evidence: Path,
    standby: subprocess.Popen[str],
    motd: Callable[[], str],
) -> None:
    """A launch right after the clone's death succeeds without it, and the log tells of that death, too."""
    (killed,) = wait_for_clones(guestlaunch, session_dir, 1)
    (qemu,) = qemus(session_dir)
    os.kill(qemu, signal.SIGKILL)
    assert motd() in {"standby", "warm"}
    assert records(evidence)[-1]["launch_id"] != killed
    assert wait_for_event(evidence, "standby_died")["launch_id"] == killed
    assert killed not in wait_for_clones(guestlaunch, session_dir, 1)


def test_a_clone_that_dies_while_it_is_made(
    guestlaunch: Guestlaunch,
    session_dir: Path,
    evidence: Path,
    standby: subprocess.Popen[str],
    motd: Callable[[], str],
) -> None:
    """The log says why there is none, nothing stays of it, and launches restore their own."""
    os.kill(next_qemu(session_dir, standby), signal.SIGKILL)
    assert wait_for_event(evidence, "standby_failed")["error"]
    assert motd() == "warm"
    deadline = time.monotonic() + SETTLED_S
    while launches(session_dir) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert launches(session_dir) == set()


def test_no_room_for_any_clone(
    guestlaunch: Guestlaunch, session_dir: Path, evidence: Path, template: Path, motd: Callable[[], str]
) -> None:
    """Where clones may have less memory than one takes, none is made, and launches restore their own."""
    guestlaunch.environ["GUESTLAUNCH_STANDBY_MEMORY_MIB"] = "64"
    with daemon(guestlaunch, "--standby", "1"):
        # The second launch comes when the first one's wish for a clone has long been considered.
        assert [motd(), motd()] == ["warm", "warm"]
        (kept,) = wait_for_status(guestlaunch, lambda status: not status["launches"])["standby"]
        assert (kept["wanted"], kept["ready"]) == (1, 0)
        assert {event["launch_id"] for event in events(evidence, "launch_started")} >= launches(session_dir)
    assert events(evidence, "standby_failed") == []


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("when", ["making", "waiting"])
def test_clones_go_with_their_daemon(
    guestlaunch: Guestlaunch, session_dir: Path, template: Path, when: str, sent: signal.Signals
) -> None:
    """Whether the daemon is told to end or killed, and whether a clone waits or is being made: nothing stays."""
    before = look(session_dir)
    with daemon(guestlaunch, "--standby", "1") as process:
        if when == "making":
            next_qemu(session_dir, process)
        else:
            wait_for_clones(guestlaunch, session_dir, 1)
        process.send_signal(sent)
        assert process.wait(60) == (0 if sent is signal.SIGTERM else -sent)
    assert left_behind(session_dir, before) == []


def test_a_template_that_clones_wait_of_is_not_removed(
    guestlaunch: Guestlaunch,
    session_dir: Path,
    standby: subprocess.Popen[str],
    motd: Callable[[], str],
    template: Path,
) -> None:
    """The command says who uses it, and what to do; the clone stays what it is."""
    waiting = wait_for_clones(guestlaunch, session_dir, 1)
    refused = guestlaunch("template", "remove", "--all")
    assert "guestlaunchd" in refused.error_line
    assert template.exists()
    assert launches(session_dir) == waiting
    assert motd() == "standby"


def test_a_template_that_vanishes_is_built_anew(
    guestlaunch: Guestlaunch,
    session_dir: Path,
    evidence: Path,
    standby: subprocess.Popen[str],
    motd: Callable[[], str],
    template: Path,
) -> None:
    """A clone needs nothing more of its template's files; for the next one, the daemon builds them."""
    wait_for_clones(guestlaunch, session_dir, 1)
    shutil.rmtree(template)
    assert motd() == "standby"
    wait_for_event(evidence, "template_built")
    wait_for_clones(guestlaunch, session_dir, 1)
    assert template.exists()
    assert motd() == "standby"


RECORDER = """#!/bin/sh
case " $* " in *" -kernel "*) printf '%s\\n' "$@" > "$ARGUMENTS"; exit 1 ;; esac
exec "$WRAPPER" "$@"
"""


def without_flash(words: list[str]) -> list[str]:
    """Return arguments of QEMU without the firmware that libguestfs names on arm64: its variables are gone with it."""
    flash = {number for number, word in enumerate(words) if word.startswith("if=pflash,")}
    return [word for number, word in enumerate(words) if not flash & {number, number + 1}]


def test_a_client_that_goes_at_once_leaves_no_clone(
    guestlaunch: Guestlaunch,
    disk_image: DiskFactory,
    session_dir: Path,
    evidence: Path,
    standby: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    """The clone that was taken for a tool that is gone by then ends with its launch."""
    environ = guestlaunch.exports(*AUTO)
    recorder, arguments = tmp_path / "recorder", tmp_path / "arguments"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    recording = {"LIBGUESTFS_HV": str(recorder), "WRAPPER": environ["LIBGUESTFS_HV"], "ARGUMENTS": str(arguments)}
    guestlaunch.run("guestfish", "-a", disk_image(), "run", environ=environ | recording)
    message = protocol.launch_message(without_flash(arguments.read_text().splitlines()), "/", environ)
    (waiting,) = wait_for_clones(guestlaunch, session_dir, 1)
    with socket.socket(socket.AF_UNIX) as client, Path(os.devnull).open("r+b") as null:
        client.connect(str(socket_path(guestlaunch)))
        protocol.send(client, message, [null.fileno()] * 3)
        asked, _ = protocol.receive(client, time.monotonic() + 60)
        protocol.send(client, protocol.files_message(asked["names"]))
    wait_for_event(evidence, "launch_finished")
    assert waiting not in wait_for_clones(guestlaunch, session_dir, 1)
    (record,) = records(evidence)  # written after the event, and long before there is another clone
    assert (record["launch_id"], record["start"], record["outcome"]) == (waiting, "standby", "cancelled")
