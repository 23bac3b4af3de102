"""The sides of benchmarks: the same work for all, and nothing of ours in the others' way."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.bench import sides
from orchestrator.bench.rounds import RunEnd
from orchestrator.domain.model import Accel
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import UsageError

USERS = {
    "PATH": os.environ["PATH"],
    "HOME": "/home/u",
    "GUESTLAUNCH_PROFILE": "x86_64-seabios",
    "GUESTLAUNCH_CONFIG": "/c.toml",
    "LIBGUESTFS_HV": "/usr/bin/guestlaunch-hv",
    "LIBGUESTFS_PATH": "/appliance",
    "LIBGUESTFS_MEMSIZE": "900",
}


@pytest.fixture
def work(tmp_path: Path) -> sides.Work:
    """Work on a disk of the user's."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    return sides.make_work(tmp_path, disk=disk)


def test_work_makes_a_disk_with_a_file_system(tmp_path: Path) -> None:
    """Without a disk of the user's there is a real one."""
    work = sides.make_work(tmp_path)
    assert work.disk.read_bytes()[1080:1082] == b"\x53\xef"  # ext4's magic
    (script,) = work.scripts
    assert script.path.read_text() == "run\nlist-filesystems\n"
    assert script.ends == set(RunEnd)


def test_boundaries_apart(tmp_path: Path) -> None:
    """To the exit of `run`, and to the answer of `list-filesystems`: two programs, with the same parameters."""
    work = sides.make_work(tmp_path, apart=True, parameters=[("set-smp", "2")])
    found = {script.path.read_text(): set(script.ends) for script in work.scripts}
    assert found == {
        "set-smp 2\nrun\n": {RunEnd.EXIT},
        "set-smp 2\nrun\nlist-filesystems\n": {RunEnd.ANSWER},
    }


def test_missing_disk(tmp_path: Path) -> None:
    """A disk that is not there is named before anything runs."""
    with pytest.raises(UsageError, match="/nowhere.img"):
        sides.make_work(tmp_path, disk=Path("/nowhere.img"))


def test_plugin_parameter_is_quoted() -> None:
    """A path with a blank stays one argument of guestfish."""
    assert sides.plugin_parameter("/a b/c.so,x=1") == ("config", "-plugin '/a b/c.so,x=1'")


def test_ours(work: sides.Work) -> None:
    """Options are on the command line and among the facts."""
    (side,) = sides.ours("DMA off", work, {"fw-cfg-dma": "off"}, USERS, {"accel": "tcg"})
    command = " ".join(side.command)
    assert "guestfish --fw-cfg-dma off --timeline {timeline} -- --ro -a" in command
    assert side.facts == {"program": "guestlaunch", "fw_cfg_dma": "off", "accel": "tcg"}


def test_stock_is_not_launched_through_us(work: sides.Work) -> None:
    """Nothing that leads to us is left; the accelerator is forced; what holds for all sides stays."""
    (side,) = sides.stock("stock", work, Accel.TCG, USERS)
    assert side.environ["LIBGUESTFS_BACKEND_SETTINGS"] == "force_tcg"
    assert side.environ["LIBGUESTFS_MEMSIZE"] == "900"
    assert {"LIBGUESTFS_HV", "LIBGUESTFS_PATH", "GUESTLAUNCH_PROFILE", "GUESTLAUNCH_CONFIG"}.isdisjoint(side.environ)
    assert side.command[0] == "guestfish"
    (side,) = sides.stock("stock", work, Accel.TCG, USERS, appliance=Path("/appliance"))
    assert side.environ["LIBGUESTFS_PATH"] == "/appliance"


def test_all_sides_do_the_same_work(work: sides.Work) -> None:
    """Every side gives guestfish the same arguments."""
    (ours,) = sides.ours("a", work, {}, USERS)
    (stock,) = sides.stock("b", work, Accel.TCG, USERS)
    assert ours.command[-len(stock.command) + 1 :] == stock.command[1:]


@pytest.mark.parametrize(("dma", "value"), [(True, "on"), (False, "off")])
def test_direct_program_turns_the_hosts_arguments_into_the_guests(
    dma: bool, value: str, work: sides.Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine, CPU and console are the profile's; the rest of libguestfs's arguments arrives untouched."""
    emulator = tmp_path / "bin" / "qemu-system-aarch64"
    emulator.parent.mkdir()
    emulator.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    emulator.chmod(0o755)
    monkeypatch.setenv("PATH", f"{emulator.parent}:{os.environ['PATH']}")
    (side,) = sides.direct(
        "direct", work, profile=load_profile("aarch64-bare"), accel=Accel.TCG, appliance=Path("/appliance"),
        folder=tmp_path, environ=USERS, fw_cfg_dma=dma,
    )  # fmt: skip
    assert side.environ["LIBGUESTFS_PATH"] == "/appliance"
    program = side.environ["LIBGUESTFS_HV"]

    def said(*arguments: str) -> list[str]:
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout.splitlines()

    launch = (
        "-global", "virtio-blk-pci.scsi=off", "-no-hpet", "-machine", "accel=kvm:tcg", "-cpu", "max",
        "-rtc", "driftfix=slew", "-global", "kvm-pit.lost_tick_policy=discard", "-drive", "file=a b,if=none",
        "-append", "panic=1 console=ttyS0 root=x",
    )  # fmt: skip
    assert said(*launch) == [
        "-machine", "virt,accel=tcg", "-cpu", "cortex-a57", "-global", "virtio-blk-pci.scsi=off",
        "-drive", "file=a b,if=none", "-append", "panic=1 console=ttyAMA0 root=x",
        "-global", f"fw_cfg_mem.dma_enabled={value}",
    ]  # fmt: skip
    assert said("-device", "?") == ["-machine", "virt,accel=tcg", "-cpu", "cortex-a57", "-device", "?"]  # a probe


def test_a_disk_that_is_none(tmp_path: Path) -> None:
    """Said before anything is launched."""
    with pytest.raises(UsageError, match="it is a directory"):
        sides.make_work(tmp_path, disk=tmp_path)
    with pytest.raises(UsageError, match="it does not exist"):
        sides.make_work(tmp_path, disk=tmp_path / "disk.img")
