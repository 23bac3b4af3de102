"""Reads log files and result files as a stream: canonical lines out, broken lines counted and named.

A line is judged by itself; what launches mean together is for `collection`. Files may be of any size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from orchestrator.bench import result
from orchestrator.errors import UsageError
from orchestrator.records.record import CANONICAL, SCHEMA_VERSION, LaunchEvent
from orchestrator.report.submission import Submission, is_submission, read

_NAMED = 20
_PEEK_BYTES = 4096
_MAX_LINE_BYTES = 4 << 20
_NEEDED = ("launch_id", "wall_start_ns", "total_ns", "profile", "accel", "start", "outcome", "phases")


@dataclass(slots=True)
class Broken:
    """Lines that could not be used: how many, and the first of them by name (`file:line: why`)."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, path: object, number: int, why: str) -> None:
        """Note a broken line."""
        self.count += 1
        if len(self.named) < _NAMED:
            self.named.append(f"{path}:{number}: {why}")


@dataclass(slots=True)
class Reading:
    """A pass over files. Iterate `events` first; the rest is filled as it goes.

    :ivar results: result files among the paths, checked; `submissions` those that people have sent.
    :ivar lines: lines read; `others`: whole lines that are other events.
    """

    paths: Sequence[Path]
    broken: Broken = field(default_factory=Broken)
    results: list[tuple[Path, result.Result]] = field(default_factory=list)
    submissions: list[tuple[Path, Submission]] = field(default_factory=list)
    lines: int = 0
    others: int = 0

    def launches(self) -> Iterator[LaunchEvent]:
        """Yield the canonical lines, of launches of every kind.

        :raise UsageError: a file cannot be read, or is a result file that does not fit its schema.
        """
        for event in self.events():
            if event.get("event") in CANONICAL:
                yield cast("LaunchEvent", event)
            else:
                self.others += 1

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield every line that is an event, canonical ones checked for what reports rely on."""
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    beginning = file.read(_PEEK_BYTES)
                    file.seek(0)
                    if is_submission(beginning):
                        self.submissions.append((path, read(path)))
                        continue
                    if _is_result(beginning):
                        self.results.append((path, result.load(path)))
                        continue
                    yield from self._lines(path, file)
            except OSError as error:
                raise UsageError("cannot read the log", path, error.strerror or error) from error

    def _lines(self, path: Path, file: BinaryIO) -> Iterator[dict[str, Any]]:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            if not line.strip():
                continue
            self.lines += 1
            if not line.endswith(b"\n") and len(line) >= _MAX_LINE_BYTES:
                self.broken.add(path, number, "longer than any log line")
                _skip_line(file)
                continue
            try:
                event = json.loads(line)
            except (ValueError, RecursionError) as error:
                self.broken.add(path, number, f"not JSON: {error}"[:200])
                continue
            why = _defect(event)
            if why:
                self.broken.add(path, number, why)
            else:
                yield event


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def _is_result(beginning: bytes) -> bool:
    """Tell whether a file is a result and no log, by its beginning."""
    return b'"format": "guestlaunch bench result"' in beginning


def _defect(event: object) -> str:
    """Return why a JSON line cannot be used, an empty text when it can."""
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return "not an event"
    name = event["event"]
    if name not in CANONICAL:
        return ""
    if event.get("schema_version") != SCHEMA_VERSION:
        return f"schema version {event.get('schema_version')}, this program reads {SCHEMA_VERSION}"
    missing = [key for key in _NEEDED if key not in event]
    if missing:
        return f"{name} without {', '.join(missing)}"
    if not isinstance(event["wall_start_ns"], int) or not isinstance(event["phases"], list):
        return f"{name} with fields of other types"
    return ""
