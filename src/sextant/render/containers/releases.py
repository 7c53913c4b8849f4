"""How a new version takes over: the gateway by blue and green, engines by canary, 90 to 10 first.

Argo Rollouts does both. An engine's weights are Istio's (the gateway's own proxy splits); the gateway ends
TLS itself, so its service is switched as a whole. What is judged are the metrics of our table.
"""

from __future__ import annotations

from collections.abc import Sequence

from sextant.render.containers import versions
from sextant.render.kubernetes.cluster import Cluster, Workload
from sextant.render.kubernetes.objectives import FAULTS
from sextant.render.kubernetes.objects import Object, made
from sextant.render.kubernetes.scaling import PROMETHEUS_URL

API = "argoproj.io/v1alpha1"
PREVIEW = "gateway-preview"
WEIGHTS = (10, 25, 50)
"""Per cent of an engine's requests that the new version gets, one step after the other."""
STEP_MINUTES = 10
OLD_STAYS_S = 600
"""The old gateways stay for so long after the switch, to go back to at once."""
FAULTS_MOST = 0.02
"""Share of requests that may fail while a version takes over."""
ROUTE = "engine"


def rolled_gateway(objects: Sequence[Object]) -> tuple[Object, ...]:
    """The gateway's objects with a Rollout in place of the Deployment, and a service to look at it first."""
    found: list[Object] = []
    for body in objects:
        if body["kind"] == "Deployment":
            strategy = {
                "activeService": "gateway",
                "previewService": PREVIEW,
                "autoPromotionEnabled": True,
                "scaleDownDelaySeconds": OLD_STAYS_S,
                "prePromotionAnalysis": {"templates": [{"templateName": "gateway-before"}]},
                "postPromotionAnalysis": {"templates": [{"templateName": "gateway-after"}]},
            }
            found.append(_rollout(body, {"blueGreen": strategy}))
        else:
            found.append(body)
        if body["kind"] == "Service" and body["metadata"]["name"] == "gateway":
            inside = {key: body["spec"][key] for key in ("selector", "ports")}
            metadata = {**body["metadata"], "name": PREVIEW}
            found.append({**body, "metadata": metadata, "spec": inside})
    return tuple(found)


def rolled_engine(workload: Workload, objects: Sequence[Object]) -> tuple[Object, ...]:
    """An engine's objects with a Rollout in place of the Deployment. One of several machines stays what it
    is."""
    found: list[Object] = []
    for body in objects:
        if body["kind"] != "Deployment":
            found.append(body)
            continue
        template = body["spec"]["template"]
        if versions.is_driven(workload):
            template = versions.driven(workload, template)
        rolled = {**body, "spec": {**body["spec"], "template": template}}
        found.append(_rollout(rolled, {"canary": _canary(workload)}))
    return tuple(found)


def _rollout(deployment: Object, strategy: Object) -> Object:
    kept = {key: value for key, value in deployment["spec"].items() if key != "strategy"}
    spec = {**kept, "strategy": strategy}
    return {**deployment, "apiVersion": API, "kind": "Rollout", "spec": spec}


def _canary(workload: Workload) -> Object:
    name = workload.part.name
    steps: list[Object] = []
    for weight in WEIGHTS:
        steps.append({"setWeight": weight})
        steps.append({"pause": {"duration": f"{STEP_MINUTES}m"}})
        steps.append({"analysis": {"templates": [{"templateName": name}]}})
    istio = {
        "virtualService": {"name": name, "routes": [ROUTE]},
        "destinationRule": {"name": name, "stableSubsetName": "stable", "canarySubsetName": "canary"},
    }
    return {"maxSurge": 1, "maxUnavailable": 0, "trafficRouting": {"istio": istio}, "steps": steps}


