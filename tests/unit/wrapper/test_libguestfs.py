"""The real libguestfs of this host drives guestlaunch-hv against a server that plays the appliance's part."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.domain.model import FileSource
from orchestrator.launch.request import LaunchRequest
from orchestrator.wrapper import argv, protocol
from tests.unit.wrapper.fake_orchestrator import Client, serving
from tests.unit.wrapper.programs import environment, script

pytest.importorskip("guestfs", reason="the distribution's python3-guestfs is not installed")

LAUNCH_FLAG = b"\xf5\xf5\x5f\xf5"

# A tool: launches, tells how that went, shuts down, tells how that went. No autosync: nobody answers RPC here.
TOOL = """
import guestfs, sys
g = guestfs.GuestFS(python_return_dict=True)
g.set_autosync(False)
g.add_drive_opts(sys.argv[1], readonly=len(sys.argv) > 2)
try:
    g.launch()
    print("launched", g.get_pid() > 0, flush=True)
    g.shutdown()
    print("down", flush=True)
except RuntimeError as error:
    print("failed", error, flush=True)
"""


@pytest.fixture
def tool(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts the tool below guestlaunch-hv, with a fixed appliance of nothing."""
    appliance = tmp_path / "appliance"
    appliance.mkdir()
    for name in ("kernel", "initrd", "README.fixed"):
        (appliance / name).touch()
    # libguestfs reads the UUID from an ext file system's superblock.
    root = bytearray(8192)
    root[0x438:0x43A], root[0x468:0x478] = b"\x53\xef", bytes(range(16))
    (appliance / "root").write_bytes(root)
    disk = tmp_path / "a, b:c.img"
    disk.write_bytes(bytes(1 << 20))
    hv = script(tmp_path)

    def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
        variables = environment(
            LIBGUESTFS_BACKEND="direct", LIBGUESTFS_HV=str(hv), LIBGUESTFS_PATH=str(appliance), TERM="xterm",
            LIBGUESTFS_CACHEDIR=str(tmp_path), GUESTLAUNCH_SOCKET=str(tmp_path / "s"), **more,
        )  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-c", TOOL, str(disk), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=variables, cwd=tmp_path,
        )  # fmt: skip

    return start


def request(client: Client) -> LaunchRequest:
    """Return what the launch asks for."""
    return argv.parse(client.launch["argv"], client.launch["cwd"])


def boot(client: Client) -> socket.socket:
    """Play the guest until libguestfs takes the launch for ready; return guestfsd's connection."""
    path = request(client).guestfsd_path
    assert path is not None
    guestfsd = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    guestfsd.connect(path)
    os.write(client.fds[1], b"a line on the console\n")
    guestfsd.sendall(LAUNCH_FLAG)
    return guestfsd


def test_launch_and_shutdown(tool: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """A launch succeeds, and the SIGTERM at shutdown is a terminate that ends with status 0."""

    def behave(client: Client) -> None:
        with boot(client):
            assert client.next() == {"type": "terminate"}
            client.end(0)

    with serving(tmp_path / "s", behave) as server:
        process = tool()
        out, err = process.communicate(timeout=120)
    assert (out, err) == ("launched True\ndown\n", "")
    (disk,) = request(server.clients[0]).disks
    assert disk.source == FileSource(path=str(tmp_path / "a, b:c.img"))


def test_probes_make_the_overlay_unlocked(tool: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """From the answers to its probes libguestfs learns to open overlays without locking; it never asks for -no-hpet."""

    def behave(client: Client) -> None:
        with boot(client):
            client.next()
            client.end(0)

    with serving(tmp_path / "s", behave) as server:
        out, _ = tool("readonly").communicate(timeout=120)
    assert out == "launched True\ndown\n"
    words = server.clients[0].launch["argv"]
    (disk,) = request(server.clients[0]).disks
    assert (disk.shared_read, disk.format) == (True, "qcow2")
    assert {"-no-user-config", "-nodefaults"} <= set(words)
    assert "-no-hpet" not in words
    assert any(word.startswith("virtio-rng-pci") for word in words)


def test_status_of_shutdown_passes(tool: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """A QEMU that ended badly is a failed shutdown in the tool, not a clean one."""

    def behave(client: Client) -> None:
        with boot(client):
            client.next()
            client.end(3)

    with serving(tmp_path / "s", behave):
        out, _ = tool().communicate(timeout=120)
    assert out.startswith("launched True\nfailed ")
    assert "exited with error" in out


def test_server_that_dies_fails_the_launch(tool: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """An orchestrator that dies while launching fails the launch at once, with one line on the tool's stderr."""
    with serving(tmp_path / "s", lambda client: None):
        out, err = tool().communicate(timeout=120)
    assert out.startswith("failed ")
    assert err == "guestlaunch: the orchestrator ended before the guest did (its log has the reason)\n"


def test_refused_launch_says_why(tool: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """The orchestrator's reason reaches the user although libguestfs hides its hypervisor's stderr."""
    with serving(tmp_path / "s", lambda client: client.end(1, "cannot use disk: x: locked")):
        out, err = tool().communicate(timeout=120)
    assert out.startswith("failed ")
    assert err == "guestlaunch: cannot use disk: x: locked\n"


def test_killed_tool_is_seen(tool: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """SIGKILL of the tool and of the wrapper is an end of file for the orchestrator."""
    processes: list[subprocess.Popen[str]] = []

    def behave(client: Client) -> None:
        with boot(client):
            pid = int.from_bytes(client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
            processes[0].kill()
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(EOFError):
                protocol.receive(client.sock, time.monotonic() + 20)

    with serving(tmp_path / "s", behave):
        processes.append(tool())
        processes[0].communicate(timeout=120)
    assert processes[0].returncode == -signal.SIGKILL
