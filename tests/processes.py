"""Finds the QEMUs of a session's launches, and the guardians of a root, among all processes."""

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


def guardians(root: Path) -> dict[str, int]:
    """Return the process ids of a root's two guardians, by the names of their programs."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            for name in ("leftovers.py", "lifeline.py"):
                if os.fsencode(root) in known and name.encode() in known:
                    found[name] = int(process.name)
    return found


def both_guardians(root: Path, *, unlike: int = 0) -> dict[str, int]:
    """Wait until both guardians are there, none of them a given process."""
    end = time.monotonic() + 20
    while len(found := guardians(root)) < 2 or unlike in found.values():
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found
