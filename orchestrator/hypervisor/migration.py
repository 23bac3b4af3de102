"""A guest's state without its memory: saved to a file, and loaded into another QEMU that maps the same memory file.

QEMU's migration with `x-ignore-shared` leaves out RAM that lies in a shared file. It travels over a pair of sockets,
one of which is handed to QEMU (2026-11-24): nobody else can join, and a QEMU without rights needs none. libvirt's
sandbox forbids QEMU to start programs (`exec:`), and QEMU 7.2 cannot migrate to a file by itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from orchestrator.errors import DeadlineError, MonitorError
from orchestrator.hypervisor.events import MIGRATION, GuestEvent
from orchestrator.hypervisor.guest import Guest

_CAPABILITIES = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
_UNLIMITED = {"max-bandwidth": 1 << 40}
_STREAM = "state"  # QEMU's name for the descriptor
# QEMU says when it is over; asking takes the time of the one thread that loads the state (2026-11-27). Asked all the
# same, should its word be lost, or QEMU be.
_LOOK_S = 0.05
_OVER = frozenset({"completed", "failed", "cancelled"})
_LAST_WRITE_S = 1.0
_SAVING = "cannot save the state of domain"
_BLOCK = 1 << 20


def save(guest: Guest, state: Path, deadline_s: float) -> None:
    """Stop a guest and write its state to a file.

    :raise MonitorError: QEMU refused, or failed under way.
    :raise DeadlineError: it was not done by then.
    :raise OSError: the file cannot be written.
    """
    end = time.monotonic() + deadline_s
    failures: list[OSError] = []
    guest.qmp("stop")
    guest.qmp("migrate-set-capabilities", _CAPABILITIES)
    guest.qmp("migrate-set-parameters", _UNLIMITED)
    with state.open("xb") as out, contextlib.ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        ours.settimeout(deadline_s)
        receiver = threading.Thread(target=_receive, args=(ours, out, failures), daemon=True)
        guest.qmp("getfd", {"fdname": _STREAM}, files=[theirs.fileno()])
        theirs.close()  # so that QEMU's end of it is the end of the stream
        receiver.start()
        over = stack.enter_context(_told_of_its_end(guest))
        guest.qmp("migrate", {"uri": f"fd:{_STREAM}"})
        try:
            _wait(guest, over, end, _SAVING)
        except MonitorError as error:
            receiver.join(_LAST_WRITE_S)
            if failures:
                raise failures[0] from error
            raise
        receiver.join(max(_LAST_WRITE_S, end - time.monotonic()))
        # QEMU has sent all and knows nothing of what became of it.
        if failures:
            raise failures[0]
        if receiver.is_alive():
            raise DeadlineError(_SAVING, guest.name, f"its state could not be written in {deadline_s:g} s")
        out.flush()
        os.fsync(out.fileno())


def _receive(stream: socket.socket, out: IO[bytes], failures: list[OSError]) -> None:
    """Write what QEMU sends to a file; what goes wrong is added to `failures`."""
    try:
        with stream.makefile("rb") as sent:
            shutil.copyfileobj(sent, out, _BLOCK)
    except OSError as error:
        failures.append(error)
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)  # QEMU would wait for ever for somebody to read


def load(guest: Guest, state: Path, deadline_s: float) -> None:
    """Load a saved state into a guest that was started with `-incoming defer`; it stays paused.

    :raise MonitorError: QEMU refused, or the state does not fit.
    :raise QemuExitedError: QEMU gave up on it, as it does on a state that does not fit.
    :raise DeadlineError: it was not done by then.
    """
    end = time.monotonic() + deadline_s
    guest.qmp("migrate-set-capabilities", _CAPABILITIES)
    with state.open("rb") as stream, contextlib.ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        with theirs:
            guest.qmp("getfd", {"fdname": _STREAM}, files=[theirs.fileno()])
        over = stack.enter_context(_told_of_its_end(guest))
        guest.qmp("migrate-incoming", {"uri": f"fd:{_STREAM}"})
        ours.settimeout(deadline_s)
        # A QEMU that refuses the state closes the stream: the reason is with QEMU, asked for below.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            ours.sendfile(stream)
        ours.close()  # a state that is cut off has an end, too
        _wait(guest, over, end, "cannot restore domain")


@contextlib.contextmanager
def _told_of_its_end(guest: Guest) -> Iterator[threading.Event]:
    """Yield an event that is set when QEMU says that a migration is over. libvirt has each QEMU say so."""
    over = threading.Event()

    def note(event: GuestEvent) -> None:
        if event.name == MIGRATION and event.detail.get("status") in _OVER:
            over.set()

    stop = guest.on_event(note)
    try:
        yield over
    finally:
        stop()


def _wait(guest: Guest, over: threading.Event, end: float, what: str) -> None:
    """Wait until a migration is over.

    :param over: set when QEMU says so.
    :raise MonitorError: it failed.
    :raise DeadlineError: it is not over at `end`, a monotonic time in seconds.
    """
    while True:
        over.wait(max(0.0, min(_LOOK_S, end - time.monotonic())))
        over.clear()
        answer = guest.qmp("query-migrate")
        status = answer.get("status")
        if status == "completed":
            return
        if status in {"failed", "cancelled"}:
            raise MonitorError(what, guest.name, answer.get("error-desc", f"QEMU says: {status}"))
        if time.monotonic() > end:
            raise DeadlineError(what, guest.name, "QEMU took too long")
