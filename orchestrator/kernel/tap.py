"""What a guest's tests say of themselves: TAP, and KTAP, the kernel's kind of it, summed up while it passes.

TAP is the Test Anything Protocol's specification, versions 12 to 14; KTAP is in Linux's
Documentation/dev-tools/ktap.rst. Subtests are indented below the line that sums them up: only leaves count as tests.
Nothing that a guest says is an error here, and no more than a bounded amount of it is kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.channel.port import LineBuffer
from orchestrator.channel.ring import escape

# On the console, the kernel puts its time before each line.
_STAMP = re.compile(rb"^(?:<\d{1,3}>)?\[ {0,12}\d{1,10}\.\d{6}\](?:\[ *[CT]\d+\])? ")
_RESULT = re.compile(rb"( *)(not )?ok\b(?: +(\d{1,9}))?(?: *-? *([^#]*?))?(?: *# *(.*))?")
_PLAN = re.compile(rb"( *)1\.\.(\d{1,9})(?: *# *(.*))?")
_VERSION = re.compile(rb"( *)K?TAP version \d+")
_BAIL_OUT = re.compile(rb" *Bail out!(.{0,200})")
_METRIC = re.compile(
    rb"metric ([A-Za-z_][\w.:/-]{0,63}) ([+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,2})?)"
)
_KEPT = 10_000
_DEEPEST = 32


class TestOutcome(StrEnum):
    """How one test ended."""

    __test__ = False  # not pytest's

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    TODO = "todo"  # a failure that is known


@dataclass(frozen=True, slots=True, kw_only=True)
class TestLine:
    """One test. `name` is its description, escaped, with those that it is part of before it."""

    __test__ = False

    name: str
    outcome: TestOutcome
    note: str = ""


@dataclass(slots=True)
class _Level:
    """Tests of one indentation, until the line that sums them up.

    :ivar planned: how many it announced; `seen` how many there were.
    """

    planned: int | None = None
    seen: int = 0
    failed: int = 0


class TestReader:
    """Reads TAP, KTAP and numbers out of a stream as it passes.

    :param stamped: the stream is the kernel's console, on which much else is said: tests begin with their version.

    :ivar tests: the leaves, in order; of very many only the first.
    :ivar counts: all of them, by outcome.
    :ivar missing: tests that were announced and did not come.
    :ivar bailed_out: why the tests gave up, None where they did not.
    :ivar metrics: the last number of each name, by lines `metric NAME VALUE`.
    """

    __test__ = False

    def __init__(self, *, stamped: bool = False) -> None:
        self._stamped, self._begun = stamped, not stamped
        self._lines = LineBuffer(self._take)
        self._levels: dict[int, _Level] = {}
        self._below: list[tuple[int, int]] = []  # leaves at (indentation, place in `tests`) that wait for their suite
        self.tests: list[TestLine] = []
        self.counts = dict.fromkeys(TestOutcome, 0)
        self.missing = 0
        self.bailed_out: str | None = None
        self.metrics: dict[str, float] = {}

    def feed(self, block: bytes) -> None:
        """Take what passed."""
        self._lines.feed(block)

    def finish(self) -> None:
        """Note that nothing more comes: what was announced and is not there is missing."""
        self._lines.feed(b"\n")
        for depth in sorted(self._levels, reverse=True):
            self._close(depth)

    @property
    def seen(self) -> bool:
        """Whether there was any test, or the announcement of one."""
        return bool(sum(self.counts.values()) or self.missing or self.bailed_out is not None)

    @property
    def failed(self) -> bool:
        """Whether any test failed, is missing, or all gave up."""
        return bool(self.counts[TestOutcome.FAILED] or self.missing or self.bailed_out is not None)

    def _take(self, line: bytes) -> None:
        line = line.rstrip(b"\r")
        if self._stamped:
            line = _STAMP.sub(b"", line)
        elif (metric := _METRIC.fullmatch(line)) and (metric[1].decode() in self.metrics or len(self.metrics) < _KEPT):
            self.metrics[metric[1].decode()] = float(metric[2])
            return
        if version := _VERSION.fullmatch(line):
            self._begun = True
            for depth in sorted((one for one in self._levels if one >= len(version[1])), reverse=True):
                self._close(depth)
        elif not self._begun:
            return
        elif result := _RESULT.fullmatch(line):
            self._on_result(result)
        elif plan := _PLAN.fullmatch(line):
            self._on_plan(len(plan[1]), int(plan[2]))
        elif bail := _BAIL_OUT.fullmatch(line):
            self.bailed_out = self.bailed_out or escape(bail[1]).strip()

    def _level(self, depth: int) -> _Level:
        return self._levels.setdefault(depth, _Level())

    def _on_plan(self, depth: int, planned: int) -> None:
        if depth <= _DEEPEST and self._level(depth).planned is None:
            self._level(depth).planned = planned

    def _on_result(self, found: re.Match[bytes]) -> None:
        depth = len(found[1])
        if depth > _DEEPEST:
            return
        name = escape(found[4] or b"").strip() or f"test {(found[3] or b'').decode()}".strip()
        deeper = [level for level in self._levels if level > depth]
        parts = failed = 0
        for level in sorted(deeper, reverse=True):
            closed = self._close(level)
            parts, failed = parts + closed.seen, failed + closed.failed
        outcome = _outcome(failed_word=bool(found[2]), directive=(found[5] or b"").lower())
        self._level(depth).seen += 1
        self._level(depth).failed += outcome is TestOutcome.FAILED
        if parts:
            self._name_suite(depth, name)
            if outcome is not TestOutcome.FAILED or failed:
                return  # it sums up what was counted
            name = f"{name} (as a whole)"
        self._count(depth, TestLine(name=name, outcome=outcome, note=escape(found[5] or b"").strip()))

    def _count(self, depth: int, test: TestLine) -> None:
        self.counts[test.outcome] += 1
        if len(self.tests) < _KEPT:
            self._below.append((depth, len(self.tests)))
            self.tests.append(test)

    def _name_suite(self, depth: int, name: str) -> None:
        """Put a suite's name before those of its tests."""
        for level, place in self._below:
            if level > depth:
                one = self.tests[place]
                self.tests[place] = TestLine(name=f"{name}/{one.name}", outcome=one.outcome, note=one.note)
        # From now on they belong to the suite's own level.
        self._below = [(min(level, depth + 1) if level > depth else level, place) for level, place in self._below]
        if depth == 0:
            self._below.clear()

    def _close(self, depth: int) -> _Level:
        """End the tests of an indentation, and count what is missing of them."""
        level = self._levels.pop(depth)
        if level.planned is not None and level.planned > level.seen:
            self.missing += level.planned - level.seen
            level.failed += level.planned - level.seen
        return level


