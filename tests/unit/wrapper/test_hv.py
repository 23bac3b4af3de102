"""guestlaunch-hv as a process: what it sends, how it ends, what it says, and what it imports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from orchestrator.wrapper import protocol
from tests.unit.wrapper.fake_orchestrator import Client, serving
from tests.unit.wrapper.launches import launch
from tests.unit.wrapper.programs import COMMAND, TOP, environment

Ending = tuple[int, bytes, bytes]


def start(
    socket_path: Path | str,
    arguments: list[bytes] | None = None,
    stderr: int | IO[bytes] = subprocess.PIPE,
    **more: str,
) -> subprocess.Popen[bytes]:
    """Start a launch of guestlaunch-hv; our own stderr is not its business unless a test asks."""
    words = [word.encode() for word in launch()] if arguments is None else arguments
    variables = {"GUESTLAUNCH_SOCKET": str(socket_path), "GUESTLAUNCH_QUIET": "1", **more}
    return subprocess.Popen(
        [*COMMAND, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment(**variables)
    )


def run(socket_path: Path | str, behave: Callable[[Client], None], **more: str) -> Ending:
    """Run a launch against behave to its end; return status, stdout, stderr."""
    with serving(Path(socket_path), behave):
        process = start(socket_path, None, subprocess.PIPE, **more)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_status_is_the_servers(tmp_path: Path, status: int) -> None:
    """The exit status is the one that the orchestrator tells, and silence stays silence."""
    assert run(tmp_path / "s", lambda client: client.end(status)) == (status, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_signal_is_the_servers(tmp_path: Path, number: signal.Signals) -> None:
    """If a signal ended QEMU, it ends the wrapper."""
    assert run(tmp_path / "s", lambda client: client.end(signal=number))[0] == -number


def test_message_is_one_line(tmp_path: Path) -> None:
    """The orchestrator's reason is one line on stderr, whatever is in it."""
    status, out, err = run(tmp_path / "s", lambda client: client.end(1, "cannot boot: é\nx\udcff"))
    assert (status, out) == (1, b"")
    assert err == "guestlaunch: cannot boot: é x".encode() + b"\\udcff\n"


def test_what_is_sent(tmp_path: Path) -> None:
    """Arguments of any bytes, the directory, the chosen variables and nothing of the others are sent."""
    words = [b"-kernel", b"/a\xff\xfe b,,\n", b"", "ä".encode()]
    before_ns = time.monotonic_ns()
    with serving(tmp_path / "s", lambda client: client.end(0)) as server:
        start(tmp_path / "s", words, LC_ALL="C", HOME="/h", GUESTLAUNCH_PROFILE="p", AWS_SECRET="no").communicate(
            timeout=60
        )
    (client,) = server.clients
    assert (client.launch["type"], client.launch["protocol"]) == ("launch", protocol.VERSION)
    assert [word.encode("utf-8", "surrogateescape") for word in client.launch["argv"]] == words
    assert client.launch["cwd"] == str(Path.cwd())
    assert before_ns < client.launch["started_ns"] < client.received_ns
    assert client.launch["env"]["GUESTLAUNCH_PROFILE"] == "p"
    assert client.launch["env"]["HOME"] == "/h"
    assert "AWS_SECRET" not in client.launch["env"]


def test_descriptors_are_passed(tmp_path: Path) -> None:
    """The orchestrator reads and writes the wrapper's own stdin, stdout and stderr."""

    def behave(client: Client) -> None:
        assert len(client.fds) == 3
        assert os.read(client.fds[0], 5) == b"hello"
        os.write(client.fds[1], b"out")
        os.write(client.fds[2], b"err")
        client.end(0)

    with serving(tmp_path / "s", behave):
        process = start(tmp_path / "s")
        assert process.communicate(b"hello", timeout=60) == (b"out", b"err")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_becomes_terminate(tmp_path: Path, number: signal.Signals) -> None:
    """Told to end, the wrapper tells the orchestrator once, waits for it, and ends as it says."""
    processes: list[subprocess.Popen[bytes]] = []

    def behave(client: Client) -> None:
        for _ in range(3):
            processes[0].send_signal(number)
            time.sleep(0.05)
        assert client.next() == {"type": "terminate"}
        client.end(0)
        with pytest.raises(EOFError):
            client.next()

    with serving(tmp_path / "t", behave):
        processes.append(start(tmp_path / "t"))
        _, err = processes[0].communicate(timeout=60)
    assert (processes[0].returncode, err) == (0, b"")


