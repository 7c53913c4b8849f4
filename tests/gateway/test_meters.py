"""The gateway's counters read as Prometheus reads them, with the table's names, labels and buckets."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sextant.gateway.meters import Meters
from sextant.telemetry.table import TABLE, Registry


def scrape(registry: Registry) -> dict[str, float]:
    families = text_string_to_metric_families(registry.exposition().decode())
    return {
        f"{sample.name}{dict(sorted(sample.labels.items()))}": sample.value
        for family in families
        for sample in family.samples
    }


def test_counts_histograms_and_gauges() -> None:
    registry, meters = Registry(), Meters()
    registry.prometheus.register(meters)
    meters.count("sextant_gateway_requests", "chat", "200").value += 2
    meters.gauge("sextant_gateway_queue_length", lambda: 7)
    meters.labelled_gauge("sextant_engine_ready", lambda: [(("m", "u"), 1.0)])
    latency = meters.buckets("inference_latency_seconds", "m")
    for value in (0.0005, 0.001, 0.0011, 1000.0):
        latency.observe(value)
    values = scrape(registry)
    assert values["sextant_gateway_requests_total{'endpoint': 'chat', 'status': '200'}"] == 2
    assert values["sextant_gateway_queue_length{}"] == 7
    assert values["sextant_engine_ready{'model': 'm', 'upstream': 'u'}"] == 1
    assert values["inference_latency_seconds_bucket{'le': '0.001', 'model': 'm'}"] == 2
    assert values["inference_latency_seconds_bucket{'le': '0.0025', 'model': 'm'}"] == 3
    assert values["inference_latency_seconds_bucket{'le': '+Inf', 'model': 'm'}"] == 4
    assert values["inference_latency_seconds_count{'model': 'm'}"] == 4
    assert values["inference_latency_seconds_sum{'model': 'm'}"] == pytest.approx(1000.0026)


def test_buckets_are_those_that_prometheus_client_would_fill() -> None:
    metric = next(metric for metric in TABLE if metric.name == "inference_latency_seconds")
    theirs, ours = Registry(), Registry()
    meters = Meters()
    ours.prometheus.register(meters)
    child = theirs["inference_latency_seconds"].labels("m")
    for bound in metric.buckets:
        for value in (bound, bound * 1.0001, bound * 0.9999):
            child.observe(value)
            meters.buckets("inference_latency_seconds", "m").observe(value)
    assert scrape(ours) == {
        name: value
        for name, value in scrape(theirs).items()
        if not name.startswith("inference_latency_seconds_created")
    }


def test_a_child_is_made_once() -> None:
    meters = Meters()
    assert meters.count("sextant_gateway_keepalives") is meters.count("sextant_gateway_keepalives")


@pytest.mark.parametrize(
    ("kind", "name", "labels"),
    [
        ("count", "no_such_metric", ()),
        ("count", "sextant_gateway_requests", ("chat",)),
        ("count", "sextant_gateway_queue_length", ()),
        ("buckets", "sextant_gateway_keepalives", ()),
    ],
)
def test_what_the_table_does_not_know_fails_at_once(kind: str, name: str, labels: tuple[str, ...]) -> None:
    with pytest.raises(KeyError):
        getattr(Meters(), kind)(name, *labels)
