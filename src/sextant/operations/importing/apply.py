"""Making an import plan true through the admin API. A second time changes nothing.

What is there already stays as it is (somebody may have changed it since), except that a tenant of the same id
but another name stops the import before anything is made: it is somebody else.
"""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from sextant.base.errors import BadRequest, Permanent
from sextant.operations.importing.plan import ImportPlan, PlannedKey, PlannedTenant
from sextant.spec.policy import Price, PricePlan

TOP_UP = "import"
"""Id of the one top-up of each tenant that an import makes."""
EXISTS = "exists"
"""Code of the API's refusal when there is such a thing already."""
NAME_CHARS = 200
HINT_CHARS = 16


class Admin(Protocol):
    """The admin API, as the command line has it."""

    def call(self, method: str, target: str, body: Any = None) -> Any: ...

    def all(self, target: str, noun: str) -> list[dict[str, Any]]: ...


class Applied(msgspec.Struct, frozen=True):
    """What an import made, and what was there before; one line each, as `tenant risk`."""

    made: tuple[str, ...]
    kept: tuple[str, ...]


def apply_plan(plan: ImportPlan, admin: Admin) -> Applied:
    """Makes what is not there yet. Raises BadRequest before the first change when a tenant of the plan is
    somebody else's here, and whatever the API raises."""
    there = {tenant["id"]: tenant for tenant in admin.all("/v1/tenants", "tenants")}
    for tenant in plan.tenants:
        found = there.get(tenant.id)
        if found is not None and found["name"] != _name(tenant.name):
            raise BadRequest(
                f"there is a tenant {tenant.id} already, named {found['name']!r} and not {tenant.name!r}; "
                f"rename one of them, then import again. Nothing was changed"
            )
    run = _Run(admin)
    for prices in plan.plans:
        run.prices(prices)
    for tenant in plan.tenants:
        run.tenant(tenant, tenant.id in there)
    projects = {project["id"] for project in admin.all("/v1/projects", "projects")}
    for project in plan.projects:
        body = {**_plain(project), "name": _name(project.name)}
        run.make(f"project {project.id}", "/v1/projects", body, project.id in projects)
    keys = {key["id"] for key in admin.all("/v1/keys?with_revoked=true", "keys")}
    for key in plan.keys:
        run.make(f"key {key.id}", "/v1/keys", _key(key), key.id in keys)
    budgets = {budget["scope"] for budget in admin.all("/v1/budgets", "budgets")} if plan.budgets else set()
    for budget in plan.budgets:
        body = {**_plain(budget), "name": f"imported, {budget.scope}"}
        run.make(f"budget of {budget.scope}", "/v1/budgets", body, budget.scope in budgets)
    return Applied(tuple(run.made), tuple(run.kept))


class _Run:
    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self.made: list[str] = []
        self.kept: list[str] = []

    def make(self, what: str, target: str, body: dict[str, Any], is_there: bool) -> bool:
        """Whether it was made now."""
        if not is_there:
            try:
                self._admin.call("POST", target, body)
            except Permanent as error:
                if error.code != EXISTS:
                    raise _stopped_at(what, error) from None
            else:
                self.made.append(what)
                return True
        self.kept.append(what)
        return False

    def prices(self, plan: PricePlan) -> None:
        target = f"/v1/plans/{quote(plan.id, safe='')}"
        before = {one["id"]: one for one in self._admin.call("GET", "/v1/plans")["plans"]}.get(plan.id)
        if before is None:
            self._admin.call("PUT", target, {"currency": plan.currency})
        had = {price["model"] for price in before["prices"]} if before is not None else set()
        for price in plan.prices:
            self.make(
                f"price of {price.model} in {plan.id}", f"{target}/prices", _price(price), price.model in had
            )

    def tenant(self, tenant: PlannedTenant, is_there: bool) -> None:
        body = {**_plain(tenant), "name": _name(tenant.name)}
        del body["top_up_nano"]
        is_new = self.make(f"tenant {tenant.id}", "/v1/tenants", body, is_there)
        if tenant.top_up_nano:
            # Also for a tenant that was there, after an import cut off in between: the books take an id once.
            target = f"/v1/tenants/{quote(tenant.id, safe='')}/top-ups"
            note = "balance brought along by an import"
            self._admin.call("POST", target, {"id": TOP_UP, "amount_nano": tenant.top_up_nano, "note": note})
            (self.made if is_new else self.kept).append(f"balance of {tenant.id}")


def _stopped_at(what: str, error: Permanent) -> BadRequest:
    return BadRequest(
        f"{what}: {error.message}; correct it in the source and import again: what was made so far stays",
        field=error.field,
    )


def _key(key: PlannedKey) -> dict[str, Any]:
    return {**_plain(key), "name": _name(key.name), "hint": key.hint[:HINT_CHARS]}


def _price(price: Price) -> dict[str, Any]:
    return {name: value for name, value in _plain(price).items() if name != "off_peak"}


def _plain(planned: msgspec.Struct) -> dict[str, Any]:
    return dict(msgspec.to_builtins(planned))


def _name(name: str) -> str:
    """A name as the accounts take it: printable, not too long."""
    kept = "".join(char for char in name if char.isprintable()).strip()
    return kept[:NAME_CHARS] or "imported"
