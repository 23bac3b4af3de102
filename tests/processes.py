"""Finds the QEMUs of a session's launches among all processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path


def qemus(folder: Path) -> list[int]:
    """Return the PIDs of the QEMUs that run a session's domains."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if words.startswith(b"/usr/bin/qemu-system") and b"guest=gl-" in words and os.fsencode(folder) in words:
                found.append(int(process.name))
    return found


def next_qemu(folder: Path, process: subprocess.Popen[str]) -> int:
    """Wait for the QEMU of a launch that begins, or of a clone that a process makes."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := qemus(folder):
            return found[0]
        assert process.poll() is None
    raise AssertionError("no QEMU within 60 s")
