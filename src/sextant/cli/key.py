"""`sextant key`: API keys. Making, listing and revoking work on a stopped deployment too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sextant.cli.options import Json, Limits, Models, State, models_of, state_dir
from sextant.cli.output import out, print_json, print_record, warn
from sextant.cli.values import day_shown, limits_of, limits_shown, path_part

if TYPE_CHECKING:
    from sextant.app.state import StateDir

ID_COLUMNS = 24
KNOWN_WITHIN_S = 2.0
"""A running gateway takes a new key up within a second; whoever gets it may use it at once."""
OTHER_WORKERS_S = 0.3
"""Workers look for a new policy every 0.2 s, each for itself: when one knows a key, all do after so long."""
ASK_AGAIN_S = 0.02
DEFAULT = "default"
"""The tenant that every deployment begins with."""

app = typer.Typer(help="Create, list, rotate and revoke API keys.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="As `sextant key list` shows it.")]
Endpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        metavar="NAME",
        help="An endpoint that it may call, as chat.completions, again for more; `all` lifts it.",
    ),
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        metavar="CIDR",
        help="Addresses that it may be used from, as 10.0.0.0/8, again for more; `all` lifts it.",
    ),
]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="A name to tell keys apart.")] = "unnamed",
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Days until it expires.", show_default="never")
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Whose key it is.")] = DEFAULT,
    project: Annotated[
        str,
        typer.Option(
            "--project", metavar="PROJECT", help="In which project.", show_default="its default one"
        ),
    ] = "",
    model: Models = None,
    endpoint: Endpoints = None,
    network: Networks = None,
    limit: Limits = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Make an API key and print it, this once."""
    folder = state_dir(state)
    scope = {
        "project_id": project,
        "models": models_of(model) or [],
        "endpoints": models_of(endpoint) or [],
        "networks": models_of(network) or [],
        "limits": limits_of(limit or ()),
    }
    made = _create(folder, {"name": name, "tenant_id": tenant, **scope}, days)
    _await_gateway(folder, str(made["key"]))
    _warn_of_models(folder, models_of(model) or [])
    _print_secret(made, json)


@app.command("list")
def list_keys(
    revoked: Annotated[bool, typer.Option("--revoked", help="Show revoked keys too.")] = False,
    tenant: Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Only of this tenant.")] = "",
    state: State = None,
    json: Json = False,
) -> None:
    """List API keys; their secrets are not kept."""
    keys = [key for key in _list(state_dir(state), revoked) if tenant in ("", key["tenant_id"])]
    if json:
        print_json(keys)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True, min_width=ID_COLUMNS)
    for column in ("name", "tenant", "project", "key", "made", "until"):
        table.add_column(column)
    for key in keys:
        until = day_shown(key["expires_ms"]) if key["expires_ms"] else "no end"
        if key["revoked_ms"]:
            until = f"revoked {day_shown(key['revoked_ms'])}"
        cells = (
            key["name"],
            key["tenant_id"],
            key["project_id"],
            key["hint"],
            day_shown(key["created_ms"]),
            until,
        )
        table.add_row(key["id"], *map(Text, cells))
    out().print(table)


@app.command()
def show(key_id: Id, state: State = None, json: Json = False) -> None:
    """Show what a key may do."""
    from sextant.cli.admin import AdminApi

    _shown(AdminApi(state_dir(state)).call("GET", f"/v1/keys/{path_part(key_id)}"), json)


