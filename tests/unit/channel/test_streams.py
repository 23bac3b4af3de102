"""A program's streams: all of its bytes and no others, whatever pieces they come in and however slow the client is."""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.channel.port import listening
from orchestrator.channel.streams import Input, Marks, Output, Streams

MARKS = Marks.of("0123456789abcdef")


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Callable[[str], tuple[socket.socket, socket.socket]]]:
    """Make a listener, and a peer that is connected to it as QEMU would be."""
    owned = []

    def make(name: str) -> tuple[socket.socket, socket.socket]:
        context = listening(tmp_path / name)
        listener = context.__enter__()
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(tmp_path / name))
        owned.append((context, peer))
        return listener, peer

    yield make
    for context, peer in owned:
        peer.close()
        context.__exit__(None, None, None)


Ends = Callable[[str], tuple[socket.socket, socket.socket]]
Join = Callable[..., Streams]


@pytest.fixture
def join(ends: Ends) -> Iterator[Join]:
    """Make the streams of a program of which a test gives some; of the others nothing comes."""
    made: list[Streams] = []

    def make(stdin: Input | None = None, stdout: Output | None = None) -> Streams:
        streams = Streams(
            stdin=stdin or Input(ends("silent in")[0], -1),
            stdout=stdout or Output(ends("silent out")[0], -1, MARKS),
            stderr=Output(ends("silent err")[0], -1, MARKS),
        )
        made.append(streams)
        return streams

    yield make
    for streams in made:
        streams.close()


def serve(streams: Streams, until: Callable[[], bool], seconds: float = 20) -> None:
    """Do what the watch of a launch does with streams."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        streams.stdin.advance()
        reading, writing = streams.waits()
        poll = select.poll()
        for descriptor in reading.keys() | writing.keys():
            flags = (select.POLLIN if descriptor in reading else 0) | (select.POLLOUT if descriptor in writing else 0)
            poll.register(descriptor, flags)
        for descriptor, flags in poll.poll(5):
            if descriptor in writing and flags & (select.POLLOUT | select.POLLHUP | select.POLLERR):
                writing[descriptor]()
            if descriptor in reading and flags & (select.POLLIN | select.POLLHUP):
                reading[descriptor]()


@pytest.mark.parametrize("seed", range(5))
def test_output_is_whole_in_whatever_pieces_it_comes(ends: Ends, join: Join, seed: int) -> None:
    """What looks like the beginning of the end is passed on; what comes behind the end is not."""
    choice = random.Random(seed)
    text = b"".join(
        choice.choice([MARKS.end[: choice.randrange(len(MARKS.end))], os.urandom(3), b"\0", b"x"]) for _ in range(300)
    )
    listener, peer = ends("out")
    reader, writer = os.pipe()
    output = Output(listener, writer, MARKS)
    streams = join(stdout=output)
    said = b"firmware\0guest" + MARKS.begin + text + MARKS.end + b"a process that was left behind"

    def talk() -> None:
        at = 0
        while at < len(said):
            size = choice.randrange(1, 40)
            peer.sendall(said[at : at + size])
            at += size

    thread = threading.Thread(target=talk)
    thread.start()
    serve(streams, lambda: output.whole)
    thread.join()
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == text
    assert not streams.whole  # of the other nothing has come


def test_output_that_never_ends_is_passed_on_in_the_end(ends: Ends, join: Join) -> None:
    """A guest that died in the middle of what looked like the end: nothing that it said is held back."""
    listener, peer = ends("out")
    reader, writer = os.pipe()
    output = Output(listener, writer, MARKS)
    streams = join(stdout=output)
    peer.sendall(MARKS.begin + b"said" + MARKS.end[:9])
    peer.close()
    streams.give_up()
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"said" + MARKS.end[:9]
    assert not output.ended


def test_a_client_that_does_not_read_makes_its_guest_wait(ends: Ends, join: Join) -> None:
    """Nothing is dropped: of what the guest says no more is taken than is held."""
    listener, peer = ends("out")
    reader, writer = os.pipe()
    output = Output(listener, writer, MARKS)
    streams = join(stdout=output)
    text = os.urandom(6 << 20)
    thread = threading.Thread(target=lambda: peer.sendall(MARKS.begin + text + MARKS.end))
    thread.start()
    serve(streams, lambda: output.reading_fd < 0)  # it is full, and its client has not read a byte
    assert thread.is_alive()
    taken = bytearray()
    rest = threading.Thread(target=lambda: taken.extend(iter_read(reader, len(text))))
    rest.start()
    serve(streams, lambda: output.whole)
    rest.join()
    thread.join()
    os.close(writer)
    os.close(reader)
    assert bytes(taken) == text


def iter_read(descriptor: int, size: int) -> bytes:
    """Read so many bytes."""
    taken = b""
    while len(taken) < size:
        taken += os.read(descriptor, 1 << 20)
    return taken


def test_a_client_that_is_gone_ends_nothing(ends: Ends, join: Join) -> None:
    """`| head -1`: the guest's program goes on, and its output is whole for those who want it."""
    listener, peer = ends("out")
    reader, writer = os.pipe()
    os.close(reader)
    taken = bytearray()
    output = Output(listener, writer, MARKS, taken.extend)
    streams = join(stdout=output)
    peer.sendall(MARKS.begin + b"a\nb\n" + MARKS.end)
    serve(streams, lambda: output.whole)
    os.close(writer)
    assert taken == b"a\nb\n"


def test_input_comes_to_its_end_and_none_of_it_is_lost(ends: Ends, join: Join) -> None:
    """The port is closed only when its other end has read everything, though that reads slowly."""
    listener, peer = ends("in")
    reader, writer = os.pipe()
    text = os.urandom(900_000)

    def give() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(text)

    giver = threading.Thread(target=give)
    giver.start()
    streams = join(stdin=Input(listener, reader))
    taken = bytearray()
    over = threading.Event()

    def read() -> None:
        while block := peer.recv(5000):
            taken.extend(block)
        over.set()

    streams.stdin.open()
    threading.Thread(target=read, daemon=True).start()
    serve(streams, over.is_set)
    giver.join()
    os.close(reader)
    assert bytes(taken) == text
    assert not streams.closing


def test_input_waits_until_the_program_is_there(ends: Ends, join: Join) -> None:
    """Firmware may open every port: not a byte is sent before the guest's own program reads."""
    listener, peer = ends("in")
    reader, writer = os.pipe()
    os.write(writer, b"for the program")
    os.close(writer)
    streams = join(stdin=Input(listener, reader))
    peer.setblocking(False)
    until = time.monotonic() + 0.1
    serve(streams, lambda: time.monotonic() > until)
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    streams.stdin.open()
    serve(streams, lambda: streams.closing)
    assert peer.recv(100) == b"for the program"
    serve(streams, lambda: not streams.closing)
    os.close(reader)
    assert peer.recv(100) == b""


def test_no_input_is_an_end_at_once(ends: Ends, join: Join) -> None:
    """A program without input finds its end, and does not wait for ever."""
    listener, peer = ends("in")
    streams = join(stdin=Input(listener, -1))
    streams.stdin.open()
    serve(streams, lambda: not streams.closing)
    assert peer.recv(1) == b""
