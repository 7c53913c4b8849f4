"""`sextant token`: credentials of programs for the admin API."""

from __future__ import annotations

from typing import Annotated

import typer

from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import out, print_json, print_table
from sextant.cli.values import day_shown, path_part

app = typer.Typer(help="Service tokens: how programs call the admin API.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name to tell tokens apart.")],
    role: Annotated[str, typer.Option(help="owner, operator, billing, auditor or member.")],
    tenant: Annotated[
        str,
        typer.Option("--tenant", metavar="TENANT", help="Where the role holds.", show_default="everywhere"),
    ] = "",
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Days until it ends.", show_default="never")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Make a service token and print it, this once."""
    from sextant.cli.admin import AdminApi

    body = {"name": name, "role": role, "tenant_id": tenant, "expires_in_days": days}
    made = AdminApi(state_dir(state)).call("POST", "/v1/service-tokens", body)
    if json:
        print_json(made)
        return
    console = out()
    console.print(f"Token {made['id']} ({made['name']}), shown only now:", markup=False)
    console.print(made["token"], style="bold", markup=False)


@app.command("list")
def list_tokens(state: State = None, json: Json = False) -> None:
    """List service tokens; their secrets are not kept."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).all("/v1/service-tokens", "service_tokens")
    if json:
        print_json(found)
        return
    rows = [
        (
            one["id"],
            one["name"],
            ", ".join(
                f"{grant['role']} of {grant['tenant_id'] or 'the deployment'}" for grant in one["grants"]
            ),
            day_shown(one["created_ms"]),
            day_shown(one["expires_ms"]),
        )
        for one in found
    ]
    print_table(("token", "name", "role", "made", "until"), rows, "No service tokens.")


@app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="As `sextant token list` shows it.")],
    state: State = None,
    json: Json = False,
) -> None:
    """Revoke a service token at once."""
    from sextant.cli.admin import AdminApi

    gone = AdminApi(state_dir(state)).call("DELETE", f"/v1/service-tokens/{path_part(token_id)}")
    if json:
        print_json(gone)
        return
    out().print(f"Token {token_id} is revoked.", markup=False)
