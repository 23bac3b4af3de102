"""The daemons behind a benchmark's sides: its own, and nobody else's; that of the standby side keeps a clone ready."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.daemon import client
from orchestrator.errors import CapabilityError, ProtocolError

_START_SECONDS = 30.0
_READY_SECONDS = 300.0  # the template may have to be made first
_END_SECONDS = 60.0
_POLL_SECONDS = 0.1


class StandbyDaemon:
    """A daemon that runs, and its clones."""

    def __init__(self, socket: Path, process: subprocess.Popen[bytes]) -> None:
        self.socket, self._process = socket, process

    def wait(self, seconds: float = _READY_SECONDS) -> bool:
        """Return once every clone is ready, and so nothing is done in the background.

        False when the time is over, or the daemon has ended.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(ProtocolError):
                if all_ready(client.status(self.socket)):
                    return True
            time.sleep(_POLL_SECONDS)
        return False


def all_ready(status: Mapping[str, Any]) -> bool:
    """Tell from a daemon's status whether it has all the standby clones that it wants, and wants any."""
    kept = status.get("standby") or ()
    return bool(kept) and all(one["ready"] >= one["wanted"] for one in kept)


@contextlib.contextmanager
def standing_by(folder: Path, environ: Mapping[str, str], *, clones: int) -> Iterator[StandbyDaemon]:
    """Run a daemon until the context ends. It keeps clones for the kinds of launches that it is asked for.

    :param clones: how many for each; one is enough for launches that wait until it is there.
    :param folder: takes its socket, and what it says.
    :raise CapabilityError: it does not start.
    """
    socket, said = folder / f"daemon-{clones}.sock", folder / f"daemon-{clones}.log"
    # The daemon ends when its standard input does: with us, however we end.
    command = (sys.executable, "-m", "orchestrator.daemon.main", "--socket", str(socket), "--lifeline", "0")
    with said.open("wb") as log:
        process = subprocess.Popen(
            command, env={**environ, "GUESTLAUNCH_STANDBY": str(clones)}, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        _await_socket(process, socket, said)
        yield StandbyDaemon(socket, process)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _await_socket(process: subprocess.Popen[bytes], socket: Path, said: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            lines = said.read_text("utf-8", "replace").strip().splitlines()
            raise CapabilityError(
                "cannot measure", "guestlaunchd", lines[-1] if lines else "guestlaunchd does not start"
            )
        time.sleep(_POLL_SECONDS)
