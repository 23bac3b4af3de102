"""guestlaunch install: a tree that installs in seconds, and each way in which an installation can come to nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.model import Arch
from tests.hosts import ACCEL
from tests.install_tree import make_tree
from tests.processes import qemus
from tests.records import seen
from tests.running import Guestlaunch, Result
from tests.web import QuietHandler, serving


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, state_dir: Path, appliance: dict[str, Path]) -> Path:
    """The tree."""
    del appliance  # only: it is there
    return make_tree(tmp_path_factory.mktemp("tree") / "tree", state_dir / "appliances", Arch.AARCH64)


@pytest.fixture
def site(tree: Path) -> Iterator[str]:
    """The tree on a web server."""
    with serving(partial(QuietHandler, directory=os.fspath(tree))) as port:
        yield f"http://127.0.0.1:{port}/"


class Bench:
    """Installs on a disk of its own; answers are what the installer does otherwise than usual."""

    def __init__(self, guestlaunch: Guestlaunch, folder: Path, evidence: Path) -> None:
        self.guestlaunch, self.folder, self.evidence = guestlaunch, folder, evidence
        self.disk = folder / "disk.img"

    def words(self, location: str | Path, *more: str, answers: str = "") -> list[str]:
        """Return the command's arguments."""
        if answers:
            file = self.folder / "answers"
            file.write_text(answers)
            more = (*more, "--inject", os.fspath(file))
        return [
            "install", "--location", os.fspath(location), "--disk", os.fspath(self.disk), "--size", "100M",
            *ACCEL, "--memory-mib", "512", "--no-network", *more,
        ]  # fmt: skip

    def __call__(self, location: str | Path, *more: str, answers: str = "") -> Result:
        return self.guestlaunch(*self.words(location, *more, answers=answers))

    def left(self) -> list[str]:
        """Return what is left of an installation."""
        return sorted(path.name for path in self.folder.glob("disk*"))

    def steps(self) -> list[dict[str, Any]]:
        """Return the records of the steps."""
        lines = map(json.loads, (self.evidence / "events.jsonl").read_text().splitlines())
        return [line for line in lines if line["event"] == "install_step_finished"]


@pytest.fixture
def bench(guestlaunch: Guestlaunch, tmp_path: Path, evidence: Path) -> Bench:
    """Somewhere to install."""
    return Bench(guestlaunch, tmp_path, evidence)


def test_a_system_that_is_installed_and_boots(bench: Bench, site: str, tree: Path) -> None:
    """From a web server: both steps with their phases, the second by the boot entry that the first made."""
    refused = bench(site)
    assert refused.status == 1
    assert "not signed" in refused.error_line
    console = bench.folder / "console.log"
    said = bench(site, "--unverified", "--console", os.fspath(console)).ok()
    assert "installed, and boots" in said.stdout
    kept = console.read_bytes()
    assert kept.index(b"\ninstalled\r\n") < kept.index(b"\nguest login: ")  # the installer's, and then the system's
    assert bench.left() == ["disk.img", "disk.img.nvram.fd"]
    installer, first_boot = bench.steps()
    assert [step["install"]["verdict"] for step in (installer, first_boot)] == ["done", "done"]
    assert (installer["kind"], installer["install"]["tree"], installer["install"]["verification"]) == (
        "install", "Tiny 1", "none",
    )  # fmt: skip
    assert installer["install"]["fetched_bytes"] == sum(
        path.stat().st_size for path in (tree / "images/pxeboot").iterdir()
    )
    assert {"firmware", "fw_cfg_kernel", "fw_cfg_initrd", "kernel", "initrd", "shutdown"} <= seen(installer)
    assert installer["fw_cfg_dma"] is True
    assert first_boot["install"]["boot_entry"] == 'Boot0007 "Tiny"'
    assert first_boot["install"]["told_by"] == "a login prompt"
    assert {"firmware", "kernel", "initrd", "workload", "shutdown"} <= seen(first_boot)
    again = bench(site, "--unverified")
    assert "disk.img.nvram.fd: it is there already" in again.error_line


# Which of the two disks has which name is the kernel's choice, anew each time.
_SHOW_DATA = (
    "until [ -b /dev/sdb ]; do sleep 0.05; done\n"
    "for d in a b; do dd if=/dev/sd$d bs=1M count=1 2>/dev/null | grep -a -o 'Merge-Type.*'; done"
)


def test_an_installer_that_fails(bench: Bench, tree: Path) -> None:
    """By its own word: nothing boots, and nothing is left, not the disk that told it what to do, nor its display."""
    console, data, media = bench.folder / "console.log", bench.folder / "user-data", tree / "images/pxeboot"
    data.write_text("#cloud-config\nautoinstall: {version: 1}\n")
    more = ["--autoinstall", os.fspath(data), "--graphics", "vnc", "--console", os.fspath(console)]
    words = bench.words(tree, *more, answers=f"cat /proc/cmdline; {_SHOW_DATA}; record=3")
    words[1:3] = ["--kernel", os.fspath(media / "vmlinuz"), "--initrd", os.fspath(media / "initrd.img")]
    said = bench.guestlaunch(*words)
    assert said.status == 1, str(said)
    kept = console.read_bytes()
    assert b"autoinstall ds=nocloud console=tty0 console=ttyAMA0" in kept
    assert b"Merge-Type: dict(recurse_array,no_replace)+list(append)\r\n" in kept
    display = Path(said.stderr.partition("remote-viewer vnc+unix://")[2].partition("\n")[0])
    assert display.parent.is_dir()
    assert not display.exists()
    assert "the installer failed: phase workload: its record says status 3" in said.stderr
    assert "  | " in said.stderr  # the console's tail
    assert [step["outcome"] for step in bench.steps()] == ["failure"]
    assert bench.left() == []


def test_a_disk_that_does_not_boot(bench: Bench, tree: Path) -> None:
    """An installer may say that all went well; what it made is kept if that is wanted."""
    said = bench(tree, "--keep", answers="write=")
    assert said.status == 1, str(said)
    assert "the disk does not boot: phase firmware" in said.stderr
    assert [step["install"]["verdict"] for step in bench.steps()] == ["done", "unjudged"]
    assert bench.left() == ["disk.img", "disk.img.nvram.fd"]


def test_an_installer_that_does_not_end(bench: Bench, tree: Path, session_dir: Path, guestlaunch: Guestlaunch) -> None:
    """Its time is over, or a signal comes before that: nothing is left. What was killed is removed by the next one."""
    killed = guestlaunch.start("guestlaunch", *bench.words(tree))
    wait_for_qemu(session_dir, killed)
    killed.kill()
    killed.wait()
    assert bench.left() == ["disk.img", "disk.img.nvram.fd", "disk.img.nvram.fd.installing"]
    said = bench(tree, "--timeout", "3")
    assert said.status == 1, str(said)
    assert "an installation there was interrupted; what it left is removed, and it starts over" in said.stderr
    assert "the installer was not done in time" in said.stderr
    process = guestlaunch.start("guestlaunch", *bench.words(tree))
    wait_for_qemu(session_dir, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert [step["install"]["verdict"] for step in bench.steps()] == ["timed_out", "interrupted"]
    assert bench.left() == []


def wait_for_qemu(session_dir: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a guest is there."""
    end = time.monotonic() + 120
    while not qemus(session_dir):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
