"""Reads what commands have logged: the canonical lines of launches, checked as they are read, and other events."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import jsonschema

from orchestrator.records.record import schema


def records(evidence: Path) -> list[dict[str, Any]]:
    """Return the canonical lines of the test's launches, each checked: by the schema, for tiling, as a proof."""
    found = [json.loads(line) for line in (evidence / "timeline.jsonl").read_text().splitlines()]
    for record in found:
        jsonschema.validate(record, schema())
        assert record["proof_failures"] == [], record
        position = 0
        for phase in record["phases"]:
            if phase["start_ns"] is not None:
                assert phase["start_ns"] == position, phase
                position += phase["duration_ns"]
        assert position == record["total_ns"]
    return found


def seen(record: dict[str, Any]) -> set[str]:
    """Return the phases of a launch whose beginning was seen."""
    return {phase["name"] for phase in record["phases"] if phase["start_ns"] is not None}


def events(evidence: Path, name: str) -> list[dict[str, Any]]:
    """Return the test's events of a name, in order."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        *whole, _ = (evidence / "events.jsonl").read_text().split("\n")  # the last one may be on its way
        for line in whole:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name:
                found.append(event)
    return found


def wait_for_event(evidence: Path, name: str, seconds: float = 120.0) -> dict[str, Any]:
    """Wait until the log holds an event of that name, and return the first one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := events(evidence, name):
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no event {name} within {seconds:g} s")
