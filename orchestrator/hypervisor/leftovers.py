"""Ends and removes what a dead orchestrator left in its private libvirt root: QEMU processes, claimed files, the root.

Two callers: `embed.sweep`, and this file run as a program of its own (the guardian), which outlives the process that
started it. libvirt's embedded driver has no autodestroy; the guardian stands in for it (2026-11-22): it waits until its
standard input ends, which the kernel sees to however that process dies. A second one (`lifeline`) stands by for the
case that both are killed; the guardian starts it, replaces it and takes it along. Besides `files`, standard library
only: both start on a bare interpreter.

Nothing here follows a symbolic link or believes a name: whoever could make entries where we look could have us remove
anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # the guardian: at the end, where it can hide no module of the standard library
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from orchestrator import files

CLAIMS = "claims"  # folder of files, each of which holds the path of something outside the root that goes with it
# Folders that may be claimed, by their names: a launch's, a template's that is being built, a private socket's.
FOLDER = re.compile(r"gl-[0-9a-f]{12}|\.building-[0-9a-z_]{8}|c-[0-9a-z_]{8}")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
GUARDED = "GUESTLAUNCH_GUARDED"  # names the root to the second guardian
_PAUSE_S = 1.0
GRACE_S = 3.0  # for QEMU to write back what it holds, before SIGKILL


def guests_of(root: Path) -> Iterator[int]:
    """Yield the process id of each QEMU that runs from this root, also of those that libvirt asks what they can do.

    libvirt's pid file may be stale and its number taken over by a stranger, so the process's own command line must
    name the root (its monitor socket lies there).
    """
    mark = os.fsencode(str(root)) + b"/"
    for file in sorted([*root.glob("run/qemu/*.pid"), *root.glob("lib/qemu/qmp-*/qmp.pid")]):
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
    """End the guests of a root, remove what it claimed and the root itself; return one line for each thing done.

    A root that is not ours alone, or lies where others could have put it, is left alone.
    """
    try:
        base = files.open_folder(root.parent)
    except OSError:
        return []
    try:
        if not files.is_own(root.name, base):
            return []
        done = []
        for pid in guests_of(root):
            end_process(pid)
            done.append(f"ended QEMU {pid}")
        done += [f"removed {target}" for target in _claims(root) if _remove_claimed(target)]
        files.remove_tree(root.name, base)
        done.append(f"removed {root}")
        return done
    finally:
        os.close(base)


def _claims(root: Path) -> list[str]:
    """Return the paths that a root claims, of files that we ourselves wrote."""
    targets = []
    try:
        claims = files.open_folder(root / CLAIMS)
    except OSError:
        return []
    try:
        for name in files.entries(claims):
            with contextlib.suppress(OSError), os.fdopen(os.open(name, _READ, dir_fd=claims), "rb") as file:
                status = os.fstat(file.fileno())
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    targets.append(os.fsdecode(file.read()))
    finally:
        os.close(claims)
    return targets


def _remove_claimed(target: str) -> bool:
    """Remove what was claimed; tell whether it was there and is of the kinds that we make, where only we make them."""
    parent, name = os.path.split(target)
    try:
        folder = files.open_folder(parent)
    except (OSError, ValueError):
        return False
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if status.st_uid != os.geteuid():
            return False
        if stat.S_ISDIR(status.st_mode):
            return FOLDER.fullmatch(name) is not None and files.remove_tree(name, folder)
        return stat.S_ISSOCK(status.st_mode) and _remove_socket(name, folder)
    except OSError:
        return False
    finally:
        os.close(folder)


def _remove_socket(name: str, folder: int) -> bool:
    """Remove a socket and the file NAME.lock beside it. While somebody holds that lock, both are a successor's."""
    lock = f"{name}.lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return files.remove_tree(name, folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files.remove_tree(lock, folder)
        return files.remove_tree(name, folder)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def guard(root: Path) -> None:
    """Wait until standard input ends, then clean up; a line that is read there says that nothing is left to do."""
    second = _start_second(root)
    try:
        while True:
            pidfd = os.pidfd_open(second)
            try:
                either = select.poll()
                either.register(0, select.POLLIN)
                either.register(pidfd, select.POLLIN)
                ready = {descriptor for descriptor, _ in either.poll()}
            finally:
                os.close(pidfd)
            if 0 in ready:
                break
            os.waitpid(second, 0)
            time.sleep(_PAUSE_S)  # one that cannot live must not cost the host a processor
            second = _start_second(root)
        if os.read(0, 1):
            remove(root)
        else:
            clean_up(root)
    finally:
        os.kill(second, signal.SIGKILL)
        os.waitpid(second, 0)


def _start_second(root: Path) -> int:
    """Start the second guardian and return its process id."""
    program = str(Path(__file__).with_name("lifeline.py"))
    command = [sys.executable, "-I", "-S", program, str(os.getpid())]
    return os.posix_spawn(sys.executable, command, {**os.environ, GUARDED: str(root)}, setsid=True)


def clean_up(root: Path) -> None:
    """Clean up after a dead owner if the root is still there. Whoever else does the same meanwhile is waited for.

    A guest may have been in the middle of its start when its owner died: its pid file appears a moment later, so the
    root is looked at until QEMU can no longer turn up in it.
    """
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    fcntl.flock(folder, fcntl.LOCK_EX)
    settle = time.monotonic() + 1.0
    while root.is_dir() and time.monotonic() < settle:
        for pid in guests_of(root):
            end_process(pid)
        time.sleep(0.1)
    remove(root)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
