"""`sextant invoice`: a tenant's month, for people and for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import out, print_json, print_record, print_table, short_path
from sextant.cli.values import amount, month_of, path_part

FORMATS = ("json", "csv", "html", "pdf")


def invoice(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")],
    month: Annotated[str, typer.Argument(metavar="MONTH", help="As 2026-11.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write it there; its ending says how: .csv, .html, .pdf or .json.",
        ),
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Show a tenant's invoice of a month, or write it to a file."""
    from sextant.base.errors import BadRequest
    from sextant.cli.admin import AdminApi

    target = f"/v1/invoices/{path_part(tenant)}/{month_of(month)}"
    api = AdminApi(state_dir(state))
    if output is None:
        found = api.call("GET", f"{target}.json")
        if json:
            print_json(found)
            return
        _shown(found)
        return
    ending = output.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise BadRequest(
            f"--output {output}: expected a name that ends in {', '.join('.' + one for one in FORMATS)}"
        )
    _, content = api.fetch("GET", f"{target}.{ending}")
    if str(output) == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise BadRequest(f"--output {output}: cannot be written: {error.strerror}") from None
    out().print(f"Wrote {short_path(output.absolute())}.", markup=False)


def _shown(found: dict[str, Any]) -> None:
    month = str(found["month"])
    print_record(
        (
            ("invoice", found["number"]),
            ("tenant", f"{found['tenant_name']} ({found['tenant_id']})"),
            ("month", f"{month[:4]}-{month[4:]}, {found['time_zone']}"),
            ("state", found["state"]),
            ("billing", found["billing"]),
            ("plan", found["plan"] or "none"),
        )
    )
    rows = [_line(line) for line in found["lines"]]
    columns = ("project", "model", "requests>", "input>", "cached>", "output>", "list price>", "charged>")
    print_table(columns, rows, "No usage in this month.")
    for sums in found["sums"]:
        currency = sums["currency"]
        print_record(
            [
                (words, amount(sums[name], currency))
                for name, words in _SUMS
                if sums[name] or name in ("cost_nano", "due_nano")
            ]
        )


_SUMS = (
    ("list_nano", "list price"),
    ("discount_nano", "discount"),
    ("cost_nano", "charged"),
    ("packages_nano", "from packages"),
    ("prepaid_nano", "from the balance"),
    ("sla_credit_nano", "credit for availability"),
    ("due_nano", "due"),
)


def _line(line: dict[str, Any]) -> tuple[str, ...]:
    totals = line["totals"]
    counts = [f"{totals[name]:,}" for name in ("requests", "input_tokens", "cached_tokens", "output_tokens")]
    costs = [amount(totals[name], line["currency"]) for name in ("list_nano", "cost_nano")]
    return (line["project_name"] or line["project_id"], line["model"], *counts, *costs)
