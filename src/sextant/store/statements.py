"""What the books say of a time: usage by any of its sides, and all that stands on an invoice.

Everything comes out of the daily sums that the ledger keeps beside its rows in the same transaction; single
rows are read only of a day on which a price changed. Reads alone, of SQLite or PostgreSQL.
Neighbours: `ledger_reading.py` (one consistent look), `sextant.operations.invoices` (puts invoices together).
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec

from sextant.base.errors import BadRequest
from sextant.spec.transfer import Transfer
from sextant.spec.usage import UNBILLED
from sextant.store.books import DAY_SUMS, tenant_of
from sextant.store.ledger_reading import LedgerView

Side = Literal["tenant", "project", "key", "model", "day", "month"]
"""What usage can be told apart by; the currency always is."""
PAGE_LINES_MAX = 10_000
_HOUR_MS = 3_600_000
_COLUMNS: dict[Side, str] = {
    "tenant": "tenant_id",
    "project": "project_id",
    "key": "key_id",
    "model": "model",
    "day": "day",
    "month": "month",
}
_SUMS = ", ".join(f"sum({name})" for name in DAY_SUMS)
_ALL_TENANTS = """
    WITH RECURSIVE tenants (id) AS (
        SELECT min(tenant_id) FROM usage_day UNION ALL
        SELECT (SELECT min(tenant_id) FROM usage_day WHERE tenant_id > tenants.id)
        FROM tenants WHERE tenants.id IS NOT NULL
    )
"""
"""Every tenant, found by leaps through the key, so that a report reads its own months alone."""
_ROW_SUMS = (
    "count(*), sum(CASE WHEN outcome = 'engine_error' THEN 1 ELSE 0 END), "
    "sum(CASE WHEN outcome = 'refused' THEN 1 ELSE 0 END), sum(CAST(estimated AS INTEGER)), "
    "sum(input_tokens), sum(output_tokens), sum(cached_tokens), sum(reasoning_tokens), "
    "sum(cost_nano), sum(list_nano), "
    f"sum(CASE WHEN outcome IN ({', '.join(repr(one) for one in sorted(UNBILLED))}) THEN 0 "
    "ELSE input_tokens + output_tokens END)"
)
"""The same sums over single rows."""


class Totals(msgspec.Struct, frozen=True):
    """Sums of some requests. `list_nano` is their price without volume steps and off-peak windows."""

    requests: int = 0
    errors: int = 0
    """Failed by an engine; not charged."""
    refused: int = 0
    """Refused by us for want of an engine or a place, of a tenant with an SLA; not charged."""
    estimated: int = 0
    """Whose tokens the gateway had to estimate."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    list_nano: int = 0
    counted_tokens: int = 0
    """Input and output tokens but for those of requests that are not charged: what limits and volume lines
    count."""


class UsageQuery(msgspec.Struct, frozen=True):
    """Which usage, and how it is told apart. Days (20261122) are those of each tenant's time zone, both ends
    are in; an empty id is any; `tenants` bounds what a caller may see, None: all."""

    first_day: int
    last_day: int
    by: tuple[Side, ...] = ("day", "tenant", "project", "key", "model")
    tenant_id: str = ""
    project_id: str = ""
    key_id: str = ""
    model: str = ""
    tenants: frozenset[str] | None = None
    limit: int = 1000
    offset: int = 0


class UsageLine(msgspec.Struct, frozen=True):
    """One line of a report; the sides that were not asked for are empty."""

    currency: str
    totals: Totals
    month: int = 0
    day: int = 0
    tenant_id: str = ""
    project_id: str = ""
    key_id: str = ""
    model: str = ""


class ChargedLine(msgspec.Struct, frozen=True):
    """What one project used of one model while one price held. `segment` counts the times of a month between
    price changes, from 0."""

    project_id: str
    model: str
    currency: str
    segment: int
    totals: Totals


