"""The metric table: names, kinds and what a registry makes of them."""

from __future__ import annotations

import re

import pytest

from sextant.telemetry.table import TABLE, Metric, Registry


def test_names_are_unique_and_say_their_unit() -> None:
    names = [metric.name for metric in TABLE]
    assert len(set(names)) == len(names)
    for metric in TABLE:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name), metric.name
        assert not metric.name.endswith("_total"), f"{metric.name}: exporters add _total"
        assert metric.name.endswith("_seconds") == (metric.unit == "s"), metric.name
        assert metric.help.endswith("."), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name


@pytest.mark.parametrize("name", ["inference_latency_seconds", "gen_ai_server_request_duration_seconds"])
def test_names_that_operators_ask_for(name: str) -> None:
    assert name in {metric.name for metric in TABLE}


def test_every_metric_can_be_registered_and_exported() -> None:
    registry = Registry()
    for metric in TABLE:
        collector = registry[metric.name]
        child = collector.labels(*["x"] * len(metric.labels)) if metric.labels else collector
        child.observe(0.5) if metric.kind == "histogram" else child.inc()
        assert registry[metric.name] is collector
    text = registry.exposition().decode()
    for metric in TABLE:
        name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
        assert f"# TYPE {name} {metric.kind}\n" in text


def test_unknown_name_is_refused_at_once() -> None:
    with pytest.raises(KeyError):
        Registry()["sextant_gateway_request"]


def test_registries_do_not_share_counts() -> None:
    table = (Metric("sextant_example", "counter", "An example.", "1"),)
    first, second = Registry(table), Registry(table)
    first["sextant_example"].inc(3)
    second["sextant_example"].inc()
    assert b"sextant_example_total 3.0" in first.exposition()
    assert b"sextant_example_total 1.0" in second.exposition()
