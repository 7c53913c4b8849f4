"""What joins two sites: the mesh's rules, and experiments that break what is there."""

from __future__ import annotations

from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.objects import Object, made
from sextant.spec.document import Site

CONSECUTIVE_ERRORS, EJECTED_FOR = 5, "30s"
"""A pod that failed so often in a row gets no traffic for so long."""
APART_MS = 10
"""The most between two centres that both write: each row crosses it once."""


def mesh(cluster: Cluster, here: Site, other: Site, *, falls_back: bool) -> tuple[Object, ...]:
    """Istio's rules for the gateway's callers at one site. Where `falls_back`, they go to the other site
    while this one has no healthy pod; else traffic that began here stays here."""
    part = cluster.part("gateway")
    host = f"gateway.{cluster.namespace}.svc.cluster.local"
    outliers = {
        "consecutive5xxErrors": CONSECUTIVE_ERRORS,
        "interval": "5s",
        "baseEjectionTime": EJECTED_FOR,
        "maxEjectionPercent": 100,
    }
    policy: Object = {"outlierDetection": outliers}
    if falls_back and here.region and other.region:
        failover = [{"from": here.region, "to": other.region}]
        policy["loadBalancer"] = {"localityLbSetting": {"enabled": True, "failover": failover}}
    rule = {
        "host": host,
        "trafficPolicy": policy,
        "subsets": [{"name": here.name, "labels": {"topology.istio.io/cluster": here.name}}],
    }
    destination: Object = {"host": host, "port": {"number": 443}}
    if not falls_back:
        destination["subset"] = here.name
    route = {
        "hosts": [host],
        "tls": [
            {
                "match": [{"port": 443, "sniHosts": [host, host.removesuffix(".cluster.local")]}],
                "route": [{"destination": destination}],
            }
        ],
    }
    return (
        made("networking.istio.io/v1/DestinationRule", part, rule),
        made("networking.istio.io/v1/VirtualService", part, route),
    )


def experiments(cluster: Cluster, other: str) -> tuple[Object, ...]:
    """Chaos Mesh experiments for one site: a pod dies, the way to the other site is slow, or cut."""
    gateway, engine = cluster.part("gateway"), cluster.part("engine")
    chosen = {"namespaces": [cluster.namespace], "labelSelectors": gateway.selector}
    engines = {"namespaces": list(cluster.namespaces), "labelSelectors": engine.selector}
    kill = {"action": "pod-kill", "mode": "one", "duration": "30s"}
    network = {"mode": "all", "selector": chosen, "direction": "to", "externalTargets": [other]}
    slow = {"latency": f"{APART_MS}ms", "jitter": "2ms", "correlation": "0"}
    found = [
        ("PodChaos", "gateway-dies", {**kill, "selector": chosen}),
        ("NetworkChaos", "far-site-slow", {"action": "delay", "delay": slow, "duration": "5m", **network}),
        ("NetworkChaos", "far-site-away", {"action": "partition", "duration": "2m", **network}),
    ]
    if cluster.workloads:
        found.insert(1, ("PodChaos", "engine-dies", {**kill, "selector": engines}))
    return tuple(
        made(f"chaos-mesh.org/v1alpha1/{kind}", gateway, spec, name=name) for kind, name, spec in found
    )
