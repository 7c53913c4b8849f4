"""What is promised of a service, as alerts on how fast the error budget burns, and signs of abuse.

Several windows together, as the SRE workbook of Google's has it (chapter 5, "Alerting on SLOs"): a fast burn
calls somebody, a slow one opens a ticket, and a short second window ends the alert soon after the trouble.
"""

from __future__ import annotations

from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.objects import Object, made
from sextant.render.kubernetes.portal import sign_up_alerts

AVAILABILITY = 0.999
"""Share of requests answered without a fault of ours: what the enterprise tier promises as shipped."""
FAULTS = "engine_error|not_durable"
"""Outcomes that are ours: not what callers did wrong, gave up, or were not allowed."""
LATENCY_SHARE = 0.99
"""Share of first tokens within the time that the document wants."""
BURNS = (("1h", "5m", 14.4, "critical"), ("6h", "30m", 6.0, "critical"), ("3d", "6h", 1.0, "warning"))
"""Long and short window, burn rate (2, 5 and 10 per cent of 30 days' budget), severity."""
ABUSE_SHARE = 0.5
"""Of all requests refused by limits: somebody runs against them, and on."""

COUNT = "gen_ai_server_request_duration_seconds_count"
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"


def objectives(cluster: Cluster, buckets_s: tuple[float, ...]) -> Object:
    """Alerts of a service for many tenants. `buckets_s`: bounds of the first token's histogram, by which its
    objective is counted."""
    chosen = f'namespace="{cluster.namespace}",service="gateway"'
    rules = []
    for long, short, burn, severity in BURNS:
        limit = f"{burn * (1 - AVAILABILITY):.4g}"
        expr = f"{_failed(chosen, long)} > {limit} and {_failed(chosen, short)} > {limit}"
        rules.append(_burning("SextantAvailabilityBudget", expr, (long, burn, severity)))
    wanted_ms = cluster.order.deployment.spec.workload.ttft_ms_p99
    within_s = max((each for each in buckets_s if wanted_ms and each * 1000 <= wanted_ms), default=None)
    if within_s is not None:
        for long, short, burn, severity in BURNS:
            limit = f"{burn * (1 - LATENCY_SHARE):.4g}"
            slow = [_slow(chosen, window, within_s) for window in (long, short)]
            expr = f"{slow[0]} > {limit} and {slow[1]} > {limit}"
            rules.append(_burning("SextantFirstTokenBudget", expr, (long, burn, severity)))
    groups = [
        {"name": "sextant-objectives", "rules": rules},
        {"name": "sextant-abuse", "rules": [*_abuse(chosen), *sign_up_alerts(cluster)]},
    ]
    part = cluster.part("objectives")
    return made("monitoring.coreos.com/v1/PrometheusRule", part, {"groups": groups})


def _failed(chosen: str, window: str) -> str:
    """Share of requests to each model that failed by our fault."""
    failed = f'sum by (model) (rate({COUNT}{{outcome=~"{FAULTS}",{chosen}}}[{window}]))'
    return f"({failed} / sum by (model) (rate({COUNT}{{{chosen}}}[{window}])))"


def _slow(chosen: str, window: str, within_s: float) -> str:
    """Share of first tokens of each model that came later."""
    fast = f'sum by (model) (rate({FIRST_TOKEN}_bucket{{le="{within_s}",{chosen}}}[{window}]))'
    return f"(1 - {fast} / sum by (model) (rate({FIRST_TOKEN}_count{{{chosen}}}[{window}])))"


def _burning(name: str, expr: str, said: tuple[str, float, str]) -> Object:
    window, burn, severity = said
    summary = (
        f"{{{{ $labels.model }}}} burns its error budget {burn:g} times as fast as it may, over {window}."
    )
    return {
        "alert": name,
        "expr": expr,
        "labels": {"severity": severity, "window": window},
        "annotations": {"summary": summary},
    }


def _abuse(chosen: str) -> list[Object]:
    limited = f"sum(rate(sextant_governance_limited_total{{{chosen}}}[10m]))"
    every = f"sum(rate(sextant_gateway_requests_total{{{chosen}}}[10m]))"
    strangers = f'sum(rate(sextant_gateway_requests_total{{status="401",{chosen}}}[10m]))'
    broken = f"sum(rate(sextant_transport_rejected_requests_total{{{chosen}}}[10m]))"
    return [
        _sign(
            "SextantLimitsRunAgainst",
            f"{limited} / {every} > {ABUSE_SHARE}",
            "Half of all requests hit limits.",
        ),
        _sign("SextantStrangers", f"{strangers} > 10", "More than 10 requests/s without a valid key."),
        _sign("SextantMalformed", f"{broken} > 10", "More than 10 requests/s that are no proper HTTP."),
    ]


def _sign(name: str, expr: str, summary: str) -> Object:
    return {
        "alert": name,
        "expr": expr,
        "for": "10m",
        "labels": {"severity": "warning"},
        "annotations": {"summary": summary},
    }
