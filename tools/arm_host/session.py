"""Runs a command in the emulated host from this end of the agent's port: streams, terminal, deadline, exit status."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from orchestrator.errors import DeadlineError, HypervisorError
from tools.arm_host.protocol import WINDOW, Frames, Kind, frame

_CHUNK = 1 << 16
_SIGNAL_BASE = 128
_HOME = "/root"
_ENVIRON = {
    "PATH": "/opt/guestlaunch/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": _HOME,
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be run.

    :ivar environ: added to what each command has.
    :ivar deadline_s: seconds of this machine's time, None for as long as it takes.
    :ivar terminal: give it a terminal of its own, which is shown in ours.
    """

    argv: Sequence[str]
    environ: Mapping[str, str]
    deadline_s: float | None = None
    terminal: bool = False
    folder: str = _HOME

    def start_frame(self) -> bytes:
        """Return it as the agent gets it, with the time of day and with random numbers."""
        order = {
            "argv": list(self.argv),
            "environ": {**_ENVIRON, **self.environ},
            "cwd": self.folder,
            "clock_s": time.time(),
            "seed": secrets.token_hex(64),
            "terminal": terminal_size() if self.terminal else None,
        }
        return frame(Kind.START, json.dumps(order).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Descriptors that the command's input comes from and its output goes to; no input where it is None."""

    stdin: int | None
    stdout: int
    stderr: int


def terminal_size() -> list[int]:
    """Return rows and columns of our terminal."""
    size = shutil.get_terminal_size()
    return [size.lines, size.columns]


def wait_until_up(agent: socket.socket, deadline_s: float) -> None:
    """Wait for the agent's first word after a boot.

    :raise HypervisorError: the machine is not up in time, or it ended.
    """
    agent.settimeout(deadline_s)
    frames = Frames()
    try:
        while data := agent.recv(_CHUNK):
            if any(kind is Kind.READY for kind, _ in frames.feed(data)):
                agent.settimeout(None)
                return
    except TimeoutError:
        why = f"silent for {deadline_s:g} s"
        raise HypervisorError("the emulated host did not come up", "its agent", why) from None
    raise ConnectionResetError("it ended while it booted")


def run(agent: socket.socket, order: Order, streams: Streams) -> int:
    """Run a command and return its exit status, 128 and more where a signal ended it, as a shell does.

    :raise DeadlineError: it was not done in time. It still runs.
    :raise ConnectionError: the machine ended.
    """
    agent.sendall(order.start_frame())
    with _terminal_lent(streams.stdin if order.terminal else None), _resizes(wanted=order.terminal) as resized:
        return _Exchange(agent, order, streams, resized).until_exit()


class _Exchange:
    """One command's streams, until it ends."""

    def __init__(self, agent: socket.socket, order: Order, streams: Streams, resized: int) -> None:
        self._agent = agent
        self._order = order
        self._streams = streams
        self._resized = resized
        self._frames = Frames()
        self._input = streams.stdin
        self._under_way = 0
        self._status: int | None = None
        if self._input is None:
            agent.sendall(frame(Kind.INPUT_END))

    def until_exit(self) -> int:
        limit = self._order.deadline_s
        end = None if limit is None else time.monotonic() + limit
        while self._status is None:
            poll = select.poll()
            poll.register(self._agent, select.POLLIN)
            poll.register(self._resized, select.POLLIN)
            if self._input is not None and self._under_way < WINDOW:
                poll.register(self._input, select.POLLIN)
            left_ms = None if end is None else max(0.0, end - time.monotonic()) * 1000
            ready = poll.poll(left_ms)
            if not ready and end is not None and time.monotonic() >= end:
                raise DeadlineError(
                    "the command is not done by the deadline", self._order.argv[0], f"{limit:g} s passed"
                )
            for descriptor, _ in ready:
                self._attend(descriptor)
        return self._status

    def _attend(self, descriptor: int) -> None:
        if descriptor == self._agent.fileno():
            self._hear()
        elif descriptor == self._resized:
            os.read(self._resized, _CHUNK)
            self._agent.sendall(frame(Kind.SIZE, json.dumps(terminal_size()).encode()))
        elif descriptor == self._input:
            data = os.read(self._input, _CHUNK)
            self._under_way += len(data)
            self._agent.sendall(frame(Kind.INPUT, data) if data else frame(Kind.INPUT_END))
            if not data:
                self._input = None

    def _hear(self) -> None:
        data = self._agent.recv(_CHUNK)
        if not data:
            raise ConnectionResetError("it ended while the command ran")
        for kind, body in self._frames.feed(data):
            if kind is Kind.OUTPUT:
                _write(self._streams.stdout, body)
            elif kind is Kind.ERRORS:
                _write(self._streams.stderr, body)
            elif kind is Kind.TAKEN:
                self._under_way -= int(body)
            elif kind is Kind.EXIT:
                status = int(body)
                self._status = status if status >= 0 else _SIGNAL_BASE - status


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextlib.contextmanager
def _terminal_lent(descriptor: int | None) -> Iterator[None]:
    """Pass each key on as it is; nothing is changed where this is no terminal."""
    if descriptor is None or not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizes(*, wanted: bool) -> Iterator[int]:
    """Yield a descriptor that has something to read when our terminal has another size."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False) if wanted else -1
    handler = signal.signal(signal.SIGWINCH, lambda *_: None) if wanted else None
    try:
        yield reading
    finally:
        if wanted:
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGWINCH, handler)
        os.close(reading)
        os.close(writing)


def spoken_by(stream: IO[bytes]) -> int:
    """Return a stream's descriptor, with nothing of ours left in it."""
    stream.flush()
    return stream.fileno()


def own_streams() -> Streams:
    """Return this process's standard streams."""
    return Streams(stdin=0, stdout=spoken_by(sys.stdout.buffer), stderr=spoken_by(sys.stderr.buffer))
