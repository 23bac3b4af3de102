"""Comparison of two sides of a benchmark, and the verdict that is computed from it.

A figure is called a difference only when its interval and its permutation test both say so. Reading results and
drawing them is left to others; so is the arithmetic (`statistics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.bench.statistics import (
    ALPHA,
    Interval,
    SampleSummary,
    adjust,
    cliffs_delta,
    difference_p,
    ratio_interval,
    summarize,
)
from orchestrator.errors import UsageError
from orchestrator.records.provenance import marked

HALF = 2.0
_MUST_AGREE = (
    ("accel", "accelerator"), ("arch", "guest arch"), ("made_on", "kind of host"),
    ("modelled_trap_cost_ns", "modelled trap cost"),
)  # fmt: skip


class Difference(StrEnum):
    """What a comparison may say of one metric."""

    FASTER = "faster"
    SLOWER = "slower"
    NONE = "no difference shown"
    UNDECIDED = "undecided"  # too few samples to say anything


class Halved(StrEnum):
    """Whether the launch takes half the time or less."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric on both sides; times in ns.

    :ivar ratio: median of the first side / median of the second: how many times faster the second is.
    :ivar p_value: permutation test, unadjusted; `p_adjusted` for all metrics looked at together.
    :ivar effect: Cliff's delta of the first against the second side.
    """

    metric: str
    paired: bool
    first: SampleSummary
    second: SampleSummary
    ratio: float | None
    interval: Interval | None
    p_value: float | None
    p_adjusted: float | None
    effect: float
    difference: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The computed answer to: whether DMA (the second side) is faster, and whether it halves the launch."""

    accel: str
    arch: str | None
    made_on: str  # a label of `records.provenance`; empty where it does not matter
    modelled_trap_cost_ns: int | None
    transfer: Comparison | None
    launch: Comparison | None
    halved: Halved

    @property
    def text(self) -> str:
        """The verdict as one line."""
        return f"{self.measured}: halved: {self.halved}, {self._where}"

    @property
    def same_text(self) -> str:
        """The verdict on the same against the same, as one line: any difference is a false alarm."""
        rows = [row.difference for row in (self.transfer, self.launch) if row is not None]
        if Difference.FASTER in rows or Difference.SLOWER in rows:
            said = "a difference was found where there is none"
        elif rows and Difference.UNDECIDED not in rows:
            said = "no difference found, as it should be"
        else:
            said = "undecided"
        return f"the same against the same: {self.measured}: {said}, {self._where}"

    @property
    def measured(self) -> str:
        """What was measured, as one phrase."""
        return f"{_phrase('transfer', self.transfer)}, {_phrase('launch', self.launch)}"

    @property
    def _where(self) -> str:
        on = marked(self.accel, self.made_on, arch=self.arch)
        if not self.modelled_trap_cost_ns:
            return f"on {on}"
        cost = f"{self.modelled_trap_cost_ns / 1e3:g} µs an access"
        return f"on {on} with a modelled trap cost of {cost} (MODELLED)"


Columns = Mapping[str, Sequence[float | None]]


def compare(first: Columns, second: Columns, *, paired: bool, primary: Sequence[str] = ()) -> tuple[Comparison, ...]:
    """Compare every metric that both sides have.

    :param first: metric name to values, in pair order when `paired`; None where a run did not see the metric.
    :param primary: metrics that the verdict rests on; p-values are adjusted within these and within the rest.
    :raise ValueError: when paired sides differ in length.
    """
    rows: list[Comparison] = []
    for metric in first:
        a, b = _usable(first[metric], second.get(metric, ()), paired=paired)
        if a and b:
            rows.append(_one(metric, a, b, paired=paired))
    done: dict[str, Comparison] = {}
    for family in ([r for r in rows if r.metric in primary], [r for r in rows if r.metric not in primary]):
        for row, p in zip(family, adjust([r.p_value for r in family]), strict=True):
            done[row.metric] = _judge(row, p)
    return tuple(done[row.metric] for row in rows)