def split(workload: Workload) -> tuple[Object, Object]:
    """What Istio splits an engine's requests by. Argo Rollouts writes the weights and the pods' hashes."""
    host = f"{workload.part.name}.{workload.part.namespace}.svc.cluster.local"
    port = {"number": workload.command.port}
    ways = [
        {"destination": {"host": host, "subset": subset, "port": port}, "weight": weight}
        for subset, weight in (("stable", 100), ("canary", 0))
    ]
    service = {"hosts": [host], "http": [{"name": ROUTE, "route": ways}]}
    selector = workload.part.selector
    subsets = [{"name": name, "labels": dict(selector)} for name in ("stable", "canary")]
    return (
        made("networking.istio.io/v1/VirtualService", workload.part, service),
        made("networking.istio.io/v1/DestinationRule", workload.part, {"host": host, "subsets": subsets}),
    )


def analyses(cluster: Cluster) -> tuple[Object, ...]:
    """What must hold before and after the gateway's switch, and at each step of an engine's canary."""
    ours = f'namespace="{cluster.namespace}"'
    preview, active = f'{ours},service="{PREVIEW}"', f'{ours},service="gateway"'
    answers = f'endpoint!~"ready|health",{active}'
    before = [
        _metric("ready", f"min(sextant_gateway_ready{{{preview}}})", "len(result) > 0 && result[0] == 1"),
        _metric("books", f"min(sextant_ledger_connected{{{preview}}})", "len(result) > 0 && result[0] == 1"),
    ]
    failed = f'sum(rate(sextant_gateway_requests_total{{status=~"5..",{answers}}}[5m]))'
    share = f"{failed} / sum(rate(sextant_gateway_requests_total{{{answers}}}[5m]))"
    after = [_metric("faults", share, _at_most(FAULTS_MOST)), *_first_token(cluster, active)]
    part = cluster.part("gateway")
    engines = [_engine_analysis(cluster, each, active) for each in cluster.workloads if each.nodes == 1]
    return (
        made(f"{API}/AnalysisTemplate", part, {"metrics": before}, name="gateway-before"),
        made(f"{API}/AnalysisTemplate", part, {"metrics": after}, name="gateway-after"),
        *engines,
    )


def _engine_analysis(cluster: Cluster, workload: Workload, active: str) -> Object:
    chosen = f'model="{workload.served.entry.name}",{active}'
    count = "gen_ai_server_request_duration_seconds_count"
    every = f"sum(rate({count}{{{chosen}}}[5m]))"
    share = f'sum(rate({count}{{outcome=~"{FAULTS}",{chosen}}}[5m])) / {every}'
    ready = f"max(sextant_engine_ready{{{chosen}}})"
    metrics = [
        _metric("faults", share, _at_most(FAULTS_MOST)),
        _metric("ready", ready, "len(result) > 0 && result[0] == 1"),
        *_first_token(cluster, chosen),
    ]
    return made(f"{API}/AnalysisTemplate", workload.part, {"metrics": metrics})


def _first_token(cluster: Cluster, chosen: str) -> list[Object]:
    """The 99th percentile of the first token, where the document says what it should be."""
    wanted_ms = cluster.order.deployment.spec.workload.ttft_ms_p99
    if wanted_ms is None:
        return []
    bucket = "gen_ai_server_time_to_first_token_seconds_bucket"
    query = f"histogram_quantile(0.99, sum by (le) (rate({bucket}{{{chosen}}}[5m])))"
    return [_metric("first-token", query, _at_most(wanted_ms / 1000))]


def _at_most(bound: float) -> str:
    """Nothing measured, or no more than `bound`: without requests nothing failed."""
    return f"len(result) == 0 || isNaN(result[0]) || result[0] <= {bound:g}"


def _metric(name: str, query: str, success: str) -> Object:
    """Asked five times, a minute apart; two failures end it."""
    return {
        "name": name,
        "interval": "1m",
        "count": 5,
        "failureLimit": 1,
        "successCondition": success,
        "provider": {"prometheus": {"address": PROMETHEUS_URL, "query": query}},
    }


def scaled(body: Object) -> Object:
    """A ScaledObject or HPA that scales the Rollout where it scaled the Deployment."""
    target = body["spec"]["scaleTargetRef"]
    if target["kind"] != "Deployment":
        return body
    return {
        **body,
        "spec": {
            **body["spec"],
            "scaleTargetRef": {"apiVersion": API, "kind": "Rollout", "name": target["name"]},
        },
    }
