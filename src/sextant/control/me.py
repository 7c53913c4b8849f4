"""What somebody sees of themselves: who they are here, and how their tenants stand."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Response

from sextant.base.errors import LedgerUnavailable
from sextant.control.access import Allowed, Needs
from sextant.control.agreements import agreements_due
from sextant.control.answers import json_answer
from sextant.control.office import Office
from sextant.control.openapi import tells
from sextant.control.permissions import ROLE_VERBS, Verb
from sextant.spec.policy import Billing, LimitRules, Standing
from sextant.store.accounts_database import Page
from sextant.store.accounts_people import EVERYWHERE, Grant, PersonRecord

TENANTS_SHOWN = 100


class MyStanding(msgspec.Struct, frozen=True):
    """What the books say of a tenant; the fields mean what they mean in `Standing`."""

    scope: str
    version: int
    day: int
    day_tokens: int
    month: int
    month_tokens: int
    month_nano: int
    funds_nano: int
    funds_until_ms: int


class MyTenant(msgspec.Struct, frozen=True):
    """What somebody sees of a tenant that they have a role in; no standing while the ledger is away."""

    id: str
    name: str
    enabled: bool
    tier: str
    billing: Billing
    currency: str
    time_zone: str
    limits: LimitRules
    plan: str
    standing: MyStanding | None
    may: dict[str, tuple[Verb, ...]]
    """What the caller's roles allow in it: noun to verbs."""
    agreement_due: str = ""
    """The version that must be accepted before its people can make keys."""


class Me(msgspec.Struct, frozen=True):
    """Who is calling; no person for a service token."""

    actor: str
    name: str
    person: PersonRecord | None
    grants: tuple[Grant, ...]
    tenants: list[MyTenant]


Anyone = Annotated[Allowed, Depends(Needs())]


def add_me(app: FastAPI, office: Office) -> None:
    """The route of oneself."""

    @app.get("/v1/me")
    @tells(Me)
    def me(allowed: Anyone) -> Response:
        """Who is calling, with which roles; of each tenant what it may use and what it has used."""
        caller = allowed.caller
        mine = office.accounts.list_tenants(Page(TENANTS_SHOWN), tenants=caller.visible)
        standings = _standings(office, [f"tenant:{one.id}" for one in mine])
        fields = set(MyTenant.__struct_fields__) - {"standing", "may", "agreement_due"}
        due = agreements_due(office, {one.id for one in mine})
        tenants = [
            MyTenant(
                **{name: getattr(one, name) for name in fields},
                standing=standings.get(f"tenant:{one.id}"),
                may=allowed_in(one.id, caller.grants),
                agreement_due=due.get(one.id, ""),
            )
            for one in mine
        ]
        return json_answer(Me(caller.actor, caller.name, caller.person, caller.grants, tenants))


def allowed_in(tenant_id: str, grants: tuple[Grant, ...]) -> dict[str, tuple[Verb, ...]]:
    """What all of `grants` together allow in a tenant: noun to verbs. Pure."""
    found: dict[str, set[Verb]] = {}
    for grant in grants:
        if grant.tenant_id in (tenant_id, EVERYWHERE):
            for noun, verbs in ROLE_VERBS.get(grant.role, {}).items():
                found.setdefault(noun, set()).update(verbs)
    return {noun: tuple(sorted(verbs)) for noun, verbs in sorted(found.items())}


def _standings(office: Office, scopes: list[str]) -> dict[str, MyStanding]:
    """What the books say of each scope; of none while the ledger is away."""
    try:
        found: list[Standing] = office.books.ask(scopes) if scopes else []
    except LedgerUnavailable:
        return {}
    return {one.scope: MyStanding(**msgspec.structs.asdict(one)) for one in found}
