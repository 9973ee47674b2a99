"""Metrics that something else counts: gauges, counters and histograms with labels, read when the page is asked for."""

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Literal

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Buckets(Struct, frozen=True):
    """A histogram's value: how many fell below each bound and above the last, not accumulated, and their sum."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float


class Family(Struct, frozen=True):
    """One metric. The labels of all its samples have the same names; their values are bounded by whoever gives them."""

    name: str
    """As on the page; a counter's ends in `_total`."""
    about: str
    kind: Literal["gauge", "counter"]
    samples: list[tuple[Mapping[str, str], float]]


class Spread(Struct, frozen=True):
    """One histogram."""

    name: str
    about: str
    samples: list[tuple[Mapping[str, str], Buckets]]


class Families(Collector):
    """Asks for the families of each scrape."""

    def __init__(self, read: Callable[[], Iterable[Family | Spread]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is can change while the server runs."""
        return ()

    def collect(self) -> Iterable[Metric]:
        return [
            _histogram(family) if isinstance(family, Spread) else _plain(family)
            for family in self._read()
            if family.samples
        ]


def _plain(family: Family) -> Metric:
    kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
    metric: Metric = kind(family.name, family.about)
    for labels, value in family.samples:
        metric.add_sample(family.name, dict(labels), value)
    return metric


def _histogram(family: Spread) -> Metric:
    metric = HistogramMetricFamily(family.name, family.about)
    for given, value in family.samples:
        labels, ends = dict(given), [*map(floatToGoString, value.bounds), "+Inf"]
        for end, count in zip(ends, accumulate(value.counts), strict=True):
            metric.add_sample(f"{family.name}_bucket", {**labels, "le": end}, count)
        metric.add_sample(f"{family.name}_count", labels, sum(value.counts))
        metric.add_sample(f"{family.name}_sum", labels, value.total)
    return metric