@app.command("set")
def change(
    key_id: Id,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    model: Models = None,
    endpoint: Endpoints = None,
    network: Networks = None,
    limit: Limits = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Change what a key may do; what is not named stays."""
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    target = f"/v1/keys/{path_part(key_id)}"
    given = {
        "name": name,
        "models": models_of(model),
        "endpoints": models_of(endpoint),
        "networks": models_of(network),
        "limits": limits_of(limit, api.call("GET", target)["limits"]) if limit else None,
    }
    wanted = {field: value for field, value in given.items() if value is not None}
    _shown(api.call("PATCH", target, wanted), json)


@app.command()
def rotate(
    key_id: Id,
    overlap_hours: Annotated[
        int, typer.Option(min=0, max=2160, help="Hours that the old secret stays good.")
    ] = 24,
    state: State = None,
    json: Json = False,
) -> None:
    """Give a key a new secret and print it, this once; its id, limits and usage stay."""
    from sextant.cli.admin import AdminApi

    folder = state_dir(state)
    body = {"overlap_hours": overlap_hours}
    made = AdminApi(folder).call("POST", f"/v1/keys/{path_part(key_id)}/rotate", body)
    _await_gateway(folder, str(made["key"]))
    _print_secret(made, json)


@app.command()
def revoke(key_id: Id, state: State = None, json: Json = False) -> None:
    """Revoke an API key for good; the gateway refuses it within a second."""
    record = _revoke(state_dir(state), key_id)
    if json:
        print_json(record)
        return
    out().print(f"Key {record['id']} ({record['name']}) is revoked.", markup=False)


def _warn_of_models(state: StateDir, models: list[str]) -> None:
    """Says which models of a key made are none of a running deployment's: it may be that they come later."""
    from sextant.base.errors import SextantError
    from sextant.cli.admin import AdminApi

    if not models or state.holder() is None:
        return
    try:
        served = AdminApi(state).call("GET", "/v1/models")["models"]
    except SextantError:
        return  # the key is made, and to be shown
    known = {one["id"] for one in served}
    behind = {alias: one["id"] for one in served for alias in one["aliases"]}
    for name in dict.fromkeys(models):
        if name in behind and name not in known:
            warn(f"{name} is another name of {behind[name]}, by which alone a key is given that model")
        elif name not in known:
            warn(f"no model {name} is served now; there are {', '.join(sorted(known)) or 'none'}")


def _print_secret(made: dict[str, Any], json: bool) -> None:
    if json:
        print_json({"id": made["id"], "key": made["key"]})
        return
    console = out()
    console.print(f"Key {made['id']} ({made['name']}), shown only now:", markup=False)
    console.print(made["key"], style="bold", markup=False)


def _shown(key: dict[str, Any], json: bool) -> None:
    if json:
        print_json(key)
        return
    print_record(
        (
            ("key", key["id"]),
            ("name", key["name"]),
            ("secret", key["hint"]),
            ("tenant", key["tenant_id"]),
            ("project", key["project_id"]),
            ("models", ", ".join(key["models"]) or "all that its tenant may"),
            ("endpoints", ", ".join(key["endpoints"]) or "all"),
            ("networks", ", ".join(key["networks"]) or "any"),
            ("limits", f"{limits_shown(key['limits'])} of its own"),
            ("made", day_shown(key["created_ms"])),
            ("until", day_shown(key["expires_ms"]) if key["expires_ms"] else "no end"),
            ("revoked", day_shown(key["revoked_ms"]) if key["revoked_ms"] else ""),
        )
    )


def _await_gateway(state: StateDir, key: str) -> None:
    """Waits until a running gateway accepts `key`; no longer where nothing runs or it does not answer."""
    import http.client
    import time

    from sextant.cli.admin import local_connection
    from sextant.control.settings import read_status

    status = read_status(state.status_file)
    if status is None or state.holder() is None:
        return
    deadline = time.monotonic() + KNOWN_WITHIN_S
    while time.monotonic() < deadline:
        connection = local_connection(status.url)
        try:
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
            if connection.getresponse().status != http.client.UNAUTHORIZED:
                if sum(process.kind == "gateway" for process in status.processes) > 1:
                    time.sleep(OTHER_WORKERS_S)
                return
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()
        time.sleep(ASK_AGAIN_S)


def _create(state: StateDir, body: dict[str, Any], days: int | None) -> dict[str, Any]:
    from sextant.cli.admin import AdminApi, local_accounts

    if state.holder() is not None:
        return dict(AdminApi(state).call("POST", "/v1/keys", {**body, "expires_in_days": days}))
    import time

    import msgspec

    from sextant.store.accounts_database import DAY_MS
    from sextant.store.accounts_keys import KeyScope

    expires_ms = 0 if days is None else time.time_ns() // 1_000_000 + days * DAY_MS
    named = {field: value for field, value in body.items() if field not in ("name", "tenant_id")}
    scope = msgspec.convert({**named, "expires_ms": expires_ms}, KeyScope)
    with local_accounts(state) as accounts:
        record, secret = accounts.create_key(body["tenant_id"], body["name"], scope)
    return {**msgspec.to_builtins(record), "key": secret}


def _list(state: StateDir, revoked: bool) -> list[dict[str, Any]]:
    from sextant.cli.admin import AdminApi, local_accounts

    if state.holder() is not None:
        return AdminApi(state).all(f"/v1/keys?with_revoked={str(revoked).lower()}", "keys")
    import msgspec

    from sextant.store.accounts_database import FIRST_PAGE, Page

    page, found = FIRST_PAGE, list[Any]()
    with local_accounts(state) as accounts:
        while part := accounts.list_keys(page, with_revoked=revoked):
            found += part
            page = Page(page.limit, part[-1].id)
    return [msgspec.to_builtins(key) for key in found]


def _revoke(state: StateDir, key_id: str) -> dict[str, Any]:
    from sextant.cli.admin import AdminApi, local_accounts

    if state.holder() is not None:
        return dict(AdminApi(state).call("DELETE", f"/v1/keys/{path_part(key_id)}"))
    import msgspec

    with local_accounts(state) as accounts:
        return dict(msgspec.to_builtins(accounts.revoke_key(key_id)))
