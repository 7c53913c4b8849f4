"""The models that a tenant may use, for its own people: those that the gateway lists for its keys.

`/v1/models` of the admin API shows the deployment, and is for those who run it. Neighbours: `app.py`,
`sextant.gateway.router` (which decides for each request).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Response

from sextant.control.access import Allowed, Needs
from sextant.control.answers import json_answer
from sextant.control.office import Office
from sextant.control.openapi import Whole, tells
from sextant.spec.policy import TierPolicy
from sextant.spec.snapshot import Capabilities, RouteTable, ServedModel
from sextant.store.accounts_tenants import TenantRecord

ReadTenants = Annotated[Allowed, Depends(Needs("read", "tenant"))]


class UsableModel(msgspec.Struct, frozen=True):
    """A model as callers see it."""

    id: str
    aliases: tuple[str, ...]
    context_tokens: int
    kinds: tuple[str, ...]
    """What it can do, by the names of `Capabilities`."""


def add_tenant_models(app: FastAPI, office: Office) -> None:
    """The route of a tenant's models."""

    @app.get("/v1/tenants/{tenant_id}/models")
    @tells(Whole("models", UsableModel))
    def models(tenant_id: str, allowed: ReadTenants) -> Response:
        """The models that the tenant may use; none while nothing is served."""
        allowed.require(tenant_id, f"there is no tenant {tenant_id}", field="tenant_id")
        tenant = office.accounts.tenant(tenant_id)
        tier = office.accounts.tier(tenant.tier)
        found = usable_models(_served(Path(office.settings.routes_file)), tenant, tier)
        return json_answer({"models": found})


def usable_models(
    served: tuple[ServedModel, ...], tenant: TenantRecord, tier: TierPolicy
) -> list[UsableModel]:
    """Of what is served, what the tenant reaches: in its tier's pool or the shared one, named among its
    models where it has such a list, and not another tenant's own. Pure."""
    found: dict[str, UsableModel] = {}
    for one in served:
        own = not one.tenants or (tier.own_models and tenant.id in one.tenants)
        if own and one.pool in ("", tier.pool) and (not tenant.models or one.id in tenant.models):
            found.setdefault(one.id, _as_usable(one))
    return list(found.values())


def _as_usable(model: ServedModel) -> UsableModel:
    can = msgspec.structs.asdict(model.capabilities)
    kinds = tuple(one.name for one in msgspec.structs.fields(Capabilities) if can[one.name])
    return UsableModel(model.id, model.aliases, model.context_tokens, kinds)


def _served(routes_file: Path) -> tuple[ServedModel, ...]:
    try:
        return msgspec.json.decode(routes_file.read_bytes(), type=RouteTable).models
    except (OSError, msgspec.DecodeError):
        return ()
