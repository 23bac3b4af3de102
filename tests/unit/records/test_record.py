"""The canonical line, its schema, and the recorder behind it."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from orchestrator.errors import GuestlaunchError
from orchestrator.records import log
from orchestrator.records.log import EventLog, write_timeline
from orchestrator.records.record import (
    FwCfg,
    FwCfgEntry,
    InstallStepEntry,
    InstallStepRecord,
    KernelRunEntry,
    KernelRunRecord,
    LaunchEvent,
    LaunchRecord,
    PhaseEntry,
    phase_event,
    schema,
    to_event,
)
from orchestrator.timeline.phases import Kind, Phase, Start
from orchestrator.timeline.recorder import Recorder
from tests.typed import assert_typed


def recorded(*phases: Phase, outcome: str = "success") -> LaunchRecord:
    """Return a record whose phases began one millisecond after another."""
    recorder = Recorder(origin_ns=10**9)
    for index, phase in enumerate(phases, 1):
        recorder.begin(phase, "test", 10**9 + index * 1_000_000)
    recorder.finish(10**9 + (len(phases) + 1) * 1_000_000)
    return LaunchRecord(
        launch_id="gl-1",
        start=Start.COLD,
        profile="aarch64-uefi",
        arch="aarch64",
        accel="tcg",
        accel_reason="asked for",
        fw_cfg=FwCfg(requested=True, dma_property=True, window_base=0x9020000, window_size=24, window_has_dma=True),
        outcome=outcome,
        tiles=recorder.tiles(outcome=outcome, sizes={Phase.FW_CFG_KERNEL: 1_000_000}),
        wall_start_ns=recorder.wall_start_ns,
        connection="qemu:///embed",
        kernel_bytes=1_000_000,
        initrd_bytes=0,
    )


def test_complete_and_failed_lines_fit_the_schema() -> None:
    """Both a full launch and one that failed early validate."""
    full = recorded(*list(Phase)[1:16])
    failed = replace(recorded(Phase.STAGE, outcome="failure"), error="disk: gone", error_phase="stage")
    unheard = replace(full, fw_cfg=replace(full.fw_cfg, register_answers=None, unseen="install python3-libfdt"))
    assert to_event(unheard)["fw_cfg"]["unseen"] == "install python3-libfdt"
    for record in (full, failed, unheard):
        jsonschema.validate(to_event(record), schema())
    assert to_event(full)["total_ns"] == 16_000_000
    assert to_event(full)["launch_ns"] == 14_000_000
    assert to_event(failed)["launch_ns"] is None


def test_schema_refuses_a_duration_for_an_unseen_phase() -> None:
    """The schema is not a rubber stamp: a guessed duration is refused."""
    event = to_event(recorded(Phase.STAGE))
    unseen = next(p for p in event["phases"] if p["outcome"] == "not_reached")
    unseen["duration_ns"] = 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(event, schema())


def test_dma_counts_only_as_verified() -> None:
    """Asked for is not enough; a window without the DMA register is not DMA either."""
    assert FwCfg(requested=True).verified is None
    assert FwCfg(requested=True, dma_property=True).verified is True
    assert FwCfg(requested=True, dma_property=True, window_has_dma=False).verified is False
    assert FwCfg(requested=True, dma_property=False, window_has_dma=True).verified is False


def test_first_note_of_a_boundary_counts() -> None:
    """A boundary seen twice keeps its first date."""
    recorder = Recorder(origin_ns=0)
    recorder.begin(Phase.STAGE, "first", 5)
    recorder.begin(Phase.STAGE, "second", 7)
    assert recorder.at_ns(Phase.STAGE) == 5
    assert recorder.current() is Phase.STAGE


def test_timeline_lines_append(tmp_path: Path) -> None:
    """Each launch adds one line of JSON."""
    path = tmp_path / "t.jsonl"
    event = to_event(recorded(Phase.STAGE))
    write_timeline(str(path), event)
    write_timeline(str(path), event)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["launch_finished"] * 2


def test_unwritable_timeline_is_one_clear_error(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(GuestlaunchError, match="cannot write the timeline: .*no-such"):
        write_timeline(str(tmp_path / "no-such" / "t"), {})


def test_event_log_writes_json_lines(tmp_path: Path) -> None:
    """Events carry their name, level and a timestamp."""
    path = tmp_path / "log" / "events.jsonl"
    log = EventLog(str(path))
    log.emit("phase_finished", launch_id="gl-1", phase="plan")
    entry = json.loads(path.read_text())
    assert (entry["event"], entry["level"], entry["launch_id"]) == ("phase_finished", "info", "gl-1")
    assert "timestamp" in entry


def test_the_types_are_those_of_the_schema() -> None:
    """The canonical line, its phases and its witnesses: the same keys, needed and null alike."""
    described = schema()
    assert_typed(LaunchEvent, described)
    assert_typed(PhaseEntry, described["properties"]["phases"]["items"])
    assert_typed(FwCfgEntry, described["properties"]["fw_cfg"])
    assert_typed(KernelRunEntry, described["properties"]["kernel_run"])
    assert_typed(InstallStepEntry, described["properties"]["install"])


def test_a_kernels_run_fits_the_schema_and_is_no_launch() -> None:
    """By its event's name nobody counts it among launches; its phases tile like theirs."""
    recorder = Recorder(origin_ns=10**9, kind=Kind.KERNEL)
    for index, phase in enumerate(recorder.sequence[1:], 1):
        recorder.begin(phase, "test", 10**9 + index * 1_000_000)
    recorder.finish(10**9 + len(recorder.sequence) * 1_000_000)
    run = KernelRunRecord(
        verdict="command", exit_status=3, kernel="/Image", form="Image", started_as="itself", version=None, cmdline="",
        command=("true",), tests={"passed": 1}, metrics={"x": 1.5},
    )  # fmt: skip
    record = replace(recorded(), kind=Kind.KERNEL, tiles=recorder.tiles(), kernel_run=run)
    event = to_event(record)
    jsonschema.validate(event, schema())
    assert (event["event"], event["kind"]) == ("kernel_run_finished", "kernel")
    assert [phase["outcome"] for phase in event["phases"]] == ["success"] * len(recorder.sequence)
    assert event["total_ns"] == len(recorder.sequence) * 1_000_000
    assert {"init", "guestfsd", "ready"}.isdisjoint(phase["name"] for phase in event["phases"])
    assert phase_event(record, record.tiles[0])["event"] == "kernel_phase_finished"


