"""The arithmetic: known cases, and the error rates that are claimed."""

from __future__ import annotations

import random

import pytest

from orchestrator.bench import statistics


def _times(seed: int, count: int, median: float = 1e9, spread: float = 0.08) -> list[float]:
    rng = random.Random(seed)
    return [median * rng.lognormvariate(0, spread) for _ in range(count)]


def test_summary_of_known_values() -> None:
    """Median, extremes and interval of values that can be checked by eye."""
    summary = statistics.summarize([1.0, 2.0, 3.0, 3.0, 4.0, 100.0])
    assert (summary.n, summary.median, summary.low, summary.high) == (6, 3.0, 1.0, 100.0)
    assert summary.outliers == (5,)
    assert summary.interval is not None
    assert summary.interval.low < 3.0 < summary.interval.high


def test_outliers_stay_in_the_figures() -> None:
    """An outlier is pointed at; it is not taken out of the extremes or the median."""
    values = [10.0, 11.0, 12.0, 10.5, 11.5, 500.0]
    summary = statistics.summarize(values)
    assert summary.outliers == (5,)
    assert summary.n == 6
    assert summary.high == 500.0


def test_no_values() -> None:
    """Nothing cannot be summarised."""
    with pytest.raises(ValueError, match="no samples"):
        statistics.summarize([])


def test_few_samples_give_no_interval_and_no_test() -> None:
    """Five pairs cannot reach the level, however far apart they are: too few to claim anything. Six can."""
    a, b = _times(1, 5), _times(2, 5, median=2e9)
    assert (statistics.difference_p(_times(3, 6), _times(4, 6, median=9e9), paired=True) or 1) < statistics.ALPHA
    assert statistics.ratio_interval(a, b, paired=True) is None
    assert statistics.difference_p(a, b, paired=True) is None
    assert statistics.summarize(a).interval is None


def test_exact_paired_p_value() -> None:
    """Ten pairs that all point one way: two of the 1,024 sign patterns are as extreme."""
    a = _times(1, 10)
    assert statistics.difference_p([2 * x for x in a], a, paired=True) == pytest.approx(2 / 1024)


def test_pairing_cancels_what_both_suffer() -> None:
    """A host that wanders by a factor of ten hides a 10 % difference unless runs are paired."""
    rng = random.Random(3)
    wander = [rng.uniform(1, 10) for _ in range(12)]
    a = [w * 1.10 * rng.lognormvariate(0, 0.01) for w in wander]
    b = [w * rng.lognormvariate(0, 0.01) for w in wander]
    paired, apart = (statistics.difference_p(a, b, paired=p) for p in (True, False))
    assert paired is not None
    assert apart is not None
    assert paired < 0.01 < apart


def test_test_against_a_factor() -> None:
    """A side that is twice as slow differs from the other, but not from its double."""
    b = _times(5, 12)
    a = [2 * x for x in _times(6, 12)]
    equal, doubled = (statistics.difference_p(a, b, paired=True, factor=f) for f in (1.0, 2.0))
    assert equal is not None
    assert doubled is not None
    assert equal < 0.01 < doubled


def test_figures_are_reproducible() -> None:
    """The same samples give the same interval each time."""
    a, b = _times(1, 10), _times(2, 10)
    assert statistics.ratio_interval(a, b, paired=True) == statistics.ratio_interval(a, b, paired=True)


def test_cliffs_delta() -> None:
    """All above: 1. All below: -1. The same: 0."""
    assert statistics.cliffs_delta([5, 6, 7], [1, 2, 3]) == 1
    assert statistics.cliffs_delta([1, 2, 3], [5, 6, 7]) == -1
    assert statistics.cliffs_delta([1, 2, 3], [1, 2, 3]) == 0


def test_adjusting_keeps_what_is_not_known() -> None:
    """A metric without a test does not count against the others."""
    assert statistics.adjust([None, 0.01, None]) == [None, pytest.approx(0.01), None]
    assert statistics.adjust([0.01, 0.04]) == [pytest.approx(0.02), pytest.approx(0.04)]


def test_line_through_a_sweep() -> None:
    """The slope is found although one point is far off."""
    x = [8.0, 16.0, 32.0, 64.0, 128.0]
    line = statistics.fit_line(x, [20 + 0.7 * v + (500 if v == 16.0 else 0) for v in x])
    assert line is not None
    assert line.slope == pytest.approx(0.7, rel=0.2)
    assert statistics.fit_line([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 simulated experiments with a true ratio of 2, most intervals hold it (n = 12, level 95 %)."""
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    held = 0
    for seed in range(200):
        a, b = _times(2 * seed, 12, median=2e9), _times(2 * seed + 1, 12)
        interval = statistics.ratio_interval(a, b, paired=True)
        assert interval is not None
        held += interval.low <= 2.0 <= interval.high
    assert held >= 180  # a bootstrap of twelve medians covers a little less than it says


def test_a_line_through_points_that_repeat_themselves() -> None:
    """An instruction clock gives the same time twice: the line has the extremes of the slopes for an interval."""
    line = statistics.fit_line([1, 1, 2, 2], [5.0, 5.0, 8.0, 8.0])
    assert line is not None
    assert (line.slope, line.interval.low, line.interval.high) == (3.0, 3.0, 3.0)
