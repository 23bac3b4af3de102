"""The server: what clients ask, what they are told, and that none can harm another."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.daemon import peer, requests
from orchestrator.daemon.client import LaunchFeed, status
from orchestrator.daemon.peer import Peer
from orchestrator.errors import LaunchError, ProtocolError
from orchestrator.wrapper import protocol
from tests.unit.daemon.support import LAUNCH_ARGV, FakeLauncher, Served, record

# Makes a console as libguestfs does, hands on its far end, and lives until it is killed.
TOOL = """
import socket, sys
end, far = socket.socketpair()
socket.send_fds(socket.socket(fileno=0), [b"x"], [far.fileno()])
end.recv(1)
"""


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_launch_to_its_end(served: Served, launcher: FakeLauncher) -> None:
    """A launch gets its request, descriptors and settings, ends on "terminate", and its status comes back."""
    with served.client() as client:
        client.launch({"GUESTLAUNCH_FW_CFG_DMA": "off"})
        assert launcher.started.acquire(timeout=10)
        client.send({"type": "terminate"})
        assert client.receive() == {"type": "exit", "status": 0, "message": ""}
    [call] = launcher.calls
    assert call["request"].kernel == "/a/kernel"
    assert call["settings"].fw_cfg_dma is False
    assert call["client_pid"] == os.getpid()
    assert len(call["console"]) == 2
    assert launcher.stopped == ["terminate"]


def test_a_launch_speaks_while_it_runs(served: Served, launcher: FakeLauncher) -> None:
    """What a launch has to say to whoever waits for it reaches the client before its outcome."""
    with served.client() as client:
        client.launch()
        assert launcher.started.acquire(timeout=10)
        launcher.calls[0]["tell"]("waiting for libvirt")
        assert client.receive() == {"type": "notice", "message": "waiting for libvirt"}
        client.send({"type": "terminate"})
        assert client.receive()["status"] == 0


def test_client_that_dies_ends_its_launch(served: Served, launcher: FakeLauncher) -> None:
    """End of file from the client stops its launch."""
    with served.client() as client:
        client.launch()
        assert launcher.started.acquire(timeout=10)
    deadline = time.monotonic() + 10
    while not launcher.stopped and time.monotonic() < deadline:
        time.sleep(0.01)
    assert launcher.stopped == ["client gone"]


def test_tool_that_dies_without_its_wrapper_ends_the_launch(
    served: Served, launcher: FakeLauncher, tmp_path: Path
) -> None:
    """Killed together with libguestfs's recovery process, a tool leaves its wrapper; a child of its may go on."""
    path = tmp_path / "guestfsd.sock"
    port = "virtserialport,chardev=channel0,name=org.libguestfs.channel.0"
    channel = ["-chardev", f"socket,path={path},id=channel0", "-device", "virtio-serial-pci", "-device", port]
    with served.client() as client, socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        outer, inner = socket.socketpair()
        with subprocess.Popen([sys.executable, "-c", TOOL], stdin=inner.fileno()) as tool, outer, inner:
            _, consoles, _, _ = socket.recv_fds(outer, 1, 1)
            client.launch(argv=[*channel, *LAUNCH_ARGV], console=consoles[0])
            os.close(consoles[0])
            assert launcher.started.acquire(timeout=10)
            tool.kill()
        time.sleep(0.1)
        assert launcher.stopped == []
        successor.close()
        assert client.receive()["status"] == 0
    assert launcher.stopped == ["tool gone"]


def test_descriptors_are_closed(served: Served, launcher: FakeLauncher) -> None:
    """Ten launches leave not one descriptor behind."""
    launcher.at_once = True
    status(served.path)  # the server is up
    time.sleep(0.1)
    before = open_descriptors()
    for _ in range(10):
        with served.client() as client:
            client.launch()
            client.receive()
    deadline = time.monotonic() + 10
    while open_descriptors() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert open_descriptors() <= before


def test_several_at_once(served: Served, launcher: FakeLauncher) -> None:
    """Launches of different clients run side by side and end one by one."""
    with served.client() as one, served.client() as two:
        one.launch()
        two.launch()
        for _ in range(2):
            assert launcher.started.acquire(timeout=10)
        assert launcher.active == 2
        two.send({"type": "terminate"})
        assert two.receive()["status"] == 0
        assert launcher.active == 1
        one.send({"type": "terminate"})
        assert one.receive()["status"] == 0