def _outcome(*, failed_word: bool, directive: bytes) -> TestOutcome:
    if directive.startswith(b"skip"):
        return TestOutcome.SKIPPED
    if directive.startswith(b"todo"):
        return TestOutcome.TODO if failed_word else TestOutcome.PASSED
    # KTAP's other directives: timeout and error are failures, xfail one that was expected.
    if directive.startswith(b"xfail"):
        return TestOutcome.TODO
    return TestOutcome.FAILED if failed_word else TestOutcome.PASSED


def summed_up(*readers: TestReader) -> str:
    """Return what streams said of their tests, on one line; empty where there were none."""
    seen = [reader for reader in readers if reader.seen]
    if not seen:
        return ""
    parts = [f"{sum(one.counts[outcome] for one in seen)} {outcome}" for outcome in TestOutcome]
    missing = sum(one.missing for one in seen)
    parts += [f"{missing} missing"] if missing else []
    failed = [test.name for one in seen for test in one.tests if test.outcome is TestOutcome.FAILED]
    gave_up = next((one.bailed_out for one in seen if one.bailed_out is not None), None)
    named = f": {', '.join(failed[:5])}{', ...' if len(failed) > 5 else ''}" if failed else ""
    shown = ", ".join(part for part in parts if not part.startswith("0 ")) or "none ran"
    return f"tests: {shown}{named}" + (f"; gave up: {gave_up}" if gave_up is not None else "")
