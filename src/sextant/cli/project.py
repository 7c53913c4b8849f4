"""`sextant project`: parts of a tenant with limits, keys and a line on the invoice of their own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sextant.cli.options import Json, Limits, State, Tenant, state_dir
from sextant.cli.output import out, print_json, print_table
from sextant.cli.values import limits_of, limits_shown, path_part

app = typer.Typer(help="Make, list and change the projects of tenants.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="PROJECT", help="Its id, as `sextant project list` shows it.")]


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant that it belongs to.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for people.")],
    project_id: Annotated[str, typer.Option("--id", help="Its id.", show_default="made up")] = "",
    limit: Limits = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Make a project in a tenant."""
    from sextant.cli.admin import AdminApi

    body = {"tenant_id": tenant, "name": name, "id": project_id, "limits": limits_of(limit or ())}
    _shown([AdminApi(state_dir(state)).call("POST", "/v1/projects", body)], json)


@app.command("list")
def list_projects(tenant: Tenant = "", state: State = None, json: Json = False) -> None:
    """List projects."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).all(f"/v1/projects?tenant_id={path_part(tenant)}", "projects")
    if json:
        print_json(found)
        return
    _shown(found, False)


@app.command("set")
def change(
    project_id: Id,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    limit: Limits = None,
    enabled: Annotated[
        bool | None, typer.Option("--enable/--disable", help="Let its keys in, or refuse them.")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Change a project; what is not named stays."""
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    target = f"/v1/projects/{path_part(project_id)}"
    body: dict[str, Any] = {"name": name, "enabled": enabled}
    if limit:
        body["limits"] = limits_of(limit, api.call("GET", target)["limits"])
    given = {field: value for field, value in body.items() if value is not None}
    _shown([api.call("PATCH", target, given)], json)


@app.command()
def remove(project_id: Id, state: State = None, json: Json = False) -> None:
    """End a project and its keys for good."""
    from sextant.cli.admin import AdminApi

    gone = AdminApi(state_dir(state)).call("DELETE", f"/v1/projects/{path_part(project_id)}")
    if json:
        print_json(gone)
        return
    out().print(f"Project {project_id} has ended; its keys are revoked.", markup=False)


def _shown(projects: list[dict[str, Any]], json: bool) -> None:
    if json:
        print_json(projects[0])
        return
    rows = [
        (
            one["id"],
            one["tenant_id"],
            one["name"],
            "on" if one["enabled"] else "off",
            limits_shown(one["limits"]),
        )
        for one in projects
    ]
    print_table(("project", "tenant", "name", "state", "limits"), rows, "No projects.")
