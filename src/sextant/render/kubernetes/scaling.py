"""More and fewer replicas: KEDA on what the gateway and the engines themselves measure.

Every rule is a query whose value is the number of replicas wanted, with a target of 1: one more above the
upper bound, one fewer below the lower, as many as answer in between. What answers is counted, not what was
asked for, so a pod that still starts triggers no further one, and a dead one does not hide the others. The
highest of the rules wins, so replicas go only when all agree. Where metrics fail, the planned number stays.
"""

from __future__ import annotations

import math

from sextant.render.kubernetes.cluster import Cluster, Workload
from sextant.render.kubernetes.objects import Object, Part, made
from sextant.render.kubernetes.watching import UTILIZATION, engine_metric

PROMETHEUS_URL = "http://prometheus-operated.monitoring.svc:9090"
"""Where the Prometheus operator's usual installation answers."""
WAITING_HIGH, WAITING_LOW = 8, 1
"""Requests that wait inside an engine, for each replica."""
KV_HIGH, KV_LOW = 0.9, 0.5
"""Used share of the KV cache: beyond the upper one requests are set back."""
GPU_LOW = 30
GATEWAY_CALM_S, ENGINE_CALM_S = 300, 900
"""So long must fewer be enough before one goes. An engine takes minutes to come back."""
UP_S = 60
"""Between one more replica and the next, where nothing says that it takes longer to start."""
WINDOW_S_MOST, PERIOD_S_MOST = 3600, 1800
"""The longest that an HPA takes (autoscaling/v2, HPAScalingRules)."""
FAILURES = 3
IDLE_S = 1800
"""Without requests for so long, an engine that may stop is stopped."""


def gateway_scaling(cluster: Cluster) -> Object:
    """Replicas of the gateway: requests a second and CPU."""
    scaling = cluster.order.deployment.spec.scaling
    part = cluster.part("gateway")
    chosen = f'namespace="{cluster.namespace}",service="gateway"'
    requests = f"sum(rate(gen_ai_server_request_duration_seconds_count{{{chosen}}}[2m]))"
    answering = f"count(count by (pod) (sextant_gateway_ready{{{chosen}}}))"
    own = f'namespace="{cluster.namespace}",pod=~"gateway-.*",container="gateway"'
    cpu = (
        f"100 * sum(rate(container_cpu_usage_seconds_total{{{own}}}[5m])) / "
        f'sum(kube_pod_container_resource_requests{{{own},resource="cpu"}})'
    )
    triggers = [
        _trigger("requests", f"{requests} or vector(0)", f"{scaling.requests_per_s_per_replica:g}"),
        _trigger("cpu", _stepped(answering, cpu, scaling.cpu_percent_high, scaling.cpu_percent_low), "1"),
    ]
    return _scaled(
        part,
        ("apps/v1", "Deployment"),
        triggers,
        {
            "minReplicaCount": scaling.min_replicas,
            "maxReplicaCount": scaling.max_replicas,
            **_held(scaling.min_replicas, GATEWAY_CALM_S, up=2),
        },
    )


def engine_scaling(cluster: Cluster, workload: Workload) -> Object:
    """Whole replicas of one engine: accelerators, queue, KV cache; and none at all without requests, where
    the document allows that."""
    scaling = cluster.order.deployment.spec.scaling
    chosen = f'namespace="{workload.part.namespace}",service="{workload.part.name}"'
    data = cluster.order.facts.engines[workload.kind]
    running = engine_metric(data, "sextant_engine_requests_running")
    waiting = engine_metric(data, "sextant_engine_requests_waiting")
    used = engine_metric(data, "sextant_engine_kv_cache_used_ratio")
    answering = f"count(count by (pod) ({running}{{{chosen}}}))"
    triggers = []
    if waiting:
        queue = f"sum({waiting}{{{chosen}}}) / {answering}"
        triggers.append(_trigger("queue", _stepped(answering, queue, WAITING_HIGH, WAITING_LOW), "1"))
    if used:
        kv = f"avg({used}{{{chosen}}})"
        triggers.append(_trigger("kv-cache", _stepped(answering, kv, KV_HIGH, KV_LOW), "1"))
    if workload.resource and workload.share is None:
        pods = f'namespace="{workload.part.namespace}",pod=~"{_pods(workload)}"'
        minutes = scaling.gpu_high_minutes
        busy = f"avg({UTILIZATION}{{{pods}}})[{minutes}m:30s]"
        query = (
            f"{answering} + (min_over_time({busy}) > bool {scaling.gpu_percent_high})"
            f" - (max_over_time({busy}) < bool {GPU_LOW})"
        )
        triggers.append(_trigger("accelerators", query, "1"))
    counts: Object = {"minReplicaCount": workload.replicas, "maxReplicaCount": workload.replicas_most}
    if _may_sleep(cluster, workload):
        counts = {"idleReplicaCount": 0, **counts, "cooldownPeriod": IDLE_S}
        triggers = [_sleepy(each) for each in triggers]
        triggers.append(_asked(cluster, workload))
    return _scaled(
        workload.part,
        workload.target,
        triggers,
        {**counts, **_held(workload.replicas, _calm_s(workload), up=1, up_s=_up_s(workload))},
    )


