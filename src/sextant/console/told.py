"""What control tells, as far as the pages show it. Fields mean what they mean in control's own answers."""

from __future__ import annotations

import msgspec

from sextant.spec.policy import LimitRules


class Grant(msgspec.Struct, frozen=True):
    id: str
    role: str
    tenant_id: str
    source: str = "local"


class Person(msgspec.Struct, frozen=True):
    id: str
    email: str
    name: str
    enabled: bool
    has_password: bool
    grants: tuple[Grant, ...] = ()


class Standing(msgspec.Struct, frozen=True):
    day: int
    day_tokens: int
    month: int
    month_tokens: int
    month_nano: int
    funds_nano: int
    funds_until_ms: int


class Tenant(msgspec.Struct, frozen=True):
    """A tenant that the visitor has a role in. `may` is what that role allows: noun to verbs."""

    id: str
    name: str
    enabled: bool
    tier: str
    billing: str
    currency: str
    time_zone: str
    limits: LimitRules
    standing: Standing | None
    plan: str = ""
    may: dict[str, tuple[str, ...]] = {}
    agreement_due: str = ""

    def allows(self, verb: str, noun: str) -> bool:
        """Whether the visitor may do that here."""
        return verb in self.may.get(noun, ())


class Me(msgspec.Struct, frozen=True):
    actor: str
    name: str
    person: Person | None
    grants: tuple[Grant, ...]
    tenants: tuple[Tenant, ...]


class Session(msgspec.Struct, frozen=True):
    csrf_token: str = ""


class Ways(msgspec.Struct, frozen=True):
    """The ways in that this deployment offers."""

    sign_up: str = "closed"
    password: bool = True
    oidc: bool = False
    agreement_version: str | None = None
    agreement_required: bool = False
    api_url: str = ""
    support: str = ""
    allowed_domains: tuple[str, ...] = ()


class Key(msgspec.Struct, frozen=True):
    id: str
    tenant_id: str
    name: str
    hint: str
    created_ms: int
    expires_ms: int
    revoked_ms: int
    project_id: str = ""
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    limits: LimitRules = LimitRules()
    previous_until_ms: int = 0
    key: str = ""


class Keys(msgspec.Struct, frozen=True):
    keys: tuple[Key, ...]
    next: str | None = None


class Project(msgspec.Struct, frozen=True):
    id: str
    tenant_id: str
    name: str
    enabled: bool
    limits: LimitRules = LimitRules()


class Projects(msgspec.Struct, frozen=True):
    projects: tuple[Project, ...]
    next: str | None = None


class UsageLine(msgspec.Struct, frozen=True):
    currency: str
    month: str
    day: str
    project_id: str
    key_id: str
    model: str
    requests: int
    errors: int
    refused: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_nano: int


class Usage(msgspec.Struct, frozen=True):
    since_ms: int
    until_ms: int
    totals: tuple[UsageLine, ...]
    next_offset: int | None


class PackageLeft(msgspec.Struct, frozen=True):
    id: str
    currency: str
    face_nano: int
    left_nano: int
    expires_ms: int


class Balance(msgspec.Struct, frozen=True):
    prepaid_nano: int
    receivable_nano: int
    funds_nano: int
    packages: tuple[PackageLeft, ...]
    currency: str
    billing: str


class Budget(msgspec.Struct, frozen=True):
    id: str
    tenant_id: str
    scope: str
    amount_nano: int
    name: str = ""
    thresholds: tuple[int, ...] = ()
    emails: tuple[str, ...] = ()
    webhook_url: str = ""


class Budgets(msgspec.Struct, frozen=True):
    budgets: tuple[Budget, ...]
    next: str | None = None


class Estimate(msgspec.Struct, frozen=True):
    month_nano: int
    basis: str
    days_seen: int


class BudgetSpent(Budget, frozen=True, kw_only=True):
    month: int
    spent_nano: int
    currency: str
    estimate: Estimate


class People(msgspec.Struct, frozen=True):
    people: tuple[Person, ...]
    next: str | None = None


class Invitation(msgspec.Struct, frozen=True):
    id: str
    email: str
    role: str
    tenant_id: str
    created_ms: int = 0
    expires_ms: int = 0
    state: str = "open"
    token: str | None = None
    mailed: bool = False
    sets_password: bool = False
    warning: str = ""


class Invitations(msgspec.Struct, frozen=True):
    invitations: tuple[Invitation, ...]
    next: str | None = None


class UsableModel(msgspec.Struct, frozen=True):
    id: str
    aliases: tuple[str, ...] = ()
    context_tokens: int = 0
    kinds: tuple[str, ...] = ()


class UsableModels(msgspec.Struct, frozen=True):
    models: tuple[UsableModel, ...]


class Agreement(msgspec.Struct, frozen=True):
    version: str
    sha256: str
    required: bool
    text: str = ""


class Acceptance(msgspec.Struct, frozen=True):
    tenant_id: str
    version: str
    email: str
    accepted_ms: int


class KnownAgreement(Agreement, frozen=True, kw_only=True):
    present: bool
    acceptances: tuple[Acceptance, ...] = ()


class Agreements(msgspec.Struct, frozen=True):
    agreements: tuple[KnownAgreement, ...]