def test_failure_is_one_line(served: Served, launcher: FakeLauncher) -> None:
    """A launch that fails answers with status 1 and the error's own line."""
    launcher.result, launcher.at_once = LaunchError("cannot launch", "x", "why\nnot"), True
    with served.client() as client:
        client.launch()
        assert client.receive() == {"type": "exit", "status": 1, "message": "cannot launch: x: why\\nnot"}


def test_defect_costs_one_launch(served: Served, launcher: FakeLauncher) -> None:
    """An unexpected exception is answered, logged with its traceback, and the server lives on."""
    launcher.result, launcher.at_once = ZeroDivisionError("oops"), True
    with served.client() as client:
        client.launch()
        answer = client.receive()
    assert answer["status"] == 1
    assert "bug" in answer["message"]
    entries = [json.loads(line) for line in served.log.read_text().splitlines()]
    assert any(entry["event"] == "internal_error" and "ZeroDivisionError" in entry["traceback"] for entry in entries)
    assert status(served.path)["version"] == __version__


@pytest.mark.parametrize(
    ("exit_status", "expected"),
    [
        (3, {"type": "exit", "status": 3, "message": ""}),
        (-signal.SIGKILL, {"type": "exit", "signal": 9, "message": ""}),
        (None, {"type": "exit", "status": 0, "message": ""}),
    ],
)
def test_qemu_status_is_passed_on(
    served: Served, launcher: FakeLauncher, exit_status: int | None, expected: dict[str, object]
) -> None:
    """QEMU's status or signal becomes the client's."""
    launcher.result, launcher.at_once = record(exit_status=exit_status), True
    with served.client() as client:
        client.launch()
        assert client.receive() == expected


@pytest.mark.parametrize(
    ("env", "argv", "part"),
    [
        ({"GUESTLAUNCH_PROFIL": "x"}, None, "GUESTLAUNCH_PROFIL"),
        ({"GUESTLAUNCH_VCPUS": "0"}, None, "GUESTLAUNCH_VCPUS"),
        ({}, ["-kernel", "/k", "-frobnicate"], "-frobnicate"),
    ],
)
def test_bad_launch_is_refused(
    served: Served, launcher: FakeLauncher, env: dict[str, str], argv: list[str] | None, part: str
) -> None:
    """What cannot be understood is refused before anything is launched."""
    with served.client() as client:
        client.launch(env, argv)
        answer = client.receive()
    assert answer["status"] == 1
    assert part in answer["message"]
    assert launcher.calls == []


@pytest.mark.parametrize(
    "message",
    [
        {"type": "launch", "protocol": 99, "argv": [], "cwd": "/", "env": {}},
        {"type": "launch", "protocol": protocol.VERSION, "argv": "x", "cwd": "/", "env": {}},
        {"type": "launch", "protocol": protocol.VERSION, "argv": [], "cwd": "/", "env": {}},
        {"type": "dance"},
        {"type": "watch"},
    ],
)
def test_malformed_messages(served: Served, message: dict[str, object]) -> None:
    """A message that makes no sense is answered with an error, not with silence."""
    with served.client() as client:
        client.send(message)
        answer = client.receive()
    assert answer["type"] == "exit"
    assert answer["status"] == 1
    assert "refused" in answer["message"]


def test_garbage_on_the_wire(served: Served) -> None:
    """Bytes that are no frame end that connection only."""
    with served.client() as client:
        client.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.receive()["status"] == 1
    assert status(served.path)["launches"] == []


def test_status_shows_launches(served: Served, launcher: FakeLauncher) -> None:
    """Status names the server, the launches under way, and counts those that are over."""
    with served.client() as client:
        client.launch()
        assert launcher.started.acquire(timeout=10)
        shown = status(served.path)
        assert shown["pid"] == os.getpid()
        assert [one["phase"] for one in shown["launches"]] == ["kernel"]
        client.send({"type": "terminate"})
        client.receive()
    assert status(served.path)["outcomes"] == {"success": 1}


