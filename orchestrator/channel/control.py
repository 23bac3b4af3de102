"""The control port of one guest: lines of text in both directions, of which the guest's go to whoever listens."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

from orchestrator.channel.port import LineBuffer, Port
from orchestrator.errors import DeadlineError

# An appliance says some hundred bytes in a launch.
MOST_BYTES = 1 << 20

Listener = Callable[[bytes], None]


class Control:
    """Our end of the control port.

    :ivar listener: called with each line of the guest; None while nobody listens.
    """

    def __init__(self, listener_socket: socket.socket) -> None:
        self.listener: Listener | None = None
        self.port = Port(listener_socket, LineBuffer(self._take).feed, MOST_BYTES)

    def _take(self, line: bytes) -> None:
        if self.listener is not None:
            self.listener(line)

    def say(self, line: str, deadline_s: float) -> None:
        """Send one line to the guest, waiting for QEMU to connect and take it.

        :raise DeadlineError: it did not.
        """
        rest = line.encode("ascii") + b"\n"
        end = time.monotonic() + deadline_s
        while rest:
            if self.port.fileno() >= 0:
                self.port.accept()
            sent = self.port.send(rest)
            rest = rest[sent:]
            if rest and not sent:
                if time.monotonic() > end:
                    why = f"it takes nothing within {deadline_s:g} s"
                    raise DeadlineError("cannot tell the guest anything", "the control port", why)
                select.select([], [], [], 0.001)
