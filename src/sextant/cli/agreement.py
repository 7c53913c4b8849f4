"""`sextant agreement`: the texts that tenants accept, and who accepted them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import print_json, print_table
from sextant.cli.values import moment_shown, path_part

app = typer.Typer(help="Agreements that tenants accept.", no_args_is_help=True)


@app.command("list")
def list_agreements(state: State = None, json: Json = False) -> None:
    """List versions of the agreement, the newest first."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).call("GET", "/v1/agreements")["agreements"]
    if json:
        print_json(found)
        return
    rows = [
        (
            one["version"],
            "yes" if one["present"] else "",
            "yes" if one["required"] else "",
            moment_shown(one["since_ms"]),
            one["sha256"],
        )
        for one in found
    ]
    empty = "No agreement: set spec.portal.agreement in the document."
    print_table(("version", "present", "required", "since", "SHA-256 of the text"), rows, empty)


@app.command()
def acceptances(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As `sextant agreement list` shows it.")],
    tenant: Annotated[
        str, typer.Option(metavar="TENANT", help="Of this tenant alone.", show_default="all")
    ] = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Show which tenants have accepted a version, by whom and when."""
    from sextant.cli.admin import AdminApi

    target = f"/v1/agreements/{path_part(version)}/acceptances?tenant_id={quote(tenant, safe='')}"
    found = AdminApi(state_dir(state)).all(target, "acceptances")
    if json:
        print_json(found)
        return
    rows = [
        (one["tenant_id"], one["email"], one["person_id"], moment_shown(one["accepted_ms"])) for one in found
    ]
    print_table(("tenant", "address then", "person", "accepted"), rows, "Nobody has accepted it.")
