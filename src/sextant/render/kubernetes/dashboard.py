"""One page of Grafana about a deployment: what callers get, what engines do, what waits.

A ConfigMap that Grafana's usual installation on Kubernetes picks up by its label; containers and compose
mount the same page as a file.
"""

from __future__ import annotations

import json
from typing import Any

from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.objects import Object, made

Panel = tuple[str, str, str, str]
"""Title, unit, query, legend."""
FOUND_BY = "grafana_dashboard"
"""The label by which Grafana's usual installation on Kubernetes finds dashboards in ConfigMaps."""
_RATE = "sum by ({by}) (rate({name}[5m]))"
_P99 = "histogram_quantile(0.99, sum by (le, model) (rate({name}_bucket[5m])))"
PANELS: tuple[Panel, ...] = (
    ("Requests", "reqps", _RATE.format(by="status", name="sextant_gateway_requests_total"), "{{status}}"),
    ("Errors", "reqps", _RATE.format(by="code", name="sextant_gateway_errors_total"), "{{code}}"),
    ("First token, p99", "s", _P99.format(name="gen_ai_server_time_to_first_token_seconds"), "{{model}}"),
    ("Token after token, p99", "s", _P99.format(name="gen_ai_server_time_per_output_token_seconds"),
     "{{model}}"),
    ("Tokens", "short", _RATE.format(by="model, type", name="gen_ai_client_token_usage_tokens_total"),
     "{{model}} {{type}}"),
    ("Waiting at the gateway", "short", "sum(sextant_gateway_queue_length)", "requests"),
    ("KV cache", "percentunit", "max by (model) (sextant_engine_kv_cache_used_ratio)", "{{model}}"),
    ("Engines that answer", "short", "sum by (model) (sextant_engine_ready)", "{{model}}"),
    ("Usage rows not yet durable", "short", "sum(sextant_ledger_pending_rows)", "rows"),
)  # fmt: skip


def dashboard_object(cluster: Cluster, more: tuple[Panel, ...] = ()) -> Object:
    """The page as a ConfigMap, with panels of what only this bundle has."""
    body = made("v1/ConfigMap", cluster.part("dashboard"))
    body["metadata"]["labels"] = {**body["metadata"]["labels"], FOUND_BY: "1"}
    body["data"] = {f"{cluster.order.name}.json": json.dumps(dashboard(more), indent=2) + "\n"}
    return body


def dashboard(more: tuple[Panel, ...] = ()) -> dict[str, Any]:
    """Grafana's model of one page with `PANELS` and what is given, three in a row."""
    panels = []
    for number, (title, unit, query, legend) in enumerate((*PANELS, *more)):
        panels.append(
            {
                "id": number + 1,
                "title": title,
                "type": "timeseries",
                "datasource": {"type": "prometheus", "uid": "prometheus"},
                "gridPos": {"h": 8, "w": 8, "x": 8 * (number % 3), "y": 8 * (number // 3)},
                "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
                "targets": [{"refId": "A", "expr": query, "legendFormat": legend}],
            }
        )
    return {
        "uid": "sextant",
        "title": "Sextant",
        "schemaVersion": 41,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "panels": panels,
    }
