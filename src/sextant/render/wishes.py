"""What a document asks for that its mode has no use for: refused, rather than left out without a word."""

from __future__ import annotations

from collections.abc import Iterator

from sextant.base.errors import Unsupported
from sextant.spec.engine_sections import LaunchedEngine
from sextant.spec.rendering import Order

HOSTS = ("on-prem", "edge")
"""Modes without a cluster."""


def check_wishes(order: Order) -> None:
    """Raises Unsupported for the first wish that the mode cannot fulfil, with what to do."""
    for field, wanted, instead in _unheard(order):
        raise Unsupported(
            f"{order.name}: {field} is `{wanted}`, which the mode {order.mode} cannot do: {instead}",
            field=field,
        )


def _unheard(order: Order) -> Iterator[tuple[str, str, str]]:
    """Field, value, what to do instead."""
    spec = order.deployment.spec
    delivery = spec.delivery
    if order.mode in HOSTS:
        cluster = "leave it out, or use a mode with a cluster (private-cloud, saas)"
        if spec.scaling.scale_to_zero:
            yield "spec.scaling.scale_to_zero", "true", cluster
        if delivery.gpu_sharing != "none":
            yield "spec.delivery.gpu_sharing", delivery.gpu_sharing, cluster
        if delivery.node_scaling != "none":
            yield "spec.delivery.node_scaling", delivery.node_scaling, cluster
        if delivery.mesh != "none":
            yield "spec.delivery.mesh", delivery.mesh, cluster
        if delivery.quotas:
            named = ", ".join(quota.name for quota in delivery.quotas)
            yield "spec.delivery.quotas", named, cluster
        if spec.portal.agreement is not None:
            carried = "bundles of servers do not carry its text; use a mode with a cluster (saas)"
            yield "spec.portal.agreement", spec.portal.agreement.version, carried
    else:
        if delivery.orchestration != "systemd":
            servers = "leave it out, or use the mode on-prem"
            yield "spec.delivery.orchestration", delivery.orchestration, servers
    yield from _unheard_of_hsm(order)
    if spec.security.spiffe is not None:
        yield from _unheard_of_spiffe(order, spec.security.spiffe.trust_domain)
    if order.mode != "on-prem" and spec.continuity.standby is not None:
        why = "a pair of servers is the mode on-prem's; a cluster has replicas"
        yield "spec.continuity.standby", spec.continuity.standby.address, why


def _unheard_of_spiffe(order: Order, domain: str) -> Iterator[tuple[str, str, str]]:
    """Where the bundle's own engines could not be known by an id."""
    at = "spec.security.spiffe.trust_domain"
    launched = any(isinstance(each.entry.engine, LaunchedEngine) for each in order.served)
    if order.mode in HOSTS and launched:
        yield at, domain, "no proxy stands beside engines of a server; use private-cloud, saas or hybrid"
    if order.deployment.spec.delivery.orchestration == "compose":
        yield at, domain, "the containers do not carry the agent's socket; use `orchestration: systemd`"
    if order.mode == "container":
        yield at, domain, "its engines have no proxy that ends mutual TLS; use private-cloud, saas or hybrid"
    if order.deployment.spec.delivery.mesh != "none":
        mesh = order.deployment.spec.delivery.mesh
        yield at, domain, f"{mesh} ends mutual TLS already; leave the section out, or write `mesh: none`"


def _unheard_of_hsm(order: Order) -> Iterator[tuple[str, str, str]]:
    """What of an HSM the mode has no place for, with the reason."""
    spec = order.deployment.spec
    hsm = spec.security.hsm
    if hsm is None:
        return
    at = "spec.security.hsm"
    if order.mode not in HOSTS:
        yield at, hsm.token, "pods reach no HSM here; use cert-manager's issuer and the cluster's secrets"
    if spec.delivery.orchestration == "compose":
        yield at, hsm.token, "the containers do not carry the maker's library; use `orchestration: systemd`"
    if hsm.tls_key is None:
        return
    tls = f"{at}.tls_key"
    if order.mode == "edge":
        yield tls, hsm.tls_key, "a box has no nginx in front; its key is a file (spec.gateway.tls)"
    if spec.delivery.front == "haproxy":
        why = "haproxy reads keys from files alone; use `front: nginx`, or leave tls_key out"
        yield tls, hsm.tls_key, why
    if not hsm.pin.startswith("file:"):
        yield f"{at}.pin", hsm.pin, "nginx takes the PIN from a file; write `file:/etc/sextant/hsm-pin`"
