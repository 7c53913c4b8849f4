"""The metrics of several workers in one answer."""

from __future__ import annotations

import os
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from sextant.telemetry.workers import STALE_S, WorkerRegistry, merged


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels, as Prometheus reads them; a repeated metric is an error there."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_each_sample_says_whose_it_is(tmp_path: Path) -> None:
    one, other = WorkerRegistry(tmp_path, "1"), WorkerRegistry(tmp_path, "2")
    for worker, count in ((one, 3), (other, 4)):
        worker["sextant_ledger_rows"].inc(count)
        worker["sextant_governance_refusals"].labels('a "b" {c} d').inc(count)
        worker["sextant_limits_call_seconds"].observe(0.2)
    other.write()
    found = samples(one.exposition().decode())
    assert found["sextant_ledger_rows_total", (("worker", "1"),)] == 3
    assert found["sextant_ledger_rows_total", (("worker", "2"),)] == 4
    code = ("code", 'a "b" {c} d')
    assert found["sextant_governance_refusals_total", (code, ("worker", "2"))] == 4
    assert found["sextant_limits_call_seconds_bucket", (("le", "+Inf"), ("worker", "2"))] == 1


def test_a_worker_that_is_gone_is_left_out(tmp_path: Path) -> None:
    one, other = WorkerRegistry(tmp_path, "1"), WorkerRegistry(tmp_path, "2")
    other["sextant_ledger_rows"].inc()
    other.write()
    before = time.time() - STALE_S - 1
    os.utime(tmp_path / "metrics-2.prom", (before, before))
    assert 'worker="2"' not in one.exposition().decode()


def test_nothing_merged_is_nothing() -> None:
    assert merged({}) == ""
    assert merged({"1": ""}) == ""