class Paid(msgspec.Struct, frozen=True):
    """Which account of the tenant the month's usage was taken from."""

    account: str
    currency: str
    amount_nano: int


def usage_lines(view: LedgerView, query: UsageQuery) -> list[UsageLine]:
    """The lines of a usage report, in the order of `query.by`. Raises BadRequest for a side that there is
    not, or a limit out of bounds."""
    unknown = [side for side in query.by if side not in get_args(Side)]
    if unknown:
        raise BadRequest(
            f"usage is told apart by {', '.join(get_args(Side))}; not by {unknown[0]}", field="by"
        )
    if not 1 <= query.limit <= PAGE_LINES_MAX or query.offset < 0:
        raise BadRequest(f"limit {query.limit} is not 1 to {PAGE_LINES_MAX}", field="limit")
    columns = [_COLUMNS[side] for side in dict.fromkeys(query.by)]
    where, values = _conditions(query)
    groups = ", ".join([*columns, "currency"])
    # With every side asked for, the daily sums are the lines: nothing to add up, no whole sort for a page.
    is_finest = {"tenant", "project", "key", "model", "day"} <= set(query.by)
    sums, grouping = (", ".join(DAY_SUMS), "") if is_finest else (_SUMS, f"GROUP BY {groups}")
    is_wide = not query.tenant_id and query.tenants is None
    source = "tenants JOIN usage_day ON tenant_id = tenants.id" if is_wide else "usage_day"
    found = view.query(
        f"{_ALL_TENANTS if is_wide else ''} SELECT {groups}, {sums} FROM {source} WHERE {where} "
        f"{grouping} ORDER BY {groups} LIMIT :limit OFFSET :offset",
        **values,
        limit=query.limit,
        offset=query.offset,
    )
    width = len(columns)
    return [
        UsageLine(
            currency=row[width], totals=Totals(*row[width + 1 :]), **dict(zip(columns, row, strict=False))
        )
        for row in found
    ]


def usage_total(view: LedgerView, query: UsageQuery) -> dict[str, Totals]:
    """The sums over everything that `query` asks for, by currency."""
    where, values = _conditions(query)
    found = view.query(
        f"SELECT currency, {_SUMS} FROM usage_day WHERE {where} GROUP BY currency",
        **values,
    )
    return {row[0]: Totals(*row[1:]) for row in found}


def charged_lines(
    view: LedgerView, tenant_id: str, month: int, changes: Sequence[tuple[int, int]] = ()
) -> list[ChargedLine]:
    """A tenant's month by project, model and price. `changes` are the moments inside the month at which some
    price of the tenant's plan changed, each as (day, Unix milliseconds), oldest first. The lines add up to
    the ledger's sums of the month whatever the changes are."""
    lines: dict[tuple[str, str, str, int], Totals] = {}
    split_days = sorted({day for day, _ in changes})
    for project_id, model, currency, day, *sums in view.query(
        f"SELECT project_id, model, currency, day, {_SUMS} FROM usage_day "
        "WHERE tenant_id = :tenant AND month = :month GROUP BY project_id, model, currency, day",
        tenant=tenant_id,
        month=month,
    ):
        if day not in split_days:
            segment = sum(changed < day for changed, _ in changes)
            _add(lines, (project_id, model, currency, segment), Totals(*sums))
    for day in split_days:
        for row in _rows_of_day(view, tenant_id, day, [at_ms for _, at_ms in changes]):
            _add(lines, (row[0], row[1], row[2], row[3]), Totals(*row[4:]))
    return [ChargedLine(*key, lines[key]) for key in sorted(lines)]


def paid_parts(view: LedgerView, tenant_id: str, month: int) -> list[Paid]:
    """Who paid for a tenant's month: its packages, its balance, or its receivable."""
    found = view.query(
        "SELECT debit, currency, amount_nano FROM usage_paid "
        "WHERE tenant_id = :tenant AND month = :month AND amount_nano <> 0 ORDER BY debit, currency",
        tenant=tenant_id,
        month=month,
    )
    return [Paid(*row) for row in found]


