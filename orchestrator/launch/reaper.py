"""The last resort: a small process that cleans up when the orchestrator dies without doing so.

libvirt's embedded driver starts QEMU as a daemon, which outlives an orchestrator killed by SIGKILL.
This program waits on a pipe held by the orchestrator; when the pipe closes, it kills the QEMU processes
of the launches still on its list (found by their domain UUID, so that no stale PID is ever hit) and
removes their files. Standard library only, run as a file with `python -I -S`: it must start fast.

Lines on standard input: `+ UUID PATH` lists a path of a launch, `- UUID` strikes the launch off. Paths are
quoted as JSON strings. The UUID `*` stands for the orchestrator's own files, removed last.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time

_KILL_SECONDS = 8.0


def _command_lines() -> dict[int, list[bytes]]:
    """Return the command line of each process that we may read."""
    found: dict[int, list[bytes]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    found[int(name)] = file.read().split(b"\0")
            except OSError:
                continue
    return found


def processes(uuids: set[str]) -> list[int]:
    """Return the PIDs of QEMU processes that run a domain with one of the UUIDs (`-uuid` argument)."""
    wanted = {uuid.encode() for uuid in uuids}
    return [
        pid
        for pid, words in _command_lines().items()
        if any(flag == b"-uuid" and value in wanted for flag, value in zip(words, words[1:], strict=False))
    ]


def kill(uuids: set[str], seconds: float = _KILL_SECONDS) -> None:
    """Kill the QEMU processes of the domains, and wait until they are gone."""
    deadline = time.monotonic() + seconds
    while uuids and (pids := processes(uuids)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def remove(paths: list[str]) -> None:
    """Remove files and directories; what is gone already, or cannot be removed, is passed over."""
    for path in paths:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            try:
                os.unlink(path)
            except OSError:
                continue


def main() -> int:
    """Keep the list until standard input ends, then clean up what is still on it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    listed: dict[str, list[str]] = {}
    for line in sys.stdin:
        sign, _, rest = line.rstrip("\n").partition(" ")
        uuid, _, quoted = rest.partition(" ")
        if sign == "+":
            listed.setdefault(uuid, []).append(json.loads(quoted))
        else:
            listed.pop(uuid, None)
    own = listed.pop("*", [])
    if listed:
        kill(set(listed))
    for paths in listed.values():
        remove(paths)
    remove(own)
    return 0


if __name__ == "__main__":
    sys.exit(main())
