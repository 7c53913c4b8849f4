"""`sextant usage`: tokens and cost by day, tenant, project, key and model."""

from __future__ import annotations

import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from sextant.cli.options import Json, State, Tenant, state_dir
from sextant.cli.output import print_json, print_table
from sextant.cli.values import amount, day_of

SIDES = ("day", "tenant", "project", "key", "model")


def usage(
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by", help="day, tenant, project, key or model, again for more.", show_default="day, model"
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
    last = datetime.date.today() if until is None else day_of(until, "--until")
    first = last - datetime.timedelta(days=30) if since is None else day_of(since, "--since")
    asked = {
        "by": ",".join(sides),
        "since": first.isoformat(),
        "until": last.isoformat(),
        "tenant_id": tenant,
        "project_id": project,
        "key_id": key,
        "model": model,
    }
    query = urlencode({name: value for name, value in asked.items() if value})
    found = AdminApi(state_dir(state)).call("GET", f"/v1/usage?{query}")
    if json:
        print_json(found)
        return
    _table(found, sides)


def _table(found: dict[str, Any], sides: list[str]) -> None:
    rows = []
    for line in found["lines"]:
        totals = line["totals"]
        named = [_side(line, side) for side in sides]
        counts = [
            f"{totals[name]:,}"
            for name in (
                "requests",
                "errors",
                "input_tokens",
                "cached_tokens",
                "output_tokens",
                "reasoning_tokens",
            )
        ]
        rows.append((*named, *counts, amount(totals["cost_nano"], line["currency"])))
    columns = (*sides, "requests>", "errors>", "input>", "cached>", "output>", "reasoning>", "cost>")
    print_table(columns, rows, "No usage in these days.")


def _side(line: dict[str, Any], side: str) -> str:
    if side == "day":
        text = str(line["day"])
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return str(line[side if side == "model" else f"{side}_id"])
