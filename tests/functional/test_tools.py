"""Unmodified libguestfs programs in real aarch64 UEFI guests, as a user runs them, and their sudden ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.disks import DiskFactory
from tests.hosts import ACCEL
from tests.leftovers import GONE_WITHIN_S, left_behind, look
from tests.running import Guestlaunch

SYSTEM = {
    "/etc/fstab": "/dev/sda1 / ext4 defaults 0 1\n",
    "/etc/hostname": "small-guest\n",
    "/etc/os-release": 'ID=debian\nVERSION_ID=12\nPRETTY_NAME="A small guest"\n',
    "/bin/sh": "",
    "/srv/data.txt": "what was put there\n",
}
BINDINGS = """
import guestfs, sys
g = guestfs.GuestFS(python_return_dict=True)
g.add_drive_opts(sys.argv[1], readonly=True)
g.launch()
print(g.list_filesystems(), g.debug("sh", ["uname -m"]).strip())
g.close()
"""


@pytest.fixture
def system_disk(disk_image: DiskFactory) -> Path:
    """A partitioned disk with what looks like an operating system on it."""
    return disk_image("system, disk.img", partitioned=True, files=SYSTEM)


def test_guestfish_inspects_a_disk(guestlaunch: Guestlaunch, system_disk: Path) -> None:
    """Guestfish -i finds the system, in an aarch64 guest that was started by UEFI; its input and output are its own."""
    script = 'cat /etc/hostname\ndebug sh "uname -m; ls /sys/firmware/efi/fw_platform_size"\n'
    result = guestlaunch("guestfish", *ACCEL, "--", "--ro", "-a", system_disk, "-i", stdin=script).ok()
    assert result.stdout.splitlines() == ["small-guest", "", "aarch64", "/sys/firmware/efi/fw_platform_size"]


@pytest.mark.usefixtures("cloned")
def test_plain_programs_under_the_exports(guestlaunch: Guestlaunch, system_disk: Path) -> None:
    """With the exports of `guestlaunch env`, programs started plainly launch through us, without a daemon."""
    exports = guestlaunch.exports(*ACCEL)
    command = ("guestfish", "--ro", "-a", system_disk, "run", ":", "debug", "sh", "uname -m", ":", "list-filesystems")
    result = guestlaunch.run(*command, environ=exports).ok()
    assert result.stdout.split() == ["aarch64", "/dev/sda1:", "ext4"]
    script = guestlaunch.run("/usr/bin/python3", "-c", BINDINGS, system_disk, environ=exports).ok()
    assert script.stdout == "{'/dev/sda1': 'ext4'} aarch64\n"


@pytest.mark.usefixtures("cloned")
def test_virt_tools(guestlaunch: Guestlaunch, system_disk: Path) -> None:
    """virt-df, virt-filesystems and virt-cat, each with a launch of its own, served by one command."""
    tools = 'virt-filesystems -a "$1" && virt-cat -a "$1" /srv/data.txt && virt-df --csv -a "$1"'
    result = guestlaunch("exec", *ACCEL, "--", "sh", "-c", tools, "sh", system_disk).ok()
    lines = result.stdout.splitlines()
    assert lines[:2] == ["/dev/sda1", "what was put there"]
    assert any("/dev/sda1" in line for line in lines[3:]), str(result)


def test_tools_own_status_and_flags(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """Flags after -- are the tool's, and so is the exit status; none of this needs a launch."""
    version = guestlaunch("guestfish", "--", "--version").ok()
    assert version.stdout.startswith("guestfish ")
    assert guestlaunch("exec", "--", "sh", "-c", "exit 42").status == 42
    assert guestlaunch("exec", "--", "sh", "-c", "kill -9 $$").status == 137
    missing = guestlaunch("exec", "--", "virt-nothing")
    assert (missing.status, missing.error_line) == (
        127,
        "guestlaunch: cannot run: virt-nothing: no such program (install guestfs-tools)",
    )
    assert guestlaunch("guestfish", "--", "no-such-command").status == 1
    assert (tmp_path / "evidence").exists() is False