def test_server_that_dies(tmp_path: Path) -> None:
    """An orchestrator that dies without a word is status 1 and one line."""
    status, out, err = run(tmp_path / "s", lambda client: None)
    assert (status, out) == (1, b"")
    assert err.count(b"\n") == 1
    assert b"the orchestrator ended before the guest did" in err


def test_server_that_dies_in_a_message(tmp_path: Path) -> None:
    """A message cut off is status 1 and one line."""
    status, _, err = run(tmp_path / "s", lambda client: client.sock.sendall(b"\0\0\0\x20{"))
    assert status == 1
    assert err.startswith(b"guestlaunch: cannot exchange messages")
    assert err.count(b"\n") == 1


def test_nobody_at_the_socket(tmp_path: Path) -> None:
    """A given socket that is not there is status 1 and one line that names it."""
    process = start(tmp_path / "nobody")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count(b"\n") == 1
    assert str(tmp_path / "nobody").encode() in err


def test_informal_messages_are_ignored(tmp_path: Path) -> None:
    """The orchestrator may tell more than the wrapper needs."""

    def behave(client: Client) -> None:
        protocol.send(client.sock, {"type": "pids", "qemu": 1})
        client.end(4)

    assert run(tmp_path / "s", behave)[0] == 4


@pytest.mark.parametrize("status", [-1, 256, "0", None])
def test_status_that_is_none(tmp_path: Path, status: object) -> None:
    """A status that no process can have counts as failure."""

    def behave(client: Client) -> None:
        protocol.send(client.sock, {"type": "exit", "status": status, "message": ""})

    assert run(tmp_path / "s", behave)[0] == 1


def parent(tmp_path: Path, stderr_of_child: str, quiet: str) -> tuple[bytes, bytes]:
    """Run the wrapper below a tool whose stderr is a file; return what is in the tool's and in the child's stderr."""
    tool, child = tmp_path / "tool", tmp_path / "child"
    code = (
        "import subprocess, sys\n"
        f"err = sys.stderr if {stderr_of_child!r} == 'same' else open({str(child)!r}, 'wb')\n"
        "sys.stderr.write('before\\n'); sys.stderr.flush()\n"
        f"p = subprocess.run({[*COMMAND, *launch()]!r}, stderr=err, stdin=subprocess.DEVNULL)\n"
        "sys.exit(p.returncode)\n"
    )
    with serving(tmp_path / "s", lambda client: client.end(1, "reason")), tool.open("wb") as stream:
        variables = environment(GUESTLAUNCH_SOCKET=str(tmp_path / "s"), GUESTLAUNCH_QUIET=quiet)
        assert (
            subprocess.run(
                [sys.executable, "-c", code], stderr=stream, env=variables, timeout=60, check=False
            ).returncode
            == 1
        )
    return tool.read_bytes(), child.read_bytes() if child.exists() else b""


def test_reason_reaches_the_tools_stderr(tmp_path: Path) -> None:
    """As libguestfs hides our stderr, the reason is also appended to the tool's own."""
    assert parent(tmp_path, "other", "") == (b"before\nguestlaunch: reason\n", b"guestlaunch: reason\n")


def test_reason_is_not_said_twice(tmp_path: Path) -> None:
    """Where both are one file, the reason is there once."""
    assert parent(tmp_path, "same", "") == (b"before\nguestlaunch: reason\n", b"")


def test_quiet_below_guestlaunch(tmp_path: Path) -> None:
    """Below a guestlaunch command, which shows errors itself, the tool's stderr is left alone."""
    assert parent(tmp_path, "other", "1") == (b"before\n", b"guestlaunch: reason\n")


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    """Who is refused for want of room waits for a turn, silently when it comes soon."""
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        listener.settimeout(60)
        process = start(tmp_path / "s")
        for number in range(3):
            client, _ = listener.accept()
            with client:
                message, fds = protocol.receive(client, time.monotonic() + 60)
                assert message["type"] == "launch"
                for fd in fds:
                    os.close(fd)
                busy = {"busy": True} if number < 2 else {}
                protocol.send(client, protocol.exit_message(3 if number == 2 else 1, "busy" if busy else "") | busy)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, b"")


