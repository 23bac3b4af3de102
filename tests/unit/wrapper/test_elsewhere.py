"""A server that sees other files than the wrapper does not launch for it: the wrapper starts one of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.wrapper import connect, protocol
from tests.unit.wrapper.fake_orchestrator import Client, serving
from tests.unit.wrapper.launches import launch
from tests.unit.wrapper.programs import TOP, environment

# In guestlaunchd's place: answers one launch with what it was sent.
_OWN = f"""#!{sys.executable}
import os, socket, sys
sys.path.insert(0, {str(TOP)!r})
from orchestrator.wrapper import protocol
sock = socket.socket(fileno=int(sys.argv[2]))
message, fds = protocol.receive(sock)
where = {{"elsewhere": True}} if os.path.exists("elsewhere") else {{}}
protocol.send(sock, protocol.exit_message(7, "own: " + message["argv"][1]) | where)
"""
_RUN = "import sys; from orchestrator.wrapper import hv; sys.exit(hv.main())"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A guestlaunch-hv with a guestlaunchd of the test's beside it."""
    hv_path, own = tmp_path / "bin" / "guestlaunch-hv", tmp_path / "bin" / "guestlaunchd"
    hv_path.parent.mkdir()
    hv_path.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(TOP)!r})\n{_RUN}\n", encoding="utf-8")
    own.write_text(_OWN, encoding="utf-8")
    for path in (hv_path, own):
        path.chmod(0o755)
    return hv_path


def behave(client: Client) -> None:
    """Ask for files, and refuse."""
    name = str(Path(__file__))
    protocol.send(client.sock, {"type": "files", "names": [name, "/no/such/file", "/bad\0name", "/n\udcffx"]})
    status = Path(name).stat()
    assert client.next() == {"type": "files", "identities": [[status.st_dev, status.st_ino], None, None, None]}
    protocol.send(client.sock, protocol.exit_message(1, "launch refused: x") | {"elsewhere": True})


def run(program: Path, socket_path: Path, **more: str) -> subprocess.CompletedProcess[bytes]:
    variables = environment(GUESTLAUNCH_SOCKET=str(socket_path), GUESTLAUNCH_QUIET="1", **more)
    return subprocess.run(
        [program, *launch()], env=variables, capture_output=True, timeout=60, check=False, cwd=program.parent
    )


def test_own_server_takes_over(program: Path, tmp_path: Path) -> None:
    """The launch goes to a server of the wrapper's own, with one line in libguestfs's log about the other."""
    with serving(tmp_path / "s", behave):
        done = run(program, tmp_path / "s")
    assert done.returncode == 7
    assert done.stderr.decode().splitlines() == [
        "guestlaunch: launch refused: x: guestlaunch-hv starts its own",
        "guestlaunch: own: /srv/app/kernel",
    ]


def test_own_server_is_the_last(program: Path, tmp_path: Path) -> None:
    """A server of our own that sees other files, too (a name below /proc/self), ends the launch: there is no third."""
    (program.parent / "elsewhere").touch()
    with serving(tmp_path / "s", behave):
        done = run(program, tmp_path / "s")
    assert done.returncode == 7
    assert done.stderr.decode().splitlines()[-1] == "guestlaunch: own: /srv/app/kernel"


def test_who_is_shared(tmp_path: Path) -> None:
    """A server with a name was there before; the other end of a pair is our own."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind(os.fspath(tmp_path / "s"))
        listener.listen()
        sock.connect(os.fspath(tmp_path / "s"))
        assert connect.is_shared(sock)
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert not connect.is_shared(one)
