"""What of the admin API is reached from outside a cluster: the portal's pages, and nothing else.

Rules over all objects together, as `references.py` has them for names and ports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sextant.operations.verify.findings import Cluster, Object
from sextant.operations.verify.pods import all_pods, containers_of, named

ADMIN_PORT_NAME = "admin"
OPEN_PATHS = (("PathPrefix", "/portal"), ("Exact", "/v1/oidc/callback"))
"""Pages with their files, and where an identity provider sends browsers back to."""
_INGRESS_TYPES = {"Prefix": "PathPrefix"}
_OUTWARD = ("LoadBalancer", "NodePort")


def admin_api_outside(cluster: Cluster) -> Iterator[str]:
    """Services that show the admin API outside, routes that lead to more of it than the portal, and policies
    that let everybody in to it."""
    services = {
        (body["metadata"]["namespace"], body["metadata"]["name"])
        for body in cluster.objects
        if body["kind"] == "Service" and _is_admins(body)
    }
    for body in cluster.objects:
        space = body["metadata"].get("namespace", "")
        if body["kind"] == "Service" and _is_admins(body) and body["spec"].get("type") in _OUTWARD:
            yield f"{named(body)}: a {body['spec']['type']} in front of the admin API"
        for service, kind, path in _leads(body):
            if (space, service) in services and (kind, path) not in OPEN_PATHS:
                yield f"{named(body)}: {kind} {path} leads to the admin API; only the portal is for outside"
    yield from _doors(cluster)


def _is_admins(service: Object) -> bool:
    return any(port.get("targetPort") == ADMIN_PORT_NAME for port in service["spec"]["ports"])


def _leads(body: Object) -> Iterator[tuple[str, str, str]]:
    """(service, how its path is matched, path) of all that a route leads to."""
    if body["kind"] == "HTTPRoute":
        for rule in body["spec"].get("rules", ()):
            for backend in rule.get("backendRefs", ()):
                for path in [match.get("path", {}) for match in rule.get("matches", ())] or [{}]:
                    yield backend["name"], path.get("type", "PathPrefix"), path.get("value", "/")
    if body["kind"] == "Ingress":
        default = body["spec"].get("defaultBackend", {}).get("service")
        if default:
            yield default["name"], "PathPrefix", "/"
        for rule in body["spec"].get("rules", ()):
            for path in rule.get("http", {}).get("paths", ()):
                kind = _INGRESS_TYPES.get(path["pathType"], path["pathType"])
                yield path["backend"]["service"]["name"], kind, path.get("path", "/")


def _doors(cluster: Cluster) -> Iterator[str]:
    """Policies for pods with the admin API that let everybody in to its port."""
    pods = [
        (body["metadata"]["namespace"], template["metadata"]["labels"], port["containerPort"])
        for body, template in all_pods(cluster.objects)
        for container in containers_of(template)
        for port in container.get("ports", ())
        if port.get("name") == ADMIN_PORT_NAME
    ]
    for body in cluster.objects:
        if body["kind"] != "NetworkPolicy":
            continue
        chosen = body["spec"]["podSelector"].get("matchLabels", {})
        for space, labels, number in pods:
            meant = body["metadata"]["namespace"] == space and chosen.items() <= labels.items()
            if meant and any(_lets_all_in(rule, number) for rule in body["spec"].get("ingress", ())):
                yield f"{named(body)}: everybody may come to port {number}, the admin API's"


def _lets_all_in(rule: Mapping[str, Any], number: int) -> bool:
    ports = rule.get("ports")
    opens = not ports or any(port.get("port") in (number, ADMIN_PORT_NAME) for port in ports)
    everybody = not rule.get("from") or any("0.0.0.0/0" in str(peer) for peer in rule["from"])
    return opens and everybody
