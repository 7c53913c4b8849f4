"""`sextant tenant`: who the deployment serves, on which tier, within which limits, and how they pay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sextant.base.errors import BadRequest
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
Privacy = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|JSON",
        help="What becomes of personal data in its prompts, the whole of it, as "
        """'{"otherwise": "mask"}'; `{}` lets everything through.""",
    ),
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
    """Make a tenant, with a default project for its keys. What is not given: tier free, billing free, the
    currency of the plan or else of the tenant `default`."""
    from sextant.cli.admin import AdminApi

    fields = _fields(name=name, tier=tier, billing=billing, plan=plan, currency=currency, time_zone=time_zone)
    body = {"id": tenant_id, **fields, **_scope(model, limit, None)}
    made = AdminApi(state_dir(state)).call("POST", "/v1/tenants", body)
    _shown(made, json)
    left = [(noun, made[noun]) for noun in ("tier", "billing", "currency") if noun not in fields]
    if left and not json:
        chosen = ", ".join(f"{noun} {value}" for noun, value in left)
        change_it = f"`sextant tenant set {made['id']}` changes it"
        out().print(f"Chosen, since not given: {chosen}; {change_it}.", markup=False)


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
    privacy: Privacy = None,
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
    if privacy is not None:
        fields["privacy"] = _privacy_of(privacy)
    before = api.call("GET", target)["limits"] if limit else None
    _shown(api.call("PATCH", target, {**fields, **_scope(model, limit, before)}), json)


@app.command()
def remove(
    tenant_id: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, which happens at a terminal only.")] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """End a tenant and its keys for good; its usage and invoices stay."""
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    target = f"/v1/tenants/{path_part(tenant_id)}"
    if not yes and sys.stdin.isatty():
        name = api.call("GET", target)["name"]
        asked = f"End tenant {tenant_id} ({name}) and revoke all its keys, for good?"
        typer.confirm(asked, abort=True, err=True)
    gone = api.call("DELETE", target)
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


def _privacy_of(given: str) -> dict[str, Any]:
    """The policy in a file, or written out. Raises BadRequest."""
    import json

    text = given
    if not given.lstrip().startswith("{"):
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(
                f"--privacy {given} cannot be read ({error}); give a JSON file or JSON, as "
                """'{"otherwise": "mask"}'"""
            ) from None
    try:
        policy = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"--privacy {given} is no JSON: {error}") from None
    if not isinstance(policy, dict):
        raise BadRequest(f"--privacy {given}: expected a JSON object, as " """'{"otherwise": "mask"}'""")
    return policy


def _state(tenant: dict[str, Any]) -> str:
    return "on" if tenant["enabled"] else "off"


def _limits(tenant: dict[str, Any]) -> str:
    return limits_shown(tenant["limits"])


def _privacy(tenant: dict[str, Any]) -> str:
    policy = tenant["privacy"]
    rules = [f"{kind}={action}" for kind, action in sorted(policy["actions"].items())]
    if not rules and policy["otherwise"] == "allow":
        return "off"
    return ", ".join([*rules, f"otherwise {policy['otherwise']}"])


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
            ("privacy", _privacy(tenant)),
            ("made", day_shown(tenant["created_ms"])),
        )
    )
