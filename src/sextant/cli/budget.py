"""`sextant budget`: alerts at shares of a month's spend. What stops spending is a limit: `--limit`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sextant.cli.options import Json, State, Tenant, state_dir
from sextant.cli.output import out, print_json, print_record, print_table, warn
from sextant.cli.values import amount, amount_nano, moment_shown, path_part

app = typer.Typer(help="Be told when a month's spend reaches a share of a budget.", no_args_is_help=True)


@app.command()
def create(
    scope: Annotated[str, typer.Argument(metavar="SCOPE", help="tenant:ID, project:ID or key:ID.")],
    month: Annotated[
        str, typer.Argument(metavar="AMOUNT", help="A month's, in the tenant's currency, as 500.00.")
    ],
    name: Annotated[str, typer.Option(help="A name to tell budgets apart.")] = "",
    at: Annotated[
        list[int] | None,
        typer.Option(
            "--at", metavar="PERCENT", help="When to tell, again for more.", show_default="50, 80, 100"
        ),
    ] = None,
    webhook: Annotated[str, typer.Option(metavar="URL", help="Called with a signed JSON document.")] = "",
    email: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="Written to, again for more.")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Make a budget. The secret that signs its webhook's calls is shown this once."""
    from sextant.cli.admin import AdminApi

    body: dict[str, Any] = {
        "scope": scope,
        "amount_nano": amount_nano(month),
        "name": name or scope,
        "thresholds": at,
        "webhook_url": webhook,
        "emails": email,
    }
    made = AdminApi(state_dir(state)).call(
        "POST", "/v1/budgets", {field: value for field, value in body.items() if value not in (None, "")}
    )
    if made.get("warning"):
        warn(made["warning"])
    if json:
        print_json(made)
        return
    _table([made])
    if made.get("webhook_secret"):
        out().print("Its calls are signed with this secret, shown only now:", markup=False)
        out().print(made["webhook_secret"], style="bold", markup=False)


@app.command("list")
def list_budgets(tenant: Tenant = "", state: State = None, json: Json = False) -> None:
    """List budgets."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).all(f"/v1/budgets?tenant_id={path_part(tenant)}", "budgets")
    if json:
        print_json(found)
        return
    _table(found)


@app.command()
def show(
    budget_id: Annotated[str, typer.Argument(metavar="BUDGET", help="As `sextant budget list` shows it.")],
    state: State = None,
    json: Json = False,
) -> None:
    """Show what a budget has spent this month, what the month may cost, and what was told."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).call("GET", f"/v1/budgets/{path_part(budget_id)}")
    if json:
        print_json(found)
        return
    _table([found])
    month = str(found["month"])
    estimate = found["estimate"]
    print_record(
        (
            ("month", f"{month[:4]}-{month[4:]}"),
            ("spent", amount(found["spent_nano"], found["currency"])),
            (
                "estimate",
                amount(estimate["month_nano"], found["currency"])
                if estimate and estimate["basis"] != "none"
                else "",
            ),
            *((f"at {one['threshold']} %", f"{one['channel']}: {_told(one)}") for one in found["alerts"]),
        )
    )


@app.command()
def remove(
    budget_id: Annotated[str, typer.Argument(metavar="BUDGET", help="As `sextant budget list` shows it.")],
    state: State = None,
    json: Json = False,
) -> None:
    """Remove a budget."""
    from sextant.cli.admin import AdminApi

    gone = AdminApi(state_dir(state)).call("DELETE", f"/v1/budgets/{path_part(budget_id)}")
    if json:
        print_json(gone)
        return
    out().print(f"Budget {budget_id} is removed.", markup=False)


def _told(alert: dict[str, Any]) -> str:
    if alert["told_ms"] > 0:
        return f"told {moment_shown(alert['told_ms'])}"
    return f"{'given up' if alert['told_ms'] < 0 else 'not told yet'}: {alert['problem'] or 'waiting'}"


def _table(budgets: list[dict[str, Any]]) -> None:
    rows = [
        (
            one["id"],
            one["scope"],
            one["name"],
            amount(one["amount_nano"], one.get("currency", "")),
            ", ".join(f"{share} %" for share in one["thresholds"]),
            ", ".join([*([one["webhook_url"]] if one["webhook_url"] else []), *one["emails"]]) or "nobody",
        )
        for one in budgets
    ]
    print_table(("budget", "scope", "name", "a month>", "tells at", "whom"), rows, "No budgets.")
