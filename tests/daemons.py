"""Runs guestlaunchd for a test, and asks it how far it is."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.bench.daemons import all_ready
from orchestrator.daemon import client
from tests.running import Guestlaunch

STATUS_S = 120.0


@contextlib.contextmanager
def daemon(
    guestlaunch: Guestlaunch, *options: str, prefix: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run guestlaunchd for the length of the context.

    :param prefix: a program, with arguments, that runs it.
    """
    process = guestlaunch.start(*prefix, guestlaunch.bin_dir / "guestlaunchd", *options, environ=environ)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "listening on" in line, line + process.stderr.read()
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait(90)


@contextlib.contextmanager
def standing_by(guestlaunch: Guestlaunch) -> Iterator[None]:
    """Run guestlaunchd for the length of the context, with a clone ready of a template that is there."""
    with daemon(guestlaunch, "--standby", "1"):
        wait_for_status(guestlaunch, lambda status: bool(status["standby"]) and all_ready(status))
        yield


def socket_path(guestlaunch: Guestlaunch) -> Path:
    """Return where the daemon listens."""
    return Path(guestlaunch.environ["GUESTLAUNCH_RUNTIME_DIR"]) / "guestlaunchd.sock"


def wait_for_status(
    guestlaunch: Guestlaunch, fits: Callable[[Mapping[str, Any]], bool], seconds: float = STATUS_S
) -> dict[str, Any]:
    """Ask the daemon what it does until that fits, and return it.

    :raise AssertionError: it does not fit in time.
    """
    deadline = time.monotonic() + seconds
    while not fits(status := client.status(socket_path(guestlaunch))):
        assert time.monotonic() < deadline, f"not so far within {seconds:g} s: {status}"
        time.sleep(0.05)
    return status
