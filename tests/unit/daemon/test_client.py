"""The commands' side: which daemon they use, and which they leave alone."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest

from orchestrator import sockets
from orchestrator.daemon import client, listen
from orchestrator.errors import ProtocolError
from orchestrator.settings import Settings
from tests.unit.daemon.support import Served


@pytest.fixture
def public(served: Served, settings: Settings) -> Path:
    """Give the server under test the place where a daemon's socket is looked for."""
    settings.runtime_dir.mkdir(mode=0o700)
    path = settings.runtime_dir / listen.SOCKET_NAME
    os.link(served.path, path)
    return path


def test_daemon_of_ours_is_found(public: Path, settings: Settings) -> None:
    """A running daemon with the same directories is used."""
    assert client.find(settings, {}) == (public, "")


def test_daemon_with_other_directories_is_left_alone(public: Path, settings: Settings, tmp_path: Path) -> None:
    """A daemon that keeps its state elsewhere would not find our appliances: it is not used, and that is said."""
    found, why = client.find(dataclasses.replace(settings, state_dir=tmp_path / "other"), {})
    assert found is None
    assert "state_dir" in why


def test_daemon_of_another_version(public: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade the old daemon is not used."""
    monkeypatch.setattr(client, "__version__", "99")
    found, why = client.find(settings, {})
    assert found is None
    assert "version" in why


def test_no_daemon(settings: Settings) -> None:
    """Without a daemon there is none, and no error."""
    assert client.find(settings, {}) == (None, "no guestlaunchd runs")


def test_unsafe_sockets_are_not_even_tried(public: Path, settings: Settings) -> None:
    """A socket in a directory that others can write to could be anybody's."""
    public.parent.chmod(0o777)
    assert client.find(settings, {}) == (None, "no guestlaunchd runs")


def test_dead_socket(settings: Settings) -> None:
    """A socket that nobody listens on leads to serving ourselves."""
    settings.runtime_dir.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(settings.runtime_dir / listen.SOCKET_NAME))
    found, why = client.find(settings, {})
    assert found is None
    assert "refused" in why


def test_server_of_another_user(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs as somebody else is not told anything."""
    monkeypatch.setattr(sockets, "peer", lambda _: (1, 4242))
    with pytest.raises(ProtocolError, match="user 4242"):
        client.status(served.path)


def test_path_too_long(tmp_path: Path) -> None:
    """A socket path that the kernel cannot take is a clear line."""
    with pytest.raises(Exception, match="too long"):
        client.status(tmp_path / ("x" * 120))
