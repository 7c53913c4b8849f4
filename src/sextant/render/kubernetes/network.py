"""Who may talk to whom: nobody, but for what stands here. Also between the pods of one namespace."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sextant.render.kubernetes.cluster import (
    LOOKS_PORT,
    MTLS_PORT,
    ROUTER_METRICS_PORT,
    ROUTER_PORT,
    Cluster,
    Workload,
    distinct,
)
from sextant.render.kubernetes.gateway import CONTROL_PORT, PORT, stores_of
from sextant.render.kubernetes.objects import Object, made
from sextant.spec.engine_sections import RemoteEngine

PROMETHEUS_NAMESPACE = "monitoring"
"""Where the Prometheus operator's usual installation runs."""
MESH_NAMESPACE, MESH_CONTROL_PORT, MESH_GATEWAY_PORT = "istio-system", 15_012, 15_443
"""Where Istio's control plane answers its proxies, and the port between clusters (istio.io, Ports Used
by Istio)."""
CLIENT_LABEL = "sextant.dev/client"
ADMIN_LABEL = "sextant.dev/admin"
"""On namespaces whose pods may call the API, and the admin API."""
API_PORTS = (443, 6443)
"""Where the API server answers: its service, and the port behind it on which policies are judged."""
_SCHEME_PORTS = {"postgresql": 5432, "redis": 6379, "rediss": 6379, "http": 80, "https": 443}

Peer = Mapping[str, Any]


def namespace_policies(cluster: Cluster, namespace: str, *, meshed: bool = True) -> tuple[Object, ...]:
    """What holds for all pods of a namespace: nothing passes, but for questions to the cluster's DNS, and
    where it is `meshed` to the mesh's control plane."""
    part = cluster.part("network", namespace=namespace)
    nothing = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    names = {
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [
            {
                "to": [
                    {**_namespace("kube-system"), "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
                ],
                "ports": [_port(53, "UDP"), _port(53)],
            }
        ],
    }
    found = [
        made("networking.k8s.io/v1/NetworkPolicy", part, nothing, name="default-deny"),
        made("networking.k8s.io/v1/NetworkPolicy", part, names, name="allow-dns"),
    ]
    if meshed and cluster.order.deployment.spec.delivery.mesh == "istio":
        mesh = {
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [_namespace(MESH_NAMESPACE)], "ports": [_port(MESH_CONTROL_PORT)]},
                {"ports": [_port(MESH_GATEWAY_PORT)]},
            ],
        }
        found.append(made("networking.k8s.io/v1/NetworkPolicy", part, mesh, name="allow-mesh"))
    return tuple(found)


def gateway_policy(cluster: Cluster) -> Object:
    """Callers to the gateway; the gateway to engines, stores and remote endpoints."""
    part = cluster.part("gateway")
    clients: list[Peer] = [
        {"namespaceSelector": {"matchLabels": {CLIENT_LABEL: "true"}}},
        {"podSelector": {"matchLabels": cluster.part("warm-up").selector}},
        _namespace(PROMETHEUS_NAMESPACE),
    ]
    everyone = cluster.order.deployment.spec.delivery.ingress_host is not None
    spec = {
        "podSelector": {"matchLabels": part.selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"ports": [_port(PORT)]} if everyone else {"from": clients, "ports": [_port(PORT)]},
            {
                "from": [{"namespaceSelector": {"matchLabels": {ADMIN_LABEL: "true"}}}],
                "ports": [_port(CONTROL_PORT)],
            },
        ],
        "egress": [*_to_engines(cluster), *(_to(url) for url in _outside(cluster))],
    }
    return made("networking.k8s.io/v1/NetworkPolicy", part, spec)


