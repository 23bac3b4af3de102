"""A guest's state without its memory: saved to a file, and loaded into another QEMU that maps the same memory file.

QEMU's migration with `x-ignore-shared` leaves out RAM that lies in a shared file. It travels over a unix socket:
libvirt's sandbox forbids QEMU to start programs, and QEMU 7.2 cannot migrate to a file by itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import IO

from orchestrator.errors import DeadlineError, MonitorError
from orchestrator.hypervisor.guest import Guest

_CAPABILITIES = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
_UNLIMITED = {"max-bandwidth": 1 << 40}
_LOOK_S = 0.002
_LAST_WRITE_S = 1.0
_SAVING = "cannot save the state of domain"
_BLOCK = 1 << 20


def save(guest: Guest, state: Path, socket_path: Path, deadline_s: float) -> None:
    """Stop a guest and write its state to a file.

    :param socket_path: unix socket to use meanwhile; it must not exist.
    :raise MonitorError: QEMU refused, or failed under way.
    :raise DeadlineError: it was not done by then.
    :raise OSError: the file cannot be written.
    """
    end = time.monotonic() + deadline_s
    failures: list[OSError] = []
    guest.qmp("stop")
    guest.qmp("migrate-set-capabilities", _CAPABILITIES)
    guest.qmp("migrate-set-parameters", _UNLIMITED)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, state.open("xb") as out:
        listener.bind(str(socket_path))
        try:
            listener.listen(1)
            listener.settimeout(deadline_s)
            receiver = threading.Thread(target=_receive, args=(listener, out, deadline_s, failures), daemon=True)
            receiver.start()
            guest.qmp("migrate", {"uri": f"unix:{socket_path}"})
            try:
                _wait(guest, end, _SAVING)
            except MonitorError as error:
                receiver.join(_LAST_WRITE_S)
                if failures:
                    raise failures[0] from error
                raise
            receiver.join(max(_LAST_WRITE_S, end - time.monotonic()))
        finally:
            socket_path.unlink(missing_ok=True)
        # QEMU has sent all and knows nothing of what became of it.
        if failures:
            raise failures[0]
        if receiver.is_alive():
            raise DeadlineError(_SAVING, guest.name, f"its state could not be written in {deadline_s:g} s")
        out.flush()
        os.fsync(out.fileno())


def _receive(listener: socket.socket, out: IO[bytes], deadline_s: float, failures: list[OSError]) -> None:
    """Write what QEMU sends to a file; what goes wrong is added to `failures`."""
    try:
        peer, _ = listener.accept()
        with peer, peer.makefile("rb") as stream:
            peer.settimeout(deadline_s)
            shutil.copyfileobj(stream, out, _BLOCK)
    except OSError as error:
        failures.append(error)


def load(guest: Guest, state: Path, socket_path: Path, deadline_s: float) -> None:
    """Load a saved state into a guest that was started with `-incoming defer`; it stays paused.

    :param socket_path: unix socket to use meanwhile; QEMU makes it, and it is gone afterwards.
    :raise MonitorError: QEMU refused, or the state does not fit.
    :raise QemuExitedError: QEMU gave up on it, as it does on a state that does not fit.
    :raise DeadlineError: it was not done by then.
    """
    end = time.monotonic() + deadline_s
    guest.qmp("migrate-set-capabilities", _CAPABILITIES)
    guest.qmp("migrate-incoming", {"uri": f"unix:{socket_path}"})
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sender, state.open("rb") as stream:
            sender.settimeout(deadline_s)
            sender.connect(str(socket_path))
            # A QEMU that refuses the state closes the stream: the reason is with QEMU, asked for below.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sender.sendfile(stream)
    finally:
        socket_path.unlink(missing_ok=True)
    _wait(guest, end, "cannot restore domain")


def _wait(guest: Guest, end: float, what: str) -> None:
    """Wait until a migration is over.

    :raise MonitorError: it failed.
    :raise DeadlineError: it is not over at `end`, a monotonic time in seconds.
    """
    while True:
        answer = guest.qmp("query-migrate")
        status = answer.get("status")
        if status == "completed":
            return
        if status in {"failed", "cancelled"}:
            raise MonitorError(what, guest.name, answer.get("error-desc", f"QEMU says: {status}"), domain=guest.name)
        if time.monotonic() > end:
            raise DeadlineError(what, guest.name, "QEMU took too long", domain=guest.name)
        time.sleep(_LOOK_S)
