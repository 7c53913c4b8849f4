"""What each role may do: role x noun -> verbs, in one table.

A role is granted for a tenant or for the whole deployment. What belongs to the deployment (tiers, prices,
other people's money) needs the role there; each route says which of the two it is (`access.Needs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Verb = Literal["read", "write"]
Noun = Literal[
    "tenant",
    "project",
    "key",
    "tier",
    "plan",
    "balance",
    "usage",
    "invoice",
    "budget",
    "person",
    "invitation",
    "grant",
    "token",
    "audit",
    "deployment",
]

_READ: tuple[Verb, ...] = ("read",)
_BOTH: tuple[Verb, ...] = ("read", "write")

ROLE_VERBS: Mapping[str, Mapping[str, tuple[Verb, ...]]] = {
    "owner": {
        "tenant": _BOTH,
        "project": _BOTH,
        "key": _BOTH,
        "tier": _BOTH,
        "plan": _BOTH,
        "balance": _BOTH,
        "usage": _READ,
        "invoice": _READ,
        "budget": _BOTH,
        "person": _BOTH,
        "invitation": _BOTH,
        "grant": _BOTH,
        "token": _BOTH,
        "audit": _READ,
        "deployment": _BOTH,
    },
    "operator": {
        "tenant": _BOTH,
        "project": _BOTH,
        "key": _BOTH,
        "tier": _BOTH,
        "plan": _READ,
        "balance": _READ,
        "usage": _READ,
        "invoice": _READ,
        "budget": _BOTH,
        "invitation": _BOTH,
        "deployment": _BOTH,
    },
    "auditor": {
        "tenant": _READ,
        "project": _READ,
        "key": _READ,
        "tier": _READ,
        "plan": _READ,
        "balance": _READ,
        "usage": _READ,
        "invoice": _READ,
        "budget": _READ,
        "person": _READ,
        "invitation": _READ,
        "grant": _READ,
        "token": _READ,
        "audit": _READ,
        "deployment": _READ,
    },
    "billing": {
        "tenant": _READ,
        "project": _READ,
        "key": _READ,
        "tier": _READ,
        "plan": _BOTH,
        "balance": _BOTH,
        "usage": _READ,
        "invoice": _READ,
        "budget": _BOTH,
    },
    "member": {"tenant": _READ, "project": _READ, "key": _READ, "usage": _READ},
}


def may(role: str, verb: Verb, noun: Noun) -> bool:
    """Whether `role` has the permission where it is granted."""
    return verb in ROLE_VERBS.get(role, {}).get(noun, ())
