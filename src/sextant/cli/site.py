"""`sextant site`: boxes at the edge that send their usage here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import out, print_json, print_table
from sextant.cli.values import amount, moment_shown, path_part

app = typer.Typer(help="Sites that send their usage here.", no_args_is_help=True)

Site = Annotated[str, typer.Argument(metavar="SITE", help="Its id.")]
Tenants = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant",
        metavar="THEIRS=OURS",
        help="A tenant of the site and the tenant here that it is. Give it once for each.",
        show_default=False,
    ),
]


@app.command()
def create(
    site: Site,
    tenants: Tenants = None,
    name: Annotated[str, typer.Option(help="What people call it.", show_default="the id")] = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Make a site and print its credential, this once."""
    from sextant.cli.admin import AdminApi

    body = {"id": site, "name": name, "tenants": _pairs(tenants)}
    _credential(AdminApi(state_dir(state)).call("POST", "/v1/sites", body), json)


@app.command("list")
def list_sites(state: State = None, json: Json = False) -> None:
    """List sites, what has come from each, and what is held since nobody here is its tenant."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).all("/v1/sites", "sites")
    if json:
        print_json(found)
        return
    rows = [
        (
            one["id"],
            ", ".join(f"{theirs}={ours}" for theirs, ours in one["tenants"].items()),
            one["rows"],
            moment_shown(one["arrived_ms"]) if one["arrived_ms"] else "never",
            ", ".join(
                f"{held['rows']} of {held['tenant_id']} ({amount(held['cost_nano'], held['currency'])})"
                for held in one["held"]
            ),
            "live" if one["credential_ms"] else "none",
        )
        for one in found
    ]
    print_table(("site", "tenants", "rows", "last", "held", "credential"), rows, "No sites.")


@app.command("map")
def map_site(site: Site, tenants: Tenants = None, state: State = None, json: Json = False) -> None:
    """Say which tenants here the site's are, all of them; what was held for those is booked."""
    from sextant.cli.admin import AdminApi

    body = {"tenants": _pairs(tenants)}
    _shown(AdminApi(state_dir(state)).call("PATCH", f"/v1/sites/{path_part(site)}", body), json)


@app.command()
def renew(site: Site, state: State = None, json: Json = False) -> None:
    """Make a new credential and print it, this once; the one before ends now."""
    from sextant.cli.admin import AdminApi

    _credential(AdminApi(state_dir(state)).call("POST", f"/v1/sites/{path_part(site)}/credential"), json)


@app.command()
def revoke(site: Site, state: State = None, json: Json = False) -> None:
    """Take the site's credential away at once; what it has sent stays."""
    from sextant.cli.admin import AdminApi

    _shown(AdminApi(state_dir(state)).call("DELETE", f"/v1/sites/{path_part(site)}/credential"), json)


def _pairs(given: list[str] | None) -> dict[str, str]:
    pairs = [one.partition("=") for one in given or ()]
    for theirs, sign, ours in pairs:
        if not (theirs and sign and ours):
            raise typer.BadParameter(f"{theirs + sign + ours!r}: expected THEIRS=OURS, as default=plants")
    return {theirs: ours for theirs, _, ours in pairs}


def _credential(made: dict[str, Any], json: bool) -> None:
    if json:
        print_json(made)
        return
    console = out()
    console.print(f"Credential of the site {made['id']}, shown only now:", markup=False)
    console.print(made["credential"], style="bold", markup=False)


def _shown(site: dict[str, Any], json: bool) -> None:
    if json:
        print_json(site)
        return
    tenants = ", ".join(f"{theirs}={ours}" for theirs, ours in site["tenants"].items()) or "none"
    held = sum(one["rows"] for one in site["held"])
    credential = "live" if site["credential_ms"] else "none"
    out().print(
        f"Site {site['id']}: tenants {tenants}; {site['rows']} rows, {held} held; credential {credential}.",
        markup=False,
    )
