"""What a site has used, taken into the centre's books: its rows as they are, and usage of tenants here.

One transaction keeps the site's rows in `site_usage`, books those whose tenant is known with the site's own
amounts, and moves the site's end. A row that has come before changes nothing. Here it has the id
`SITE/REQUEST`, so that no site's ids meet another's, and the key `SITE/KEY`; its project is the site's
business.
Neighbours: `books_keeper.py` (usage), `ledger_file.py` and `ledger_postgres.py` (the transactions),
`sextant.control.sites` (who may send).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Protocol

import msgspec

from sextant.spec.ledger_wire import Delivery
from sextant.spec.policy import Billing
from sextant.spec.sites import SiteAnswer, SiteRow
from sextant.spec.transfer import REVENUE
from sextant.spec.usage import UsageRow
from sextant.store.books import BadRows, Rates, Terms
from sextant.store.books_keeper import Transaction, keep_rows

CLOCK_AHEAD_MS = 300_000
CLOCK_BEHIND_MS = 400 * 86_400_000
"""A row whose time at the site is further than this from its arrival is booked at its arrival: the site's
clock was wrong. Its own time stays in `site_usage`."""

REVENUE_ROOM_NANO = 2**62
TOKENS_ROOM = 2**62
"""What sites may bring a sum of the books to. It is half of what a column holds: a site that sends nonsense,
or somebody with its credential, must not keep us from booking our own rows."""

CONTENT = tuple(
    field.name for field in msgspec.structs.fields(SiteRow) if field.name not in ("number", "request_id")
)
"""What makes two rows with one id the same: everything but their place in the site's order."""


class KnownRow(msgspec.Struct, frozen=True):
    """A row of the site that is here: whose usage it was booked as, empty for nobody's yet; its content."""

    booked_tenant_id: str
    content: tuple[Any, ...]


class SiteEnd(msgspec.Struct, frozen=True):
    """The last row of a site up to which all are here."""

    number: int = 0
    request_id: str = ""


class SiteChanges(msgspec.Struct):
    """What a delivery writes: whole rows of `site_usage`; (tenant, site, request) of rows that waited for a
    tenant; rows of `site_end`."""

    fresh: list[tuple[Any, ...]] = []
    released: list[tuple[str, str, str]] = []
    ends: list[tuple[str, int, str, int]] = []


class SiteTransaction(Transaction, Protocol):
    """What a database does besides, inside one transaction."""

    def site_rows(self, site_id: str, request_ids: Collection[str]) -> dict[str, KnownRow]: ...

    def site_end(self, site_id: str) -> SiteEnd: ...

    def write_site(self, changes: SiteChanges) -> None: ...


class _Amount(msgspec.Struct, frozen=True):
    cost_nano: int
    list_nano: int
    currency: str


class _AmountsAsSent:
    """The rates of a policy, but for rows of a site, which cost what the site says."""

    def __init__(self, rates: Rates, amounts: dict[str, _Amount]) -> None:
        self.version = rates.version
        self._rates = rates
        self._amounts = amounts

    def rate(self, row: UsageRow, month_tokens_before: int) -> _Amount:
        return self._amounts[row.request_id]

    def day_and_month(self, tenant_id: str, at_ms: int) -> tuple[int, int]:
        return self._rates.day_and_month(tenant_id, at_ms)

    def currency(self, tenant_id: str) -> str:
        return self._rates.currency(tenant_id)

    def billing(self, tenant_id: str) -> Billing:
        return self._rates.billing(tenant_id)


