"""Benchmark runs with real programs: order, ends, budget, deadline, failures."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from orchestrator.bench.rounds import RunEnd, Sample, Side, rounds, run
from orchestrator.errors import CapabilityError, WorkloadError
from orchestrator.records.record import LaunchEvent
from orchestrator.timeline.phases import Start

ANSWERS_THEN_WORKS = "echo answer; sleep 0.3"


def side(name: str, script: str = ":", *ends: RunEnd) -> Side:
    """Return a side that is a shell script; `$1` is its timeline file."""
    return Side(
        name=name,
        command=("/bin/sh", "-c", script, "sh", "{timeline}"),
        environ=dict(os.environ),
        ends=frozenset(ends or RunEnd),
    )


def order_of(found: list[tuple[Sample, ...]]) -> list[str]:
    """Return the sides' names in the order they ran, a string a round."""
    return ["".join(sample.side for sample in samples) for samples in found]


def test_rounds_are_interleaved_in_random_order() -> None:
    """Every round holds each side once; over the rounds both orders come; the seed decides which."""
    sides = [side("a"), side("b")]
    first = order_of(list(rounds(sides, runs=12, warm_ups=0, seed=1)))
    assert set(first) == {"ab", "ba"}
    assert len(first) == 12
    assert order_of(list(rounds(sides, runs=12, warm_ups=0, seed=1))) == first
    assert order_of(list(rounds(sides, runs=12, warm_ups=0, seed=2))) != first


def test_warm_ups_come_first_and_are_marked() -> None:
    """Rounds before the first are negative: they count for nothing."""
    found = list(rounds([side("a")], runs=2, warm_ups=2))
    assert [samples[0].round for samples in found] == [-2, -1, 0, 1]
    assert [samples[0].warm_up for samples in found] == [True, True, False, False]


def test_progress_is_told_before_each_run() -> None:
    """Whoever watches knows which side runs."""
    told: list[tuple[int, str]] = []
    list(rounds([side("a")], runs=1, warm_ups=1, starting=lambda number, one: told.append((number, one.name))))
    assert told == [(-1, "a"), (0, "a")]


def test_boundaries() -> None:
    """The answer is the first byte on stdout, the end is the exit; both from the program's start."""
    sample = run(side("a", f"sleep 0.2; {ANSWERS_THEN_WORKS}"), 0, 0, deadline_s=30)
    assert sample.wall_ns is not None
    assert sample.answer_ns is not None
    assert 200e6 <= sample.answer_ns <= sample.wall_ns - 250e6


@pytest.mark.parametrize(("boundary", "seen"), [(RunEnd.EXIT, (True, False)), (RunEnd.ANSWER, (False, True))], ids=str)
def test_a_run_is_timed_for_what_it_is_run_for(boundary: RunEnd, seen: tuple[bool, bool]) -> None:
    """A program that is run for its answer gives no time of its exit, and the other way round."""
    sample = run(side("a", ANSWERS_THEN_WORKS, boundary), 0, 0, deadline_s=30)
    assert (sample.wall_ns is not None, sample.answer_ns is not None) == seen


def test_no_answer() -> None:
    """A silent program has no time of its answer: not 0, not that of its exit."""
    assert run(side("a"), 0, 0, deadline_s=30).answer_ns is None


def test_the_launch_line_is_taken() -> None:
    """The last whole line of the timeline file is the launch's."""
    script = """printf '{"launch_id": "one"}\n{"launch_id": "two"}\n{"launch' > "$1" """
    assert run(side("a", script), 0, 0, deadline_s=30).event == cast("LaunchEvent", {"launch_id": "two"})
    assert run(side("a"), 0, 0, deadline_s=30).event is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"start": "warm"}', None),
        ('{"start": "cold"}', "the launch was cold, not warm"),
        ('{"start": "cold", "start_reason": "no template"}', "the launch was cold, not warm: no template"),
        ("", "the launch was none of ours, not warm"),
    ],
)
def test_a_launch_of_another_kind_does_not_count(line: str, error: str | None) -> None:
    """A side that is for warm launches has an error where its launch fell back to another, though all went well."""
    warm = replace(side("a", f"echo '{line}' > \"$1\"; echo answer", RunEnd.ANSWER), start=Start.WARM)
    sample = run(warm, 0, 0, deadline_s=30)
    assert (sample.status, sample.error, sample.event) == (0, error, None)
    assert sample.answer_ns is not None


def test_failure_is_a_sample_with_its_reason() -> None:
    """A run that fails is kept, with what it said."""
    sample = run(side("a", "echo broken >&2; exit 3"), 0, 0, deadline_s=30)
    assert (sample.status, sample.error) == (3, "broken")
    assert run(side("a", "exit 4"), 0, 0, deadline_s=30).error == "exit status 4"


def test_a_failing_warm_up_ends_the_benchmark() -> None:
    """What fails before the first round is not tried in all of them."""
    with pytest.raises(WorkloadError, match=r"'a'.*no such disk"):
        list(rounds([side("a", "echo no such disk >&2; exit 1")], runs=3, warm_ups=1))


def test_deadline_ends_the_program_and_its_children(tmp_path: Path) -> None:
    """A run that does not end is ended, with all that it started, and says so."""
    script = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    sample = run(side("a", script), 0, 0, deadline_s=0.5)
    assert sample.status != 0
    assert "not done after 0.5 s" in str(sample.error)
    child = Path("/proc", (tmp_path / "child").read_text().strip())
    for _ in range(100):
        if not child.exists():
            break
        time.sleep(0.05)
    assert not child.exists()


def test_time_budget_starts_no_round_that_would_end_too_late() -> None:
    """One round is always made; another only if, going by the longest, it ends in time."""
    slow = side("a", "sleep 0.3")
    assert len(list(rounds([slow], runs=50, warm_ups=0, time_budget_s=0.1))) == 1
    assert 2 <= len(list(rounds([slow], runs=50, warm_ups=0, time_budget_s=1.5))) <= 4


def test_missing_program() -> None:
    """A program that is not there is named."""
    with pytest.raises(CapabilityError, match="/nowhere/guestfish"):
        run(Side(name="a", command=("/nowhere/guestfish",), environ={}), 0, 0, deadline_s=1)
