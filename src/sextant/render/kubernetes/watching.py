"""What is measured and when somebody is called: ServiceMonitors, recorded metrics, alerts.

Every name in a query is one of our metric table, of an engine's own text (`spec/data/engines.toml`), or of
the exporters named in `EXPORTED`; a test holds them to that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sextant.render.kubernetes.cluster import Cluster, Workload
from sextant.render.kubernetes.engines import PORT_NAME, engine_secret
from sextant.render.kubernetes.identity import CA_SECRET
from sextant.render.kubernetes.objects import Object, made
from sextant.render.kubernetes.sidecar import LOOKS_NAME
from sextant.spec.engine_data import EngineData

UTILIZATION = "gpu_utilization"
"""Recorded here: use of each accelerator in per cent, by namespace and pod, whichever vendor's."""
SCRAPE_PROTOCOLS = ["PrometheusText0.0.4"]
"""Under OpenMetrics engines serve `vllm:x` as `vllm_x`, and rules on the published names never fire."""

EXPORTED: Mapping[str, tuple[str, str]] = {
    "nvidia": ("DCGM_FI_DEV_GPU_UTIL", "NVIDIA dcgm-exporter"),
    "amd": ("gpu_gfx_activity", "ROCm device-metrics-exporter"),
    "intel": ("habanalabs_utilization", "Intel Gaudi Prometheus metric exporter"),
    "huawei": ("npu_chip_info_utilization", "Ascend npu-exporter"),
}
"""Vendor to the metric of accelerator use and the exporter that serves it (their pages, November 2026)."""


def engine_metric(data: EngineData, ours: str) -> str:
    """The engine's own name for one of our metrics; empty where it has none."""
    return next((name for name, mapped in data.metrics.items() if mapped == ours), "")


def gateway_monitor(cluster: Cluster) -> Object:
    """Reads every gateway replica's metrics over TLS."""
    part = cluster.part("gateway")
    endpoint = {
        "port": "https",
        "scheme": "https",
        "path": "/metrics",
        "interval": "15s",
        "tlsConfig": {
            "ca": {"secret": {"name": CA_SECRET, "key": "ca.crt"}},
            "serverName": f"gateway.{cluster.namespace}.svc",
        },
    }
    return made("monitoring.coreos.com/v1/ServiceMonitor", part, monitor_of(part.selector, endpoint))


def engine_monitor(cluster: Cluster, workload: Workload) -> tuple[Object, ...]:
    """Reads an engine's own metrics; none where it serves none."""
    path = workload.command.metrics_path
    if not path:
        return ()
    port = LOOKS_NAME if workload.guarded else PORT_NAME
    endpoint: Object = {"port": port, "path": path, "interval": "15s"}
    data = cluster.order.facts.engines[workload.kind]
    if data.metrics_need_key and workload.command.secret_env:
        key = next(iter(workload.command.secret_env.values()))
        credentials = {"name": engine_secret(cluster, workload), "key": key}
        endpoint["authorization"] = {"type": "Bearer", "credentials": credentials}
    spec = monitor_of(workload.part.selector, endpoint)
    return (made("monitoring.coreos.com/v1/ServiceMonitor", workload.part, spec),)


def monitor_of(selector: Mapping[str, str], endpoint: Object) -> Object:
    """`spec` of a monitor that reads one endpoint of the service with these labels."""
    return {
        "selector": {"matchLabels": dict(selector)},
        "endpoints": [endpoint],
        "scrapeProtocols": SCRAPE_PROTOCOLS,
        "sampleLimit": 50_000,
    }


def rules(cluster: Cluster, more: Sequence[Object] = ()) -> Object:
    """Recorded metrics and alerts of the deployment, and `more` alerts."""
    alerts = [*_gateway_alerts(cluster), *_engine_alerts(cluster), *more]
    groups = [{"name": "sextant-alerts", "rules": alerts}]
    recorded = _recorded(cluster)
    if recorded:
        groups.insert(0, {"name": "sextant-accelerators", "interval": "30s", "rules": recorded})
    part = cluster.part("alerts")
    return made("monitoring.coreos.com/v1/PrometheusRule", part, {"groups": groups})


def _recorded(cluster: Cluster) -> list[Object]:
    """`gpu_utilization` of our pods, whether the exporter's labels were honoured at scraping or not."""
    vendors = sorted({each.served.vendor for each in cluster.workloads if each.resource})
    ours = "|".join(cluster.namespaces)
    found = []
    for vendor in vendors:
        metric, _ = EXPORTED[vendor]
        taken = f'{metric}{{exported_namespace=~"{ours}"}}'
        for label in ("namespace", "pod"):
            taken = f'label_replace({taken}, "{label}", "$1", "exported_{label}", "(.+)")'
        plain = f'{metric}{{namespace=~"{ours}",exported_namespace=""}}'
        expr = f"max by (namespace, pod, gpu) ({plain}) or max by (namespace, pod, gpu) ({taken})"
        found.append({"record": UTILIZATION, "expr": expr, "labels": {"vendor": vendor}})
    return found


