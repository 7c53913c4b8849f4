"""Who may ask for what, how much, at which price: the nouns of the policy snapshot.

Control (and before it runs, the supervisor) makes them of the accounts database; the gateway admits by them
and the ledger process rates by them. Flow 1 (serve). Neighbours: `snapshot.py` carries them,
`sextant.governance` decides by them, `sextant.store.accounts` keeps them; a `Standing` comes the other way,
from the ledger with each acknowledgement.

Amounts are integer billionths ("nano") of a currency unit; factors are parts per million; times are Unix
milliseconds, 0 for "no such time".
"""

from __future__ import annotations

from typing import Literal

import msgspec

RequestKind = Literal["text", "image", "audio", "embeddings", "rerank"]
"""What a request asks a model for, by its richest part."""
Billing = Literal["free", "prepaid", "postpaid"]
PrivacyAction = Literal["allow", "mask", "block", "route"]
NANO = 1_000_000_000
"""Billionths in one currency unit."""
PPM = 1_000_000


class LimitRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one key, project or tenant; None: none here. Where several apply the tightest wins."""

    requests_per_s: float | None = None
    """Sustained rate, by the generic cell rate algorithm (ITU-T I.371)."""
    burst_requests: int = 0
    """Requests that may come at once after a pause; 0: one second's worth, at least one."""
    tokens_per_min: int | None = None
    """Input and output tokens, counted by reservation: the most a request can take is set aside when it is
    admitted, what it did not take is given back when it has ended."""
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    """By the calendar day of the tenant's time zone."""
    spend_nano_per_month: int | None = None
    """By the calendar month of the tenant's time zone, in the tenant's currency."""


class TierPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tier allows. Its limits are those of a tenant as a whole; its own replace them singly."""

    id: str
    limits: LimitRules = LimitRules()
    kinds: tuple[RequestKind, ...] = ("text",)
    """Kinds of request allowed; `text` covers chat, completions, tools and reasoning."""
    pool: str = ""
    """Name of the engine pool that serves the tier; empty: the shared one."""
    own_models: bool = False
    """Whether its tenants may have models of their own (`ServedModel.tenants`)."""
    weight: int = 1
    """Share of a saturated engine, against the other tenants that wait."""
    sla_ppm: int = 0
    """Availability promised in a calendar month, parts per million; 0: none."""


class PrivacyPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of personal data found in a prompt that leaves the trust zone. Nothing is looked for while
    both `actions` and `otherwise` allow everything."""

    otherwise: PrivacyAction = "allow"
    """For the detectors that are on and not named in `actions`."""
    actions: dict[str, PrivacyAction] = {}
    """By type, as `CN_ID`, `PHONE`, `BANK_CARD`."""
    opt_in: tuple[str, ...] = ()
    """Detectors of low confidence to switch on: `NAME`, `ADDRESS`."""
    patterns: dict[str, str] = {}
    """The tenant's own types with their RE2 expressions."""
    everywhere: bool = False
    """Also on the way to models that are cleared for personal data."""


class OffPeak(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A daily window with another price. Minutes after midnight of `time_zone`; one that ends before it
    begins runs over midnight."""

    from_minute: int
    until_minute: int
    time_zone: str
    factor_ppm: int


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one model costs in a span of time; the amounts per million tokens are nano."""

    model: str
    """A model's id, or `*` for those that have no price of their own."""
    input_nano_per_mtok: int
    cached_nano_per_mtok: int
    """For input tokens found in the engine's prefix cache."""
    output_nano_per_mtok: int
    reasoning_nano_per_mtok: int
    """For output tokens that are reasoning."""
    request_nano: int = 0
    valid_from_ms: int = 0
    valid_until_ms: int = 0
    """0: until further notice. A request is priced as of its start."""
    off_peak: tuple[OffPeak, ...] = ()


class VolumeStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens of a calendar month beyond `over_tokens` cost `factor_ppm` of their price. A request that
    crosses the line is split at the token: cached input first, then input, reasoning, output."""

    over_tokens: int
    factor_ppm: int


class PricePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    currency: str
    prices: tuple[Price, ...]
    volume: tuple[VolumeStep, ...] = ()
    package_factor_ppm: int = PPM
    """What an annual package costs of the credit that it gives."""


class TenantPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    name: str
    enabled: bool = True
    tier: str = "internal"
    limits: LimitRules = LimitRules()
    billing: Billing = "free"
    plan: str = ""
    """Its price plan; empty: nothing is charged."""
    currency: str = "CNY"
    time_zone: str = "UTC"
    models: tuple[str, ...] = ()
    """Model ids it may use; none named: every one that its tier may."""
    privacy: PrivacyPolicy = PrivacyPolicy()


class ProjectPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    tenant_id: str
    name: str
    enabled: bool = True
    limits: LimitRules = LimitRules()


class KeyPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An API key as the gateway knows it. A rotated key is two of these with one `id` for as long as the old
    secret overlaps the new one."""

    id: str
    tenant_id: str
    sha256: str
    """Hex digest of the secret."""
    name: str = ""
    expires_ms: int = 0
    project_id: str = ""
    models: tuple[str, ...] = ()
    """Model ids it may use; none named: all that its tenant may."""
    endpoints: tuple[str, ...] = ()
    """Endpoints by their names in the ledger (`chat.completions`); none named: all."""
    networks: tuple[str, ...] = ()
    """Addresses it may be used from, in CIDR notation; none named: any."""
    limits: LimitRules = LimitRules()


class Standing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the books say of one scope, as of `version`, which grows with every change of them.

    `day` (20261122) and `month` (202611) are those of the tenant's time zone that the counts are of.
    """

    scope: str
    """`tenant:ID`, `project:ID` or `key:ID`."""
    version: int
    day: int
    day_tokens: int
    month: int
    month_tokens: int
    month_nano: int
    funds_nano: int = 0
    """Of a tenant: its prepaid balance and what is left of its packages."""
    funds_until_ms: int = 0
    """When a package expires and `funds_nano` shrinks by itself."""
