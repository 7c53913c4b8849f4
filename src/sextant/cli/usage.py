"""`sextant usage`: tokens and cost by day, tenant, project, key and model."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from sextant.cli.options import Json, State, Tenant, state_dir
from sextant.cli.output import print_json, print_table
from sextant.cli.values import amount, day_of, path_part

if TYPE_CHECKING:
    from sextant.cli.admin import AdminApi

SIDES = ("day", "month", "tenant", "project", "key", "model")
COUNTS = ("requests", "errors", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")


def usage(
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="day, month, tenant, project, key or model, again for more.",
            show_default="day, model",
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="First day, as 2026-11-01.", show_default="30 days ago")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Last day.", show_default="today")] = None,
    tenant: Tenant = "",
    project: Annotated[str, typer.Option(metavar="PROJECT", help="Only of this project.")] = "",
    key: Annotated[str, typer.Option(metavar="KEY", help="Only of this key.")] = "",
    model: Annotated[str, typer.Option(metavar="MODEL", help="Only of this model.")] = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Show usage: requests, tokens and cost."""
    from sextant.base.errors import BadRequest
    from sextant.cli.admin import AdminApi

    sides = by or ["day", "model"]
    wrong = [side for side in sides if side not in SIDES]
    if wrong:
        raise BadRequest(f"--by {wrong[0]}: expected one of {', '.join(SIDES)}")
    asked: dict[str, Any] = {
        "by": ",".join(sides),
        "tenant_id": tenant,
        "project_id": project,
        "key_id": key,
        "model": model,
    }
    if since is not None:
        asked["since_ms"] = _midnight_ms(day_of(since, "--since"))
    if until is not None:
        asked["until_ms"] = _midnight_ms(day_of(until, "--until") + datetime.timedelta(days=1))
    if since is not None and until is not None and asked["since_ms"] >= asked["until_ms"]:
        raise BadRequest(f"--until {until}: expected a day that is not before --since {since}")
    query = urlencode({name: value for name, value in asked.items() if value})
    api = AdminApi(state_dir(state))
    found = _all(api, query)
    if tenant and not found:
        api.call("GET", f"/v1/tenants/{path_part(tenant)}")  # nothing used, or nobody of that name
    if json:
        print_json(found)
        return
    names = [side if side in ("day", "month", "model") else f"{side}_id" for side in sides]
    rows = [
        (*(line[name] for name in names), *(f"{line[name]:,}" for name in COUNTS), _cost(line))
        for line in found
    ]
    columns = (*sides, "requests>", "errors>", "input>", "cached>", "output>", "reasoning>", "cost>")
    print_table(columns, rows, "No usage in these days.")


def _all(api: AdminApi, query: str) -> list[dict[str, Any]]:
    """Every line, page after page."""
    found: list[dict[str, Any]] = []
    offset: int | None = 0
    while offset is not None:
        answer = api.call("GET", f"/v1/usage?{query}&offset={offset}")
        found += answer["totals"]
        offset = answer["next_offset"]
    return found


def _cost(line: dict[str, Any]) -> str:
    return amount(line["cost_nano"], line["currency"])


def _midnight_ms(day: datetime.date) -> int:
    return int(datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp() * 1000)
