"""Guests that say more than any launch does, at each of our ends, and what that costs us."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from orchestrator.channel.port import Port
from orchestrator.hypervisor.written import Written

MARKER = b"guestlaunch-marker init 1.25 2.00\n"


def memory_kib() -> int:
    """Return the memory that this process has resident."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


@contextlib.contextmanager
def talking(path: Path, text: bytes, total_bytes: int) -> Iterator[threading.Event]:
    """Connect to a port as QEMU does, and say a text over and over; yield what is set at the end of it."""
    done = threading.Event()
    block = text * (65536 // len(text))
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(path))

        def talk() -> None:
            with contextlib.suppress(OSError):
                for _ in range(total_bytes // len(block)):
                    guest.sendall(block)
            done.set()

        talker = threading.Thread(target=talk, daemon=True)
        talker.start()
        yield done
        guest.shutdown(socket.SHUT_RDWR)
    talker.join(10)


def listen_to(port: Port, done: threading.Event) -> None:
    """Read a port as a launch does, until the guest is done or has said enough."""
    while port.fileno() >= 0:
        if select.select([port.fileno()], [], [], 0.05)[0]:
            port.handle()
        elif done.is_set():
            return


class TracedGuest:
    """A guest whose QEMU notes which events it was told to trace no more."""

    def __init__(self, log_file: Path | None = None) -> None:
        self.log_file = log_file
        self.silenced: list[str] = []

    def qmp(self, command: str, arguments: dict[str, Any], *, deadline_s: float) -> None:
        """Take note."""
        assert (command, arguments["enable"], deadline_s > 0) == ("trace-event-set-state", False, True)
        self.silenced.append(arguments["name"])


def written(guest: TracedGuest, trace: Path | None) -> Written:
    """Return what keeps the files of this guest small."""
    return Written(cast("Any", guest), trace)


def grow(path: Path, line: bytes, total_bytes: int) -> None:
    """Append lines as QEMU does."""
    block = line * ((1 << 20) // len(line))
    with path.open("ab") as file:
        for _ in range(max(1, total_bytes // len(block))):
            file.write(block)


def disk_kib(path: Path) -> int:
    """Return what a file takes on disk."""
    return path.stat().st_blocks // 2


def silent_guest(**more: object) -> Any:  # noqa: ANN401 - stands in for a Guest
    """Return a guest that lives and says nothing through libvirt."""
    nothing = {"disk_error": None, "halted": False, "broken": False, "pidfd": None}
    return SimpleNamespace(exited=threading.Event(), on_event=lambda _: lambda: None, **nothing, **more)


def stuck_client() -> tuple[socket.socket, socket.socket]:
    """Return a client's console, as libguestfs makes it, that nobody reads; and its other end."""
    ours, theirs = socket.socketpair()
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536), socket.MSG_DONTWAIT)
    return ours, theirs


def null_descriptor() -> int:
    """Return a descriptor of nowhere."""
    return os.open(os.devnull, os.O_RDWR)
