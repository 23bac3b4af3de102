"""Metrics for one-shot use: cumulative totals from the event log, written as a node_exporter text file.

What was counted, and how far the log was read, is kept in a state file, so that totals only ever grow although the
log is rotated. Counting is `metrics`'s job, adding up `totals`'s.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from prometheus_client import CollectorRegistry, generate_latest

from orchestrator import files, locks
from orchestrator.errors import GuestlaunchError, UsageError
from orchestrator.records.record import EVENT, EVENTS, LaunchEvent
from orchestrator.telemetry.metrics import PHASE_BUCKETS, RATE_BUCKETS, LaunchMetrics
from orchestrator.telemetry.provisioned import LAUNCH_BUCKETS, OBSERVED, STEP_BUCKETS
from orchestrator.telemetry.totals import Totals

STATE_VERSION = 1
# Enough for a line or two, with their launch ids and times.
HEAD_BYTES = 8192
# Totals of other buckets cannot be added to: they start again, which Prometheus takes as a counter reset.
_LAYOUT = [list(PHASE_BUCKETS), list(LAUNCH_BUCKETS), list(RATE_BUCKETS), list(STEP_BUCKETS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far the log was read.

    :ivar inode: of the file, and `head`, a digest of its first lines: names and inodes are used again.
    :ivar offset: bytes of it that are counted.
    """

    inode: int
    offset: int
    head: str

    @classmethod
    def at(cls, file: BinaryIO) -> Cursor:
        """Return the place where a file is being read."""
        offset = file.tell()
        return cls(inode=_inode(file), offset=offset, head=_head(file, offset))

    def lies_in(self, file: BinaryIO | None) -> bool:
        """Tell whether this is a place in that very file, still with what was read from it."""
        return file is not None and _inode(file) == self.inode and _head(file, self.offset) == self.head


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one run found: launches counted in it, and launch lines that could not be understood."""

    launches: int
    broken: int
    registry: CollectorRegistry


def count(log: Path, state: Path) -> Counted:
    """Count the launches that the log gained since the last time, and return the totals so far.

    :param log: the event log; its rotated predecessor beside it (`.1`) is read too where it was not yet.
    :param state: file that keeps totals and position; made when it is not there.
    :raise GuestlaunchError: when the log or the state cannot be read or written.
    """
    with _locked(state):
        earlier, cursor = _load(state)
        metrics = LaunchMetrics()
        launches = broken = 0
        with _opened(log) as (current, rotated):
            for line in _unread(current, rotated, cursor):
                observe = _observer(metrics, line)
                if observe is None:
                    continue
                try:
                    observe(json.loads(line))
                    launches += 1
                except (ValueError, RecursionError):
                    broken += 1
            newest = current or rotated
            cursor = Cursor.at(newest) if newest else cursor
        registry = CollectorRegistry()
        registry.register(Totals(metrics.registry, earlier))
        _store(state, registry, cursor)
    return Counted(launches=launches, broken=broken, registry=registry)


def write(registry: CollectorRegistry, target: Path) -> None:
    """Write the registry for node_exporter's textfile collector, in one rename and readable for everybody.

    :raise UsageError: when node_exporter would not read a file of this name.
    :raise GuestlaunchError: when it cannot be written.
    """
    if target.suffix != ".prom":
        raise UsageError("cannot write metrics", target, "node_exporter reads only files named *.prom", "rename it")
    try:
        # node_exporter runs as a user of its own: whatever our umask is, it must be able to read the file.
        files.write_whole(target, exposition(registry).encode(), mode=0o644)
    except OSError as error:
        raise GuestlaunchError("cannot write metrics", target, error.strerror or error) from error


def exposition(registry: CollectorRegistry) -> str:
    """Return the registry in Prometheus' text format."""
    return generate_latest(registry).decode()


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    """Keep other runs out until this one has stored what it counted."""
    path = state.with_name(f"{state.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.locked_file(path))
        except OSError as error:
            raise GuestlaunchError("cannot keep metrics", path, error.strerror or error) from error
        yield


def _load(state: Path) -> tuple[str, Cursor | None]:
    """Return the earlier totals as text, and the position; nothing when there are none that still fit."""
    try:
        kept: Mapping[str, Any] = json.loads(state.read_text("utf-8"))
        if kept["version"] != STATE_VERSION:
            return "", None
        cursor = None if kept["cursor"] is None else Cursor(**kept["cursor"])
        return (str(kept["totals"]) if kept["layout"] == _LAYOUT else ""), cursor
    except FileNotFoundError:
        return "", None
    except OSError as error:
        raise GuestlaunchError("cannot read metrics", state, error.strerror or error) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = "its content is damaged"
        raise GuestlaunchError("cannot read metrics", state, why, "remove it: totals start again") from error


def _store(state: Path, registry: CollectorRegistry, cursor: Cursor | None) -> None:
    kept = {
        "version": STATE_VERSION,
        "layout": _LAYOUT,
        "cursor": None if cursor is None else asdict(cursor),
        "totals": exposition(registry),
    }
    try:
        files.write_whole(state, json.dumps(kept).encode())
    except OSError as error:
        raise GuestlaunchError("cannot keep metrics", state, error.strerror or error) from error


@contextlib.contextmanager
def _opened(log: Path) -> Iterator[tuple[BinaryIO | None, BinaryIO | None]]:
    """Open the log and its rotated predecessor; None for what is not there."""
    # The log first: should it be rotated now, it is found again under its other name.
    current = _open(log)
    rotated = _open(log.with_suffix(f"{log.suffix}.1"))
    if current and rotated and _inode(current) == _inode(rotated):
        current.close()
        current = None
    try:
        yield current, rotated
    finally:
        for file in (current, rotated):
            if file:
                file.close()


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GuestlaunchError("cannot read the log", path, error.strerror or error) from error


def _inode(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_ino


def _head(file: BinaryIO, length: int) -> str:
    """Return a digest of a file's first bytes, at most some lines of them."""
    data = os.pread(file.fileno(), min(length, HEAD_BYTES), 0)
    return hashlib.sha256(data).hexdigest()


def _unread(current: BinaryIO | None, rotated: BinaryIO | None, cursor: Cursor | None) -> Iterator[bytes]:
    """Yield the whole lines not yet counted; leaves each file at the end of the last one."""
    if current and cursor and cursor.lies_in(current):
        current.seek(cursor.offset)
        rotated = None
    elif rotated and cursor and cursor.lies_in(rotated):
        rotated.seek(cursor.offset)
    elif current and cursor and _inode(current) == cursor.inode:
        # It was emptied in place: all in it is new, and what was rotated before is counted.
        rotated = None
    for file in (rotated, current):
        if file:
            yield from _lines(file)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline():
        if not line.endswith(b"\n"):
            # It is still being written: the next run counts it.
            file.seek(-len(line), os.SEEK_CUR)
            return
        yield line


def _observer(metrics: LaunchMetrics, line: bytes) -> Callable[[LaunchEvent], None] | None:
    """Return what counts a line, told from the other events without parsing those."""
    if EVENT.encode() in line:
        return metrics.observe
    return metrics.provisioned.observe if any(EVENTS[kind].encode() in line for kind in OBSERVED) else None
