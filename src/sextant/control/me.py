"""What somebody sees of themselves: who they are here, and how their tenants stand."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Response

from sextant.base.errors import LedgerUnavailable
from sextant.control.access import Allowed, Needs
from sextant.control.answers import json_answer
from sextant.control.office import Office
from sextant.spec.policy import Standing
from sextant.store.accounts_database import Page

TENANTS_SHOWN = 100

Anyone = Annotated[Allowed, Depends(Needs())]


def add_me(app: FastAPI, office: Office) -> None:
    """The route of oneself."""

    @app.get("/v1/me")
    def me(allowed: Anyone) -> Response:
        """Who is calling, with which roles; of each tenant what it may use and what it has used."""
        caller = allowed.caller
        mine = office.accounts.list_tenants(Page(TENANTS_SHOWN), tenants=caller.visible)
        standings = _standings(office, [f"tenant:{one.id}" for one in mine])
        tenants: list[dict[str, Any]] = [
            {
                "id": one.id,
                "name": one.name,
                "enabled": one.enabled,
                "tier": one.tier,
                "billing": one.billing,
                "currency": one.currency,
                "time_zone": one.time_zone,
                "limits": one.limits,
                "standing": standings.get(f"tenant:{one.id}"),
            }
            for one in mine
        ]
        told = {"actor": caller.actor, "name": caller.name, "person": caller.person}
        return json_answer(told | {"grants": caller.grants, "tenants": tenants})


def _standings(office: Office, scopes: list[str]) -> dict[str, dict[str, Any]]:
    """What the books say of each scope; of none while the ledger is away."""
    try:
        found: list[Standing] = office.books.ask(scopes) if scopes else []
    except LedgerUnavailable:
        return {}
    names = [field.name for field in msgspec.structs.fields(Standing)]
    return {one.scope: dict(zip(names, msgspec.structs.astuple(one), strict=True)) for one in found}
