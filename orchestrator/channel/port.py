"""One unix socket that QEMU connects to, once: the control port's lines, the console's bytes."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator import sockets
from orchestrator.errors import CapabilityError, LaunchError

_BLOCK = 65536
_LINE_MAX = 4096
# More than a socket holds of a guest that has ended; one that is alive could go on for ever.
_DRAIN_MAX = 1 << 20


def check_socket_path(path: Path) -> None:
    """Refuse a path that no unix socket can have.

    :raise CapabilityError: when the path is longer than sun_path.
    """
    if why := sockets.too_long(path):
        hint = "set a shorter runtime_dir, for example with GUESTLAUNCH_RUNTIME_DIR"
        raise CapabilityError("socket path too long", path, why, hint)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen on a unix socket at path, for one peer; the path is gone afterwards.

    :raise CapabilityError: when the path cannot be a socket's.
    :raise LaunchError: when it cannot be bound.
    """
    check_socket_path(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
            listener.listen(1)
        except OSError as error:
            raise LaunchError("cannot listen on a socket", path, error.strerror or error) from error
        try:
            listener.setblocking(False)
            yield listener
        finally:
            path.unlink(missing_ok=True)


class Port:
    """QEMU's end of a character device: accepts its one connection, then reads what it sends.

    :param on_data: called with each block; an empty block means QEMU closed its end.
    :param most_bytes: how much is read in all. A guest that says more waits for ever, and costs nothing; None for no
        limit.
    """

    def __init__(
        self, listener: socket.socket, on_data: Callable[[bytes], None], most_bytes: int | None = None
    ) -> None:
        self._left = most_bytes
        self._listener = listener
        self._peer: socket.socket | None = None
        self._closed = False
        self._on_data = on_data

    def fileno(self) -> int:
        """Return the descriptor to wait on for reading; -1 once QEMU has closed its end, or has said enough."""
        if self._closed or self._left == 0:
            return -1
        return self._listener.fileno() if self._peer is None else self._peer.fileno()

    def accept(self) -> None:
        """Take QEMU's connection when it is there and was not taken yet."""
        if self._peer is None:
            with contextlib.suppress(BlockingIOError):
                self._peer, _ = self._listener.accept()
                self._peer.setblocking(False)

    def handle(self) -> None:
        """Take what is there: the connection, or a block of bytes."""
        if self._peer is None:
            self.accept()
            return
        block = self._read(self._peer)
        if block is None:
            return
        if not block:
            self.close()
        self._on_data(block)

    def drain(self) -> None:
        """Read what has been sent already, by a QEMU that may have ended before its connection was taken, too."""
        if not self._closed:
            self.accept()
        taken = 0
        while self._peer is not None and not self._closed and taken < _DRAIN_MAX:
            block = self._read(self._peer)
            if not block:
                return
            taken += len(block)
            self._on_data(block)

    def _read(self, peer: socket.socket) -> bytes | None:
        """Return a block; an empty one at the end, None when there is nothing to read (any more)."""
        if self._left == 0:
            return None
        try:
            block = peer.recv(_BLOCK if self._left is None else min(_BLOCK, self._left))
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""
        if self._left is not None:
            self._left -= len(block)
        return block

    def send(self, block: bytes) -> int:
        """Send bytes to the guest; return how many were taken (0 while it cannot take any)."""
        if self._peer is None or self._closed:
            return 0
        try:
            return self._peer.send(block)
        except (BlockingIOError, ConnectionError):
            return 0

    def unsent(self) -> int | None:
        """Return how much of what was sent QEMU has not read yet; None while it is not connected (any more)."""
        if self._peer is None or self._closed:
            return None
        return int(struct.unpack("i", fcntl.ioctl(self._peer, termios.TIOCOUTQ, bytes(4)))[0])

    def close(self) -> None:
        """Drop the connection."""
        self._closed = True
        if self._peer is not None:
            self._peer.close()


class LineBuffer:
    """Cuts a byte stream into lines; an overlong line is cut off rather than held without bound."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, block: bytes) -> None:
        """Take a block and hand on each whole line in it."""
        *lines, rest = (self._rest + block).split(b"\n")
        self._rest = rest[-_LINE_MAX:]
        for line in lines:
            self._on_line(line[:_LINE_MAX])
