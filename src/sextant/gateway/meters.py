"""The gateway's own metrics, counted in plain integers and lists and read at scrape time.

A `prometheus_client` histogram costs over a microsecond and a lock per observation; the hot path makes five
of them per request. The gateway runs on one loop, so it needs no locks: a child here is a list that
`bisect` finds the bucket of, and one collector turns all of them into the metric table's families when
somebody scrapes. Names, labels, help and buckets come from `telemetry.table` alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from sextant.telemetry.table import TABLE, Metric


class Count:
    """A counter's child."""

    __slots__ = ("value",)

    def __init__(self, _: Metric) -> None:
        self.value = 0.0


class Buckets:
    """A histogram's child: `observe` is one bisect and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, metric: Metric) -> None:
        self.bounds = metric.buckets
        self.counts = [0] * (len(metric.buckets) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Meters(Collector):
    """Children by metric name and label values; register it with a Prometheus registry once."""

    def __init__(self) -> None:
        self._metrics = {metric.name: metric for metric in TABLE}
        self._counts: dict[str, dict[tuple[str, ...], Count]] = {}
        self._buckets: dict[str, dict[tuple[str, ...], Buckets]] = {}
        self._gauges: dict[str, Callable[[], Iterable[tuple[tuple[str, ...], float]]]] = {}

    def count(self, name: str, *labels: str) -> Count:
        """The counter child `name{labels}`; bind it once where the labels are known in advance."""
        children = self._counts.setdefault(name, {})
        child = children.get(labels)
        if child is None:
            child = children[labels] = Count(self._checked(name, "counter", labels))
        return child

    def buckets(self, name: str, *labels: str) -> Buckets:
        children = self._buckets.setdefault(name, {})
        child = children.get(labels)
        if child is None:
            child = children[labels] = Buckets(self._checked(name, "histogram", labels))
        return child

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """A gauge without labels, read at scrape time."""
        self._checked(name, "gauge", ())
        self._gauges[name] = lambda: [((), read())]

    def labelled_gauge(self, name: str, read: Callable[[], Iterable[tuple[tuple[str, ...], float]]]) -> None:
        """A gauge with labels, all its children read at scrape time."""
        if self._metrics[name].kind != "gauge":
            raise KeyError(f"{name} is no gauge")
        self._gauges[name] = read

    def _checked(self, name: str, kind: str, labels: tuple[str, ...]) -> Metric:
        metric = self._metrics[name]
        if metric.kind != kind or len(metric.labels) != len(labels):
            raise KeyError(
                f"{name} is a {metric.kind} with labels {metric.labels}, not a {kind} with {labels}"
            )
        return metric

    def describe(self) -> Iterable[Family]:
        """Nothing in advance: families appear with their first child."""
        return []

    def collect(self) -> Iterable[Family]:
        for name, counts in self._counts.items():
            metric = self._metrics[name]
            counter = CounterMetricFamily(name, metric.help, labels=metric.labels)
            for labels, count in counts.items():
                counter.add_metric(labels, count.value)
            yield counter
        for name, read in self._gauges.items():
            metric = self._metrics[name]
            gauge = GaugeMetricFamily(name, metric.help, labels=metric.labels)
            for labels, value in read():
                gauge.add_metric(labels, value)
            yield gauge
        for name, children in self._buckets.items():
            metric = self._metrics[name]
            histogram = HistogramMetricFamily(name, metric.help, labels=metric.labels)
            for labels, child in children.items():
                histogram.add_metric(labels, _cumulative(child), child.total)
            yield histogram


def _cumulative(child: Buckets) -> list[tuple[str, float]]:
    rows: list[tuple[str, float]] = []
    sum_so_far = 0
    for bound, count in zip((*child.bounds, float("inf")), child.counts, strict=True):
        sum_so_far += count
        rows.append(("+Inf" if bound == float("inf") else str(bound), float(sum_so_far)))
    return rows
