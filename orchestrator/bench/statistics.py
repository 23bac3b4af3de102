"""Numbers from samples: medians with intervals, tests of difference, effect sizes, outliers.

The methods are SciPy's; this module fixes the design (paired or not, two-sided, level) and the seed, so that the
same samples give the same figures each time. It knows nothing of launches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
RESAMPLES = 9_999
# The smallest two-sided p of a sign-flip test is 2 / 2**pairs: five pairs cannot reach 5 %, however far they are
# apart. A bootstrap of fewer medians has too few distinct values, too: the answer is then "undecided".
MIN_SAMPLES = 6
_SEED = 20_150_611
_Array: TypeAlias = NDArray[np.float64]
_FENCE = 1.5  # Tukey's


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A confidence interval at `CONFIDENCE`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSummary:
    """One side's samples in short; unit as given. `outliers` are positions in the samples, shown but never dropped."""

    n: int
    median: float
    interval: Interval | None
    low: float
    high: float
    outliers: tuple[int, ...]


def summarize(values: Sequence[float]) -> SampleSummary:
    """Return median with its bootstrap interval, extremes and outliers.

    :raise ValueError: when there are no values.
    """
    if not values:
        raise ValueError("no samples")
    return SampleSummary(
        n=len(values),
        median=float(np.median(values)),
        interval=_bootstrap((values,), _median, paired=False),
        low=min(values),
        high=max(values),
        outliers=outliers(values),
    )


def outliers(values: Sequence[float]) -> tuple[int, ...]:
    """Return the positions of values beyond Tukey's fences (1.5 interquartile ranges)."""
    if len(values) < MIN_SAMPLES:
        return ()
    first, third = np.quantile(values, (0.25, 0.75))
    reach = _FENCE * (third - first)
    return tuple(i for i, value in enumerate(values) if value < first - reach or value > third + reach)


def ratio_interval(slow: Sequence[float], fast: Sequence[float], *, paired: bool) -> Interval | None:
    """Return the interval of median(slow) / median(fast); None when there are too few samples or zeros.

    :param paired: resample pairs (interleaved runs share what the host did at that time) or each side by itself.
    """
    if min(slow, default=0) <= 0 or min(fast, default=0) <= 0:
        return None
    return _bootstrap((slow, fast), _median_ratio, paired=paired)


def difference_p(a: Sequence[float], b: Sequence[float], *, paired: bool, factor: float = 1.0) -> float | None:
    """Return the two-sided permutation p-value of "a is factor × b"; None when there are too few samples or zeros.

    The statistic is the mean of log ratios. In the paired design the labels are exchanged within a pair only, so what
    the host did to both members of a pair cancels; the test is exact whatever the distribution of times is.
    """
    if min(len(a), len(b)) < MIN_SAMPLES or min(a) <= 0 or min(b) <= 0:
        return None
    logs_a, logs_b = np.log(a), np.log(b) + math.log(factor)
    if paired:
        result = stats.permutation_test(
            (logs_a - logs_b,), _mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True, rng=_SEED
        )
    else:
        result = stats.permutation_test(
            (logs_a, logs_b),
            _mean_gap,
            permutation_type="independent",
            n_resamples=RESAMPLES,
            vectorized=True,
            batch=1_000,
            rng=_SEED,
        )
    return float(result.pvalue)


def adjust(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for being looked at together (Benjamini-Hochberg); None stays None.

    Where nothing differs at all, the chance that any adjusted value falls below a level is at most that level.
    """
    known = [p for p in p_values if p is not None]
    if not known:
        return list(p_values)
    adjusted = iter(stats.false_discovery_control(known))
    return [None if p is None else float(next(adjusted)) for p in p_values]


def cliffs_delta(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Cliff's delta: chance that one of a exceeds one of b minus the reverse; -1 … 1."""
    u = stats.mannwhitneyu(a, b).statistic
    return float(2 * u / (len(a) * len(b)) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A straight line through a sweep: `slope` per unit of x with its interval, and where it starts."""

    slope: float
    interval: Interval
    intercept: float


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """Return the Theil-Sen line (a slow outlier cannot tilt it); None for fewer than three points or one x."""
    if len(x) < 3 or len(set(x)) < 2:
        return None
    with np.errstate(invalid="ignore"):  # few points that repeat themselves exactly have no interval there
        fit = stats.theilslopes(y, x, alpha=CONFIDENCE)
    low, high = float(fit.low_slope), float(fit.high_slope)
    if not (math.isfinite(low) and math.isfinite(high)):
        points = list(zip(x, y, strict=True))
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2) if a[0] != b[0]]
        low, high = min(slopes), max(slopes)
    return Line(slope=float(fit.slope), interval=Interval(low=low, high=high), intercept=float(fit.intercept))


def _bootstrap(samples: tuple[Sequence[float], ...], statistic: Callable[..., Any], *, paired: bool) -> Interval | None:
    if min(len(sample) for sample in samples) < MIN_SAMPLES:
        return None
    # Percentile, not BCa: BCa divides by the spread of jackknife medians, which is zero for quantised times.
    result = stats.bootstrap(
        samples, statistic, paired=paired, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile",
        vectorized=True, batch=1_000, rng=_SEED,
    )  # fmt: skip
    return Interval(low=float(result.confidence_interval.low), high=float(result.confidence_interval.high))


def _median(values: _Array, axis: int) -> _Array:
    return np.asarray(np.median(values, axis=axis))


def _median_ratio(slow: _Array, fast: _Array, axis: int) -> _Array:
    return np.asarray(np.median(slow, axis=axis) / np.median(fast, axis=axis))


def _mean(values: _Array, axis: int) -> _Array:
    return np.asarray(np.mean(values, axis=axis))


def _mean_gap(a: _Array, b: _Array, axis: int) -> _Array:
    return np.asarray(np.mean(a, axis=axis) - np.mean(b, axis=axis))
