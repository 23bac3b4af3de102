"""A guest program's standard input, output and error, each through a virtio-serial port of its own.

Nothing is lost and nothing is invented: output is taken from QEMU only as fast as the client takes it, and it is whole
once the guest has ended it with a mark that no program writes by itself, as it has a number of this run's alone.
The end of the input is the closing of its port. QEMU drops what it has not yet read from a socket that hangs up, so
that is done when the kernel says that nothing of it is left (2026-11-26).
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.channel.port import Port

_BLOCK = 65536
_HELD_MAX = 1 << 20  # as much of the output is held for a client that does not read; then its guest waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What a guest puts before and behind its output: nothing that a program writes by itself."""

    begin: bytes
    end: bytes

    @classmethod
    def of(cls, number: str) -> Marks:
        """Return those of a run; `number` is its own."""
        begin, end = (f"\0guestlaunch-{word} {number}\n".encode("ascii") for word in ("begin", "end"))
        return cls(begin=begin, end=end)


class Output:
    """One stream from the guest to a descriptor of the client's.

    :param descriptor: -1 for a client that reads nothing.
    :param marks: between which it is: firmware may have used the port before, a process left behind may after.
    :param take: gets what passes, as well.
    """

    def __init__(
        self, listener: socket.socket, descriptor: int, marks: Marks, take: Callable[[bytes], None] | None = None
    ) -> None:
        self.port = Port(listener, self._from_guest)
        self._descriptor, self._marks, self._take = descriptor, marks, take
        self._unsure = b""  # may be the beginning of a mark
        self._held = bytearray()
        self._begun = False
        self.ended = False

    @property
    def whole(self) -> bool:
        """Whether all of it came, and the client has it, or wants no more."""
        return self.ended and not self._held

    @property
    def reading_fd(self) -> int:
        """Descriptor to wait on for reading; -1 while the client is behind."""
        return self.port.fileno() if len(self._held) < _HELD_MAX else -1

    @property
    def writing_fd(self) -> int:
        """Descriptor to wait on for writing while the client is behind, else -1."""
        return self._descriptor if self._held else -1

    def _from_guest(self, block: bytes) -> None:
        if not self._begun:
            self._begun, block = self._up_to(self._marks.begin, block)[1:]
        if self._begun and not self.ended:
            before, self.ended, _ = self._up_to(self._marks.end, block)
            self._pass_on(before)

    def _up_to(self, mark: bytes, block: bytes) -> tuple[bytes, bool, bytes]:
        """Return what is before a mark for certain, whether it is there, and what is behind it."""
        before, found, behind = (self._unsure + block).partition(mark)
        kept = 0 if found else _overlap(before, mark)
        self._unsure = before[len(before) - kept :]
        return before[: len(before) - kept], bool(found), behind

    def _pass_on(self, text: bytes) -> None:
        if text and self._take is not None:
            self._take(text)
        if text and self._descriptor >= 0:
            self._held += text
            self.flush()

    def give_up(self) -> None:
        """Take what looked like the beginning of the end for what it was: nothing follows any more."""
        rest, self._unsure = self._unsure, b""
        self._pass_on(rest if self._begun and not self.ended else b"")
        self.flush()

    def flush(self) -> None:
        """Write as much as the client takes now."""
        while self._held and self._descriptor >= 0:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            if not poll.poll(0):
                return
            try:
                # What a pipe that is ready takes without blocking.
                sent = os.write(self._descriptor, bytes(self._held[: select.PIPE_BUF]))
            except BlockingIOError:
                return
            except OSError:
                self._descriptor = -1
                self._held.clear()
                return
            del self._held[:sent]


class Input:
    """The stream from a descriptor of the client's to the guest, once the guest's program is there.

    :param descriptor: -1 for no input at all.
    """

    def __init__(self, listener: socket.socket, descriptor: int) -> None:
        self.port = Port(listener, lambda _: None)
        self._descriptor = descriptor
        self._held = b""
        self._open = False
        self._over = descriptor < 0
        self._closed = False

    def open(self) -> None:
        """Begin: the guest's program is about to read. Firmware may have listened before."""
        self._open = True
        self.advance()

    @property
    def reading_fd(self) -> int:
        """The client's descriptor to wait on, -1 while nothing is wanted of it."""
        return self._descriptor if self._open and not self._over and not self._held else -1

    @property
    def writing_fd(self) -> int:
        """The port's descriptor, while the guest is behind."""
        return self.port.fileno() if self._open and self._held and not self._closed else -1

    @property
    def closing(self) -> bool:
        """Whether QEMU has yet to read the last of it."""
        return self._open and self._over and not self._closed

    def from_client(self) -> None:
        """Take what the client says and pass it to the guest."""
        try:
            self._held = os.read(self._descriptor, _BLOCK)
        except BlockingIOError:
            return
        except OSError:
            self._held = b""
        self._over = not self._held
        self.advance()

    def advance(self) -> None:
        """Pass on what is held, and close the port once it is all over."""
        self.port.accept()
        if self._held:
            self._held = self._held[self.port.send(self._held) :]
        if self.closing and not self._held and self.port.unsent() == 0:
            self._closed = True
            self.port.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """The three streams of a guest's program."""

    stdin: Input
    stdout: Output
    stderr: Output

    @property
    def outputs(self) -> tuple[Output, Output]:
        """Those from the guest."""
        return self.stdout, self.stderr

    @property
    def whole(self) -> bool:
        """Whether all of the program's output is with the client."""
        return all(output.whole for output in self.outputs)

    @property
    def closing(self) -> bool:
        """Whether the end of the input has yet to reach QEMU, of which nothing tells."""
        return self.stdin.closing

    def waits(self) -> tuple[dict[int, Callable[[], object]], dict[int, Callable[[], object]]]:
        """Return what to do when which descriptor can be read, and when which can be written to."""
        reading: dict[int, Callable[[], object]] = {one.reading_fd: one.port.handle for one in self.outputs}
        reading[self.stdin.reading_fd] = self.stdin.from_client
        writing: dict[int, Callable[[], object]] = {one.writing_fd: one.flush for one in self.outputs}
        writing[self.stdin.writing_fd] = self.stdin.advance
        reading.pop(-1, None)
        writing.pop(-1, None)
        return reading, writing

    def drain(self) -> None:
        """Take what the guest sent before it ended."""
        for output in self.outputs:
            output.port.drain()
            output.flush()

    def give_up(self) -> None:
        """Pass on the very last: the guest is gone."""
        self.drain()
        for output in self.outputs:
            output.give_up()

    def close(self) -> None:
        """Drop all connections."""
        for one in (self.stdin, *self.outputs):
            one.port.close()


def _overlap(text: bytes, mark: bytes) -> int:
    """Return how many of the last bytes of a text may be the beginning of a mark."""
    for size in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-size:]):
            return size
    return 0
