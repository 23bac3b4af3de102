"""The sides of the benchmark of starts: the same three scripts for all, and each launch what its row says."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.bench import disks, start_sides
from orchestrator.bench.rounds import RunEnd, Side
from orchestrator.bench.sides import Work
from orchestrator.domain.model import Accel
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.timeline.phases import Start

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/home/u"}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Work on a disk of the user's."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    return start_sides.make_work(tmp_path, disk)


def test_three_things_are_timed(work: Work) -> None:
    """To the exit of a launch, to the file systems, and, by -i, to the operating system."""
    launched, listed, inspected = work.scripts
    assert launched.path.read_text() == "run\n"
    assert [set(script.ends) for script in work.scripts] == [
        {RunEnd.EXIT},
        {RunEnd.ANSWER},
        {RunEnd.ANSWER},
    ]
    assert (listed.answer, inspected.answer) == ("answer", "inspection")
    assert "-i" in work.guestfish(inspected)
    assert "-i" not in (*work.guestfish(launched), *work.guestfish(listed))


def test_missing_disk(tmp_path: Path) -> None:
    """A disk that is not there is named before anything runs."""
    with pytest.raises(UsageError, match="/nowhere.img"):
        start_sides.make_work(tmp_path, Path("/nowhere.img"))


def test_the_disk_holds_an_operating_system(tmp_path: Path) -> None:
    """A partition with a whole file system, in which a Debian says what it is and what it mounts by UUID."""
    disk = tmp_path / "disk.img"
    disks.operating_system(disk)
    partition = f"{disk}?offset={1 << 20}"
    sbin = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(["e2fsck", "-fn", partition], env=sbin, check=True, capture_output=True)

    def content(path: str) -> str:
        command = ["debugfs", "-R", f"cat {path}", partition]
        return subprocess.run(command, env=sbin, check=True, capture_output=True, text=True).stdout

    assert "ID=debian" in content("/etc/os-release")
    superblock = subprocess.run(["tune2fs", "-l", partition], env=sbin, check=True, capture_output=True, text=True)
    uuid = content("/etc/fstab").split()[0].removeprefix("UUID=")
    assert uuid in superblock.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"disk.img"}


def test_no_sfdisk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a program for the disk the line says what to install."""
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)
    with pytest.raises(CapabilityError, match="sfdisk: not found .*install fdisk"):
        disks.operating_system(tmp_path / "disk.img")


def test_each_row_asks_for_its_kind_of_launch(work: Work) -> None:
    """What is on the command line, and what the launch must say of itself to be counted."""
    found = {name: start_sides.ours(name, work, ENVIRON, {"accel": "tcg"}) for name in start_sides.OURS}
    assert all(len(sides) == 3 for sides in found.values())
    commands = {name: " ".join(sides[0].command) for name, sides in found.items()}
    assert "GUESTLAUNCH_START=cold GUESTLAUNCH_FW_CFG_DMA=off" in commands[start_sides.COLD_WITHOUT_DMA]
    assert "GUESTLAUNCH_START=cold GUESTLAUNCH_FW_CFG_DMA=on" in commands[start_sides.COLD]
    assert "GUESTLAUNCH_START=auto" in commands[start_sides.WARM]
    wanted = {name: {side.start for side in sides} for name, sides in found.items()}
    assert wanted[start_sides.COLD] == {Start.COLD}
    assert wanted[start_sides.WARM] == {Start.WARM}
    assert wanted[start_sides.STANDBY] == {Start.STANDBY}


def test_reference_of_another_arch(work: Work, tmp_path: Path) -> None:
    """QEMU is started by a wrapper that has nothing of ours, and boots the appliance that it is given."""
    sides = start_sides.reference(
        work, load_profile("aarch64-bare"), Accel.TCG, appliance=Path("/appliance"), folder=tmp_path, environ=ENVIRON
    )
    assert {side.name for side in sides} == {start_sides.REFERENCE}
    assert {side.start for side in sides} == {None}
    assert sides[0].environ["LIBGUESTFS_PATH"] == "/appliance"
    assert sides[0].environ["LIBGUESTFS_HV"].startswith(str(tmp_path))
    assert sides[0].command[0] == "guestfish"


def test_reference_of_the_hosts_arch(work: Work, tmp_path: Path) -> None:
    """Stock libguestfs, with its own appliance."""
    native = {"x86_64": "x86_64-seabios", "aarch64": "aarch64-uefi"}[os.uname().machine]
    profile = load_profile(native)
    assert start_sides.has_own_reference(profile)
    sides = start_sides.reference(work, profile, Accel.TCG, appliance=None, folder=tmp_path, environ=ENVIRON)
    assert {"LIBGUESTFS_PATH", "LIBGUESTFS_HV"}.isdisjoint(sides[0].environ)
    assert sides[0].environ["LIBGUESTFS_BACKEND"] == "direct"


def test_a_side_that_cannot_be_had(tmp_path: Path) -> None:
    """It is tried once with its launch; what it says last is the reason, or libguestfs's error before its advice."""

    def side(script: str, *ends: RunEnd) -> Side:
        return Side(
            name="warm", command=("/bin/sh", "-c", script), environ=ENVIRON, ends=frozenset(ends)
        )  # fmt: skip

    answers = side(f"touch {tmp_path}/wrong", RunEnd.ANSWER)
    works, fails = (side(script, RunEnd.EXIT) for script in (":", "echo first; echo no template >&2; exit 1"))
    assert start_sides.tried((answers, works), deadline_s=30) is None
    assert start_sides.tried((answers, fails), deadline_s=30) == start_sides.LeftOut(side="warm", reason="no template")
    advised = side("echo 'libguestfs: error: no appliance' >&2; echo 'send a bug report' >&2; exit 1", RunEnd.EXIT)
    out = start_sides.tried((advised,), deadline_s=30)
    assert out == start_sides.LeftOut(side="warm", reason="libguestfs: error: no appliance")
    out = start_sides.tried((answers, replace(works, start=Start.WARM)), deadline_s=30)
    assert out is not None
    assert "not warm" in out.reason
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("virt-cat: no operating system was found\n\nIf using other tools,\n(see the manual page).", 0),
        ("virt-sysprep: warning: no seed\nvirt-sysprep: it is in use\nTo see more, set\n  LIBGUESTFS_DEBUG=1", 1),
        ("virt-df: first\nlibguestfs: error: second\nthird", 1),
        ("something\nelse", 1),
    ],
)
def test_why_a_tool_failed(said: str, why: int) -> None:
    """The line that says it, not the advice with which libguestfs's tools end."""
    assert start_sides.reason(said) == said.splitlines()[why]
