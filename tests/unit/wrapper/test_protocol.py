"""Messages and descriptors cross a socket whole, or the receiver gets an error and no descriptor."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ProtocolError
from orchestrator.wrapper import protocol

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def soon() -> float:
    """Return a deadline that a working test never meets."""
    return time.monotonic() + 10


def open_fds() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_message_and_descriptors(pair: Pair) -> None:
    """What is sent is received, descriptors are the same files, new and close-on-exec."""
    read_end, write_end = os.pipe()
    message = protocol.launch_message(["-kernel", "ä\udcff\n,"], "/\udc80", {"A": "b"})
    protocol.send(pair[0], message, (read_end, write_end))
    received, fds = protocol.receive(pair[1], soon())
    assert received == message
    assert len(fds) == 2
    assert os.fstat(fds[0]).st_ino == os.fstat(read_end).st_ino
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in (*fds, read_end, write_end):
        os.close(fd)


def test_messages_stay_apart(pair: Pair) -> None:
    """Two messages sent together are received one by one."""
    protocol.send(pair[0], {"type": "a"})
    protocol.send(pair[0], protocol.exit_message(3, "why"))
    assert protocol.receive(pair[1], soon()) == ({"type": "a"}, [])
    assert protocol.receive(pair[1], soon()) == ({"type": "exit", "status": 3, "message": "why"}, [])


def test_large_message_in_pieces(pair: Pair) -> None:
    """A message larger than the socket's buffer arrives whole, and so does its descriptor."""
    message = {"type": "big", "text": "x" * (protocol.MAX_BODY_BYTES - 100)}
    fd = os.open(os.devnull, os.O_RDONLY)
    sender = threading.Thread(target=protocol.send, args=(pair[0], message, (fd,)))
    sender.start()
    received, fds = protocol.receive(pair[1], soon())
    sender.join()
    assert received == message
    assert len(fds) == 1
    os.close(fds[0])
    os.close(fd)


def test_end_between_messages(pair: Pair) -> None:
    """A peer that closed between messages is an end, not an error."""
    pair[0].close()
    with pytest.raises(EOFError):
        protocol.receive(pair[1], soon())


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\0\0", "cut off"),
        (b"\0\0\0\x05{}", "cut off"),
        (b"\0\x10\0\x01", "bound"),
        (b"\xff\xff\xff\xff", "bound"),
        (b"\0\0\0\x02[]", "not an object"),
        (b"\0\0\0\x02{}", "not an object"),
        (b"\0\0\0\x01{", "not JSON"),
        (b"\0\0\0\x01\xff", "not JSON"),
        (b"\0\0\0\0", "not JSON"),
    ],
)
def test_bad_frames_leave_no_descriptor(pair: Pair, data: bytes, named: str) -> None:
    """Broken, oversized and foreign frames are errors, and the descriptors that came along are closed."""
    before = open_fds()
    socket.send_fds(pair[0], [data], [0])
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(ProtocolError) as caught:
        protocol.receive(pair[1], soon())
    assert named in str(caught.value)
    assert open_fds() == before


def test_too_many_descriptors(pair: Pair) -> None:
    """More descriptors than the bound are refused and closed."""
    before = open_fds()
    socket.send_fds(pair[0], [b"\0\0\0\x02{}"], [0] * (protocol.MAX_FDS + 3))
    with pytest.raises(ProtocolError, match="file descriptors"):
        protocol.receive(pair[1], soon())
    assert open_fds() == before


def test_silence_meets_the_deadline(pair: Pair) -> None:
    """A peer that stops in the middle of a message does not hold the receiver."""
    pair[0].send(b"\0\0\0\x09{")
    started = time.monotonic()
    with pytest.raises(ProtocolError, match="in time"):
        protocol.receive(pair[1], time.monotonic() + 0.1)
    assert time.monotonic() - started < 5


def test_reader_that_does_not_read(pair: Pair) -> None:
    """A peer that does not read does not hold the sender."""
    message = {"type": "x", "text": "y" * 1_000_000}  # more than a socket's buffer takes
    with pytest.raises(ProtocolError, match="in time"):
        protocol.send(pair[0], message, deadline=time.monotonic() + 0.1)


def test_too_long_to_send(pair: Pair) -> None:
    """A message over the bound is refused before a byte is sent."""
    with pytest.raises(ProtocolError, match="bound"):
        protocol.send(pair[0], {"type": "launch", "argv": "x" * protocol.MAX_BODY_BYTES})
    pair[0].close()
    with pytest.raises(EOFError):
        protocol.receive(pair[1], soon())


def test_peer_gone_while_sending(pair: Pair) -> None:
    """Sending to a closed socket is an error of the protocol."""
    pair[1].close()
    with pytest.raises(ProtocolError, match="Broken pipe"):
        protocol.send(pair[0], {"type": "x"})