def test_a_server_that_stays_busy_is_done_without(tmp_path: Path) -> None:
    """After its turn did not come, the wrapper starts an orchestrator of its own, which says what it finds."""

    def behave(client: Client) -> None:
        protocol.send(client.sock, protocol.exit_message(1, "it is busy") | {"busy": True})

    code = "from orchestrator.wrapper import hv; hv._TURN_SECONDS = 0.0; hv.main()"
    script = tmp_path / "guestlaunch-hv"
    script.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {TOP!r})\n{code}\n")
    script.chmod(0o755)
    (tmp_path / "guestlaunchd").symlink_to(Path(sys.executable).with_name("guestlaunchd"))
    variables = environment(
        GUESTLAUNCH_SOCKET=str(tmp_path / "s"), GUESTLAUNCH_START="hot", GUESTLAUNCH_STATE_DIR=str(tmp_path)
    )
    with serving(tmp_path / "s", behave):
        command = [str(script), *launch()]
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    busy, refused = ended.stderr.splitlines()
    assert "it is busy: guestlaunch-hv starts its own" in busy
    assert "'hot'" in refused


def test_a_bad_setting_is_the_tools_own_line(tmp_path: Path) -> None:
    """Without a daemon, what the orchestrator that is started refuses is what the user reads."""
    program = Path(sys.executable).with_name("guestlaunch-hv")
    variables = environment(
        GUESTLAUNCH_START="hot", GUESTLAUNCH_STATE_DIR=str(tmp_path), GUESTLAUNCH_RUNTIME_DIR=str(tmp_path)
    )
    ended = subprocess.run([program, "-kernel", "/k"], env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert "'hot'" in line
    assert "cold" in line


def test_terminated_before_connected(tmp_path: Path) -> None:
    """SIGTERM before there is a connection ends the wrapper with 0, as it would QEMU, and starts nothing."""
    code = (
        "import os, signal\n"
        "from orchestrator.wrapper import connect, hv\n"
        "real = connect.orchestrator\n"
        "def slow(env):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return real(env)\n"
        "connect.orchestrator = slow\n"
        "hv.main()\n"
    )
    heard: list[str] = []

    def behave(client: Client) -> None:
        heard.append("launch")

    with pytest.raises(EOFError), serving(tmp_path / "s", behave):
        done = subprocess.run(
            [sys.executable, "-c", code, *launch()], capture_output=True, timeout=60, check=False,
            env=environment(GUESTLAUNCH_SOCKET=str(tmp_path / "s"), GUESTLAUNCH_QUIET="1"),
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert heard == []


def test_no_end_within_the_bound(tmp_path: Path) -> None:
    """An orchestrator that ignores terminate does not hold the wrapper for ever."""
    code = "from orchestrator.wrapper import hv; hv._TERMINATE_SECONDS = 0.3; hv.main()"
    processes: list[subprocess.Popen[bytes]] = []

    def behave(client: Client) -> None:
        processes[0].terminate()
        assert client.next() == {"type": "terminate"}
        with pytest.raises(EOFError):
            client.next()

    with serving(tmp_path / "s", behave):
        processes.append(subprocess.Popen(
            [sys.executable, "-c", code, *launch()], stderr=subprocess.PIPE,
            env=environment(GUESTLAUNCH_SOCKET=str(tmp_path / "s"), GUESTLAUNCH_QUIET="1"),
        ))  # fmt: skip
        _, err = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 1
    assert b"did not end" in err


def test_imports_are_light(tmp_path: Path) -> None:
    """The launch path imports none of the modules that would cost it tens of milliseconds."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import orchestrator.wrapper.hv, orchestrator.wrapper.connect\n"
        "print(*sorted(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", code, TOP], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    heavy = {"argparse", "asyncio", "dataclasses", "difflib", "inspect", "libvirt", "logging", "orchestrator.errors",
             "pathlib", "shutil", "structlog", "subprocess", "tempfile", "typing", "urllib"}  # fmt: skip
    assert "orchestrator.wrapper.protocol" in loaded
    assert not loaded & heavy