def movements(view: LedgerView, tenant_id: str, since_ms: int, until_ms: int) -> list[Transfer]:
    """The transfers of a tenant's accounts in [`since_ms`, `until_ms`) but for usage, oldest first."""
    found = view.query(
        "SELECT id, kind, debit, credit, amount_nano, currency, at_ms, request_id, note, expires_ms "
        "FROM transfer WHERE kind <> 'usage' AND at_ms >= :since AND at_ms < :until ORDER BY at_ms, id",
        since=since_ms,
        until=until_ms,
    )
    transfers = [Transfer(*row) for row in found]
    return [one for one in transfers if tenant_id in (tenant_of(one.debit), tenant_of(one.credit))]


def transfer_of(view: LedgerView, transfer_id: str) -> Transfer | None:
    """The transfer with this id, if it is in the books."""
    found = view.query(
        "SELECT id, kind, debit, credit, amount_nano, currency, at_ms, request_id, note, expires_ms "
        "FROM transfer WHERE id = :id",
        id=transfer_id,
    )
    return Transfer(*found[0]) if found else None


def _rows_of_day(
    view: LedgerView, tenant_id: str, day: int, changes_ms: Sequence[int]
) -> list[tuple[Any, ...]]:
    """Single rows of a day, summed by project, model, currency and segment."""
    segment = " + ".join(f"CASE WHEN started_ms >= {int(at_ms)} THEN 1 ELSE 0 END" for at_ms in changes_ms)
    # No day of any time zone reaches further than 14 hours before, or 12 + 24 after, its day in UTC.
    midnight_ms = _utc_midnight_ms(day)
    return view.query(
        f"SELECT project_id, model, currency, {segment} AS segment, {_ROW_SUMS} FROM usage "
        "WHERE started_ms >= :since AND started_ms < :until AND tenant_id = :tenant AND day = :day "
        "GROUP BY project_id, model, currency, segment",
        since=midnight_ms - 15 * _HOUR_MS,
        until=midnight_ms + 37 * _HOUR_MS,
        tenant=tenant_id,
        day=day,
    )


def _utc_midnight_ms(day: int) -> int:
    date = datetime.datetime(day // 10_000, day // 100 % 100, day % 100, tzinfo=datetime.UTC)
    return int(date.timestamp()) * 1000


def _conditions(query: UsageQuery) -> tuple[str, dict[str, Any]]:
    parts = ["day >= :first", "day <= :last", "month >= :first_month", "month <= :last_month"]
    values: dict[str, Any] = {
        "first": query.first_day,
        "last": query.last_day,
        "first_month": query.first_day // 100,
        "last_month": query.last_day // 100,
    }
    for column in ("tenant_id", "project_id", "key_id", "model"):
        wanted = getattr(query, column)
        if wanted:
            parts.append(f"{column} = :{column}")
            values[column] = wanted
    if query.tenants is not None:
        names = [f"allowed_{_letters(number)}" for number in range(len(query.tenants))]
        among = ", ".join(f":{name}" for name in names) or "NULL"
        parts.append(f"tenant_id IN ({among})")
        values |= dict(zip(names, sorted(query.tenants), strict=True))
    return " AND ".join(parts), values


def _letters(number: int) -> str:
    """`number` in letters: names of values have no digits."""
    return str(number).translate(str.maketrans("0123456789", "abcdefghij"))


def _add(
    lines: dict[tuple[str, str, str, int], Totals], key: tuple[str, str, str, int], more: Totals
) -> None:
    before = lines.get(key)
    if before is None:
        lines[key] = more
        return
    pairs = zip(msgspec.structs.astuple(before), msgspec.structs.astuple(more), strict=True)
    lines[key] = Totals(*(one + other for one, other in pairs))
