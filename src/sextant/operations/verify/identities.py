"""SPIFFE ids of a cluster's pods: who is asked for must be registered, and nobody reached past the proxy.

Rules over all objects together, as `references.py` has them for names and ports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml

from sextant.base.ids import trust_domain_of
from sextant.operations.verify.findings import Cluster, Object
from sextant.operations.verify.pods import all_pods, named

DRIVER = "csi.spiffe.io"
TEMPLATE = "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}"
"""The one form of an id that is understood here."""
EVERYWHERE = ("0.0.0.0", "::")


def ids_that_do_not_meet(cluster: Cluster) -> Iterator[str]:
    """Pods that ask for an id and have none registered, registrations that say something else, engines that
    are expected by an id which none of their pods has."""
    registered = [body for body in cluster.objects if body["kind"] == "ClusterSPIFFEID"]
    for body in registered:
        if body["spec"]["spiffeIDTemplate"] != TEMPLATE:
            yield f"{named(body)}: its template gives other ids than the bundle expects"
        if body["spec"].get("dnsNameTemplates") or body["spec"].get("autoPopulateDNSNames"):
            yield f"{named(body)}: gives names of hosts too, and peers are known by ids alone"
    for body, template in all_pods(cluster.objects):
        if _asks(template) and not _is_registered(registered, body, template):
            yield f"{named(body)}: asks for a SPIFFE id, and none is registered for its pods"
    for body, document in _documents(cluster):
        yield from _expectations(cluster, body, document)


def proxies_passed_by(cluster: Cluster) -> Iterator[str]:
    """Engines that answer others than the proxy beside them, and proxies that let somebody else in."""
    gateways = {
        f"/ns/{body['metadata']['namespace']}/sa/{template['spec']['serviceAccountName']}"
        for body, template in all_pods(cluster.objects)
        if template["metadata"]["labels"].get("app.kubernetes.io/component") == "gateway"
    }
    for body, template in all_pods(cluster.objects):
        for configuration in _configurations(cluster, body, template):
            admitted, behind = _admitted(configuration)
            for peer_id in admitted:
                if peer_id.removeprefix(f"spiffe://{trust_domain_of(peer_id)}") not in gateways:
                    yield f"{named(body)}: its proxy lets {peer_id} in, who is no gateway of this bundle"
            if not admitted:
                yield f"{named(body)}: its proxy lets everybody in whom an authority vouches for"
            for container in template["spec"]["containers"]:
                opened = {port["containerPort"] for port in container.get("ports", ())}
                told = [*container.get("command", ()), *container.get("args", ())]
                if opened & behind or any(address in told for address in EVERYWHERE):
                    yield f"{named(body)}: {container['name']} answers others than the proxy beside it"


def _asks(template: Object) -> bool:
    return any(
        volume.get("csi", {}).get("driver") == DRIVER for volume in template["spec"].get("volumes", ())
    )


def _is_registered(registered: list[Object], body: Object, template: Object) -> bool:
    labels = template["metadata"]["labels"]
    for each in registered:
        chosen = each["spec"].get("podSelector", {}).get("matchLabels", {})
        spaces = [
            value
            for expression in each["spec"].get("namespaceSelector", {}).get("matchExpressions", ())
            for value in expression["values"]
        ]
        if chosen.items() <= labels.items() and body["metadata"]["namespace"] in spaces:
            return True
    return False


def _documents(cluster: Cluster) -> Iterator[tuple[Object, Mapping[str, Any]]]:
    """Documents that gateways run."""
    for body in cluster.objects:
        text = body.get("data", {}).get("sextant.yaml") if body["kind"] == "ConfigMap" else None
        if text is not None:
            yield body, yaml.safe_load(text)


def _expectations(cluster: Cluster, body: Object, document: Mapping[str, Any]) -> Iterator[str]:
    spec = document["spec"]
    security = spec.get("security") or {}
    domain = (security.get("spiffe") or {}).get("trust_domain", "")
    services = {
        f"{each['metadata']['name']}.{each['metadata']['namespace']}.svc": each
        for each in cluster.objects
        if each["kind"] == "Service"
    }
    for model in spec.get("models", ()):
        engine = model["engine"]
        service = services.get(urlsplit(engine.get("base_url", "")).hostname or "")
        if service is None:
            continue
        known = _ids_behind(cluster, service, domain)
        expected = engine.get("peer_id")
        if known and expected is None:
            yield f"{named(body)}: {model['name']} is asked without looking who answers"
        elif expected is not None and expected not in known:
            yield f"{named(body)}: {model['name']} is expected to be {expected}, which none of its pods is"


def _ids_behind(cluster: Cluster, service: Object, domain: str) -> set[str]:
    """Ids of the pods that a service chooses."""
    space, selector = service["metadata"]["namespace"], service["spec"]["selector"]
    return {
        f"spiffe://{domain}/ns/{space}/sa/{template['spec']['serviceAccountName']}"
        for body, template in all_pods(cluster.objects)
        if body["metadata"]["namespace"] == space and _asks(template)
        if selector.items() <= template["metadata"]["labels"].items()
    }


def _configurations(cluster: Cluster, body: Object, template: Object) -> Iterator[Mapping[str, Any]]:
    """What the proxies of a pod are told."""
    mounted = {
        volume["configMap"]["name"] for volume in template["spec"].get("volumes", ()) if "configMap" in volume
    }
    for each in cluster.objects:
        same = each["metadata"].get("namespace") == body["metadata"]["namespace"]
        if each["kind"] == "ConfigMap" and same and each["metadata"]["name"] in mounted:
            text = each.get("data", {}).get("envoy.yaml")
            if text is not None:
                yield yaml.safe_load(text)["static_resources"]


def _admitted(resources: Mapping[str, Any]) -> tuple[list[str], set[int]]:
    """The ids that are let in, and the ports of this machine that the proxy hands on to."""
    admitted = []
    for listener in resources["listeners"]:
        for chain in listener["filter_chains"]:
            tls = chain.get("transport_socket", {}).get("typed_config", {}).get("common_tls_context", {})
            context = tls.get("combined_validation_context", {}).get("default_validation_context", {})
            for each in context.get("match_typed_subject_alt_names", ()):
                admitted.append(str(each["matcher"].get("exact", "")))
    ports = {
        endpoint["endpoint"]["address"]["socket_address"]["port_value"]
        for each in resources["clusters"]
        for group in each["load_assignment"]["endpoints"]
        for endpoint in group["lb_endpoints"]
        if "socket_address" in endpoint["endpoint"]["address"]
    }
    return admitted, ports
