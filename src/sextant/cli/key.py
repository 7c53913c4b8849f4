"""`sextant key`: API keys. Works on a running deployment and on one that is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import out, print_json

if TYPE_CHECKING:
    from sextant.app.state import StateDir

ID_COLUMNS = 24
KNOWN_WITHIN_S = 2.0
"""A running gateway takes a new key up within a second; whoever gets it may use it at once."""
ASK_AGAIN_S = 0.02

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="A name to tell keys apart.")] = "unnamed",
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Days until it expires.", show_default="never")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Make an API key and print it, this once."""
    folder = state_dir(state)
    made = _create(folder, name, days)
    _await_gateway(folder, str(made["key"]))
    if json:
        print_json({"id": made["id"], "key": made["key"]})
        return
    console = out()
    console.print(f"Key {made['id']} ({made['name']}), shown only now:", markup=False)
    console.print(made["key"], style="bold", markup=False)


@app.command("list")
def list_keys(
    revoked: Annotated[bool, typer.Option("--revoked", help="Show revoked keys too.")] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """List API keys; their secrets are not kept."""
    keys = _list(state_dir(state), revoked)
    if json:
        print_json(keys)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True, min_width=ID_COLUMNS)
    for column in ("name", "key", "made", "until"):
        table.add_column(column)
    for key in keys:
        until = _day(key["expires_ms"]) if key["expires_ms"] else "no end"
        if key["revoked_ms"]:
            until = f"revoked {_day(key['revoked_ms'])}"
        table.add_row(key["id"], key["name"], key["hint"], _day(key["created_ms"]), until)
    out().print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `sextant key list` shows it.")],
    state: State = None,
    json: Json = False,
) -> None:
    """Revoke an API key for good; the gateway refuses it within a second."""
    record = _revoke(state_dir(state), key_id)
    if json:
        print_json(record)
        return
    out().print(f"Key {record['id']} ({record['name']}) is revoked.", markup=False)


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
                return
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()
        time.sleep(ASK_AGAIN_S)


def _create(state: StateDir, name: str, days: int | None) -> dict[str, Any]:
    from sextant.cli.admin import AdminApi, local_accounts

    if state.holder() is not None:
        made = AdminApi(state).call("POST", "/v1/keys", {"name": name, "expires_in_days": days})
        return dict(made)
    import time

    import msgspec

    from sextant.store.accounts import DEFAULT_TENANT
    from sextant.store.accounts_keys import KeyScope
    from sextant.store.usage_report import DAY_MS

    expires_ms = 0 if days is None else time.time_ns() // 1_000_000 + days * DAY_MS
    with local_accounts(state) as accounts:
        record, secret = accounts.create_key(DEFAULT_TENANT, name, KeyScope(expires_ms=expires_ms))
    return {**msgspec.to_builtins(record), "key": secret}


def _list(state: StateDir, revoked: bool) -> list[dict[str, Any]]:
    from sextant.cli.admin import AdminApi, local_accounts

    if state.holder() is not None:
        return list(AdminApi(state).call("GET", f"/v1/keys?with_revoked={str(revoked).lower()}")["keys"])
    import msgspec

    with local_accounts(state) as accounts:
        return [msgspec.to_builtins(key) for key in accounts.list_keys(with_revoked=revoked)]


def _revoke(state: StateDir, key_id: str) -> dict[str, Any]:
    from urllib.parse import quote

    from sextant.cli.admin import AdminApi, local_accounts

    if state.holder() is not None:
        return dict(AdminApi(state).call("DELETE", f"/v1/keys/{quote(key_id, safe='')}"))
    import msgspec

    with local_accounts(state) as accounts:
        return dict(msgspec.to_builtins(accounts.revoke_key(key_id)))


def _day(milliseconds: int) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d")
