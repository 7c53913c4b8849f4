"""Usage and invoices in the admin API, as JSON and as files."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, cast

import msgspec
from fastapi import Depends, FastAPI, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from sextant.base.errors import BadRequest, NotFound
from sextant.control.access import Allowed, Needs
from sextant.control.answers import json_answer
from sextant.control.office import Office
from sextant.control.openapi import Files, Whole, tells
from sextant.operations.invoice_files import MEDIA_TYPES, Format, invoice_file, usage_csv
from sextant.operations.invoice_sheet import Language
from sextant.operations.invoices import Invoice, invoice_of, sla_transfers
from sextant.spec.transfer import Transfer
from sextant.store.accounts_database import DAY_MS, Noted
from sextant.store.ledger_reading import ledger_view
from sextant.store.statements import PAGE_LINES_MAX, Side, Totals, UsageLine, UsageQuery, usage_lines

USAGE_DAYS_MAX = 366
DEFAULT_DAYS = 30
MOMENT_MS_MAX = 253_402_300_799_999
"""The end of the year 9999."""
_INVOICE = re.compile(r"(2\d{3})-(\d{2})(?:\.(json|csv|html|pdf))?", re.ASCII)

Moment = Annotated[int | None, Field(ge=0, le=MOMENT_MS_MAX)]


class UsageAsked(BaseModel):
    """Which usage. The span is taken in whole days, which are those of each tenant's time zone."""

    model_config = ConfigDict(extra="forbid")

    since_ms: Moment = None
    until_ms: Moment = None
    by: Annotated[str, Field(max_length=100)] = "day,tenant,project,key,model"
    tenant_id: str = ""
    project_id: str = ""
    key_id: str = ""
    model: str = ""
    limit: Annotated[int, Field(ge=1, le=PAGE_LINES_MAX)] = 1000
    offset: Annotated[int, Field(ge=0)] = 0


class UsageTotals(Totals, frozen=True, kw_only=True):
    """One line: its sums, and the sides that were asked for; days and months as `2026-11-22`, `2026-11`."""

    currency: str
    month: str
    day: str
    tenant_id: str
    project_id: str
    key_id: str
    model: str


class UsageTold(msgspec.Struct, frozen=True):
    """The span that was taken; `next_offset` is that of the lines after these, if any."""

    since_ms: int
    until_ms: int
    totals: list[UsageTotals]
    next_offset: int | None


ReadUsage = Annotated[Allowed, Depends(Needs("read", "usage"))]
ReadInvoices = Annotated[Allowed, Depends(Needs("read", "invoice"))]
GiveCredit = Annotated[Allowed, Depends(Needs("write", "balance", deployment=True))]
Asked = Annotated[UsageAsked, Query()]


def add_usage(app: FastAPI, office: Office) -> None:
    """Routes of usage."""

    @app.get("/v1/usage")
    @tells(UsageTold)
    def usage(allowed: ReadUsage, asked: Asked) -> Response:
        """Totals by any of day, month, tenant, project, key and model; unless said otherwise, of 30 days."""
        since_ms, until_ms = _span(asked, office.now_ms())
        lines = _lines(office, allowed, asked)
        more = asked.offset + asked.limit if len(lines) == asked.limit else None
        return json_answer(UsageTold(since_ms, until_ms, [_flat(line) for line in lines], more))

    @app.get("/v1/usage.csv")
    @tells(Files(("text/csv",)))
    def usage_file(allowed: ReadUsage, asked: Asked) -> Response:
        """The same for a spreadsheet."""
        return _file(usage_csv(_lines(office, allowed, asked)).encode("utf-8-sig"), "csv", "usage.csv")


