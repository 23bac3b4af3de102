"""The control port over a real unix socket: what the guest says, and what it is told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.channel.control import Control
from orchestrator.channel.port import listening
from orchestrator.errors import DeadlineError


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    """Our end, to which nobody has connected yet."""
    with listening(tmp_path / "c") as listener:
        made = Control(listener)
        yield made
        made.port.close()


@pytest.fixture
def guest() -> Iterator[socket.socket]:
    """QEMU's end."""
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(10)
        yield made


def test_the_guests_lines_go_to_the_listener(control: Control, guest: socket.socket, tmp_path: Path) -> None:
    """Lines come whole to who listens at that time; nobody has to."""
    heard: list[bytes] = []
    guest.connect(str(tmp_path / "c"))
    control.port.handle()
    guest.sendall(b"unheard\nfir")
    control.port.handle()
    control.listener = heard.append
    guest.sendall(b"st\nsecond\n")
    control.port.handle()
    assert heard == [b"first", b"second"]


def test_saying_waits_for_qemu_to_connect(control: Control, guest: socket.socket, tmp_path: Path) -> None:
    """What is said before QEMU has connected arrives."""

    def connect() -> None:
        time.sleep(0.1)
        guest.connect(str(tmp_path / "c"))

    connecting = threading.Thread(target=connect)
    connecting.start()
    control.say("open 1.000001 00ff TERM=linux", 10)
    connecting.join()
    assert guest.recv(100) == b"open 1.000001 00ff TERM=linux\n"


def test_a_long_line_arrives_whole(control: Control, guest: socket.socket, tmp_path: Path) -> None:
    """More than the socket takes at once is sent as QEMU reads it."""
    line = "x" * 3_000_000
    got = bytearray()

    def read() -> None:
        while not got.endswith(b"\n"):
            got.extend(guest.recv(65536))

    guest.connect(str(tmp_path / "c"))
    reading = threading.Thread(target=read)
    reading.start()
    control.say(line, 10)
    reading.join()
    assert got == line.encode() + b"\n"


def test_nobody_connects(control: Control) -> None:
    """The deadline holds."""
    began = time.monotonic()
    with pytest.raises(DeadlineError, match=r"the control port: .* within 0\.2 s"):
        control.say("open", 0.2)
    assert time.monotonic() - began < 5


def test_nobody_reads(control: Control, guest: socket.socket, tmp_path: Path) -> None:
    """A guest that takes nothing cannot hold us up."""
    guest.connect(str(tmp_path / "c"))
    with pytest.raises(DeadlineError):
        control.say("x" * 3_000_000, 0.2)


def test_qemu_is_gone(control: Control, guest: socket.socket, tmp_path: Path) -> None:
    """A connection that is closed already takes nothing."""
    guest.connect(str(tmp_path / "c"))
    control.port.accept()
    guest.close()
    with pytest.raises(DeadlineError):
        control.say("open", 0.2)