def _gateway_alerts(cluster: Cluster) -> list[Object]:
    chosen = f'namespace="{cluster.namespace}",service="gateway"'
    answers = f'endpoint!~"ready|health",{chosen}'
    found = [
        alert(
            "SextantGatewayAway",
            f"absent(sextant_gateway_ready{{{chosen}}}) or sum(sextant_gateway_ready{{{chosen}}}) == 0",
            ("2m", "critical", "No gateway replica can serve."),
        ),
        alert(
            "SextantErrors",
            f'sum(rate(sextant_gateway_requests_total{{status=~"5..",{answers}}}[5m])) / '
            f"sum(rate(sextant_gateway_requests_total{{{answers}}}[5m])) > 0.05",
            ("5m", "critical", "More than 5 % of answers are server errors."),
        ),
        alert(
            "SextantLedgerBehind",
            f"max(sextant_ledger_pending_rows{{{chosen}}}) > 1000 "
            f"or min(sextant_ledger_connected{{{chosen}}}) == 0",
            ("2m", "critical", "Usage rows are not becoming durable; answers wait for them."),
        ),
        alert(
            "SextantLimitsAway",
            f"min(sextant_limits_connected{{{chosen}}}) == 0",
            ("1m", "critical", "Redis does not answer, so limits are not kept as configured."),
        ),
        alert(
            "SextantQueue",
            f"sum(sextant_gateway_queue_length{{{chosen}}}) > 100",
            ("5m", "warning", "Requests wait for a place; engines are too few or too slow."),
        ),
    ]
    found.extend(_identity_alerts(cluster, chosen))
    wanted = cluster.order.deployment.spec.workload.ttft_ms_p99
    if wanted is not None:
        bucket = (
            f"sum by (le, model) (rate(gen_ai_server_time_to_first_token_seconds_bucket{{{chosen}}}[10m]))"
        )
        found.append(
            alert(
                "SextantSlowFirstToken",
                f"histogram_quantile(0.99, {bucket}) > {wanted / 1000:g}",
                ("10m", "warning", f"The 99th percentile of the first token is above {wanted:g} ms."),
            )
        )
    return found


def _identity_alerts(cluster: Cluster, chosen: str) -> list[Object]:
    """A certificate of an hour is renewed when half of it has passed."""
    if not cluster.trust_domain:
        return []
    late = "The gateway's SPIFFE certificate is not renewed; without one no engine answers it."
    refused = "Somebody who is not the engine answers where it should, or no authority vouches for it."
    return [
        alert(
            "SextantIdentityEnds",
            f"min(sextant_identity_expires_in_seconds{{{chosen}}}) < 900 "
            f"or absent(sextant_identity_expires_in_seconds{{{chosen}}})",
            ("2m", "critical", late),
        ),
        alert(
            "SextantPeerRefused",
            f"sum(increase(sextant_transport_upstream_peers_refused_total{{{chosen}}}[10m])) > 0",
            ("1m", "critical", refused),
        ),
    ]


def _engine_alerts(cluster: Cluster) -> list[Object]:
    found = []
    for workload in cluster.workloads:
        chosen = f'namespace="{workload.part.namespace}",service="{workload.part.name}"'
        data = cluster.order.facts.engines[workload.kind]
        running = engine_metric(data, "sextant_engine_requests_running")
        used = engine_metric(data, "sextant_engine_kv_cache_used_ratio")
        name = workload.served.entry.name
        if running and workload.command.metrics_path:
            found.append(
                alert(
                    "SextantEngineAway",
                    f"absent({running}{{{chosen}}})",
                    (f"{int(workload.start_s // 60)}m", "critical", f"No replica of {name} answers."),
                    model=workload.part.model,
                )
            )
        if used and workload.command.metrics_path:
            found.append(
                alert(
                    "SextantKvCacheFull",
                    f"max({used}{{{chosen}}}) > 0.95",
                    ("10m", "warning", f"The KV cache of {name} is full; requests are set back."),
                    model=workload.part.model,
                )
            )
    return found


def alert(name: str, expr: str, said: Sequence[str], **labels: str) -> Object:
    """One alert. `said`: for how long it must hold, severity, what is wrong."""
    duration, severity, summary = said
    return {
        "alert": name,
        "expr": expr,
        "for": duration,
        "labels": {"severity": severity, **labels},
        "annotations": {"summary": summary},
    }
