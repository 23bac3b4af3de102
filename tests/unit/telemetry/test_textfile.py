"""Cumulative metrics of one-shot processes: what is counted once stays counted, whatever becomes of the log."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase as Phases
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import GuestlaunchError, UsageError
from orchestrator.telemetry.metrics import LaunchMetrics
from orchestrator.telemetry.textfile import Counted, count, exposition, write
from orchestrator.timeline.phases import Phase
from tests.simulated_launches import Line, event, mixture


def append(log: Path, lines: list[dict[str, Any]]) -> None:
    """Add events to a log."""
    with log.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def rotate(log: Path) -> None:
    """Do what the event log does when it is full."""
    log.replace(log.with_suffix(log.suffix + ".1"))


def sums(text: str) -> dict[str, float]:
    """Return the samples of counters and histograms, which add up."""
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        if "_info{" not in name and "_timestamp_" not in name
    }


def at_once(lines: list[Line]) -> dict[str, float]:
    """Return what one process that saw all launches shows."""
    metrics = LaunchMetrics()
    for line in lines:
        metrics.observe(line)
    return sums(exposition(metrics.registry))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "metrics.json"


@settings(max_examples=10, deadline=None, phases=[Phases.explicit, Phases.generate])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["count", "rotate and count", "write", "empty"])), max_size=5
    )
)
def test_runs_add_up_to_one(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]) -> None:
    """However launches, rotations and runs alternate, the totals are those of one process that saw all launches."""
    folder = tmp_path_factory.mktemp("log")
    log, state = folder / "events.jsonl", folder / "metrics.json"
    lines = mixture(count=24)
    fed: list[dict[str, Any]] = []
    launches = 0
    for number, (amount, step) in enumerate(steps):
        batch = lines[4 * number : 4 * number + amount]
        append(log, batch)
        fed += batch
        if step == "rotate and count":
            rotate(log)
        if step == "write":
            continue
        launches += count(log, state).launches
        if step == "empty" and log.exists():
            log.write_text("")
    found = count(log, state)
    assert launches + found.launches == len(fed)
    assert sums(exposition(found.registry)) == pytest.approx(at_once(fed))


def test_nothing_is_counted_twice(log: Path, state: Path) -> None:
    """A second run over an unchanged log finds no launch and shows the same totals, gauges included."""
    append(log, mixture())
    first, second = count(log, state), count(log, state)
    assert (first.launches, second.launches) == (60, 0)
    assert sorted(exposition(first.registry).splitlines()) == sorted(exposition(second.registry).splitlines())


def test_the_latest_versions_replace_the_earlier(log: Path, state: Path) -> None:
    """A version that is no longer in use does not linger in the totals."""
    append(log, [event(1, qemu="7.2.22")])
    count(log, state)
    append(log, [event(2, qemu="8.0.0")])
    text = exposition(count(log, state).registry)
    assert 'version="8.0.0"' in text
    assert 'version="7.2.22"' not in text


def test_gauges_of_other_outcomes_stay(log: Path, state: Path) -> None:
    """The time of the last failure survives a run that saw successes only."""
    append(log, [event(1, failed_in=Phase.KERNEL)])
    count(log, state)
    append(log, [event(2)])
    text = exposition(count(log, state).registry)
    assert 'guestlaunch_last_launch_timestamp_seconds{outcome="failure"}' in text
    assert 'guestlaunch_last_launch_timestamp_seconds{outcome="success"}' in text


def test_a_line_being_written_waits(log: Path, state: Path) -> None:
    """Half a line is counted when it is whole, once."""
    line = json.dumps(event(1)) + "\n"
    log.write_text(line[:100])
    assert count(log, state).launches == 0
    log.write_text(line)
    assert count(log, state).launches == 1
    assert count(log, state).launches == 0


def test_broken_lines_are_counted_as_broken(log: Path, state: Path) -> None:
    """Launch lines that cannot be understood are told apart; other events are none of our business."""
    log.write_bytes(
        b'{"event": "launch_finished"\n{"event": "launch_finished"}\n\xff\xfe launch_finished\n{"event": "x"}\n'
    )
    append(log, [event(1)])
    found = count(log, state)
    assert (found.launches, found.broken) == (1, 3)


def test_no_log_yet_is_no_launch(log: Path, state: Path) -> None:
    """Before the first launch there are metrics, without any launch in them."""
    found = count(log, state)
    assert found.launches == 0
    assert "guestlaunch_build_info" in exposition(found.registry)


def test_a_log_that_cannot_be_read_is_one_line(tmp_path: Path, state: Path) -> None:
    """A log that is no file is named."""
    with pytest.raises(GuestlaunchError, match="cannot read the log: .*: Is a directory"):
        count(tmp_path, state)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "cursor": {"x": 1}}'])
def test_a_damaged_state_is_named(log: Path, state: Path, content: str) -> None:
    """Totals are never silently lost: a damaged state file is an error that says what to do."""
    state.parent.mkdir()
    state.write_text(content)
    with pytest.raises(GuestlaunchError, match="content is damaged"):
        count(log, state)


def test_totals_of_other_buckets_start_again(log: Path, state: Path) -> None:
    """Histograms of another release's buckets are not added to; launches before it are not counted again."""
    append(log, [event(1)])
    count(log, state)
    kept = json.loads(state.read_text())
    kept["layout"][0] = [1.0]
    state.write_text(json.dumps(kept))
    append(log, [event(2)])
    assert sums(exposition(count(log, state).registry)) == pytest.approx(at_once([event(2)]))


