"""Many launches in bounded memory: exact totals, a random sample for charts, the slowest and the failed in full.

Fed from log lines or from the store. Launches of different accelerators are never put together: every key here has
the accelerator in it, whether a trap cost was modelled, and what kind of host it was.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from orchestrator.bench.result import Result
from orchestrator.errors import NotFoundError
from orchestrator.records.filters import Filters, is_modelled
from orchestrator.records.provenance import marked, of_event
from orchestrator.records.record import LaunchEvent
from orchestrator.records.store import Store
from orchestrator.records.store_rows import KindRow, SettledRow
from orchestrator.report.submission import Submission
from orchestrator.timeline.phases import Start

SAMPLE = 4_000
# Launches that comparisons look at, the newest: a random sample would tear those apart that ran side by side.
MOMENTS = 20_000
SHOWN = 15
# A launch that failed before an accelerator was chosen.
NO_ACCEL = "none"
_SEED = 1


class Group(NamedTuple):
    """Launches that may be looked at together."""

    profile: str
    accel: str
    start: str
    modelled: bool
    made_on: str  # a label of `provenance`

    @property
    def where(self) -> str:
        """What it ran on: the accelerator, and what has to be said beside it."""
        arch = self.profile.partition("-")[0]  # profiles are named after it; another name leaves a word out
        on = marked(self.accel, self.made_on, arch=arch)
        return f"{on}, MODELLED trap cost" if self.modelled else on

    @property
    def title(self) -> str:
        """The group in words."""
        return f"{self.profile}, {self.where}, {self.start} start"


class Total(NamedTuple):
    """What exact counts are kept by."""

    group: Group
    dma: str  # "on", "off", "unknown"
    outcome: str


class Moment(NamedTuple):
    """A successful cold launch, as far as fw_cfg DMA is compared: when it was, and what it took."""

    group: Group
    at_ns: int
    dma: bool
    launch_ns: int | None
    transfer_ns: int | None


@dataclass(slots=True)
class Collection:
    """Launches for a report.

    :ivar sample: canonical lines chosen at random, each with the same chance, in order of time.
    :ivar moments: the newest launches whose transfer path is known, in any order.
    :ivar slowest: those with the longest launch, the longest first; `failures` the newest that failed.
    """

    totals: Counter[Total] = field(default_factory=Counter)
    sample: list[LaunchEvent] = field(default_factory=list)
    moments: Sequence[Moment] = ()
    slowest: list[LaunchEvent] = field(default_factory=list)
    failures: list[LaunchEvent] = field(default_factory=list)
    first_ns: int = 0
    last_ns: int = 0
    results: list[tuple[Path, Result]] = field(default_factory=list)
    submissions: list[tuple[Path, Submission]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many launches there are in all."""
        return sum(self.totals.values())

    def groups(self) -> list[Group]:
        """Return the groups, that with the most launches first."""
        sizes: Counter[Group] = Counter()
        for total, count in self.totals.items():
            sizes[total.group] += count
        return [group for group, _ in sizes.most_common()]

    def of(self, group: Group) -> list[LaunchEvent]:
        """Return the sampled launches of a group."""
        return [event for event in self.sample if group_of(event) == group]


def _moment(group: Group, launch: LaunchEvent | SettledRow) -> Moment:
    return Moment(
        group, launch["wall_start_ns"], bool(launch["fw_cfg_dma"]), launch.get("launch_ns"), launch.get("transfer_ns")
    )


def group_of(event: LaunchEvent) -> Group:
    """Return the group of a launch."""
    accel = event["accel"] or NO_ACCEL
    return Group(event["profile"], accel, event["start"], is_modelled(event), of_event(event).label)


def _group_of_row(row: KindRow) -> Group:
    return Group(row["profile"], row["accel"] or NO_ACCEL, row["start"], bool(row["modelled"]), row["made_on"])


def dma_of(launch: LaunchEvent | KindRow) -> str:
    """Return the transfer path of a launch as verified: "on", "off", "unknown"; "none" for a clone's."""
    if launch["start"] != Start.COLD:
        return "none"
    verified = launch["fw_cfg_dma"]
    return "unknown" if verified is None else "on" if verified else "off"


def collect(events: Iterable[LaunchEvent], *, size: int = SAMPLE, filters: Filters | None = None) -> Collection:
    """Return a collection of canonical lines; a launch that comes twice (log and timeline file) counts once."""
    found = Collection()
    chance = random.Random(_SEED)  # noqa: S311 - a sample for charts
    seen: set[str] = set()
    moments: deque[Moment] = deque(maxlen=MOMENTS)
    slow: list[tuple[int, int, LaunchEvent]] = []
    failed: list[tuple[int, int, LaunchEvent]] = []
    for event in _selected(events, filters or Filters()):
        if event["launch_id"] in seen:
            continue
        seen.add(event["launch_id"])
        number = len(seen)
        _count(found, event)
        _reservoir(found.sample, event, number, size, chance)
        proven = event["outcome"] == "success" and not event.get("proof_failures")
        if proven and dma_of(event) in {"on", "off"}:
            moments.append(_moment(group_of(event), event))
        _keep(slow, (event.get("launch_ns") or -1, number, event))
        if event["outcome"] == "failure":
            _keep(failed, (event["wall_start_ns"], number, event))
    found.moments = moments
    found.sample.sort(key=lambda event: event["wall_start_ns"])
    found.slowest = [event for launch_ns, _, event in sorted(slow, reverse=True) if launch_ns > 0]
    found.failures = [event for _, _, event in sorted(failed, reverse=True)]
    return found


def from_store(store: Store, filters: Filters, *, size: int = SAMPLE) -> Collection:
    """Return the same from the store, without reading every launch.

    :raise NotFoundError: when no launch fits.
    """
    found = Collection(sample=list(store.sample(filters, size)))
    found.moments = [_moment(_group_of_row(row), row) for row in store.settled(filters, limit=MOMENTS)]
    for row in store.totals(filters):
        dma = dma_of(row)
        found.totals[Total(_group_of_row(row), dma, row["outcome"])] += row["launches"]
        found.first_ns = min(found.first_ns or row["first_ns"], row["first_ns"])
        found.last_ns = max(found.last_ns, row["last_ns"])
    if not found.totals:
        raise NotFoundError("no launches recorded", "that fit", "the selection is empty", "widen it")
    slowest = store.lines(filters, order="-launch_ns", limit=SHOWN)
    found.slowest = [event for event in slowest if event.get("launch_ns")]
    found.failures = list(store.lines(filters.failures(), order="-wall_start_ns", limit=SHOWN))
    return found


def _selected(events: Iterable[LaunchEvent], filters: Filters) -> Iterator[LaunchEvent]:
    return (event for event in events if filters.takes(event))


def _count(found: Collection, event: LaunchEvent) -> None:
    found.totals[Total(group_of(event), dma_of(event), event["outcome"])] += 1
    at = event["wall_start_ns"]
    found.first_ns = min(found.first_ns or at, at)
    found.last_ns = max(found.last_ns, at)


def _reservoir(sample: list[LaunchEvent], event: LaunchEvent, number: int, size: int, chance: random.Random) -> None:
    """Keep each of the `number` events so far with the same probability."""
    if len(sample) < size:
        sample.append(event)
    elif (place := chance.randrange(number)) < size:
        sample[place] = event


def _keep(heap: list[tuple[int, int, LaunchEvent]], entry: tuple[int, int, LaunchEvent]) -> None:
    if len(heap) < SHOWN:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)