def test_watch_hears_of_its_own_launches_first(served: Served, launcher: FakeLauncher) -> None:
    """When the client knows its launch is over, the watcher's report is there; other clients' are not."""
    launcher.at_once = True
    with LaunchFeed(served.path) as watch, LaunchFeed(served.path) as other:
        time.sleep(0.05)
        with served.client() as client:
            client.launch({"GUESTLAUNCH_CLIENT": watch.token})
            client.receive()
        [finished] = watch.finished()
        assert finished.record is not None
        assert finished.record["launch_id"] == "l1"
        assert finished.message == ""
        assert list(other.finished()) == []


def test_watch_hears_of_failures(served: Served, launcher: FakeLauncher) -> None:
    """A failed launch's line reaches the client and the watcher, which has its record, too."""
    launcher.result, launcher.at_once = record(outcome="failure", error="cannot launch: x", exit_status=-9), True
    with LaunchFeed(served.path) as watch:
        time.sleep(0.05)
        with served.client() as client:
            client.launch({"GUESTLAUNCH_CLIENT": watch.token})
            said = client.receive()
        [finished] = watch.finished()
    assert (said["status"], said["message"], finished.message) == (1, "cannot launch: x", "cannot launch: x")
    assert finished.record is not None
    assert finished.record["outcome"] == "failure"


def test_outlet_takes_each_launch_that_has_a_record(served: Served, launcher: FakeLauncher) -> None:
    """Metrics and traces hear of successes and failures alike; a refused launch has nothing to tell."""
    launcher.at_once = True
    for result in (record(), record(outcome="failure"), LaunchError("cannot launch", "y")):
        launcher.result = result
        with served.client() as client:
            client.launch()
            client.receive()
            with pytest.raises(EOFError):  # the server has hung up: it is done with this launch
                client.receive()
    assert [event["outcome"] for event in served.told] == ["success", "failure"]


def test_close_ends_launches(served: Served, launcher: FakeLauncher) -> None:
    """Closing stops what runs, refuses what comes, and tells the clients."""
    with served.client() as client, LaunchFeed(served.path):
        client.launch()
        assert launcher.started.acquire(timeout=10)
        assert served.server.close("stopping", 10)
        assert client.receive()["status"] == 0
        assert launcher.stopped == ["stopping"]
    with served.client() as late:
        late.launch()
        assert "stopping" in late.receive()["message"]


def test_close_meets_a_client_that_comes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits for the thread of a client that was just taken in, and does not fall over one not yet started."""
    real = threading.Thread.start
    closing: list[Future[bool]] = []

    def start(thread: threading.Thread) -> None:
        if thread.name == "client":
            closing.append(pool.submit(served.server.close, "stopping", 10))
            wait(closing, timeout=0.2)  # it comes in between, or waits for us
        real(thread)

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(threading.Thread, "start", start)
        ours, theirs = socket.socketpair()
        with ours:
            served.server.adopt(theirs)
        assert closing[0].result(10)


def test_close_is_bounded(served: Served, launcher: FakeLauncher) -> None:
    """A launch that does not end holds closing up only for so long."""
    launcher.deaf = True
    with served.client() as client:
        client.launch()
        assert launcher.started.acquire(timeout=10)
        began = time.monotonic()
        assert not served.server.close("stopping", 0.2)
        assert time.monotonic() - began < 5


def test_peer_credentials_are_the_kernels() -> None:
    """The other end of a socket pair of ours is ourselves."""
    one, two = socket.socketpair()
    with one, two:
        assert peer.credentials(one) == Peer(pid=os.getpid(), uid=os.geteuid())


def test_only_own_user_and_root_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user is refused, by a root daemon most of all."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    peer.require_own(Peer(pid=1, uid=0))
    with pytest.raises(ProtocolError, match="serves nobody else"):
        peer.require_own(Peer(pid=1, uid=1000))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    peer.require_own(Peer(pid=1, uid=1000))
    peer.require_own(Peer(pid=1, uid=0))
    with pytest.raises(ProtocolError, match="uid 1001"):
        peer.require_own(Peer(pid=1, uid=1001))


def test_foreign_peer_is_told(served: Served, launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer of another user gets a line, and nothing is launched."""
    monkeypatch.setattr(requests, "credentials", lambda _: Peer(pid=1, uid=12345))
    with served.client() as client:
        assert "uid 12345" in client.receive()["message"]
    assert launcher.calls == []


def test_status_of_nothing(tmp_path: Path) -> None:
    """Asking where nobody listens is an error that names the path."""
    with pytest.raises(ProtocolError, match="nobody"):
        status(tmp_path / "nobody")
