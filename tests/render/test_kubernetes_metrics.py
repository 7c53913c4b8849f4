"""Every metric in a query exists, every query is one, and replicas follow from them as the rules say."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.render.orders import DISTILLED, R1, order
from tests.render.schema_check import objects_of, of_kind
from tests.render.test_kubernetes_bundles import OPEN_PORTAL, SMTP

from sextant.render import render
from sextant.render.kubernetes.watching import EXPORTED, UTILIZATION
from sextant.render.saas import FIRST_TOKEN_BUCKETS_S
from sextant.spec.bundle import Bundle
from sextant.spec.engine_data import engines
from sextant.telemetry.table import LATENCY_BUCKETS_S, TABLE

Object = dict[str, Any]

CLUSTER_METRICS = ("container_cpu_usage_seconds_total", "kube_pod_container_resource_requests")
"""Of the kubelet and of kube-state-metrics."""
FAR_METRICS = (
    "pg_stat_wal_receiver_status",
    "pg_stat_wal_receiver_latest_end_lsn",
    "pg_replication_last_replay_seconds",
)
"""Of postgres_exporter, on the standby of a hybrid."""

WORDS = frozenset(
    {
        "sum",
        "avg",
        "min",
        "max",
        "count",
        "by",
        "on",
        "or",
        "and",
        "unless",
        "without",
        "bool",
        "offset",
        "le",
    }
    | {
        "ignoring",
        "group_left",
        "rate",
        "increase",
        "absent",
        "histogram_quantile",
        "label_replace",
        "vector",
    }
    | {"min_over_time", "max_over_time", "time"}
)


def bundle_of(kind: str = "vllm", **more: Any) -> Bundle:
    """A bundle with one engine of that kind, and all that may be scaled or watched."""
    spec = {**R1, "engine": {"kind": kind}, "workload": {"ttft_ms_p99": 2000.0}, **more}
    return render(order("private-cloud", **spec))


def queries(bundle: Bundle) -> Iterator[str]:
    """Every PromQL expression of the bundle."""
    for body in objects_of(bundle):
        if body["kind"] == "ScaledObject":
            yield from (trigger["metadata"]["query"] for trigger in body["spec"]["triggers"])
        if body["kind"] == "PrometheusRule":
            yield from (rule["expr"] for group in body["spec"]["groups"] for rule in group["rules"])


def metrics_in(query: str) -> set[str]:
    """Names of metrics in a query: what is no word of the language, no label and no text."""
    bare = re.sub(r'"[^"]*"', '""', query)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    bare = re.sub(r"\boffset\s+\w+", "", bare)
    return {name for name in re.findall(r"(?<![\w.])[A-Za-z_:][\w:]*", bare) if name not in WORDS}


def known_metrics() -> set[str]:
    """All names that a Prometheus beside such a deployment has."""
    ours: set[str] = set()
    for metric in TABLE:
        endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
        ours |= {metric.name + ending for ending in endings[metric.kind]}
    theirs = {name for data in engines().values() for name in data.metrics}
    exported = {name for name, _ in EXPORTED.values()}
    return ours | theirs | exported | {UTILIZATION, *CLUSTER_METRICS, *FAR_METRICS}


@pytest.mark.parametrize("kind", ["vllm", "sglang", "nim", "triton", "trtllm"])
def test_every_metric_exists(kind: str) -> None:
    found = set().union(*map(metrics_in, queries(bundle_of(kind, scaling={"scale_to_zero": True}))))
    assert len(found) > 10
    assert found - known_metrics() == set()


def test_every_metric_of_a_service_exists() -> None:
    service: Object = {"workload": {"ttft_ms_p99": 2000.0}, "delivery": {"ingress_host": "api.example.com"}}
    service |= {"portal": OPEN_PORTAL, "alerts": {"smtp": SMTP}}
    found = list(queries(render(order("saas", **R1, **service))))
    assert sum("outcome=~" in query and "sign_ups" not in query for query in found) == 3
    assert sum("sextant_control_sign_ups_total" in query for query in found) == 3
    assert sum('le="1.0"' in query for query in found) == 3
    assert set().union(*map(metrics_in, found)) - known_metrics() == set()


def test_objectives_are_counted_by_buckets_that_exist() -> None:
    assert set(FIRST_TOKEN_BUCKETS_S) <= set(LATENCY_BUCKETS_S)


def test_a_metric_that_does_not_exist_would_be_found() -> None:
    query = 'sum(rate(sextant_gateway_request_total{namespace="x"}[2m])) by (pod) > bool 2'
    assert metrics_in(query) == {"sextant_gateway_request_total"}
    assert metrics_in(query) - known_metrics() != set()


def test_engines_are_read_by_their_published_names() -> None:
    monitors = of_kind(objects_of(bundle_of()), "ServiceMonitor")
    assert len(monitors) == 2
    for monitor in monitors:
        assert monitor["spec"]["scrapeProtocols"] == ["PrometheusText0.0.4"]
    assert any("vllm:num_requests_waiting" in query for query in queries(bundle_of()))


def test_the_gateway_scales_as_the_document_says() -> None:
    scaling = {
        "min_replicas": 2,
        "max_replicas": 20,
        "requests_per_s_per_replica": 150.0,
        "cpu_percent_high": 80,
        "cpu_percent_low": 20,
    }
    scaler = next(
        body
        for body in of_kind(objects_of(bundle_of(scaling=scaling)), "ScaledObject")
        if body["metadata"]["name"] == "gateway"
    )
    requests, cpu = scaler["spec"]["triggers"]
    assert requests["metadata"]["threshold"] == "150"
    assert "> bool 80" in cpu["metadata"]["query"] and "< bool 20" in cpu["metadata"]["query"]
    assert (scaler["spec"]["minReplicaCount"], scaler["spec"]["maxReplicaCount"]) == (2, 20)
    assert scaler["spec"]["fallback"]["replicas"] == 2
    assert all(trigger["metricType"] == "AverageValue" for trigger in scaler["spec"]["triggers"])
    behavior = scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert {side["tolerance"] for side in behavior.values()} == {"0"}


def test_an_engine_that_may_sleep_is_woken_by_requests_alone() -> None:
    scaler = next(
        body
        for body in of_kind(objects_of(bundle_of(scaling={"scale_to_zero": True})), "ScaledObject")
        if body["metadata"]["name"].startswith("engine")
    )
    assert scaler["spec"]["idleReplicaCount"] == 0
    wakes = [
        trigger["name"]
        for trigger in scaler["spec"]["triggers"]
        if trigger["metadata"]["activationThreshold"] == "0"
    ]
    assert wakes == ["asked"]


def _rules_file(bundle: Bundle, folder: Path) -> Path:
    """The bundle's rules and its scalers' queries, as promtool reads them."""
    rules = of_kind(objects_of(bundle), "PrometheusRule")
    groups = [group for rule in rules for group in rule["spec"]["groups"]]
    scaled = [
        {
            "record": f"wanted:{body['metadata']['name'].replace('-', '_')}:{number}",
            "expr": trigger["metadata"]["query"],
        }
        for body in of_kind(objects_of(bundle), "ScaledObject")
        for number, trigger in enumerate(body["spec"]["triggers"])
    ]
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [*groups, {"name": "scaling", "rules": scaled}]}))
    return file


PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize("mode", ["private-cloud", "saas"])
def test_promtool_takes_every_query(tmp_path: Path, mode: str) -> None:
    more: Object = {"delivery": {"ingress_host": "api.example.com"}, "workload": {"ttft_ms_p99": 2000.0}}
    more |= {"portal": OPEN_PORTAL, "alerts": {"smtp": SMTP}}
    bundle = render(order(mode, **R1, **more, scaling={"scale_to_zero": True}))
    file = _rules_file(bundle, tmp_path)
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text(file.read_text().replace("sum(", "summ("))
    assert subprocess.run([str(PROMTOOL), "check", "rules", str(file)], capture_output=True).returncode != 0


SERIES = """\
rule_files: [rules.yaml]
evaluation_interval: 15s
tests:
- interval: 15s
  input_series:
  - series: 'vllm:num_requests_running{namespace="sextant",service="engine-r1-7b",pod="a"}'
    values: '5x80'
  - series: 'vllm:num_requests_running{namespace="sextant",service="engine-r1-7b",pod="b"}'
    values: '5x80'
  - series: 'vllm:num_requests_waiting{namespace="sextant",service="engine-r1-7b",pod="a"}'
    values: '0x30 40x10 3x40'
  - series: 'vllm:num_requests_waiting{namespace="sextant",service="engine-r1-7b",pod="b"}'
    values: '0x30 0x10 3x40'
  - series: 'DCGM_FI_DEV_GPU_UTIL{exported_namespace="sextant",exported_pod="engine-r1-7b-6f-x2x4k",gpu="0"}'
    values: '95x80'
  - series: 'DCGM_FI_DEV_GPU_UTIL{exported_namespace="sextant",exported_pod="engine-r1-7b-b-6-x2x4k",gpu="1"}'
    values: '0x80'
  promql_expr_test:
  - expr: 'wanted:engine_r1_7b:0'
    eval_time: 7m
    exp_samples: [{labels: 'wanted:engine_r1_7b:0', value: 1}]
  - expr: 'wanted:engine_r1_7b:0'
    eval_time: 9m
    exp_samples: [{labels: 'wanted:engine_r1_7b:0', value: 3}]
  - expr: 'wanted:engine_r1_7b:0'
    eval_time: 15m
    exp_samples: [{labels: 'wanted:engine_r1_7b:0', value: 2}]
  - expr: 'wanted:engine_r1_7b:2'
    eval_time: 19m
    exp_samples: [{labels: 'wanted:engine_r1_7b:2', value: 3}]
"""
"""Two replicas: idle queue, then 20 waiting each, then 3 each; an accelerator that is busy throughout, and
an idle one of another model whose name begins alike."""


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
def test_replicas_follow_from_what_is_measured(tmp_path: Path) -> None:
    bundle = render(order("private-cloud", **DISTILLED))
    _rules_file(bundle, tmp_path)
    (tmp_path / "test.yaml").write_text(SERIES)

    def told() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PROMTOOL), "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True
        )

    done = told()
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "test.yaml").write_text(SERIES.replace("value: 3}", "value: 4}"))
    assert told().returncode != 0
