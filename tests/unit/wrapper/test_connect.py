"""The wrapper talks to a socket that only its user or root can have made, or starts an orchestrator itself."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import sockets
from orchestrator.errors import CapabilityError, ProtocolError
from orchestrator.settings import default_runtime_dir
from orchestrator.wrapper import connect


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    folder = tmp_path / "guestlaunch"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "guestlaunchd.sock"))
        listener.listen(1)
        yield folder / "guestlaunchd.sock", listener


def test_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon is where the settings' defaults put it; a directory that is set is the only one."""
    own = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert connect.default_sockets(own)[0] == f"{tmp_path}/guestlaunch/guestlaunchd.sock"
    assert connect.default_sockets(own | {"GUESTLAUNCH_RUNTIME_DIR": "/srv/gl"}) == ["/srv/gl/guestlaunchd.sock"]
    tmp_path.chmod(0o770)  # others can write to it
    monkeypatch.setattr("os.geteuid", lambda: 0)
    for environ in ({}, {"XDG_RUNTIME_DIR": "relative"}, {"XDG_RUNTIME_DIR": "/run/nobody/has"}, own):
        assert connect.default_sockets(environ) == ["/run/guestlaunch/guestlaunchd.sock"]
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    for environ in ({}, {"XDG_RUNTIME_DIR": "relative"}, {"XDG_RUNTIME_DIR": "/run/nobody/has"}, own):
        assert connect.default_sockets(environ) == ["/tmp/guestlaunch-54321/guestlaunchd.sock"]


@pytest.mark.parametrize("environ", [{}, {"XDG_RUNTIME_DIR": "/run/user/5"}, {"XDG_RUNTIME_DIR": "relative"}])
def test_first_candidate_is_the_settings_own(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrapper, which cannot load the settings, looks first where they have a daemon listen."""
    monkeypatch.delenv("TMPDIR", raising=False)
    for uid in (0, 54321):
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        expected = default_runtime_dir(environ) / "guestlaunchd.sock"
        assert connect.default_sockets(environ)[0] == str(expected)


def test_daemon_is_found(daemon: tuple[Path, socket.socket]) -> None:
    """A daemon of ours at the default path is used."""
    path, listener = daemon
    with connect.orchestrator({"XDG_RUNTIME_DIR": str(path.parents[1])}) as sock:
        assert sock.getpeername() == str(path)
        assert sock.gettimeout() is None
        listener.accept()[0].close()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_folder_that_others_can_write(daemon: tuple[Path, socket.socket], mode: int) -> None:
    """A socket in a folder that others can write to may be anybody's."""
    path, _ = daemon
    assert sockets.is_trusted(str(path))
    path.parent.chmod(mode)
    assert not sockets.is_trusted(str(path))


def test_only_sockets_are_safe(tmp_path: Path, daemon: tuple[Path, socket.socket]) -> None:
    """A file, a link and nothing at all are no sockets."""
    tmp_path.chmod(0o700)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(daemon[0])
    assert not any(sockets.is_trusted(str(tmp_path / name)) for name in ("file", "link", "missing"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a socket of another user")
def test_socket_of_another_user(daemon: tuple[Path, socket.socket]) -> None:
    """A socket or folder of a user who is neither us nor root is not trusted."""
    path, _ = daemon
    os.chown(path, 12345, -1)
    assert not sockets.is_trusted(str(path))
    os.chown(path, 0, -1)
    os.chown(path.parent, 12345, -1)
    assert not sockets.is_trusted(str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run a server as another user")
def test_server_of_another_user(tmp_path: Path) -> None:
    """A server that runs as another user is not talked to, even where the user named the socket."""
    path = tmp_path / "s"
    ready, done = os.pipe(), os.pipe()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    child = os.fork()
    if child == 0:
        os.setuid(12345)
        listener.listen(1)
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        with pytest.raises(ProtocolError, match="user 12345"):
            connect.orchestrator({"GUESTLAUNCH_SOCKET": str(path)})
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)
        listener.close()
        for fd in (*ready, *done):
            os.close(fd)


def test_given_socket_must_answer(tmp_path: Path) -> None:
    """A socket that the user named and that does not answer is an error that names it, never a fallback."""
    with pytest.raises(ProtocolError, match="nobody.sock"):
        connect.orchestrator({"GUESTLAUNCH_SOCKET": str(tmp_path / "nobody.sock")})


def program(folder: Path, text: str) -> None:
    """Put a guestlaunchd with this Python text into folder."""
    path = folder / "guestlaunchd"
    path.write_text(f"#!{sys.executable}\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def test_spawned_orchestrator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a daemon guestlaunchd is started beside us: on one end of the pair, in its own session, stdin empty."""
    program(tmp_path, """
import os, socket, sys
sock = socket.socket(fileno=int(sys.argv[2]))
sock.send(repr([sys.argv[1], os.getsid(0) == os.getpid(), os.read(0, 1), os.environ["X"],
                sorted(map(int, os.listdir("/proc/self/fd")))[:4]]).encode())
""")  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "guestlaunch-hv")])
    stale = tmp_path / "guestlaunch"
    stale.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:  # a socket that nobody listens on any more
        dead.bind(str(stale / "guestlaunchd.sock"))
    with connect.orchestrator({"X": "y", "XDG_RUNTIME_DIR": str(tmp_path)}) as sock:
        sock.settimeout(20)
        assert sock.recv(1000) == b"['--serve-fd', True, b'', 'y', [0, 1, 2, 3]]"
        assert sock.recv(1) == b""


def test_no_orchestrator_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or unusable guestlaunchd is one clear error."""
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "guestlaunch-hv")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(CapabilityError, match="guestlaunchd"):
        connect.orchestrator({})
    (tmp_path / "guestlaunchd").write_text("no program", encoding="utf-8")
    (tmp_path / "guestlaunchd").chmod(0o755)
    with pytest.raises(CapabilityError, match="cannot start the orchestrator"):
        connect.orchestrator({})