def _count(log: Path, state: Path, results: multiprocessing.Queue[int]) -> None:
    results.put(count(log, state).launches)


def test_runs_at_once_count_each_launch_once(log: Path, state: Path) -> None:
    """Several processes over one log share the launches between them."""
    append(log, mixture())
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    runs = [context.Process(target=_count, args=(log, state, results)) for _ in range(3)]
    for run in runs:
        run.start()
    counted = [results.get(timeout=60) for _ in runs]
    for run in runs:
        run.join(60)
    assert sorted(counted) == [0, 0, 60]


def test_the_text_file_is_whole_and_readable(log: Path, state: Path, tmp_path: Path) -> None:
    """node_exporter finds the totals under the name asked for, and no temporary file beside it."""
    append(log, mixture())
    found: Counted = count(log, state)
    target = tmp_path / "out" / "guestlaunch.prom"
    target.parent.mkdir()
    write(found.registry, target)
    assert target.read_text() == exposition(found.registry)
    assert [path.name for path in target.parent.iterdir()] == ["guestlaunch.prom"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o777])
def test_the_text_file_is_for_another_users_eyes(log: Path, state: Path, tmp_path: Path, umask: int) -> None:
    """node_exporter reads the totals as a user of its own, whatever the umask of the timer that wrote them."""
    append(log, mixture())
    found = count(log, state)
    before = os.umask(umask)
    try:
        write(found.registry, tmp_path / "guestlaunch.prom")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "guestlaunch.prom").stat().st_mode) == 0o644


def test_a_text_file_that_cannot_be_written_leaves_nothing(log: Path, state: Path, tmp_path: Path) -> None:
    """What stands in the way of the rename is named, and no temporary file stays."""
    (tmp_path / "out" / "guestlaunch.prom" / "in the way").mkdir(parents=True)
    with pytest.raises(GuestlaunchError, match="cannot write metrics"):
        write(count(log, state).registry, tmp_path / "out" / "guestlaunch.prom")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["guestlaunch.prom"]


def test_a_text_file_that_nobody_reads_is_refused(log: Path, state: Path, tmp_path: Path) -> None:
    """node_exporter takes *.prom only, and a folder that is missing is named."""
    registry = count(log, state).registry
    with pytest.raises(UsageError, match=r"only files named \*\.prom"):
        write(registry, tmp_path / "metrics.txt")
    with pytest.raises(GuestlaunchError, match="cannot write metrics: .*: No such file"):
        write(registry, tmp_path / "missing" / "metrics.prom")
