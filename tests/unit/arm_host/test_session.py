"""Commands by way of the agent, which runs here as it does in the emulated host, on a socket instead of a port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import DeadlineError
from tools.arm_host.session import Order, Streams, run, wait_until_up

AGENT = Path(__file__).resolve().parents[3] / "tools/arm_host"
# All but what only a machine of its own may do: set the clock, and the kernel's random numbers.
SERVE = """
import sys
sys.path += sys.argv[2:]
import agent
agent.renew = lambda asked: None
agent.Agent(int(sys.argv[1])).serve()
"""


@pytest.fixture
def agent() -> Iterator[socket.socket]:
    """One end of a port; at the other is an agent that is up."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", SERVE, str(theirs.fileno()), str(AGENT), str(AGENT / "guest")]
    with ours, theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        try:
            theirs.close()
            wait_until_up(ours, 60)
            yield ours
        finally:
            process.kill()


def said(
    agent: socket.socket, *argv: str, given: bytes | None = None, deadline_s: float = 60, **environ: str
) -> tuple[int, bytes, bytes]:
    """Run a command; return its status and what it said."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write(given or b"")
        stdin.seek(0)
        streams = Streams(stdin=None if given is None else stdin.fileno(), stdout=out.fileno(), stderr=err.fileno())
        # The agent's home is there for root alone.
        order = Order(argv=argv, environ={"PATH": os.environ["PATH"], **environ}, deadline_s=deadline_s, folder="/")
        status = run(agent, order, streams)
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


def test_streams_stay_apart_and_the_status_is_the_commands(agent: socket.socket) -> None:
    """Several commands follow each other on one port."""
    assert said(agent, "sh", "-c", "echo out; echo $VALUE >&2; exit 7", VALUE="err") == (7, b"out\n", b"err\n")
    assert said(agent, "true") == (0, b"", b"")
    assert said(agent, "sh", "-c", "kill -TERM $$") == (143, b"", b"")


def test_input_is_whole_and_ends(agent: socket.socket) -> None:
    """Far more than any buffer on the way holds; and a command without input sees its end at once."""
    much = os.urandom(3 << 20)
    assert said(agent, "cat", given=much) == (0, much, b"")
    assert said(agent, "cat") == (0, b"", b"")


def test_a_command_that_reads_nothing_ends_all_the_same(agent: socket.socket) -> None:
    """What it leaves of its input does not reach the next one."""
    assert said(agent, "true", given=bytes(3 << 20))[0] == 0
    assert said(agent, "sh", "-c", "exec <&-; sleep 0.2; echo done", given=bytes(3 << 20)) == (0, b"done\n", b"")
    assert said(agent, "cat", given=b"mine") == (0, b"mine", b"")


def test_a_daemon_that_keeps_the_streams_does_not_keep_us(agent: socket.socket) -> None:
    """The command's end is the end, and its last words are all there."""
    status, out, _ = said(agent, "sh", "-c", "sleep 600 & echo $!; head -c 60000 /dev/zero")
    pid, _, rest = out.partition(b"\n")
    os.kill(int(pid), 9)
    assert (status, rest) == (0, bytes(60000))


@pytest.mark.parametrize(("program", "status"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_a_program_that_cannot_be_run_says_why(agent: socket.socket, program: str, status: int) -> None:
    """With the shell's statuses, and the agent goes on."""
    code, _, errors = said(agent, program)
    assert (code, program.encode() in errors) == (status, True)
    assert said(agent, "true")[0] == 0


def test_the_deadline_ends_the_wait(agent: socket.socket) -> None:
    """The error names the command and the time."""
    with pytest.raises(DeadlineError, match="sleep: 0.2 s passed"):
        said(agent, "sleep", "600", deadline_s=0.2)


def test_orphans_are_reaped(agent: socket.socket) -> None:
    """As the first process of its machine, the agent is everybody's last parent."""
    status, out, _ = said(agent, "sh", "-c", "(exit 3) & wait $!; echo $?; for n in 1 2 3; do true & done")
    assert (status, out) == (0, b"3\n")
    assert said(agent, "true")[0] == 0


def test_a_machine_that_ends_is_an_error(agent: socket.socket) -> None:
    """Nobody waits for an answer that cannot come."""
    order = Order(argv=["sleep", "600"], environ={"PATH": os.environ["PATH"]}, folder="/")
    threading.Timer(0.2, agent.shutdown, [socket.SHUT_RDWR]).start()
    with pytest.raises(ConnectionError):
        run(agent, order, Streams(stdin=None, stdout=1, stderr=2))


def test_a_terminal_is_one(agent: socket.socket) -> None:
    """The command sees a terminal on each of its streams, and its size."""
    with tempfile.TemporaryFile() as out:
        order = Order(
            argv=["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && stty size"],
            environ={"PATH": os.environ["PATH"]},
            terminal=True,
            folder="/",
        )
        assert run(agent, order, Streams(stdin=None, stdout=out.fileno(), stderr=2)) == 0
        out.seek(0)
        assert out.read().split()[:1] != [b"0"]
