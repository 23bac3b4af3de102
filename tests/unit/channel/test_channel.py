"""Console ring, relay and control port over real unix sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from orchestrator.channel.console import Console
from orchestrator.channel.port import LineBuffer, Port, listening
from orchestrator.channel.ring import ConsoleRing, escape
from orchestrator.errors import CapabilityError


def test_ring_is_bounded_and_keeps_the_end() -> None:
    """Old bytes go, however they arrived."""
    ring = ConsoleRing(10)
    for block in (b"abcdef", b"ghij", b"kl", b"x" * 3):
        ring.feed(block)
    assert ring.content() == b"fghijklxxx"


def test_ring_notices_a_panic_and_the_firmware() -> None:
    """What the kernel and the firmware say of themselves is found."""
    ring = ConsoleRing(1000)
    assert ring.panic() is None
    ring.feed(b"UEFI firmware (version 2022.11-6 built at x)\r\n[1.0] Kernel panic - not syncing: VFS: no root\r\n")
    assert ring.panic() == "VFS: no root"
    assert ring.firmware_version() == "2022.11-6"
    debian = ConsoleRing(4096)
    debian.feed(b"UEFI firmware (version  built at 13:10:49 on Nov  5 2024)\r\n")
    assert debian.firmware_version() == "built at 13:10:49 on Nov  5 2024"


def test_control_characters_cannot_reach_a_terminal() -> None:
    """Escape sequences are dropped, other control bytes are spelled out."""
    assert escape(b"\x1b[31mred\x1b[0m \x07\x00\xff\x1b]0;title\x07!") == "red \\x07\\x00\\xff!"


def test_tail_skips_empty_lines() -> None:
    """Only lines with something in them count."""
    ring = ConsoleRing(100)
    ring.feed(b"one\r\n\r\ntwo\n\nthree")
    assert ring.tail(2) == ("two", "three")


def test_lines_across_blocks() -> None:
    """A line may arrive in pieces, and several at once."""
    lines: list[bytes] = []
    buffer = LineBuffer(lines.append)
    for block in (b"gue", b"st\nlau", b"nch\nx\n"):
        buffer.feed(block)
    assert lines == [b"guest", b"launch", b"x"]


def test_port_reads_until_the_peer_closes(tmp_path: Path) -> None:
    """The port accepts one peer, hands on its bytes, and ends with an empty block."""
    blocks: list[bytes] = []
    with listening(tmp_path / "s") as listener:
        port = Port(listener, blocks.append)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(tmp_path / "s"))
            port.handle()
            peer.sendall(b"hello")
            port.handle()
            assert port.send(b"there") == 5
            assert peer.recv(10) == b"there"
        port.handle()
    assert blocks == [b"hello", b""]
    assert port.fileno() == -1
    assert not (tmp_path / "s").exists()


def test_overlong_socket_path_is_refused(tmp_path: Path) -> None:
    """The error names the path and what to set."""
    with pytest.raises(CapabilityError, match="socket path too long: .*runtime_dir"), listening(tmp_path / ("x" * 120)):
        pass


def test_console_relays_both_ways_and_never_waits(tmp_path: Path) -> None:
    """A client that does not read stalls nobody; what it missed is in the ring."""
    ours, client = socket.socketpair()
    with listening(tmp_path / "c") as listener, ours, client, socket.socket(socket.AF_UNIX) as guest:
        ring = ConsoleRing(1 << 20)
        console = Console(listener, ring, (ours.fileno(), ours.fileno()))
        guest.connect(str(tmp_path / "c"))
        console.port.handle()
        client.sendall(b"typed")
        console.from_client()
        assert guest.recv(10) == b"typed"
        for _ in range(64):
            guest.sendall(b"y" * 65536)
            console.port.handle()
        assert console.output_fd == ours.fileno()
        assert ring.content() == b"y" * (1 << 20)
        assert client.recv(3) == b"yyy"
        client.close()
        console.flush()
        assert console.output_fd == -1
        console.port.close()


def test_console_to_a_full_pipe_does_not_block(tmp_path: Path) -> None:
    """A pipe that nobody reads fills up, and the relay goes on."""
    reader, writer = os.pipe()
    with listening(tmp_path / "c") as listener, socket.socket(socket.AF_UNIX) as guest:
        console = Console(listener, ConsoleRing(100), (-1, writer))
        guest.connect(str(tmp_path / "c"))
        console.port.handle()
        for _ in range(8):
            guest.sendall(b"z" * 65536)
            console.port.handle()
            console.flush()
        assert os.read(reader, 3) == b"zzz"
        console.port.close()
    os.close(reader)
    os.close(writer)
