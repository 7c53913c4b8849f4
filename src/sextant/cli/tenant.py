"""`sextant tenant`: who the deployment serves, on which tier, within which limits, and how they pay."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sextant.cli.options import Json, Limits, Models, State, models_of, state_dir
from sextant.cli.output import out, print_json, print_record, print_table
from sextant.cli.values import day_shown, limits_of, limits_shown, path_part

app = typer.Typer(help="Make, list and change tenants.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="TENANT", help="Its id, as `sextant tenant list` shows it.")]
Name = Annotated[str | None, typer.Option(help="A name for people, as on invoices.")]
Tier = Annotated[str | None, typer.Option(help="Its tier; `sextant tier list` shows them.")]
Billing = Annotated[str | None, typer.Option(help="free, prepaid or postpaid.")]
Plan = Annotated[str | None, typer.Option(help="Its price plan; `sextant price list` shows them.")]
Currency = Annotated[str | None, typer.Option(help="Currency of its books, as USD; the plan's.")]
Zone = Annotated[
    str | None, typer.Option("--time-zone", help="Zone of its days and months, as Asia/Shanghai.")
]


@app.command()
def create(
    tenant_id: Annotated[str, typer.Argument(metavar="TENANT", help="Its id: a-z, 0-9, - and _.")],
    name: Name = None,
    tier: Tier = None,
    billing: Billing = None,
    plan: Plan = None,
    currency: Currency = None,
    time_zone: Zone = None,
    model: Models = None,
    limit: Limits = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Make a tenant, with a default project for its keys."""
    from sextant.cli.admin import AdminApi

    fields = _fields(name=name, tier=tier, billing=billing, plan=plan, currency=currency, time_zone=time_zone)
    body = {"id": tenant_id, **fields, **_scope(model, limit, None)}
    made = AdminApi(state_dir(state)).call("POST", "/v1/tenants", body)
    _shown(made, json)


@app.command("list")
def list_tenants(state: State = None, json: Json = False) -> None:
    """List tenants."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).all("/v1/tenants", "tenants")
    if json:
        print_json(found)
        return
    rows = [
        (
            one["id"],
            one["name"],
            one["tier"],
            one["billing"],
            one["plan"] or "none",
            _state(one),
            _limits(one),
        )
        for one in found
    ]
    print_table(("tenant", "name", "tier", "billing", "plan", "state", "limits"), rows, "No tenants.")


@app.command()
def show(tenant_id: Id, state: State = None, json: Json = False) -> None:
    """Show one tenant."""
    from sextant.cli.admin import AdminApi

    _shown(AdminApi(state_dir(state)).call("GET", f"/v1/tenants/{path_part(tenant_id)}"), json)


@app.command("set")
def change(
    tenant_id: Id,
    name: Name = None,
    tier: Tier = None,
    billing: Billing = None,
    plan: Plan = None,
    currency: Currency = None,
    time_zone: Zone = None,
    model: Models = None,
    limit: Limits = None,
    enabled: Annotated[
        bool | None, typer.Option("--enable/--disable", help="Let its keys in, or refuse them.")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Change a tenant; what is not named stays. Gateways follow within a second."""
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    target = f"/v1/tenants/{path_part(tenant_id)}"
    fields = _fields(name=name, tier=tier, billing=billing, plan=plan, currency=currency, time_zone=time_zone)
    if enabled is not None:
        fields["enabled"] = enabled
    before = api.call("GET", target)["limits"] if limit else None
    _shown(api.call("PATCH", target, {**fields, **_scope(model, limit, before)}), json)


@app.command()
def remove(tenant_id: Id, state: State = None, json: Json = False) -> None:
    """End a tenant and its keys for good; its usage and invoices stay."""
    from sextant.cli.admin import AdminApi

    gone = AdminApi(state_dir(state)).call("DELETE", f"/v1/tenants/{path_part(tenant_id)}")
    if json:
        print_json(gone)
        return
    out().print(f"Tenant {tenant_id} has ended; its keys are revoked.", markup=False)


def _fields(**given: str | None) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _scope(model: list[str] | None, limit: list[str] | None, before: dict[str, Any] | None) -> dict[str, Any]:
    models = models_of(model)
    found: dict[str, Any] = {} if models is None else {"models": models}
    return {**found, "limits": limits_of(limit, before)} if limit else found


def _state(tenant: dict[str, Any]) -> str:
    return "on" if tenant["enabled"] else "off"


def _limits(tenant: dict[str, Any]) -> str:
    return limits_shown(tenant["limits"])


def _shown(tenant: dict[str, Any], json: bool) -> None:
    if json:
        print_json(tenant)
        return
    print_record(
        (
            ("tenant", tenant["id"]),
            ("name", tenant["name"]),
            ("state", _state(tenant)),
            ("tier", tenant["tier"]),
            ("billing", tenant["billing"]),
            ("plan", tenant["plan"] or "none"),
            ("currency", tenant["currency"]),
            ("time zone", tenant["time_zone"]),
            ("models", ", ".join(tenant["models"]) or "all that its tier may"),
            ("limits", f"{_limits(tenant)} of its own"),
            ("made", day_shown(tenant["created_ms"])),
        )
    )
