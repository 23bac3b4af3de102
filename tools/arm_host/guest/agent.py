"""First process of the emulated host: runs one command at a time for whoever is at the other end of its port.

Standard library only, and of the program's own only `protocol`, which lies beside it. It adopts and reaps orphans.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

from protocol import Frames, Kind, frame  # type: ignore[import-not-found]

_CHUNK = 1 << 15
_PIPE_HOLDS = 1 << 20
_NOT_FOUND, _NOT_RUNNABLE = 127, 126
_RNDRESEEDCRNG = 0x5207


class Command:
    """A command that runs, and its streams: pipes, or a terminal of its own."""

    def __init__(self, asked: dict[str, Any]) -> None:
        size = asked["terminal"]
        inside: tuple[int, int, int]
        if size is None:
            given, self.input = os.pipe()
            self.output, out = os.pipe()
            self.errors, err = os.pipe()
            inside = (given, out, err)
        else:
            self.input, slave = pty.openpty()
            self.output, self.errors = os.dup(self.input), -1
            inside = (slave, slave, slave)
            self.resize(size)
        self.waiting = bytearray()
        self.input_ended = False
        try:
            self._process = subprocess.Popen(
                asked["argv"],
                stdin=inside[0],
                stdout=inside[1],
                stderr=inside[2],
                env=asked["environ"],
                cwd=asked["cwd"],
                start_new_session=True,
                preexec_fn=None if size is None else _take_terminal,  # noqa: PLW1509 - one thread
            )
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in set(inside):
                os.close(descriptor)
        self.pid = self._process.pid
        for descriptor in (self.input, self.output, self.errors):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)

    def resize(self, size: list[int]) -> None:
        """Tell the terminal how many rows and columns it has."""
        fcntl.ioctl(self.input, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    def streams(self) -> dict[int, Kind]:
        """Return what is still to be read from."""
        return {fd: kind for fd, kind in ((self.output, Kind.OUTPUT), (self.errors, Kind.ERRORS)) if fd >= 0}

    def end_stream(self, descriptor: int) -> None:
        """Read no more from one of them."""
        os.close(descriptor)
        if descriptor == self.output:
            self.output = -1
        else:
            self.errors = -1

    def feed(self) -> int:
        """Give the command what it takes of its input, and return how much that was; what nobody reads is taken."""
        taken = 0
        while self.waiting and self.input >= 0:
            try:
                count = os.write(self.input, self.waiting)
            except BlockingIOError:
                return taken
            except OSError:
                taken += len(self.waiting)
                self.waiting.clear()
                self.end_input()
                return taken
            del self.waiting[:count]
            taken += count
        if self.input_ended:
            self.end_input()
        return taken

    def end_input(self) -> None:
        """Let the command see the end of its input."""
        if self.input >= 0:
            os.close(self.input)
            self.input = -1

    def reaped(self, status: int) -> None:
        """Note that it is gone, so that nobody waits for it."""
        self._process.returncode = status

    def close(self) -> None:
        """Let go of its streams."""
        self.end_input()
        for descriptor in list(self.streams()):
            self.end_stream(descriptor)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def renew(asked: dict[str, Any]) -> None:
    """Give the host the time, and random numbers of its own: a saved machine goes on as often as anybody likes."""
    time.clock_settime(time.CLOCK_REALTIME, asked["clock_s"])
    with Path("/dev/urandom").open("wb", buffering=0) as urandom:
        urandom.write(bytes.fromhex(asked["seed"]))
        fcntl.ioctl(urandom, _RNDRESEEDCRNG)


class Agent:
    """Serves the port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._frames = Frames()
        self._command: Command | None = None
        self._woken, waking = os.pipe()
        for descriptor in (self._woken, waking):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # commands inherit it; from a first process it takes nothing

    def serve(self) -> None:
        """Answer for ever."""
        self._say(Kind.READY)
        while True:
            poll = select.poll()
            poll.register(self._woken, select.POLLIN)
            poll.register(self._port, select.POLLIN)
            command = self._command
            if command is not None:
                for descriptor in command.streams():
                    poll.register(descriptor, select.POLLIN)
                if command.waiting and command.input >= 0:
                    poll.register(command.input, select.POLLOUT)
            for descriptor, events in poll.poll():
                self._attend(descriptor, events)

    def _attend(self, descriptor: int, events: int) -> None:
        command = self._command
        if descriptor == self._woken:
            os.read(self._woken, _CHUNK)
            self._reap()
        elif descriptor == self._port:
            self._hear(events)
        elif command is not None and descriptor in command.streams():
            self._relay(command, descriptor)
        elif command is not None and descriptor == command.input:
            self._feed(command)

    def _hear(self, events: int) -> None:
        data = os.read(self._port, _CHUNK) if events & select.POLLIN else b""
        if not data:
            time.sleep(0.05)  # nobody at the other end
            return
        for kind, body in self._frames.feed(data):
            if kind is Kind.START:
                self._start(json.loads(body))
            elif self._command is not None:
                self._control(self._command, kind, body)

    def _start(self, asked: dict[str, Any]) -> None:
        renew(asked)
        try:
            self._command = Command(asked)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            self._say(Kind.ERRORS, f"arm-host: {error.filename}: {error.strerror}\n".encode())
            self._say(Kind.EXIT, str(_NOT_FOUND if missing else _NOT_RUNNABLE).encode())

    def _control(self, command: Command, kind: Kind, data: bytes) -> None:
        if kind is Kind.INPUT:
            command.waiting += data
            self._feed(command)
        elif kind is Kind.INPUT_END:
            command.input_ended = True
            self._feed(command)
        elif kind is Kind.SIZE:
            command.resize(json.loads(data))
        elif kind is Kind.SIGNAL:
            os.killpg(command.pid, int(data))

    def _feed(self, command: Command) -> None:
        if command.input < 0:  # nobody reads it any more
            taken = len(command.waiting)
            command.waiting.clear()
        else:
            taken = command.feed()
        if taken:
            self._say(Kind.TAKEN, str(taken).encode())

    def _relay(self, command: Command, descriptor: int) -> bool:
        """Pass on what a stream has; tell whether it may have more."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # a terminal whose last user is gone
            data = b""
        if data:
            self._say(command.streams()[descriptor], data)
        else:
            command.end_stream(descriptor)
        return bool(data)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            command = self._command
            if command is not None and pid == command.pid:
                command.reaped(os.waitstatus_to_exitcode(status))
                # What it left in the streams, though others may still have them open.
                for descriptor in list(command.streams()):
                    for _ in range(_PIPE_HOLDS // _CHUNK):
                        if not self._relay(command, descriptor):
                            break
                command.close()
                self._command = None
                self._say(Kind.EXIT, str(os.waitstatus_to_exitcode(status)).encode())

    def _say(self, kind: Kind, data: bytes = b"") -> None:
        rest = frame(kind, data)
        while rest:
            rest = rest[os.write(self._port, rest) :]


if __name__ == "__main__":
    Agent(os.open(sys.argv[1], os.O_RDWR)).serve()
