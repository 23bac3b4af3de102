"""Adds up metrics over many one-shot processes: totals of earlier runs plus the launches since.

Nothing here knows a metric by name: counters and histograms are sums, so their samples add up; of a gauge the
newer sample holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_SUMS = frozenset({"counter", "histogram"})

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Totals(Collector):
    """The sum of what a registry holds and of an earlier exposition.

    :param earlier: text exposition of earlier totals; empty for none.
    :raise ValueError: when it cannot be parsed.
    """

    def __init__(self, fresh: CollectorRegistry, earlier: str) -> None:
        self._fresh = fresh
        self._earlier = {family.name: family for family in text_string_to_metric_families(earlier)}

    def collect(self) -> Iterator[Metric]:
        """Yield each family that is known now, with its totals; families of older releases are dropped."""
        for family in self._fresh.collect():
            earlier = self._earlier.get(family.name)
            if earlier is None or earlier.type != family.type:
                yield family
                continue
            total = Metric(family.name, family.documentation, family.type)
            total.samples = _merged(family, earlier)
            yield total


def _merged(fresh: Metric, earlier: Metric) -> list[Sample]:
    old, new = _by_key(earlier.samples), _by_key(fresh.samples)
    if fresh.name.endswith("_info"):
        # A gauge tells how things are now: a version that is no longer in use must not linger.
        return list((new or old).values())
    if fresh.type not in _SUMS:
        return list((old | new).values())
    return [
        sample._replace(value=sample.value + old[key].value) if key in old and key in new else sample
        for key, sample in (old | new).items()
    ]


def _by_key(samples: Iterable[Sample]) -> dict[_Key, Sample]:
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample for sample in samples}
