"""What ordinary launches say of fw_cfg DMA: ratios of medians with their intervals. An observation, no experiment.

Benchmarks are judged by `compare`, with tests. Here reports of every day are answered in a moment, so only numpy is
imported: loading SciPy alone takes longer than such a report may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.report.collection import Collection, Group, dma_of

# Fewer launches a side give no interval worth its name.
MIN_SAMPLES = 5
_CONFIDENCE = 0.95
_HALF = 2.0
# Launches a side: resampling thousands adds waiting, and no knowledge. Resamples: the interval's second digit holds.
_COMPARED = 200
_RESAMPLES = 2_000
_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Median without DMA / median with it, and its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def difference(self) -> str:
        """What may be said: the words of a benchmark's comparisons."""
        return "faster" if self.low > 1 else "slower" if self.high < 1 else "no difference shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A group's launches with DMA beside those without; None where too few saw it."""

    group: Group
    without: int
    with_dma: int
    transfer: Ratio | None
    launch: Ratio | None

    @property
    def halved(self) -> str:
        """Whether a launch with DMA takes half the time or less: "yes" and "no" only when the interval says so."""
        if self.launch is None or self.launch.low < _HALF <= self.launch.high:
            return "undecided"
        return "yes" if self.launch.low >= _HALF else "no"

    @property
    def text(self) -> str:
        """The observation on one line."""
        parts = f"{_phrase('transfer', self.transfer)}, {_phrase('launch', self.launch)}"
        modelled = " with a modelled trap cost (MODELLED)" if self.group.modelled else ""
        return f"{parts}: halved: {self.halved}, on {self.group.accel}{modelled}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            **self.group._asdict(),
            "launches_without_dma": self.without,
            "launches_with_dma": self.with_dma,
            "transfer": self.transfer and asdict(self.transfer),
            "launch": self.launch and asdict(self.launch),
            "halved": self.halved,
            "text": self.text,
        }


def observe(collection: Collection) -> list[Observed]:
    """Return what the sampled launches say, for each group that has enough with DMA and without."""
    found = []
    for group in collection.groups():
        sides: dict[str, list[Mapping[str, Any]]] = {"off": [], "on": []}
        for event in collection.of(group):
            if event["outcome"] == "success" and dma_of(event) in sides:
                sides[dma_of(event)].append(event)
        off, on = sides["off"], sides["on"]
        if min(len(off), len(on)) >= MIN_SAMPLES:
            transfer, launch = (_ratio(_seen(off, key), _seen(on, key)) for key in ("transfer_ns", "launch_ns"))
            found.append(
                Observed(group=group, without=len(off), with_dma=len(on), transfer=transfer, launch=launch),
            )
    return found


def _seen(events: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    values = [float(event[key]) for event in events if event.get(key)]
    return values[:: max(1, -(-len(values) // _COMPARED))]


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio | None:
    """Return the ratio of the medians with a percentile bootstrap interval, each side resampled by itself."""
    if min(len(slow), len(fast)) < MIN_SAMPLES:
        return None
    import numpy as np

    chance = np.random.default_rng(_SEED)
    medians = [np.median(chance.choice(side, size=(_RESAMPLES, len(side))), axis=1) for side in (slow, fast)]
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(medians[0] / medians[1], (tail, 1 - tail))
    return Ratio(ratio=float(np.median(slow) / np.median(fast)), low=float(low), high=float(high))


def _phrase(what: str, found: Ratio | None) -> str:
    if found is None:
        return f"{what} not seen"
    shown = f"{found.low:.2f}–{found.high:.2f}"
    if found.difference == "no difference shown":
        return f"{what} {found.ratio:.2f}× (ratio {shown}: {found.difference})"
    factor = found.ratio if found.difference == "faster" else 1 / found.ratio
    return f"{what} {factor:.2f}× {found.difference} (ratio {shown})"
