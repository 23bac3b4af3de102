"""Runs the sides of a benchmark: interleaved, in random order within a round, each run a program of its own.

Boundaries are the same for every side: from the start of the program to its exit, and to the first byte of its
answer, on this process's clock. What the samples mean is for `analysis` to say; nothing is computed here.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import cast

from orchestrator import scratch
from orchestrator.errors import CapabilityError, WorkloadError
from orchestrator.records.record import LaunchEvent
from orchestrator.tether import Tether
from orchestrator.timeline.phases import Start
from orchestrator.workload.tools import swept

_END_SECONDS = 60.0
_STDERR_LINES = 20
ANSWER = "answer"


class RunEnd(StrEnum):
    """Where a run's time ends; it begins with the program's start."""

    EXIT = "exit"
    ANSWER = "answer"  # the first byte on its stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a run does where sides do several things: a tool, on a disk of some layout."""

    tool: str
    disk: str

    def __str__(self) -> str:
        return f"{self.tool}, {self.disk}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side: a program to run and what distinguishes it. A side may have several programs, by the same name.

    :ivar command: program and arguments; `timeline` is put in for an argument `{timeline}`.
    :ivar ends: what this program is run for; the rest of what it shows is not taken.
    :ivar facts: what distinguishes this side, for the result file (`fw_cfg_dma`, `profile`, …).
    :ivar answer: what the time to its answer is called in the result.
    :ivar start: how its launches must have come about to count (`cold`, `warm`, `standby`); None: any way.
    :ivar or_warm: its launches may be warm, too: it makes several, and only the first ones find clones that are ready.
    :ivar launcher: what of `command` comes before the program: with another program behind it, that is launched alike.
    :ivar task: what the program does, where sides do several things.
    """

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    ends: frozenset[RunEnd] = frozenset(RunEnd)
    facts: Mapping[str, str | int | bool | None] = field(default_factory=dict)
    answer: str = ANSWER
    start: Start | None = None
    or_warm: bool = False
    launcher: tuple[str, ...] = ()
    task: Task | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run. Times in ns.

    :ivar round: number of the round (pair); runs of one round ran one after the other. Negative for warm-ups.
    :ivar position: place in the round's random order.
    :ivar wall_ns: start of the program to its exit; None when it was not run for that.
    :ivar answer_ns: to the first byte on its stdout; None when it wrote none, or was not run for that.
    :ivar answer: what that time is called.
    :ivar event: the canonical line of its launch; None when it wrote none (not a launch of ours).
    :ivar load: 1-minute load average just before.
    """

    side: str
    round: int
    position: int
    started_wall_ns: int
    wall_ns: int | None
    answer_ns: int | None
    status: int
    load: float
    event: LaunchEvent | None = None
    error: str | None = None
    answer: str = ANSWER
    task: Task | None = None

    @property
    def warm_up(self) -> bool:
        """Whether the run only warmed caches up."""
        return self.round < 0


def rounds(
    sides: Sequence[Side],
    *,
    runs: int,
    warm_ups: int = 1,
    time_budget_s: float | None = None,
    deadline_s: float = 600.0,
    seed: int = 0,
    starting: Callable[[int, Side], None] = lambda _round, _side: None,
    cut_short: Callable[[tuple[Sample, ...]], None] = lambda _samples: None,
) -> Iterator[tuple[Sample, ...]]:
    """Run the sides round by round, in random order within each, and yield each round's samples.

    The time budget is kept by not starting a round that would, going by the longest so far, end after it.

    :param starting: told the round's number (negative: warm-up) and the side before each run.
    :param cut_short: given what was measured of a round that an exception (an interruption) ends.
    :raise WorkloadError: a side that fails while it warms up; it would fail in every round.
    """
    order = random.Random(seed)  # noqa: S311 - an experiment's order, not a secret
    began = time.monotonic()
    longest = 0.0
    for number in range(-warm_ups, runs):
        now = time.monotonic()
        if time_budget_s is not None and number > 0 and now - began + longest > time_budget_s:
            return
        shuffled = order.sample(list(sides), len(sides))
        found: list[Sample] = []
        try:
            for position, side in enumerate(shuffled):
                starting(number, side)
                found.append(run(side, number, position, deadline_s=deadline_s))
                _require_warm(found[-1])
        except BaseException:
            cut_short(tuple(found))
            raise
        yield tuple(found)
        longest = max(longest, time.monotonic() - now)


