"""A signal that ends a program and comes again costs nothing of what that program still has to remove or to say."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
_UNWINDING = """
import os, signal
from orchestrator.program import unwinding_on_sigterm
with unwinding_on_sigterm():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("removed", flush=True)
"""
_STOPPING = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from orchestrator.cli.kernel.terminal import SIGNAL_BASE, stopping
with stopping() as (stop, came):
    os.kill(os.getpid(), {number})
    assert stop.requested
os.kill(os.getpid(), {number})
print("said", flush=True)
sys.exit(SIGNAL_BASE + came[0])
"""


def _run(code: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, cwd=TOP, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_what_was_made_is_removed() -> None:
    """SIGTERM, and SIGTERM again while the stack unwinds."""
    assert _run(_UNWINDING) == (128 + signal.SIGTERM, "removed\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_found_is_said(number: signal.Signals) -> None:
    """What ran has ended, and its outcome is being told when the signal comes again."""
    assert _run(_STOPPING.format(number=int(number))) == (128 + number, "said\n", "")
