"""What ordinary launches say of fw_cfg DMA: matched in time, with intervals. An observation, no experiment.

A host's load changes by the hour, so launches are only held against others that ran just before and just after: a
*block* is a run of launches with one setting between two with the other, all within `BLOCK_MINUTES`. What the outer two
say, drawn as a line to the moment of the middle one, is what that one is compared with: a load that grows or falls
steadily cancels out. Launches that did not take turns are compared with nothing.

Benchmarks are judged by `bench.compare`, with tests. A report of everyday launches must come at once: no SciPy.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from orchestrator.report.collection import Collection, Group, Moment
from orchestrator.timeline.durations import period

BLOCK_MINUTES = 20
# Fewer give no interval of 95 %, whatever they say.
MIN_BLOCKS = 6
_HALF_BLOCK_NS = BLOCK_MINUTES * 60 * 10**9 // 2
_TAIL = 0.025
_EXACT_UP_TO = 100
_HALF = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as long a launch takes without DMA: the median of the blocks, and its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def difference(self) -> str:
        """What may be said: the words of a benchmark's comparisons."""
        return "faster" if self.low > 1 else "slower" if self.high < 1 else "no difference shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Launches of both settings that ran close together."""

    before: Sequence[Moment]
    middle: Sequence[Moment]
    after: Sequence[Moment]

    @property
    def launches(self) -> list[Moment]:
        """All of them, in order of time."""
        return [*self.before, *self.middle, *self.after]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A group's launches with DMA beside those without, as far as they were matched.

    :ivar blocks: how many blocks that rests on; `without` and `with_dma`: of how many launches.
    :ivar span_ns: from the first of these launches to the last.
    :ivar transfer: None where too few saw it, as for `launch`.
    """

    group: Group
    blocks: int
    without: int
    with_dma: int
    span_ns: int
    transfer: Ratio | None
    launch: Ratio | None

    @property
    def halved(self) -> str:
        """Whether a launch with DMA takes half the time or less: "yes" and "no" only when the interval says so."""
        if self.launch is None or self.launch.low < _HALF <= self.launch.high:
            return "undecided"
        return "yes" if self.launch.low >= _HALF else "no"

    @property
    def basis(self) -> str:
        """What the observation rests on, in words."""
        return (
            f"{self.blocks} blocks of at most {BLOCK_MINUTES} minutes within {period(self.span_ns)}: "
            f"{self.without} launches without DMA, {self.with_dma} with"
        )

    @property
    def text(self) -> str:
        """The observation on one line."""
        parts = f"{_phrase('transfer', self.transfer)}, {_phrase('launch', self.launch)}"
        return f"{parts}: halved: {self.halved}, on {self.group.where} (from {self.basis})"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            **self.group._asdict(),
            "blocks": self.blocks,
            "block_minutes": BLOCK_MINUTES,
            "span_ns": self.span_ns,
            "launches_without_dma": self.without,
            "launches_with_dma": self.with_dma,
            "transfer": self.transfer and asdict(self.transfer),
            "launch": self.launch and asdict(self.launch),
            "halved": self.halved,
            "text": self.text,
        }


def observe(collection: Collection) -> list[Observed]:
    """Return what the launches say, for each group in which enough of them can be matched."""
    moments: dict[Group, list[Moment]] = defaultdict(list)
    for moment in collection.moments:
        moments[moment.group].append(moment)
    found = (_observed(group, moments[group]) for group in collection.groups() if group in moments)
    return [one for one in found if one is not None]


def _observed(group: Group, moments: Sequence[Moment]) -> Observed | None:
    blocks = matched([moment for moment in moments if moment.launch_ns])
    launch = _ratio(blocks, "launch_ns")
    if launch is None:
        return None
    transfer = _ratio(matched([moment for moment in moments if moment.transfer_ns]), "transfer_ns")
    launches = [moment for block in blocks for moment in block.launches]
    with_dma = sum(moment.dma for moment in launches)
    return Observed(
        group=group,
        blocks=len(blocks),
        without=len(launches) - with_dma,
        with_dma=with_dma,
        span_ns=launches[-1].at_ns - launches[0].at_ns,
        transfer=transfer,
        launch=launch,
    )


def matched(moments: Sequence[Moment]) -> list[Block]:
    """Return the blocks that launches form; none is in two of them."""
    in_time = sorted(moments, key=lambda moment: moment.at_ns)
    runs = [list(run) for _, run in groupby(in_time, key=lambda moment: moment.dma)]
    blocks: list[Block] = []
    place = 0
    while place + 2 < len(runs):
        block = _block(*runs[place : place + 3])
        if block is not None:
            blocks.append(block)
        place += 1 if block is None else 3
    return blocks


def _block(before: Sequence[Moment], middle: Sequence[Moment], after: Sequence[Moment]) -> Block | None:
    """Return the block around a run, of what is close enough to its middle; None where a side has nothing there."""
    centre = (middle[0].at_ns + middle[-1].at_ns) // 2
    near = [[one for one in run if abs(one.at_ns - centre) <= _HALF_BLOCK_NS] for run in (before, middle, after)]
    return Block(before=near[0], middle=near[1], after=near[2]) if all(near) else None


def _ratio(blocks: Sequence[Block], name: str) -> Ratio | None:
    """Return the median of the blocks' ratios with the interval that its order statistics give; None for too few."""
    if len(blocks) < MIN_BLOCKS:
        return None
    logs = sorted(_log_ratio(block, name) for block in blocks)
    place = _place_of_bound(len(logs))
    low, middle, high = logs[place], statistics.median(logs), logs[-1 - place]
    return Ratio(ratio=math.exp(middle), low=math.exp(low), high=math.exp(high))


def _log_ratio(block: Block, name: str) -> float:
    """Return the logarithm of time without DMA / time with it, for the middle run's moment."""
    (start, first), (at, seen), (end, last) = (_point(run, name) for run in (block.before, block.middle, block.after))
    expected = first + (last - first) * (at - start) / (end - start) if end > start else (first + last) / 2
    return expected - seen if block.middle[0].dma else seen - expected


def _point(run: Sequence[Moment], name: str) -> tuple[float, float]:
    """Return a run's mean time and the median of its logarithms."""
    at = statistics.fmean(moment.at_ns for moment in run)
    return at, statistics.median(math.log(getattr(moment, name)) for moment in run)


def _place_of_bound(count: int) -> int:
    """Return which of `count` sorted values is the lower bound of their median's 95 % interval (the sign test's)."""
    if count > _EXACT_UP_TO:
        return max(0, math.floor((count - statistics.NormalDist().inv_cdf(1 - _TAIL) * math.sqrt(count)) / 2) - 1)
    below = place = 0
    while (below + math.comb(count, place)) / 2**count <= _TAIL:
        below += math.comb(count, place)
        place += 1
    return place - 1


def _phrase(what: str, found: Ratio | None) -> str:
    if found is None:
        return f"{what} not seen"
    shown = f"{found.low:.2f}–{found.high:.2f}"
    if found.difference == "no difference shown":
        return f"{what} {found.ratio:.2f}× (ratio {shown}: {found.difference})"
    factor = found.ratio if found.difference == "faster" else 1 / found.ratio
    return f"{what} {factor:.2f}× {found.difference} (ratio {shown})"