def _up_s(workload: Workload) -> int:
    """One more at most while the last one starts with its node's caches; then it shows if it was enough."""
    start = workload.served.start
    return UP_S if start is None else min(max(UP_S, math.ceil(start.cached.value / 15) * 15), PERIOD_S_MOST)


def _calm_s(workload: Workload) -> int:
    """At least twice what it takes to come back on a node without caches."""
    start = workload.served.start
    twice_s = 0 if start is None else math.ceil(2 * start.bare.value / 60) * 60
    return min(max(ENGINE_CALM_S, twice_s), WINDOW_S_MOST)


def _pods(workload: Workload) -> str:
    """Names of its pods as a regular expression, and not those of a model whose name begins alike."""
    ending = "[0-9]+(-[0-9]+)?" if workload.nodes > 1 else "[a-z0-9]+-[a-z0-9]{5}"
    return f"{workload.part.name}-{ending}"


def _may_sleep(cluster: Cluster, workload: Workload) -> bool:
    """Whether it is stopped without requests: where the document allows that, but for a service's dedicated
    pools, whose tenants pay for an engine that is there."""
    dedicated = cluster.order.mode == "saas" and workload.served.entry.pool is not None
    return cluster.order.deployment.spec.scaling.scale_to_zero and not dedicated


def alternative_hpa(cluster: Cluster) -> Object:
    """For a cluster without KEDA: the gateway by CPU alone. Never beside the ScaledObject, which makes one of
    its own for the same pods."""
    scaling = cluster.order.deployment.spec.scaling
    part = cluster.part("gateway")
    metric = {
        "name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": scaling.cpu_percent_high},
    }
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": part.name},
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "metrics": [{"type": "Resource", "resource": metric}],
        "behavior": _behavior(GATEWAY_CALM_S, up=2),
    }
    return made("autoscaling/v2/HorizontalPodAutoscaler", part, spec)


def _stepped(answering: str, value: str, high: float, low: float) -> str:
    """One more than answer above `high`, one fewer below `low`."""
    return f"{answering} + (({value}) > bool {high:g}) - (({value}) < bool {low:g})"


def _trigger(name: str, query: str, threshold: str) -> Object:
    return {
        "type": "prometheus",
        "name": name,
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": PROMETHEUS_URL,
            "query": query,
            "threshold": threshold,
            # No value is no zero: it counts as a failure, and the fallback holds.
            "ignoreNullValues": "false",
        },
    }


def _sleepy(trigger: Object) -> Object:
    """The same for an engine that may be away: no value means that nothing answers, on purpose."""
    told = trigger["metadata"]
    query = f"({told['query']}) or vector(0)"
    # Never what wakes the engine: only requests do.
    return {**trigger, "metadata": {**told, "query": query, "activationThreshold": "1000000"}}


def _asked(cluster: Cluster, workload: Workload) -> Object:
    """Requests for the model that reached the gateway, answered or not."""
    chosen = f'namespace="{cluster.namespace}",service="gateway",model="{workload.served.entry.name}"'
    count = f"gen_ai_server_request_duration_seconds_count{{{chosen}}}"
    # Not `rate`: the first request makes the series, and a rate starts with the second.
    query = f"sum({count}) - (sum({count} offset 5m) or vector(0)) or vector(0)"
    trigger = _trigger("asked", query, "1000000")
    return {**trigger, "metadata": {**trigger["metadata"], "activationThreshold": "0"}}


def _scaled(part: Part, target: tuple[str, str], triggers: list[Object], spec: Object) -> Object:
    version, kind = target
    reference = {"apiVersion": version, "kind": kind, "name": part.name}
    body = {"scaleTargetRef": reference, "pollingInterval": 15, **spec, "triggers": triggers}
    return made("keda.sh/v1alpha1/ScaledObject", part, body)


def _held(replicas: int, calm_s: int, *, up: int, up_s: int = UP_S) -> Object:
    return {
        "fallback": {
            "failureThreshold": FAILURES,
            "replicas": replicas,
            "behavior": "currentReplicasIfHigher",
        },
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(calm_s, up=up, up_s=up_s)}},
    }


def _behavior(calm_s: int, *, up: int, up_s: int = UP_S) -> Object:
    """Without tolerance: of more than ten replicas one more is less than the usual ten per cent, and would
    never come."""
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "tolerance": "0",
            "policies": [{"type": "Pods", "value": up, "periodSeconds": up_s}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": calm_s,
            "tolerance": "0",
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }
