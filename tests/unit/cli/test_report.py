"""guestlaunch report: from logs, results or the store to a page, a trace, a figure, a summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.main import invoke
from orchestrator.errors import GuestlaunchError, NotFoundError, UsageError
from orchestrator.records import store
from tests import simulated_results
from tests.simulated_launches import mixture


@pytest.fixture(autouse=True)
def state(own_state: Path) -> Path:
    """A state directory and no settings of the user's."""
    return own_state


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 60 simulated launches."""
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in mixture()))
    return path


def summary(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, list[dict[str, object]]]:
    """Return the JSON summary of a report."""
    assert invoke(["report", *map(str, arguments), "--json"]) == 0
    found: dict[str, list[dict[str, object]]] = json.loads(capsys.readouterr().out)
    return found


def test_broken_lines_are_counted_named_and_not_fatal(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log that was cut off, mixed with other text, or of another version still gives its report."""
    good = log.read_text().splitlines()
    other = json.loads(good[1]) | {"schema_version": 99}
    log.write_text("\n".join([good[0], "half a li", json.dumps(other), "[1]", "", *good[2:], good[0][:-9]]))
    assert invoke(["report", str(log), "--html", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().err
    assert f"{log}:2: not JSON" in said
    assert f"{log}:3: schema version 99" in said
    assert f"{log}:4: not an event" in said
    assert "4 broken lines were left out" in said
    page = (tmp_path / "page.html").read_text()
    assert "4 lines could not be used" in page
    assert "59 launches from" in page


def test_a_launch_in_two_files_counts_once(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log and a timeline file hold the same launches."""
    found = summary(capsys, log, log)
    assert sum(int(str(row["launches"])) for row in found["launches"]) == 60


def test_the_store_is_reported_without_logs(log: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exact counts are the same from the store as from the log."""
    store.rebuild(state, mixture())
    assert summary(capsys) == summary(capsys, log)
    chosen = summary(capsys, "--accel", "kvm")
    assert {row["accel"] for row in chosen["launches"]} == {"kvm"}
    assert chosen["launches"] == summary(capsys, log, "--accel", "kvm")["launches"]


def test_results_beside_logs(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files are told apart by what is in them; a result's verdict is in text, JSON and page."""
    path = tmp_path / "proof.json"
    result = simulated_results.fw_cfg(path)
    verdict = simulated_results.analysis_of(result)["verdict"]
    page = tmp_path / "page.html"
    assert invoke(["report", str(path), str(log), "--html", str(page)]) == 0
    assert verdict in page.read_text()
    found = summary(capsys, path)
    assert found["launches"] == []
    assert found["results"][str(path)]["verdict"] == verdict  # type: ignore[call-overload]
    assert invoke(["report", str(path)]) == 0
    assert verdict in capsys.readouterr().out


def test_trace_and_figure(log: Path, tmp_path: Path) -> None:
    """Both in one call; the trace keeps to the filters."""
    trace, figure = tmp_path / "t.json", tmp_path / "f.svg"
    arguments = ["--trace", str(trace), "--figure", "phase-ab", "--out", str(figure), "--accel", "kvm"]
    assert invoke(["report", str(log), *arguments]) == 0
    events = json.loads(trace.read_text())["traceEvents"]
    assert {one["args"]["accel"] for one in events if one.get("cat") == "launch"} == {"kvm"}
    assert figure.read_text().startswith("<svg")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["events.jsonl", "f.svg", "t.json"]


def test_trace_from_the_store(state: Path, tmp_path: Path) -> None:
    """Without logs the trace is of the store's launches."""
    store.rebuild(state, mixture())
    assert invoke(["report", "--trace", str(tmp_path / "t.json")]) == 0
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert sum(one["name"] == "thread_name" for one in events) == 60


def test_mistakes_are_named_and_leave_nothing(log: Path, tmp_path: Path) -> None:
    """Each is one of our errors, and no file is left half written."""
    for arguments, kind, part in (
        ([str(log), "--figure", "trend"], UsageError, "--out"),
        ([str(log), "--figure", "trent", "--out", "a.svg"], UsageError, "trend"),
        ([str(tmp_path / "none.jsonl")], UsageError, "none.jsonl"),
        ([str(log), "--until", "2001-01-01"], NotFoundError, "60 lines"),
        ([str(log), "--html", str(tmp_path / "no" / "a.html")], GuestlaunchError, "a.html"),
        ([str(log), "--trace", str(tmp_path / "no" / "a.json")], GuestlaunchError, "a.json"),
        ([str(tmp_path / "none.jsonl"), "--trace", str(tmp_path / "t.json")], UsageError, "none.jsonl"),
        ([], NotFoundError, "no launches recorded"),
    ):
        with pytest.raises(kind, match=part):
            invoke(["report", *arguments])
    assert [one.name for one in tmp_path.iterdir() if one.name != "state"] == ["events.jsonl"]