def add_invoices(app: FastAPI, office: Office) -> None:
    """Routes of invoices."""

    @app.get("/v1/invoices/{tenant_id}/{month}")
    @tells(Files(("text/csv", "text/html", "application/pdf"), Invoice))
    def get_invoice(
        tenant_id: str, month: str, allowed: ReadInvoices, lang: Language = "en", issuer: str = ""
    ) -> Response:
        """A tenant's month (`2026-11`), final from an hour after its end; `.csv`, `.html` and `.pdf` give
        files."""
        allowed.require(tenant_id, f"there is no tenant {tenant_id}", field="tenant_id")
        number, form = _month_of(month)
        invoice = _invoice(office, tenant_id, number)
        if form == "json":
            return json_answer(invoice)
        made = invoice_file(invoice, cast(Format, form), lang, issuer)
        return _file(made, cast(Format, form), f"{invoice.number}.{form}")

    @app.post("/v1/invoices/{tenant_id}/{month}/sla-credit", status_code=201)
    @tells(Whole("credited", Transfer))
    def give_sla_credit(tenant_id: str, month: str, allowed: GiveCredit) -> Response:
        """Puts the credit of a final invoice, for availability promised and not kept, into the books;
        a second time changes nothing."""
        number, _ = _month_of(month)
        transfers = sla_transfers(_invoice(office, tenant_id, number))
        if transfers:
            office.books.post(transfers)
            detail = {"month": number, "transfers": [one.id for one in transfers]}
            office.by(allowed).note(Noted("balance.sla-credit", tenant_id, tenant_id, detail, policy=False))
        return json_answer({"credited": transfers}, 201)


def _span(asked: UsageAsked, now_ms: int) -> tuple[int, int]:
    """Raises BadRequest for no span, or too long a one."""
    until_ms = now_ms + 1 if asked.until_ms is None else asked.until_ms
    since_ms = asked.since_ms
    if since_ms is None:
        since_ms = max(0, until_ms - DEFAULT_DAYS * DAY_MS)
    if not since_ms < until_ms <= since_ms + USAGE_DAYS_MAX * DAY_MS:
        raise BadRequest(
            f"usage is told for at most {USAGE_DAYS_MAX} days, that begin before they end; since_ms "
            f"{since_ms} to until_ms {until_ms} are {(until_ms - since_ms) / DAY_MS:.1f}",
            field="since_ms",
        )
    return since_ms, until_ms


def _lines(office: Office, allowed: Allowed, asked: UsageAsked) -> list[UsageLine]:
    since_ms, until_ms = _span(asked, office.now_ms())
    # Where a tenant's clock is ahead of ours it may be tomorrow there already.
    last_ms = until_ms - 1 if asked.until_ms is not None else until_ms + DAY_MS
    query = UsageQuery(
        first_day=_day_of(since_ms),
        last_day=_day_of(min(last_ms, MOMENT_MS_MAX)),
        by=tuple(cast(Side, side.strip()) for side in asked.by.split(",")),
        tenant_id=asked.tenant_id,
        project_id=asked.project_id,
        key_id=asked.key_id,
        model=asked.model,
        tenants=allowed.tenants,
        limit=asked.limit,
        offset=asked.offset,
    )
    with ledger_view(office.settings.ledger_db) as view:
        return usage_lines(view, query)


def _day_of(at_ms: int) -> int:
    return int(datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).strftime("%Y%m%d"))


def _flat(line: UsageLine) -> UsageTotals:
    told = msgspec.structs.asdict(line)
    sums = msgspec.structs.asdict(told.pop("totals"))
    day, month = f"{line.day:08d}", f"{line.month:06d}"
    told["day"] = f"{day[:4]}-{day[4:6]}-{day[6:]}" if line.day else ""
    told["month"] = f"{month[:4]}-{month[4:]}" if line.month else ""
    return UsageTotals(**told, **sums)


def _month_of(text: str) -> tuple[int, str]:
    """202611 and the format of `2026-11.pdf`. Raises NotFound."""
    found = _INVOICE.fullmatch(text)
    if found is None:
        raise NotFound(f"there is no invoice {text[:40]!r}; a month is written 2026-11", field="month")
    return int(found[1]) * 100 + int(found[2]), found[3] or "json"


def _invoice(office: Office, tenant_id: str, month: int) -> Invoice:
    policy = office.accounts.policy_snapshot()
    with ledger_view(office.settings.ledger_db) as view:
        return invoice_of(view, policy, tenant_id, month, now_ms=office.now_ms())


def _file(data: bytes, form: Format, name: str) -> Response:
    """A file that a browser shows without running anything in it."""
    shown = "inline" if form == "html" else "attachment"
    headers = {
        "Content-Disposition": f'{shown}; filename="{name}"',
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return Response(data, media_type=MEDIA_TYPES[form], headers=headers)
