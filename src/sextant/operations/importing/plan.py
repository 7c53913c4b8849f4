"""What an import would make: a document, tenants, projects, keys, prices, money; and what stays behind.

The readers (`litellm.py`, `one_api.py`) make an `ImportPlan` of a file and change nothing; `apply.py` makes
it true through the admin API. A plan holds the digests of callers' keys and never a secret, except in
`Secret`, which neither prints nor encodes its value.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import msgspec

from sextant.spec.policy import Billing, LimitRules, PricePlan

CURRENCY = "USD"
"""LiteLLM's costs and One API's quota are in US dollars."""
ID_CHARS = 40
"""Of the name; with a digest where two names are alike, an id has at most 48."""
ID_DIGEST_CHARS = 7
RESERVED = "default"
"""The tenant that every deployment has."""


class Note(msgspec.Struct, frozen=True):
    """Something that is not as it was: `left out` altogether, or `changed` to what comes closest."""

    kind: Literal["left out", "changed"]
    where: str
    said: str


class PlannedTenant(msgspec.Struct, frozen=True):
    id: str
    name: str
    tier: str = "internal"
    billing: Billing = "free"
    plan: str = ""
    currency: str = CURRENCY
    models: tuple[str, ...] = ()
    limits: LimitRules = LimitRules()
    top_up_nano: int = 0
    """Prepaid balance that it brings along."""


class PlannedProject(msgspec.Struct, frozen=True):
    id: str
    tenant_id: str
    name: str
    limits: LimitRules = LimitRules()


class PlannedKey(msgspec.Struct, frozen=True):
    """A caller's key, known by the digest of its secret, so that the caller goes on using it."""

    id: str
    tenant_id: str
    project_id: str
    name: str
    sha256: str
    hint: str
    expires_ms: int = 0
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    limits: LimitRules = LimitRules()


class PlannedBudget(msgspec.Struct, frozen=True):
    """An alert at a month's spend. `scope` is `tenant:ID`, `project:ID` or `key:ID`."""

    scope: str
    amount_nano: int
    emails: tuple[str, ...]


class Secret:
    """A secret that stood in the source and must be put where `reference` says."""

    def __init__(self, reference: str, where: str, value: str) -> None:
        self.reference = reference
        self.where = where
        self.value = value

    def __repr__(self) -> str:
        return f"Secret({self.reference!r}, {self.where!r})"


class ImportPlan(msgspec.Struct, frozen=True):
    source: str
    document: dict[str, Any] | None = None
    tenants: tuple[PlannedTenant, ...] = ()
    projects: tuple[PlannedProject, ...] = ()
    keys: tuple[PlannedKey, ...] = ()
    plans: tuple[PricePlan, ...] = ()
    budgets: tuple[PlannedBudget, ...] = ()
    notes: tuple[Note, ...] = ()
    secrets: tuple[Secret, ...] = ()

    def told(self) -> dict[str, Any]:
        """The plan as plain values for JSON, with the names of secrets and without their values."""
        plain = {
            name: msgspec.to_builtins(getattr(self, name))
            for name in self.__struct_fields__
            if name != "secrets"
        }
        named = [{"reference": secret.reference, "where": secret.where} for secret in self.secrets]
        return {**plain, "secrets": named}


class Ids:
    """Ids out of names: readable, valid here, unique, and the same at the next import of the same source."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {RESERVED: RESERVED}

    def of(self, name: str, source_id: str) -> str:
        """The id for the thing that its source knows as `source_id` and people as `name`."""
        digest = hashlib.sha256(source_id.encode()).hexdigest()
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:ID_CHARS].strip("-")
        tried = slug or digest[:ID_DIGEST_CHARS]
        if self._taken.setdefault(tried, source_id) == source_id:
            return tried
        return f"{slug}-{digest[:ID_DIGEST_CHARS]}"


def key_id(sha256: str) -> str:
    """The id of an imported key: the same at each import."""
    return f"key_imported_{sha256[:20]}"