def keep_delivery(tx: SiteTransaction, delivery: Delivery, terms: Terms) -> SiteAnswer:
    """Keeps the rows of `delivery` that are new, and books those that have a tenant here. Nothing changes
    when they do not follow on what is here. Raises BadRows."""
    site_id = delivery.site_id
    end = tx.site_end(site_id)
    if delivery.follows and delivery.after_id and not tx.site_rows(site_id, [delivery.after_id]):
        return SiteAnswer(end.number, end.request_id)
    known = tx.site_rows(site_id, [row.request_id for row in delivery.rows])
    changes, booked, counts = SiteChanges(), [], {"booked": 0, "held": 0, "known": 0, "differing": 0}
    for row in delivery.rows:
        tenant_id = delivery.tenants.get(row.tenant_id, "")
        before = known.get(row.request_id)
        if before is None:
            known[row.request_id] = KnownRow(tenant_id, _content(row))
            changes.fresh.append(_stored(row, delivery, tenant_id))
            counts["booked" if tenant_id else "held"] += 1
        elif before.content != _content(row):
            counts["differing"] += 1
            continue
        elif tenant_id and not before.booked_tenant_id:
            known[row.request_id] = KnownRow(tenant_id, before.content)
            changes.released.append((tenant_id, site_id, row.request_id))
            counts["booked"] += 1
        else:
            counts["known"] += 1
            continue
        if tenant_id:
            booked.append((row, tenant_id))
    if delivery.follows and delivery.rows:
        last = delivery.rows[-1]
        end = SiteEnd(last.number, last.request_id)
        changes.ends.append((site_id, end.number, end.request_id, delivery.arrived_ms))
    tx.write_site(changes)
    _book(tx, delivery, booked, terms)
    return SiteAnswer(end.number, end.request_id, **counts)


def _book(
    tx: SiteTransaction, delivery: Delivery, booked: Iterable[tuple[SiteRow, str]], terms: Terms
) -> None:
    rows, amounts = [], {}
    for row, tenant_id in booked:
        usage = _usage(row, tenant_id, delivery)
        rows.append(usage)
        amounts[usage.request_id] = _Amount(row.cost_nano, row.list_nano, row.currency)
    if rows:
        _check_room(tx, amounts.values())
        for standing in keep_rows(tx, rows, Terms(_AmountsAsSent(terms.rates, amounts), terms.now_us)):
            if standing.month_tokens > TOKENS_ROOM:
                raise BadRows(f"{standing.scope} would have {standing.month_tokens} tokens in a month")


def _check_room(tx: SiteTransaction, amounts: Iterable[_Amount]) -> None:
    """Every amount ends in the house's revenue, so that no sum of the books is above that. Raises BadRows."""
    revenue_nano: dict[str, int] = {}
    for account in tx.accounts((), also=(REVENUE,)):
        if account.id == REVENUE:
            revenue_nano[account.currency] = account.credits_nano
    for amount in amounts:
        revenue_nano[amount.currency] = revenue_nano.get(amount.currency, 0) + amount.cost_nano
        if amount.cost_nano and revenue_nano[amount.currency] > REVENUE_ROOM_NANO:
            raise BadRows(f"the revenue in {amount.currency} would pass {REVENUE_ROOM_NANO} billionths")


def _usage(row: SiteRow, tenant_id: str, delivery: Delivery) -> UsageRow:
    """`row` as usage of a tenant here."""
    arrived_ms, site_id = delivery.arrived_ms, delivery.site_id
    trusted = arrived_ms - CLOCK_BEHIND_MS <= row.started_ms <= arrived_ms + CLOCK_AHEAD_MS
    return UsageRow(
        request_id=f"{site_id}/{row.request_id}",
        tenant_id=tenant_id,
        project_id="",
        key_id=f"{site_id}/{row.key_id}" if row.key_id else "",
        model=row.model,
        endpoint=row.endpoint,
        outcome=row.outcome,
        started_ms=row.started_ms if trusted else arrived_ms,
        duration_ms=row.duration_ms,
        ttft_ms=row.ttft_ms,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        reasoning_tokens=row.reasoning_tokens,
        estimated=row.estimated,
    )


def _content(row: SiteRow) -> tuple[Any, ...]:
    return tuple(int(value) if value is True or value is False else value for value in _values(row))


def _values(row: SiteRow) -> Iterable[Any]:
    return (getattr(row, name) for name in CONTENT)


def _stored(row: SiteRow, delivery: Delivery, tenant_id: str) -> tuple[Any, ...]:
    """As the table `site_usage` has it."""
    ids = (delivery.site_id, row.request_id)
    return (*ids, *_content(row), row.number, delivery.arrived_ms, tenant_id)
