"""The event log: structlog JSON lines to a file or standard error, one write a line.

structlog is imported with the first event, which comes after the guest was started, or for a clone while libvirt
starts QEMU: its import costs the launch nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import GuestlaunchError

# A log that only ever grows fills the disk one day; the one before it is kept.
ROTATE_BYTES = 64 << 20


class EventLog:
    """Writes events as JSON lines.

    :param target: a file's path, "-" for standard error, or None to drop them.
    """

    def __init__(self, target: str | None) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._log: Callable[..., None] | None = None

    def emit(self, event: str, level: str = "info", **values: object) -> None:
        """Write one event; a log that cannot be written never fails a launch."""
        if self._target is None:
            return
        with self._lock, contextlib.suppress(OSError):
            self._prepared()(event, level=level, **values)

    def prepare(self) -> None:
        """Import structlog now: on a busy host, that takes as long as a launch from a ready clone."""
        with self._lock:
            self._prepared()

    def prepare_beside(self) -> Callable[[], object]:
        """Import structlog on a thread of its own, if need be; return what waits for its end.

        A guest's events are dated as they come: on a host with one CPU the import would keep its markers (2026-11-27).
        """
        if self._target is None or self._log is not None:
            return lambda: None
        thread = threading.Thread(target=self.prepare, name="log", daemon=True)
        thread.start()
        return thread.join

    def _prepared(self) -> Callable[..., None]:
        if self._log is None:
            self._log = _logger(self._write)
        return self._log

    def _write(self, line: str, entry: Mapping[str, object]) -> None:
        data = (line + "\n").encode("utf-8", "backslashreplace")
        if self._target == "-":
            _write_stderr(data.decode("utf-8"), entry)
            return
        path = Path(str(self._target))
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            if path.stat().st_size > ROTATE_BYTES:
                rotate(path)
        append(path, data)


def rotate(path: Path) -> None:
    """Put a file that is too large aside, unless another process is about to, or has: its lines would be lost.

    :raise BlockingIOError: another process is about to.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_size > ROTATE_BYTES and os.path.samestat(os.fstat(descriptor), path.stat()):
            path.replace(path.with_suffix(path.suffix + ".1"))
    finally:
        os.close(descriptor)


def _write_stderr(line: str, entry: Mapping[str, object]) -> None:
    """Write a line to standard error or, when that is the journal, send it there with its values as fields."""
    from orchestrator.records import journal

    if journal.is_journal(2, os.environ):
        if journal.send(line.rstrip("\n"), entry):
            return
        line = journal.prefixed(line, str(entry.get("level")))
    sys.stderr.write(line)
    sys.stderr.flush()


def append(path: Path, data: bytes) -> None:
    """Append to a file in one write, so that lines of several processes never mix.

    :raise OSError: when the file cannot be written; half a line does not stay in it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        written = os.write(descriptor, data)
        if written < len(data):
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
            if os.fstat(descriptor).st_size == end:  # nobody wrote after us
                os.ftruncate(descriptor, end - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
    finally:
        os.close(descriptor)


def _logger(write: Callable[[str, Mapping[str, object]], None]) -> Callable[..., None]:
    """Return structlog's rendering of an event as one JSON line."""
    import structlog

    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    render = structlog.processors.JSONRenderer()

    def log(event: str, **values: object) -> None:
        entry: dict[str, Any] = {"event": event, **values}
        if "timestamp" not in entry:
            entry = dict(stamp(None, "info", entry))
        write(str(render(None, "info", dict(entry))), entry)

    return log


def write_timeline(target: str, event: Mapping[str, object]) -> None:
    """Write one canonical line to a file (appended) or, for "-", to standard output.

    :raise GuestlaunchError: when the file cannot be written.
    """
    import json

    line = json.dumps(event) + "\n"
    if target == "-":
        sys.stdout.write(line)
        sys.stdout.flush()
        return
    try:
        append(Path(target), line.encode())
    except OSError as error:
        raise GuestlaunchError("cannot write the timeline", target, error.strerror or error) from error
