"""A daemon that is stopped for a while: who waits for it hears so, and all goes well once it goes on."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

# By way of our binding, which keeps libvirt from writing to stderr.
pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")

from tests.daemons import daemon
from tests.disks import DiskFactory
from tests.hosts import ACCEL
from tests.running import DEADLINE_S, Guestlaunch

pytestmark = pytest.mark.usefixtures("without_firmware")

HEARD_S = 20.0  # it is 4 s, and the start of the programs on a busy machine


def heard_of(paused: subprocess.Popen[str] | subprocess.Popen[bytes], tool: subprocess.Popen[str]) -> str:
    """Return what a tool says while another process is paused; afterwards that goes on, and the tool ends well."""
    began = time.monotonic()
    assert tool.stderr is not None
    try:
        line = tool.stderr.readline()
        heard_s = time.monotonic() - began
    finally:
        paused.send_signal(signal.SIGCONT)
    out, err = tool.communicate(timeout=DEADLINE_S)
    assert (tool.returncode, out) == (0, "/dev/sda: ext4\n"), line + err
    assert heard_s < HEARD_S
    return line


def test_libvirtd(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, system_daemon: tuple[str, subprocess.Popen[bytes]]
) -> None:
    """A tool whose launch cannot come through to libvirt is told what it waits for, and by which connection."""
    uri, libvirtd = system_daemon
    command = ("guestfish", *ACCEL, "--connect", uri, "--", "--ro", "-a", disk_image("d.img"))
    libvirtd.send_signal(signal.SIGSTOP)
    tool = guestlaunch.start(guestlaunch.bin_dir / "guestlaunch", *command, "run", ":", "list-filesystems")
    line = heard_of(libvirtd, tool)
    assert line.startswith(f"guestlaunch: waiting for libvirt: {uri}: no answer for 4 s"), line


def test_libvirtd_for_longer_than_allowed(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, system_daemon: tuple[str, subprocess.Popen[bytes]]
) -> None:
    """A connection that does not come about in time is a failed launch, and one line."""
    uri, libvirtd = system_daemon
    command = ("guestfish", *ACCEL, "--connect", uri, "--", "--ro", "-a", disk_image("d.img"), "run")
    libvirtd.send_signal(signal.SIGSTOP)
    try:
        refused = guestlaunch(*command, environ={"GUESTLAUNCH_DEADLINE_CONNECT": "1"})
    finally:
        libvirtd.send_signal(signal.SIGCONT)
    assert f"cannot connect to: {uri}: libvirt gave no answer within 1 s" in refused.error_line


def test_guestlaunchd(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """A tool whose launch the daemon does not even hear is told that, too."""
    exports = guestlaunch.exports(*ACCEL)
    command = ("guestfish", "--ro", "-a", disk_image("d.img"), "run", ":", "list-filesystems")
    with daemon(guestlaunch) as server:
        server.send_signal(signal.SIGSTOP)
        line = heard_of(server, guestlaunch.start(*command, environ=exports))
        assert line.startswith(f"guestlaunch: waiting for guestlaunchd: pid {server.pid}: no answer for 4 s"), line
