"""The keys of a policy, each with all that decides about its requests, worked out once a policy.

Flow 1 (serve): `governor.py` looks a key up here by the digest of its secret and then by its id. Pure.
Neighbours: `sextant.spec.policy` (the nouns), `limits/rules.py` (limits in whole numbers).
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterator, Sequence
from typing import get_args

import msgspec

from sextant.base.errors import Misconfigured
from sextant.governance.door import Principal, Reach
from sextant.governance.limits.limiter import ScopeRules
from sextant.governance.limits.rules import merged, rules_of
from sextant.governance.pricing import PriceBook
from sextant.spec.policy import KeyPolicy, PrivacyPolicy, ProjectPolicy, RequestKind, TenantPolicy, TierPolicy
from sextant.spec.snapshot import PolicySnapshot

INTERNAL_TIER = TierPolicy("internal", kinds=get_args(RequestKind), own_models=True)
"""For a policy that has no tiers of its own: no limits, all kinds."""
PEERS_REMEMBERED = 256
"""Addresses a key whose networks are limited has been used from, remembered with the verdict."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Holder(msgspec.Struct, gc=False):
    """A key of the policy, ready for use."""

    principal: Principal
    expires_ms: int
    switched_off: str
    """Whose being off keeps it out, as `tenant T`; empty: nobody's."""
    tenant: TenantPolicy
    tier: TierPolicy
    kinds: frozenset[RequestKind]
    endpoints: frozenset[str]
    """Where it may be used; empty: everywhere."""
    rules: tuple[ScopeRules, ...]
    """Its own limits, its project's and its tenant's, as far as there are any."""
    needs_books: bool
    charged: bool
    plain: bool
    """Whether it may be used for text at any endpoint, with every model: nothing of a claim is in the way."""
    networks: tuple[_Network, ...] = ()
    peers: dict[str, bool] = {}

    def allows_peer(self, peer: str) -> bool:
        """Whether it may be used from this address."""
        if not self.networks:
            return True
        known = self.peers.get(peer)
        if known is None:
            if len(self.peers) >= PEERS_REMEMBERED:
                self.peers.clear()
            known = self.peers[peer] = _within(peer, self.networks)
        return known


def price_book(policy: PolicySnapshot) -> tuple[PolicySnapshot, PriceBook]:
    """`policy` with its price book; without the tenants that cannot be priced, whose keys are refused then:
    the policy may be there for the sake of others."""
    try:
        return policy, PriceBook(policy)
    except Misconfigured:
        sound = []
        for tenant in policy.tenants:
            try:
                PriceBook(msgspec.structs.replace(policy, tenants=(tenant,)))
            except Misconfigured as error:
                _log.error("policy %d: tenant %s is refused, %s", policy.version, tenant.id, error.message)
                continue
            sound.append(tenant)
        policy = msgspec.structs.replace(policy, tenants=tuple(sound))
        return policy, PriceBook(policy)


def holders(policy: PolicySnapshot) -> Iterator[tuple[bytes, Holder]]:
    """The usable keys of `policy` by digest. One with anything missing or wrong is refused, not fatal: the
    policy may be there for the sake of others, to revoke a key for instance."""
    tenants = {tenant.id: tenant for tenant in policy.tenants}
    projects = {project.id: project for project in policy.projects}
    tiers = {INTERNAL_TIER.id: INTERNAL_TIER} | {tier.id: tier for tier in policy.tiers}
    for key in policy.keys:
        tenant, project = tenants.get(key.tenant_id), projects.get(key.project_id)
        wrong = _wrong(key, tenant, project)
        tier = None if tenant is None else tiers.get(tenant.tier)
        if not wrong and tenant is not None and tier is None:
            wrong = f"tier {tenant.tier} of its tenant is missing"
        networks = _networks(key.networks)
        if networks is None:
            wrong = wrong or f"{', '.join(key.networks)} are no networks (as 10.1.0.0/16)"
        if wrong or tenant is None or tier is None or networks is None:
            _log.error("policy %d: key %s is refused, %s", policy.version, key.id, wrong)
            continue
        holder = _holder(key, project, tenant, tier)
        holder.networks, holder.peers = networks, {}
        yield bytes.fromhex(key.sha256), holder


def _wrong(key: KeyPolicy, tenant: TenantPolicy | None, project: ProjectPolicy | None) -> str:
    if tenant is None:
        return f"its tenant {key.tenant_id} is missing"
    if not _SHA256.fullmatch(key.sha256):
        return "its digest is no SHA-256"
    if key.project_id and project is None:
        return f"its project {key.project_id} is missing"
    if project is not None and project.tenant_id != tenant.id:
        return f"its project {project.id} is another tenant's"
    return ""


def _holder(key: KeyPolicy, project: ProjectPolicy | None, tenant: TenantPolicy, tier: TierPolicy) -> Holder:
    models = frozenset(tenant.models) or None
    if key.models:
        models = frozenset(key.models) if models is None else models & frozenset(key.models)
    reach = Reach(tenant.id, tier.pool, models, tier.own_models)
    prepaid = tenant.billing == "prepaid" and bool(tenant.plan)
    found = (
        rules_of(f"key:{key.id}", key.limits),
        None if project is None else rules_of(f"project:{project.id}", project.limits),
        rules_of(f"tenant:{tenant.id}", merged(tier.limits, tenant.limits), prepaid=prepaid),
    )
    rules = tuple(rule for rule in found if rule is not None)
    off = "" if tenant.enabled else f"tenant {tenant.id}"
    if not off and project is not None and not project.enabled:
        off = f"project {project.id}"
    privacy = None if tenant.privacy == PrivacyPolicy() else tenant.privacy
    return Holder(
        Principal(tenant.id, key.id, key.project_id, reach, max(1, tier.weight), privacy=privacy),
        key.expires_ms,
        off,
        tenant,
        tier,
        frozenset(tier.kinds),
        frozenset(key.endpoints),
        rules,
        any(rule.needs_books for rule in rules),
        tenant.billing != "free" and bool(tenant.plan),
        models is None and not key.endpoints and "text" in tier.kinds,
    )


def _networks(texts: Sequence[str]) -> tuple[_Network, ...] | None:
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError:
        return None


def _within(peer: str, networks: Sequence[_Network]) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
