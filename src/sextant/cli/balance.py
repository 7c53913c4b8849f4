"""`sextant balance`: a tenant's prepaid money and packages."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from sextant.base.errors import BadRequest
from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import print_json, print_record, print_table
from sextant.cli.values import amount, amount_nano, day_shown, paid_nano, path_part

app = typer.Typer(help="Show a tenant's balance, top it up, sell packages.", no_args_is_help=True)

Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]
Paid = Annotated[str, typer.Argument(metavar="AMOUNT", help="In the tenant's currency, as 100.00.")]
Note = Annotated[str, typer.Option(help="What it is for, kept in the books.")]
TransferId = Annotated[
    str, typer.Option("--id", help="Your own id of the payment: a second time with it changes nothing.")
]


@app.command()
def show(tenant: Tenant, state: State = None, json: Json = False) -> None:
    """Show what a tenant has left, or owes."""
    _shown(_balance_of(tenant, state), json)


@app.command("top-up")
def top_up(
    tenant: Tenant,
    paid: Paid,
    note: Note = "",
    transfer_id: TransferId = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Add prepaid money; it counts at once."""
    body = {"amount_nano": paid_nano(paid)}
    billing = _balance_of(tenant, state)["billing"]
    if billing != "prepaid":
        raise BadRequest(
            f"tenant {tenant} is {billing} and would never use a balance; see `sextant balance pay`, or make "
            f"it prepaid: `sextant tenant set {tenant} --billing prepaid --plan PLAN`"
        )
    _post(tenant, "top-ups", body, (note, transfer_id), (state, json))


@app.command()
def package(
    tenant: Tenant,
    face: Annotated[
        str, typer.Argument(metavar="FACE", help="Face value, as 1000.00; the plan says what it costs.")
    ],
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days until what is left of it is gone.")] = 365,
    note: Note = "",
    transfer_id: TransferId = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Sell a prepaid package; packages are used before the balance, the soonest to expire first."""
    _post(
        tenant, "packages", {"face_nano": paid_nano(face), "days": days}, (note, transfer_id), (state, json)
    )


@app.command()
def pay(
    tenant: Tenant,
    paid: Paid,
    note: Note = "",
    transfer_id: TransferId = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Note that a postpaid tenant has paid."""
    body = {"amount_nano": paid_nano(paid)}
    balance = _balance_of(tenant, state)
    if balance["billing"] != "postpaid" and balance["receivable_nano"] <= 0:
        raise BadRequest(
            f"tenant {tenant} is {balance['billing']} and owes nothing; `sextant balance top-up` adds to a "
            f"prepaid balance"
        )
    _post(tenant, "payments", body, (note, transfer_id), (state, json))


@app.command()
def refund(
    tenant: Tenant,
    paid: Paid,
    note: Note = "",
    transfer_id: TransferId = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Pay a balance out, at most what is there."""
    _post(tenant, "refunds", {"amount_nano": paid_nano(paid)}, (note, transfer_id), (state, json))


@app.command()
def credit(
    tenant: Tenant,
    paid: Paid,
    note: Note = "",
    transfer_id: TransferId = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Give something without money, onto the balance or off what is owed."""
    _post(tenant, "credits", {"amount_nano": paid_nano(paid)}, (note, transfer_id), (state, json))


@app.command(context_settings={"ignore_unknown_options": True})
def adjust(
    tenant: Tenant,
    paid: Annotated[str, typer.Argument(metavar="AMOUNT", help="As 5.00, or -5.00 to take away.")],
    note: Annotated[str, typer.Option(help="Why, kept in the books.")],
    transfer_id: TransferId = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Correct a balance, up or down; it may go below zero."""
    _post(tenant, "adjustments", {"amount_nano": amount_nano(paid)}, (note, transfer_id), (state, json))


def _balance_of(tenant: str, state: Any) -> dict[str, Any]:
    from sextant.cli.admin import AdminApi

    found: dict[str, Any] = AdminApi(state_dir(state)).call("GET", f"/v1/tenants/{path_part(tenant)}/balance")
    return found


def _post(
    tenant: str, noun: str, body: dict[str, Any], told: tuple[str, str], shown: tuple[Any, bool]
) -> None:
    from sextant.cli.admin import AdminApi

    if re.fullmatch("[A-Za-z0-9_-]{0,40}", told[1]) is None:
        raise BadRequest(f"--id {told[1]!r}: expected at most 40 of A-Z, a-z, 0-9, _ and -")
    named = {name: value for name, value in zip(("note", "id"), told, strict=True) if value}
    answer = AdminApi(state_dir(shown[0])).call(
        "POST", f"/v1/tenants/{path_part(tenant)}/{noun}", {**body, **named}
    )
    _shown(answer, shown[1])


def _shown(balance: dict[str, Any], json: bool) -> None:
    if json:
        print_json(balance)
        return
    currency = str(balance["currency"])
    print_record(
        (
            ("tenant", balance["tenant_id"]),
            ("billing", balance.get("billing")),
            ("available", amount(balance["funds_nano"], currency)),
            ("prepaid", amount(balance["prepaid_nano"], currency)),
            ("owed", amount(balance["receivable_nano"], currency) if balance.get("receivable_nano") else ""),
        )
    )
    if balance["packages"]:
        rows = [
            (one["id"], amount(one["face_nano"], currency), amount(one["left_nano"], currency),
             day_shown(one["expires_ms"]))
            for one in balance["packages"]
        ]  # fmt: skip
        print_table(("package", "face value>", "left>", "expires"), rows, "")