def verdict(
    first: Columns,
    second: Columns,
    comparisons: Sequence[Comparison],
    *,
    accel: str,
    arch: str | None = None,
    made_on: str = "",
    modelled_trap_cost_ns: int | None,
) -> Verdict:
    """Compute the verdict from paired samples; first is DMA off, second DMA on."""
    by_name = {c.metric: c for c in comparisons}
    launch = by_name.get("launch")
    halved = Halved.UNDECIDED
    if launch is not None and launch.interval is not None:
        a, b = _usable(first["launch"], second["launch"], paired=launch.paired)
        p_half = difference_p(a, b, paired=launch.paired, factor=HALF)
        if launch.interval.high < HALF:
            halved = Halved.NO
        elif launch.interval.low >= HALF and p_half is not None and p_half <= ALPHA:
            halved = Halved.YES
    return Verdict(
        accel=accel,
        arch=arch,
        made_on=made_on,
        modelled_trap_cost_ns=modelled_trap_cost_ns,
        transfer=by_name.get("transfer"),
        launch=launch,
        halved=halved,
    )


def require_comparable(first: Mapping[str, object], second: Mapping[str, object], subject: str) -> None:
    """Refuse a comparison across what would make it meaningless.

    :param first: the facts `accel`, `arch`, `made_on` and `modelled_trap_cost_ns` of one side.
    :raise UsageError: when they differ or one of the sides does not know them.
    """
    for key, name in _MUST_AGREE:
        a, b = first.get(key), second.get(key)
        if a != b:
            why = f"the {name} differs: {_shown(a)} and {_shown(b)}"
            raise UsageError("cannot compare results", subject, why, "measure both sides with the same one")
        if isinstance(a, (list, tuple)) and key != "arch":
            raise UsageError(
                "cannot compare results", subject, f"a side mixes runs of {_shown(a)}", "measure them apart"
            )


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " + ".join(str(v) for v in value)
    return "none" if value is None else str(value)


def _usable(a: Sequence[float | None], b: Sequence[float | None], *, paired: bool) -> tuple[list[float], list[float]]:
    """Return the values seen; in the paired design a pair counts only when both members were seen."""
    if not paired:
        return [x for x in a if x is not None], [y for y in b if y is not None]
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None] if b else []
    return [x for x, _ in pairs], [y for _, y in pairs]


def _one(metric: str, a: list[float], b: list[float], *, paired: bool) -> Comparison:
    first, second = summarize(a), summarize(b)
    return Comparison(
        metric=metric,
        paired=paired,
        first=first,
        second=second,
        ratio=first.median / second.median if second.median else None,
        interval=ratio_interval(a, b, paired=paired),
        p_value=difference_p(a, b, paired=paired),
        p_adjusted=None,
        effect=cliffs_delta(a, b),
        difference=Difference.UNDECIDED,
    )


def _judge(row: Comparison, p_adjusted: float | None) -> Comparison:
    difference = Difference.UNDECIDED
    if p_adjusted is not None and row.interval is not None:
        difference = Difference.NONE
        if p_adjusted <= ALPHA and row.interval.low > 1:
            difference = Difference.FASTER
        elif p_adjusted <= ALPHA and row.interval.high < 1:
            difference = Difference.SLOWER
    return replace(row, p_adjusted=p_adjusted, difference=difference)


def _phrase(what: str, row: Comparison | None) -> str:
    if row is None or row.ratio is None:
        return f"{what} not measured"
    if row.interval is None:
        runs = "1 run" if row.first.n == 1 else f"{row.first.n} runs"
        return f"{what} {times(row.ratio)}× (only {runs}: no interval)"
    shown = f"{times(row.interval.low)}–{times(row.interval.high)}"
    if row.difference in (Difference.FASTER, Difference.SLOWER):
        if row.difference is Difference.SLOWER:
            shown = f"{times(1 / row.interval.high)}–{times(1 / row.interval.low)}"
            return f"{what} {times(1 / row.ratio)}× slower ({shown})"
        return f"{what} {times(row.ratio)}× faster ({shown})"
    return f"{what} {times(row.ratio)}× ({shown}: {row.difference})"


def times(ratio: float) -> str:
    """Return a ratio with as many places as it bears; what is below two is not rounded up to it."""
    if ratio >= 100:
        return f"{ratio:,.0f}"
    if ratio >= 10:
        return f"{ratio:.1f}"
    return f"{min(ratio, 1.99) if ratio < HALF else ratio:.2f}"
