"""What a launch leaves behind: processes, files, sockets and mounts under a session's folder that should be gone."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

# What may stay between launches, relative to the session's folder: stores, logs, caches; never a launch's own things.
LASTING = (
    "config",
    "run/.lock",
    "state/appliances",
    "state/cache",
    "state/kvm-verdict.json",
    "state/kvm-verdict.lock",
    "state/launches.sqlite3",
    "state/launches.sqlite3-shm",
    "state/launches.sqlite3-wal",
    "state/libvirt/cache",
    "state/libvirt/roots/.lock",
    "state/log",
    "state/templates",
    f"tmp/.guestfs-{os.geteuid()}",  # libguestfs's own cache
    "xdg/guestlaunch/.lock",
)
_LAUNCH = re.compile(r"\bgl-[0-9a-f]{12}\b")
# A guest that was killed hard must be gone within this time.
GONE_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What there was at one moment; each entry says in words what it is."""

    entries: frozenset[str]

    def __sub__(self, earlier: Trace) -> list[str]:
        """Return what has come since."""
        return sorted(self.entries - earlier.entries)


def look(folder: Path) -> Trace:
    """Return what is there now because of a session with that folder."""
    return Trace(entries=frozenset({*_processes(folder), *_files(folder), *_mounts(folder)}))


def launches(folder: Path) -> set[str]:
    """Return the names of the launches, and of the clones that wait for one, of which anything is there now."""
    return {name for entry in look(folder).entries for name in _LAUNCH.findall(entry)}


def left_behind(folder: Path, before: Trace, *, kind: str = "", within_s: float = GONE_WITHIN_S) -> list[str]:
    """Return what has come since `before`, of that kind if any, and does not go away in time; empty once it is gone."""
    deadline = time.monotonic() + within_s
    while (
        remaining := [entry for entry in look(folder) - before if entry.startswith(kind)]
    ) and time.monotonic() < deadline:
        time.sleep(0.1)
    return remaining


def _processes(folder: Path) -> list[str]:
    """Every process that has the folder in its arguments or environment: guests, wrappers, guardians, clients."""
    needle = os.fsencode(folder)
    own = {os.getpid(), os.getppid()}
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) in own:
            continue
        # It may end while we look, or be another user's.
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes()
            ended = not arguments  # a zombie, or a kernel thread
            if not ended and (needle in arguments or needle in (process / "environ").read_bytes()):
                line = arguments.replace(b"\0", b" ").decode(errors="replace")
                found.append(f"process {process.name}: {line[:200]}")
    return found


def _files(folder: Path) -> list[str]:
    found = []
    for root, folders, names in os.walk(folder):
        where = Path(root).relative_to(folder)
        for name in names:
            path = where / name
            if not any(path.is_relative_to(lasting) for lasting in LASTING):
                kind = "socket" if (folder / path).is_socket() else "file"
                found.append(f"{kind} {path}")
        folders[:] = [name for name in folders if str(where / name) not in LASTING]
    return found


def _mounts(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [f"mount {line.split()[4]}" for line in lines if f" {folder}/" in line]