def _require_warm(sample: Sample) -> None:
    """Refuse to go on after a warm-up that failed: a side that is wrong fails in every round."""
    if sample.warm_up and sample.error:
        why = sample.error.splitlines()[-1]
        raise WorkloadError("cannot measure", f"the side '{sample.side}'", f"its warm-up fails: {why}")


def run(side: Side, number: int, position: int, *, deadline_s: float) -> Sample:
    """Run one side once. A program that fails, or outlives the deadline, is a sample with an error.

    :raise CapabilityError: when the program is not there at all.
    """
    with scratch.folder() as folder, swept(side.environ) as environ, contextlib.closing(Tether()) as tether:
        timeline = folder / "timeline.jsonl"
        command = [argument.replace("{timeline}", str(timeline)) for argument in side.command]
        load, wall = os.getloadavg()[0], time.time_ns()
        with (folder / "stderr").open("w+b") as stderr:
            start = time.monotonic_ns()
            try:
                process = subprocess.Popen(
                    command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
                    start_new_session=True, pass_fds=(tether.reading,),
                )  # fmt: skip
            except FileNotFoundError as error:
                raise CapabilityError("cannot run a side of the benchmark", command[0], "no such program") from error
            tether.tie(-process.pid)
            status, first, end = _watch(process, deadline_s)
            late = end - start > deadline_s * 1e9
            stderr.seek(0)
            said = stderr.read().decode("utf-8", "replace").splitlines()[-_STDERR_LINES:]
            if late:
                said.append(f"ended by the benchmark: not done after {deadline_s:g} s (see --deadline)")
        events = _lines(timeline)
        event = events[-1] if events else None
        why = _no_sample(side, events) if status == 0 else "\n".join(said) or f"exit status {status}"
        return Sample(
            side=side.name,
            round=number,
            position=position,
            started_wall_ns=wall,
            wall_ns=end - start if RunEnd.EXIT in side.ends else None,
            answer_ns=first - start if first is not None and RunEnd.ANSWER in side.ends else None,
            status=status,
            load=load,
            event=event if RunEnd.EXIT in side.ends else None,
            error=why,
            answer=side.answer,
            task=side.task,
        )


def _no_sample(side: Side, events: Sequence[LaunchEvent]) -> str | None:
    """Return why launches do not count, None when all do: one is of another kind, or its dates prove nothing."""
    for event in events:
        if event.get("proof_failures"):
            return f"the launch proves nothing: {'; '.join(event['proof_failures'])}"
    if side.start is None:
        return None
    counted = {side.start, Start.WARM} if side.or_warm else {side.start}
    for event in events:
        if event["start"] not in counted:
            reason = event.get("start_reason")
            return f"the launch was {event['start']}, not {side.start}{f': {reason}' if reason else ''}"
    return None if events else f"the launch was none of ours, not {side.start}"


def _watch(process: subprocess.Popen[bytes], deadline_s: float) -> tuple[int, int | None, int]:
    """Wait for the program; return its status and the monotonic times of its first output and its exit."""
    first: list[int] = []
    reader = threading.Thread(target=_drain, args=(process, first), daemon=True)
    reader.start()
    try:
        status = process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        status = _end(process) or 1
    except BaseException:  # interrupted: the run is lost, what it started is not left behind
        _end(process)
        raise
    end = time.monotonic_ns()
    reader.join(_END_SECONDS)
    return status, first[0] if first else None, end


def _drain(process: subprocess.Popen[bytes], first: list[int]) -> None:
    assert process.stdout is not None  # a pipe was asked for
    with process.stdout as stdout:
        while os.read(stdout.fileno(), 65_536):
            if not first:
                first.append(time.monotonic_ns())


def _end(process: subprocess.Popen[bytes]) -> int:
    """End the program and all that it started; ask first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_END_SECONDS)
    return process.wait()


def _lines(path: Path) -> list[LaunchEvent]:
    """Return the whole canonical lines in a timeline file."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(cast("LaunchEvent", dict(json.loads(line))))
    return found