def test_failed_launch_says_why(guestlaunch: Guestlaunch, system_disk: Path) -> None:
    """A launch that cannot succeed ends with our one line after the tool's own words."""
    result = guestlaunch("guestfish", *ACCEL, "--memory-mib", "64", "--", "--ro", "-a", "/dev/null/x", "run")
    assert result.status == 1
    result = guestlaunch("guestfish", *ACCEL, "--cpu", "no-such-cpu", "--", "--ro", "-a", system_disk, "run")
    assert result.error_line.startswith("guestlaunch: ")
    assert "no-such-cpu" in result.error_line


@pytest.mark.needs("/dev/fuse", "guestmount")
@pytest.mark.usefixtures("cloned")
def test_guestmount_returns_and_stays(guestlaunch: Guestlaunch, system_disk: Path, tmp_path: Path) -> None:
    """Guestmount goes into the background: the command returns, its guest lives on until it is unmounted."""
    place = tmp_path / "mnt"
    place.mkdir()
    guestlaunch("exec", *ACCEL, "--", "guestmount", "-a", system_disk, "-m", "/dev/sda1", "--ro", place).ok()
    try:
        assert (place / "srv/data.txt").read_text() == "what was put there\n"
    finally:
        subprocess.run(["guestunmount", str(place)], check=True, timeout=60)
    assert not (place / "srv").exists()


def descendants(pid: int) -> dict[int, bytes]:
    """Return the command lines of a process's children, theirs, and so on."""
    found: dict[int, bytes] = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes()
        found |= descendants(int(child))
    return found


def wait_ready(process: subprocess.Popen[str]) -> None:
    """Wait until guestfish, which was told to print after its launch, has printed."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def socket_folder(pid: int) -> Path:
    """Return the folder in which libguestfs listens for its guest: as root it is in /tmp, whatever TMPDIR says."""
    [line] = [line for line in descendants(pid).values() if b"guestlaunch-hv\0" in line]
    [path] = [word for word in line.split(b"\0") if b"guestfsd.sock" in word]
    return Path(os.fsdecode(path.split(b"path=")[1].split(b",")[0])).parent


def pick(pid: int, which: str) -> int:
    """Return the process to kill: the tool, our wrapper, the server, or the command itself."""
    if which == "command":
        return pid
    children = descendants(pid)
    wanted = {"tool": b"guestfish\0--ro", "wrapper": b"guestlaunch-hv\0", "server": b"guestlaunch\0guestfish\0"}[which]
    pids = [child for child, line in children.items() if wanted in line]
    # libguestfs's recovery process has the tool's own command line; the tool is the elder.
    assert pids, children
    return min(pids)


@pytest.mark.parametrize("which", ["tool", "wrapper", "server", "command"])
def test_sudden_death_leaves_nothing(
    guestlaunch: Guestlaunch, system_disk: Path, session_dir: Path, which: str
) -> None:
    """Whichever process is killed hard, the guest and its files are gone within ten seconds."""
    before = look(session_dir)
    command = (guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, "--", "--ro", "-a", system_disk)
    process = guestlaunch.start(*command)
    assert process.stdin is not None
    process.stdin.write("run\necho ready\n")
    process.stdin.flush()
    wait_ready(process)
    assert any("qemu-system" in line for line in look(session_dir) - before)
    sockets = socket_folder(process.pid)
    os.kill(pick(process.pid, which), signal.SIGKILL)
    if which == "command":
        # The tool was not killed, and may go on until it has no more to do.
        process.stdin.close()
    else:
        process.stdin.write("list-devices\n" if which != "tool" else "")
        process.stdin.close()
        assert process.wait(60) != 0
    assert left_behind(session_dir, before, within_s=GONE_WITHIN_S) == []
    assert not sockets.exists()


@pytest.mark.usefixtures("cloned")
def test_sigterm_ends_the_tool(guestlaunch: Guestlaunch, system_disk: Path, session_dir: Path) -> None:
    """Ending the command ends the tool, as if it had been meant itself."""
    before = look(session_dir)
    command = (guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, "--", "--ro", "-a", system_disk)
    process = guestlaunch.start(*command)
    assert process.stdin is not None
    process.stdin.write("run\necho ready\n")
    process.stdin.flush()
    wait_ready(process)
    sockets = socket_folder(process.pid)
    began = time.monotonic()
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 30
    assert left_behind(session_dir, before, within_s=GONE_WITHIN_S) == []
    assert not sockets.exists()
