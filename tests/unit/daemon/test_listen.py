"""Listening sockets: one daemon at a time, on a path that nobody can hijack."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import sockets
from orchestrator.daemon import listen
from orchestrator.errors import ProtocolError, SettingsError, UsageError


def test_public_socket(tmp_path: Path) -> None:
    """The socket has mode 0660 from the start, answers, and is gone with its lock afterwards."""
    path = tmp_path / "run/d.sock"
    before = os.umask(0)
    try:
        with listen.public(path) as listener, socket.socket(socket.AF_UNIX) as client:
            assert path.stat().st_mode & 0o777 == 0o660
            client.connect(str(path))
            listener.accept()[0].close()
        assert os.umask(0) == 0, "the umask is put back"
    finally:
        os.umask(before)
    assert list(path.parent.iterdir()) == []


def test_second_daemon_is_refused(tmp_path: Path) -> None:
    """While one listens, another gets a line with its pid, and does no harm."""
    path = tmp_path / "run/d.sock"
    with listen.public(path):
        with pytest.raises(ProtocolError, match=f"already runs.*pid {os.getpid()}"), listen.public(path):
            pytest.fail("two daemons on one socket")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed daemon left behind does not stand in the way."""
    path = tmp_path / "run/d.sock"
    code = (
        "from orchestrator.daemon import listen; from pathlib import Path; import os, signal, sys\n"
        "with listen.public(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert path.is_socket()
    with listen.public(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_answering_socket_is_not_replaced(tmp_path: Path) -> None:
    """A server that holds no lock but answers is left alone."""
    path = tmp_path / "d.sock"
    tmp_path.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ProtocolError, match="answers"), listen.public(path):
            pytest.fail("took over a live socket")
        assert path.is_socket()


def test_something_else_in_the_way(tmp_path: Path) -> None:
    """A file or a symlink at the path is not touched."""
    tmp_path.chmod(0o700)
    path = tmp_path / "d.sock"
    path.write_text("precious")
    with pytest.raises(UsageError, match="something else"), listen.public(path):
        pytest.fail("replaced a file")
    assert path.read_text() == "precious"
    link = tmp_path / "l.sock"
    link.symlink_to("nowhere")
    with pytest.raises(UsageError, match="something else"), listen.public(link):
        pytest.fail("followed a link")


def test_lock_that_is_a_symlink(tmp_path: Path) -> None:
    """The lock file is never opened through a symlink."""
    tmp_path.chmod(0o700)
    (tmp_path / "d.sock.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match="cannot lock"), listen.public(tmp_path / "d.sock"):
        pytest.fail("followed a link")
    assert not (tmp_path / "victim").exists()


def test_unsafe_directory(tmp_path: Path) -> None:
    """A directory that others can write to, or that is a symlink, is refused."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("open", "link"):
        with pytest.raises(SettingsError, match="unsafe directory"), listen.public(tmp_path / name / "d.sock"):
            pytest.fail("listened in an unsafe directory")


@pytest.mark.parametrize("extra", [0, 1])
def test_path_length(tmp_path: Path, extra: int) -> None:
    """The longest path the kernel takes works; one more byte is a clear line."""
    parent = tmp_path / "r"
    path = parent / ("s" * (sockets.PATH_MAX_BYTES - len(str(parent)) - 1 + extra))
    if extra:
        with pytest.raises(UsageError, match=f"{sockets.PATH_MAX_BYTES + 1} bytes"), listen.public(path):
            pytest.fail("a path too long")
    else:
        with listen.public(path):
            assert path.is_socket()


def test_private_socket(tmp_path: Path) -> None:
    """A private socket lies in a directory that only we can enter; several do not meet."""
    with listen.private(tmp_path / "run") as (_, one), listen.private(tmp_path / "run") as (_, two):
        assert one != two
        assert one.parent.stat().st_mode & 0o777 == 0o700
        listen.remove_private(one)
        assert not one.parent.exists()
        assert two.is_socket()


def test_private_socket_in_a_long_directory(tmp_path: Path) -> None:
    """A runtime directory that is too long is named, with what to set."""
    with pytest.raises(UsageError, match="GUESTLAUNCH_RUNTIME_DIR"), listen.private(tmp_path / ("x" * 90)):
        pytest.fail("a path too long")
