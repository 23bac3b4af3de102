"""The serial console of one guest, relayed between QEMU and the client that reads it, and remembered."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Callable

from orchestrator.channel.port import Port
from orchestrator.channel.ring import ConsoleRing

_BLOCK = 65536
_PENDING_MAX = 1 << 20


class Console:
    """Relays a console in both directions without ever waiting for either side.

    A client that does not read (libguestfs does not while it waits for a reply on the other
    socket) must not stall the guest: what it does not take is held, up to 1 MiB, and then dropped;
    the ring still has it.

    :param client: (input, output) descriptors of the client, or None when nobody reads along.

    :ivar take: gets what the guest says, as well; None while nobody wants it.
    :ivar escape: a byte that the client may type for us, and what is done then.
    """

    def __init__(self, listener: socket.socket, ring: ConsoleRing, client: tuple[int, int] | None) -> None:
        self.ring = ring
        self.take: Callable[[bytes], None] | None = None
        self.escape: tuple[bytes, Callable[[], object]] | None = None
        self.bytes = 0
        self.port = Port(listener, self._from_guest)
        self._to_client = bytearray()
        self._to_guest = bytearray()
        self.relay_to(client)

    def relay_to(self, client: tuple[int, int] | None) -> None:
        """Relay to a client from now on; what came before stays in the ring."""
        self._input, self._output = client or (-1, -1)
        self._output_is_socket = self._output >= 0 and stat.S_ISSOCK(os.fstat(self._output).st_mode)

    @property
    def input_fd(self) -> int:
        """Descriptor on which the client types; -1 when there is none (any more), or while the guest is behind."""
        return self._input if len(self._to_guest) < _BLOCK else -1

    @property
    def output_fd(self) -> int:
        """Descriptor to wait on for writing while the client is behind, else -1."""
        return self._output if self._to_client else -1

    def _from_guest(self, block: bytes) -> None:
        self.ring.feed(block)
        self.bytes += len(block)
        if self.take is not None:
            self.take(block)
        if self._to_guest:
            self._type()
        if self._output < 0:
            return
        behind = bool(self._to_client)
        self._to_client += block
        del self._to_client[:-_PENDING_MAX]
        if not behind:  # else `output_fd` shows when the client takes more: a try with each byte would slow its guest
            self.flush()

    def tell(self, block: bytes) -> None:
        """Tell the client something as if the guest had said it: what is not from this guest has to say so itself."""
        if self._output >= 0:
            self._to_client += block
            self.flush()

    def flush(self) -> None:
        """Write what the client has not taken yet, as far as it takes it now; likewise what the client has typed."""
        if self._to_guest:
            self._type()
        while self._to_client and self._output >= 0:
            try:
                sent = self._write(bytes(self._to_client[:_BLOCK]))
            except BlockingIOError:
                return
            except OSError:
                self._output = -1
                self._to_client.clear()
                return
            del self._to_client[:sent]

    def _write(self, block: bytes) -> int:
        """Write without blocking; only for a socket can that be asked without changing a shared descriptor."""
        if self._output_is_socket:
            with socket.socket(fileno=os.dup(self._output)) as peer:
                return peer.send(block, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        poll = select.poll()  # select(2) knows no descriptors above 1023, which a busy server has
        poll.register(self._output, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(self._output, block[: select.PIPE_BUF])

    def from_client(self) -> None:
        """Take what the client typed and pass it to the guest."""
        try:
            block = os.read(self._input, _BLOCK)
        except BlockingIOError:
            return
        except OSError:
            block = b""
        if not block:
            self._input = -1
            return
        if self.escape is not None and self.escape[0] in block:
            self.escape[1]()
            return
        self._to_guest += block
        self._type()

    def _type(self) -> None:
        del self._to_guest[: self.port.send(bytes(self._to_guest))]
