"""Chrome trace events: the file keeps to the format that Perfetto opens, and says what the log says."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter, defaultdict
from typing import Any

import jsonschema
import pytest

from orchestrator.report.trace import write_trace
from orchestrator.timeline.phases import Phase
from tests.simulated_launches import event, mixture

# The Trace Event Format, as far as it is used here: metadata, complete and instant events.
_TRACK = {"pid": {"type": "integer"}, "tid": {"type": "integer"}}
_NAMED = {"name": {"type": "string", "minLength": 1}, "args": {"type": "object"}}
_TIME = {"type": "number", "minimum": 0}
FORMAT = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "traceEvents": {
            "type": "array",
            "items": {
                "oneOf": [
                    {
                        "properties": {"ph": {"const": "M"}, **_TRACK, **_NAMED},
                        "required": ["ph", "name", "pid", "args"],
                        "additionalProperties": False,
                    },
                    {
                        "properties": {
                            "ph": {"const": "X"}, "cat": {"type": "string"}, "ts": _TIME, "dur": _TIME,
                            **_TRACK, **_NAMED,
                        },
                        "required": ["ph", "name", "ts", "dur", "pid", "tid"],
                        "additionalProperties": False,
                    },
                    {
                        "properties": {
                            "ph": {"const": "i"}, "s": {"enum": ["g", "p", "t"]}, "cat": {"type": "string"},
                            "ts": _TIME, **_TRACK, **_NAMED,
                        },
                        "required": ["ph", "name", "ts", "pid", "tid", "s"],
                        "additionalProperties": False,
                    },
                ]
            },
        },
    },
    "additionalProperties": False,
}  # fmt: skip


def trace(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of a trace, checked against the format."""
    file = io.StringIO()
    write_trace(lines, file)
    document = json.loads(file.getvalue())
    jsonschema.validate(document, FORMAT)
    return list(document["traceEvents"])


def test_one_track_a_launch() -> None:
    """Each launch has its own named track; those of one accelerator and profile share a process."""
    lines = mixture(count=40)
    found = trace(lines)
    names = [one for one in found if one["name"] == "thread_name"]
    assert len({(one["pid"], one["tid"]) for one in names}) == len(lines)
    assert [one["args"]["name"].split()[0] for one in names] == [line["launch_id"] for line in lines]
    processes = {one["pid"]: one["args"]["name"] for one in found if one["name"] == "process_name"}
    assert len(set(processes.values())) == len(processes)
    kvm = {one["pid"] for one, line in zip(names, lines, strict=True) if line["accel"] == "kvm"}
    assert kvm
    assert all("kvm" in processes[pid] for pid in kvm)
    file = io.StringIO()
    assert write_trace(lines, file) == len(lines)


def test_phases_are_slices_that_tile_the_launch() -> None:
    """The slices of a track lie within the launch's, in order, without a gap, and sum up to it."""
    lines = [line for line in mixture(count=40) if line["outcome"] == "success"]
    tracks: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in trace(lines):
        if one["ph"] == "X":
            tracks[one["tid"]].append(one)
    assert len(tracks) == len(lines)
    for (launch, *phases), line in zip(tracks.values(), lines, strict=True):
        assert launch["ts"] == pytest.approx(line["wall_start_ns"] / 1e3)
        assert launch["dur"] == pytest.approx(line["total_ns"] / 1e3)
        assert [one["name"] for one in phases] == [
            phase["name"] for phase in line["phases"] if phase["duration_ns"] is not None
        ]
        # A microsecond: the times of day do not fit a double to the nanosecond.
        for before, after in itertools.pairwise(phases):
            assert after["ts"] == pytest.approx(before["ts"] + before["dur"], abs=1)
        assert sum(one["dur"] for one in phases) == pytest.approx(launch["dur"])


def test_events_of_qemu_and_libvirt_are_instants() -> None:
    """A boundary that QEMU or libvirt reported stands in the track where it was seen; our own clock's do not."""
    line = event(1)
    sources = {
        "qemu": "libvirt started the domain",
        "fw_cfg_kernel": "QEMU trace fw_cfg_select",
        "plan": "client start",
    }
    for phase in line["phases"]:
        phase["source"] = sources.get(phase["name"], "orchestrator")
    found = [one for one in trace([line]) if one["ph"] == "i"]
    assert {one["name"]: one["args"]["begins"] for one in found} == {
        "libvirt started the domain": "qemu",
        "QEMU trace fw_cfg_select": "fw_cfg_kernel",
    }
    begins = {phase["name"]: line["wall_start_ns"] + phase["start_ns"] for phase in line["phases"]}
    for one in found:
        assert one["ts"] == pytest.approx(begins[one["args"]["begins"]] / 1e3)


def test_log_events_join_their_launch() -> None:
    """Other events of the log are instants of the launch they name, except those that are its slices already."""
    logged = [
        {"event": "launch_started", "launch_id": "simulated-1", "timestamp": "2026-01-31T12:00:00.5Z", "domain": "x"},
        {"event": "phase_finished", "launch_id": "simulated-1", "timestamp": "2026-01-31T12:00:01Z", "phase": "plan"},
        {"event": "launch_started", "launch_id": "another", "timestamp": "2026-01-31T12:00:02Z"},
        {"event": "no_time", "launch_id": "simulated-1"},
        {"event": "not_of_a_launch", "timestamp": "2026-01-31T12:00:02Z"},
    ]
    (found,) = [one for one in trace([*logged, event(1)]) if one["ph"] == "i"]
    assert found["name"] == "launch_started"
    assert found["ts"] == 1769860800.5e6
    assert found["args"] == {"domain": "x"}


def test_what_was_not_seen_is_not_drawn() -> None:
    """A failed launch has the slices it reached, and its error."""
    line = event(1, failed_in=Phase.KERNEL)
    slices = [one for one in trace([line]) if one["ph"] == "X"]
    assert slices[-1]["name"] == "kernel"
    assert slices[0]["args"]["error"] == line["error"]
    assert Counter(one["name"] for one in slices)["initrd"] == 0


def test_an_empty_trace_is_a_trace() -> None:
    """Without launches the file is still one."""
    assert trace([]) == []