@pytest.mark.parametrize(("step", "verdict"), [("installer", "failed"), ("first_boot", "done")])
def test_a_step_of_an_installation_fits_the_schema(step: str, verdict: str) -> None:
    """It is neither a launch nor a kernel's run."""
    said = InstallStepRecord(
        installation="1", step=step, verdict=verdict, location="/tree", tree="T", verification="checksums"
    )
    record = replace(recorded(), kind=Kind.INSTALL, install=said)
    event = to_event(record)
    jsonschema.validate(event, schema())
    assert (event["event"], event["kind"], event["kernel_run"]) == ("install_step_finished", "install", None)
    assert phase_event(record, record.tiles[0])["event"] == "install_phase_finished"


def test_only_one_process_puts_the_log_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that has just done so, or is about to, is not outdone: the old lines stay."""
    monkeypatch.setattr(log, "ROTATE_BYTES", 100)
    path = tmp_path / "events.jsonl"
    path.write_text("new\n")  # the other one was faster
    log.rotate(path)
    assert path.read_text() == "new\n"
    path.write_text("more\n" * 50)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        EventLog(str(path)).emit("two")
        assert not (tmp_path / "events.jsonl.1").exists()
    EventLog(str(path)).emit("three")
    assert len((tmp_path / "events.jsonl.1").read_text().splitlines()) == 51
    assert len(path.read_text().splitlines()) == 1
