"""Launches as Chrome trace events, which Perfetto opens: one track a launch, phases as slices, events as instants.

Format: the Trace Event Format's JSON object with complete (X), instant (i) and metadata (M) events; times in
microseconds. Launches of one accelerator form a process. Only the log is read.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, cast

from orchestrator.records.record import CANONICAL, PHASE_EVENTS, LaunchEvent, seen
from orchestrator.report.collection import Group, group_of
from orchestrator.report.rows import PART_OF

_WATCHED = ("QEMU", "libvirt")
_SHOWN_OF_LAUNCH = frozenset({"profile", "accel", "fw_cfg_dma", "start", "outcome", "error"})
_SHOWN_OF_PHASE = frozenset({"source", "bytes", "mb_per_s", "includes", "outcome"})


def write_trace(events: Iterable[Mapping[str, Any]], file: IO[str]) -> int:
    """Write a trace of all launches in a stream of log events, in one pass; return how many launches there were."""
    file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
    launches = 0
    separator = ""
    for entry in _entries(events):
        file.write(separator + json.dumps(entry, separators=(",", ":")))
        separator = ",\n"
        launches += entry.get("name") == "thread_name"
    file.write("\n]}\n")
    return launches


def _entries(events: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield trace events. Log events of a launch come before its canonical line: they wait for its track."""
    processes: dict[Group, int] = {}
    waiting: dict[str, list[dict[str, Any]]] = {}
    thread = 0
    for event in events:
        launch_id = event.get("launch_id")
        if not isinstance(launch_id, str):
            continue
        if event["event"] not in CANONICAL:
            instant = _instant(event)
            if instant is not None:
                waiting.setdefault(launch_id, []).append(instant)
            continue
        thread += 1
        group = group_of(cast("LaunchEvent", event))
        process = processes.get(group)
        if process is None:
            process = processes[group] = len(processes) + 1
            yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": group.title}}
        track = {"pid": process, "tid": thread}
        yield {"ph": "M", "name": "thread_name", **track, "args": {"name": f"{launch_id} {event['outcome']}"}}
        yield from _launch(cast("LaunchEvent", event), track)
        for instant in waiting.pop(launch_id, ()):
            yield {**instant, **track}


def _launch(event: LaunchEvent, track: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    origin = event["wall_start_ns"] / 1e3
    facts = {key: value for key, value in event.items() if key in _SHOWN_OF_LAUNCH}
    yield {
        "ph": "X", "name": f"launch {event['launch_id']}", "cat": "launch", "ts": origin,
        "dur": event["total_ns"] / 1e3, **track, "args": facts,
    }  # fmt: skip
    for phase, start_ns, duration_ns in seen(event["phases"]):
        at = origin + start_ns / 1e3
        more = {key: value for key, value in phase.items() if key in _SHOWN_OF_PHASE}
        yield {
            "ph": "X", "name": phase["name"], "cat": PART_OF[phase["name"]], "ts": at,
            "dur": duration_ns / 1e3, **track, "args": more,
        }  # fmt: skip
        source = phase.get("source", "")
        if source.startswith(_WATCHED):
            yield {
                "ph": "i",
                "s": "t",
                "name": source,
                "cat": "event",
                "ts": at,
                **track,
                "args": {"begins": phase["name"]},
            }


def _instant(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a log event as an instant without its track; None when it has no time stamp, or is a slice."""
    if event["event"] in PHASE_EVENTS.values():
        return None
    try:
        at = dt.datetime.fromisoformat(str(event["timestamp"]))
    except (KeyError, ValueError):
        return None
    more = {key: value for key, value in event.items() if key not in {"event", "timestamp", "launch_id"}}
    return {"ph": "i", "s": "t", "name": event["event"], "cat": "log", "ts": at.timestamp() * 1e6, "args": more}