def engine_policy(cluster: Cluster, workload: Workload) -> Object:
    """The gateway and the metrics' reader to an engine; machines of one group among themselves."""
    caller: Peer = {
        **_namespace(cluster.namespace),
        "podSelector": {"matchLabels": cluster.part("gateway").selector},
    }
    if workload.role != "whole":
        caller = {"podSelector": {"matchLabels": workload.router.selector}}
    prometheus = _namespace(PROMETHEUS_NAMESPACE)
    ingress: list[Object] = [{"from": [caller, prometheus], "ports": [_port(workload.command.port)]}]
    if workload.guarded:  # its own port is the proxy's alone
        ingress = [
            {"from": [caller], "ports": [_port(MTLS_PORT)]},
            {"from": [prometheus], "ports": [_port(LOOKS_PORT)]},
        ]
    egress: list[Object] = []
    # Machines of a replica, and the halves of a split engine, talk at ports of their libraries' choice.
    beside = [
        {"podSelector": {"matchLabels": each.part.selector}}
        for each in cluster.workloads_in(workload.part.namespace)
        if (each is workload and each.nodes > 1)
        or (each.role != "whole" and each.served.key == workload.served.key)
    ]
    if beside:
        ingress.append({"from": beside})
        egress.append({"to": beside})
    spec = {
        "podSelector": {"matchLabels": workload.part.selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    }
    return made("networking.k8s.io/v1/NetworkPolicy", workload.part, spec)


def router_policy(cluster: Cluster, workload: Workload) -> Object:
    """The gateway to the router, whoever reads metrics to its metrics; the router to both halves, and to the
    API server, where it finds them."""
    gateway = {
        **_namespace(cluster.namespace),
        "podSelector": {"matchLabels": cluster.part("gateway").selector},
    }
    halves = [
        {"podSelector": {"matchLabels": each.part.selector}}
        for each in cluster.workloads_in(workload.part.namespace)
        if each.served.key == workload.served.key
    ]
    spec = {
        "podSelector": {"matchLabels": workload.router.selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [gateway], "ports": [_port(ROUTER_PORT)]},
            {"from": [_namespace(PROMETHEUS_NAMESPACE)], "ports": [_port(ROUTER_METRICS_PORT)]},
        ],
        "egress": [
            {"to": halves, "ports": [_port(workload.command.port)]},
            {"ports": [_port(port) for port in API_PORTS]},
        ],
    }
    return made("networking.k8s.io/v1/NetworkPolicy", workload.router, spec)


def job_policies(cluster: Cluster, namespace: str, *, fetches: bool) -> tuple[Object, ...]:
    """Jobs: one fetches models over HTTPS, another warms the gateway's engines up."""
    found = []
    if fetches and cluster.order.defaults.egress != "none":
        fetch = cluster.part("fetch", namespace=namespace)
        spec = {
            "podSelector": {"matchLabels": fetch.selector},
            "policyTypes": ["Egress"],
            "egress": [{"ports": [_port(443)]}],
        }
        found.append(made("networking.k8s.io/v1/NetworkPolicy", fetch, spec))
    if namespace == cluster.namespace:
        warm = cluster.part("warm-up")
        to = [{"podSelector": {"matchLabels": cluster.part("gateway").selector}}]
        spec = {
            "podSelector": {"matchLabels": warm.selector},
            "policyTypes": ["Egress"],
            "egress": [{"to": to, "ports": [_port(PORT)]}],
        }
        found.append(made("networking.k8s.io/v1/NetworkPolicy", warm, spec))
    return tuple(found)


def _to_engines(cluster: Cluster) -> list[Object]:
    return [
        {
            "to": [
                {
                    **_namespace(each.front.namespace),
                    "podSelector": {"matchLabels": each.front.selector},
                }
            ],
            "ports": [_port(_front_port(each))],
        }
        for each in distinct(cluster.workloads)
    ]


def _front_port(workload: Workload) -> int:
    """Where the gateway calls it."""
    if workload.guarded:
        return MTLS_PORT
    return workload.command.port if workload.role == "whole" else ROUTER_PORT


def _outside(cluster: Cluster) -> Sequence[str]:
    """URLs that the gateway calls beside its engines, each once."""
    stores = stores_of(cluster)
    remote = [
        each.entry.engine.base_url
        for each in cluster.order.served
        if isinstance(each.entry.engine, RemoteEngine)
    ]
    oidc = cluster.order.deployment.spec.control.oidc
    signing_in = [str(oidc.issuer)] if oidc is not None else []
    smtp = cluster.order.deployment.spec.alerts.smtp
    mailing = [f"smtp://{smtp.host}:{smtp.port}"] if smtp is not None else []
    return list(dict.fromkeys([stores.store["url"], stores.limits["url"], *remote, *signing_in, *mailing]))


def _to(url: str) -> Object:
    """One way out. A policy knows addresses and pods, not names: to another name its port alone is opened."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    stated = dict(parse_qsl(parts.query)).get("port")
    port = _port(parts.port or int(stated or _SCHEME_PORTS[parts.scheme]))
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        block = f"{address}/{address.max_prefixlen}"
        return {"to": [{"ipBlock": {"cidr": block}}], "ports": [port]}
    labels = host.removesuffix(".cluster.local").split(".")
    if labels[-1] == "svc" and len(labels) >= 3:
        return {"to": [_namespace(labels[-2])], "ports": [port]}
    return {"ports": [port]}


def _namespace(name: str) -> Object:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _port(number: int, protocol: str = "TCP") -> Object:
    return {"protocol": protocol, "port": number}
