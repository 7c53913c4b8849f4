"""What is measured of the routers before split engines, and when somebody is called because of them.

The names are the routers' own, read from vllm-router 0.1.17 and sglang-router 0.3.2 while they ran with the
rendered arguments; a test reads them again. Neighbours: `router.py` (what runs), `watching.py` (all else).
"""

from __future__ import annotations

import msgspec

from sextant.render.kubernetes.cluster import Cluster, Workload
from sextant.render.kubernetes.objects import Object, made
from sextant.render.kubernetes.router import METRICS_NAME, routed
from sextant.render.kubernetes.watching import alert, monitor_of

SEEN = "30m"
"""A series of a pod that is gone keeps its last value, so only an engine that was well so lately counts."""


class RouterMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of one kind of router. Names and matchers as Prometheus writes them, `{}` for the matchers
    that say which router."""

    healthy: str
    """1 for each engine that answers its checks, 0 for each that does not."""
    requests: str
    failed: str
    """Requests that got no answer from an engine."""


ROUTER_METRICS = {
    "vllm": RouterMetrics(
        healthy="vllm_router_worker_health{{{}}}",
        requests="vllm_router_pd_requests_total{{{}}}",
        # Of each half apart, and a half that never failed has no such series.
        failed='{{__name__=~"vllm_router_pd_(prefill|decode)_errors_total",{}}}',
    ),
    "sglang": RouterMetrics(
        healthy="smg_worker_health{{{}}}",
        requests="smg_router_requests_total{{{}}}",
        # Without a code of an error: its answers to probes while it finds no engine.
        failed='smg_http_responses_total{{status_code=~"5..",error_code=~".+",{}}}',
    ),
}


def router_monitor(workload: Workload) -> Object:
    """Reads the router's own metrics."""
    endpoint = {"port": METRICS_NAME, "path": "/metrics", "interval": "15s"}
    part = workload.router
    return made("monitoring.coreos.com/v1/ServiceMonitor", part, monitor_of(part.selector, endpoint))


def router_alerts(cluster: Cluster) -> list[Object]:
    """Of every router: none answers, an engine behind it stopped answering, requests fail."""
    return [each for workload in routed(cluster) for each in _alerts(workload)]


def router_panels(cluster: Cluster) -> tuple[tuple[str, str, str, str], ...]:
    """A row of the dashboard: title, unit, query, legend. None without a router."""
    kinds = sorted({each.kind for each in routed(cluster)})
    if not kinds:
        return ()
    ours = 'service=~"router-.*"'
    told = [ROUTER_METRICS[kind] for kind in kinds]
    reached = [f"min by (service) (sum by (service, pod) ({one.healthy.format(ours)}))" for one in told]
    asked = [f"sum by (service) (rate({one.requests.format(ours)}[5m]))" for one in told]
    lost = [f"sum by (service) (rate({one.failed.format(ours)}[5m]))" for one in told]
    return (
        ("Engines that routers reach", "short", " or ".join(reached), "{{service}}"),
        ("Requests through routers", "reqps", " or ".join(asked), "{{service}}"),
        ("Requests that routers lost", "reqps", " or ".join(lost), "{{service}}"),
    )


def _alerts(workload: Workload) -> tuple[Object, ...]:
    part, name = workload.router, workload.served.entry.name
    metrics = ROUTER_METRICS[workload.kind]
    chosen = f'namespace="{part.namespace}",service="{part.name}"'
    healthy, requests, failed = (
        one.format(chosen) for one in (metrics.healthy, metrics.requests, metrics.failed)
    )
    start_minutes = int(workload.start_s // 60)
    return (
        alert(
            "SextantRouterAway",
            f"absent({healthy})",
            (f"{start_minutes}m", "critical", f"No router of {name} answers, or none has found an engine."),
            model=part.model,
        ),
        alert(
            "SextantRouterEngineUnhealthy",
            f"min by (worker) ({healthy}) == 0 and max by (worker) (max_over_time({healthy}[{SEEN}])) == 1",
            ("2m", "warning", f"An engine of {name} stopped answering its router's checks."),
            model=part.model,
        ),
        alert(
            "SextantRouterLosesRequests",
            f"sum(rate({failed}[5m])) / sum(rate({requests}[5m])) > 0.05",
            ("5m", "critical", f"More than 5 % of the requests for {name} get no answer from an engine."),
            model=part.model,
        ),
    )
