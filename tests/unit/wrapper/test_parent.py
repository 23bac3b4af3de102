"""Why a launch failed is read where its user reads: on the tool's stderr, whatever kind of file that is.

A stand-in for the tool starts the wrapper as libguestfs does (its stderr is kept by the tool) with a server that is not
there, and writes lines of its own before and after.
"""

from __future__ import annotations

import os
import pty
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.wrapper.launches import launch
from tests.unit.wrapper.programs import COMMAND, environment

REASON = "guestlaunch: cannot connect to the orchestrator: /nobody/there: "
# Lines are written at once, as libguestfs does.
TOOL = """
import os, subprocess, sys
def say(text):
    try:
        os.write(2, text.encode())
    except OSError:
        pass
{before}
say("tool: before\\n")
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
say("tool: after, a line that is longer than the reason is, for it would be written over it: " + "x" * 200 + "\\n")
sys.exit(0 if done.returncode == 1 and done.stderr.count(b"guestlaunch: cannot connect") == 1 else 9)
"""


def start(stderr: int | None, *, before: str = "", prefix: tuple[str, ...] = (), **more: str) -> int:
    """Run the stand-in with a stderr; return its status: 0 when the wrapper failed as it should, in time."""
    command = [*prefix, sys.executable, "-c", TOOL.format(before=before), *COMMAND, *launch()]
    variables = environment(GUESTLAUNCH_SOCKET="/nobody/there") | more
    return subprocess.run(command, stderr=stderr, env=variables, timeout=60, check=False).returncode


def said(text: str) -> list[str]:
    """Return the lines' beginnings; fail unless all three are whole and in order."""
    lines = text.replace("\r\n", "\n").splitlines()
    assert [line.split(":")[0] for line in lines] == ["tool", "guestlaunch", "tool"], text
    assert lines[1].startswith(REASON)
    assert lines[2].endswith("x" * 200)
    return lines


@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_file(tmp_path: Path, mode: str) -> None:
    """`2>FILE`, where the tool's next line once took the reason's place, and `2>>FILE`."""
    with (tmp_path / "err").open(mode) as file:
        assert start(file.fileno()) == 0
    said((tmp_path / "err").read_text())


def test_a_file_that_another_user_opened(tmp_path: Path) -> None:
    """The tool runs as somebody who could not open the file himself."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, with setpriv")
    if subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", "import orchestrator"], check=False,
        env=environment(), capture_output=True,
    ).returncode:  # fmt: skip
        pytest.skip("the other user cannot read this checkout")
    with (tmp_path / "err").open("w") as file:
        (tmp_path / "err").chmod(0o600)
        assert start(file.fileno(), prefix=("setpriv", "--reuid=65534", "--clear-groups")) == 0
    said((tmp_path / "err").read_text())


def test_a_pipe() -> None:
    """A pipe that is read."""
    read_end, write_end = os.pipe()
    assert start(write_end) == 0
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        said(pipe.read())


def test_a_socket() -> None:
    """A socket, as under services and some terminals' servers; it cannot be opened by name."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert start(theirs.fileno()) == 0
        ours.settimeout(20)
        said(ours.recv(10_000).decode())


def test_a_terminal() -> None:
    """A terminal."""
    ours, theirs = pty.openpty()
    assert start(theirs) == 0
    text = b""
    while text.count(b"\n") < 3:
        text += os.read(ours, 10_000)
    said(text.decode())
    os.close(theirs)
    os.close(ours)


def test_closed() -> None:
    """A stderr that is closed is no reason to fail otherwise, or to wait."""
    assert start(None, before="os.close(2)") == 0


def test_a_full_pipe_keeps_nobody_waiting() -> None:
    """Nobody reads: the line is lost, the tool's flags stay, the launch ends."""
    read_end, write_end = os.pipe()
    before = "flags = os.get_blocking(2); os.set_blocking(2, False)\ntry:\n    while os.write(2, b'x' * 4096): pass\n"
    before += "except BlockingIOError: os.set_blocking(2, True)\nsay = lambda text: None\n"
    assert start(write_end, before=before) == 0
    assert os.get_blocking(write_end)
    os.close(write_end)
    os.close(read_end)


def test_where_nothing_can_be_duplicated(tmp_path: Path) -> None:
    """Where the kernel forbids it (ptrace_scope), a file is opened by name and added to: with `>>` nothing is lost."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "ctypes.py").write_text("raise ImportError('no ctypes for this test')\n")
    with (tmp_path / "err").open("a") as file:
        assert start(file.fileno(), PYTHONPATH=f"{site}:{environment()['PYTHONPATH']}") == 0
    said((tmp_path / "err").read_text())
