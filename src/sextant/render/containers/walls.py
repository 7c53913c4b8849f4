"""Namespaces beside the deployment's: each with quota, defaults, and no traffic but what is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from sextant.render.kubernetes.objects import Object, Part, cluster_wide, made

POLICY = "networking.k8s.io/v1/NetworkPolicy"
NAMES: Mapping[str, Any] = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
"""Questions to the cluster's DNS, in a policy's `egress`."""


class Wall(msgspec.Struct, frozen=True, kw_only=True):
    """What a namespace holds at most, and how far its pods are trusted."""

    level: Literal["restricted", "baseline", "privileged"] = "restricted"
    """Of Pod Security."""
    why: str = ""
    """Why they are trusted further than `restricted`; kept at the namespace, for whoever looks there."""
    cores: int
    memory_gib: int
    storage_gib: int
    pods: int


def walled(part: Part, wall: Wall) -> tuple[Object, ...]:
    """The namespace of that part."""
    namespace = cluster_wide("v1/Namespace", part.namespace, part.instance)
    for mode in ("enforce", "audit", "warn"):
        namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] = wall.level
    if wall.why:
        namespace["metadata"]["annotations"] = {"sextant.dev/not-restricted": wall.why}
    hard = {"pods": str(wall.pods)}
    amounts = {
        "cpu": str(wall.cores),
        "memory": f"{wall.memory_gib}Gi",
        "ephemeral-storage": f"{wall.storage_gib}Gi",
    }
    for side in ("requests", "limits"):
        hard.update({f"{side}.{name}": amount for name, amount in amounts.items()})
    limits = {
        "type": "Container",
        "default": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
        "defaultRequest": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "128Mi"},
    }
    nothing = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    return (
        namespace,
        made("v1/ResourceQuota", part, {"hard": hard}, name="share"),
        made("v1/LimitRange", part, {"limits": [limits]}, name="defaults"),
        made(POLICY, part, nothing, name="nothing"),
    )


def account(part: Part) -> Object:
    """The part's service account. It has no role, and its pods are not handed its token."""
    body = made("v1/ServiceAccount", part, name=part.component)
    body["automountServiceAccountToken"] = False
    return body


def allowed(part: Part, *, ingress: Sequence[Object] = (), egress: Sequence[Object] = ()) -> Object:
    """What the part's pods may take and ask for, beside nothing."""
    spec = {
        "podSelector": {"matchLabels": part.selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": list(ingress),
        "egress": list(egress),
    }
    return made(POLICY, part, spec)
