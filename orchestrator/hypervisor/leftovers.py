"""Ends and removes what a dead orchestrator left in its private libvirt root: QEMU processes, claimed files, the root.

Two callers: `embed.sweep`, and this file run as a program of its own (the guardian), which outlives the process that
started it. libvirt's embedded driver has no autodestroy; the guardian stands in for it: it waits until its standard
input ends, which the kernel sees to however that process dies. Standard library only, no package import: the guardian
starts on a bare interpreter.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CLAIMS = "claims"  # folder of symbolic links to files outside the root that go with it
GRACE_S = 3.0  # for QEMU to write back what it holds, before SIGKILL


def guests_of(root: Path) -> Iterator[int]:
    """Yield the process id of each QEMU that runs from this root.

    libvirt's pid file may be stale and its number taken over by a stranger, so the process's own command line must
    name the root (its monitor socket lies there).
    """
    mark = os.fsencode(str(root)) + b"/"
    for file in sorted(root.glob("run/qemu/*.pid")):
        try:
            pid = int(file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if pid != os.getpid() and mark in command:
            yield pid


def end_process(pid: int, grace_s: float = GRACE_S) -> None:
    """End a process: SIGTERM, and SIGKILL after grace_s seconds. Returns when it has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
            signal.pidfd_send_signal(pidfd, number)
            if ended.poll(wait_s * 1000):
                return
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def remove(root: Path) -> list[str]:
    """End the guests of a root, remove what it claimed and the root itself; return one line for each thing done."""
    done = []
    for pid in guests_of(root):
        end_process(pid)
        done.append(f"ended QEMU {pid}")
    claims = root / CLAIMS
    for link in sorted(claims.iterdir()) if claims.is_dir() else []:
        target = link.readlink()
        if _remove_claimed(target):
            done.append(f"removed {target}")
    shutil.rmtree(root, ignore_errors=True)
    done.append(f"removed {root}")
    return done


def _remove_claimed(target: Path) -> bool:
    """Remove what was claimed; tell whether it was there and ours to remove.

    A file NAME.lock beside it goes with it. While somebody holds a lock on that, both are his: a successor's.
    """
    lock = target.with_name(target.name + ".lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return _unlink(target)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.unlink(missing_ok=True)
        return _unlink(target)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _unlink(target: Path) -> bool:
    there = os.path.lexists(target)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)
    return there


def guard(root: Path) -> None:
    """Wait until standard input ends, then clean up if the root is still there.

    A guest may have been in the middle of its start when its owner died: its pid file appears a moment later, so the
    root is looked at until QEMU can no longer turn up in it.
    """
    while os.read(0, 4096):
        pass
    if not root.is_dir():
        return
    settle = time.monotonic() + 1.0
    while time.monotonic() < settle:
        for pid in guests_of(root):
            end_process(pid)
        time.sleep(0.1)
    remove(root)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
