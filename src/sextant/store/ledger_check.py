"""Are the books right? Everything that is kept as a sum is added up again from rows and transfers.

`sextant db check` calls it. It reads one moment of a ledger file or a PostgreSQL database, also of a running
one; a difference means that something else than Sextant wrote, or a defect.
Neighbours: `ledger_schema.py` (what is a sum of what), `upgrade_check.py` (whether the files are sound).
"""

from __future__ import annotations

import os

from sextant.store.books import DAY_SUMS
from sextant.store.ledger_reading import LedgerView, ledger_view

FAULTS_MAX = 20
"""Differences told of each kind."""

_DAY_KEY = "tenant_id, month, day, project_id, key_id, model, currency"
_COUNTED = "CASE WHEN outcome IN ('engine_error', 'refused') THEN 0 ELSE input_tokens + output_tokens END"
_SCOPED = "".join(
    f"{union}SELECT '{kind}:' || {kind}_id AS scope, day, month, counted_tokens, cost_nano FROM usage_day "
    f"WHERE {kind}_id <> ''"
    for union, kind in (("", "tenant"), (" UNION ALL ", "project"), (" UNION ALL ", "key"))
)

_SUMS = (
    (
        f"usage_day ({_DAY_KEY}, {', '.join(DAY_SUMS)})",
        f"SELECT {_DAY_KEY}, {', '.join(DAY_SUMS)} FROM usage_day",
        f"SELECT {_DAY_KEY}, count(*), sum(CASE WHEN outcome = 'engine_error' THEN 1 ELSE 0 END), "
        "sum(CASE WHEN outcome = 'refused' THEN 1 ELSE 0 END), sum(estimated), sum(input_tokens), "
        "sum(output_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost_nano), sum(list_nano), "
        f"sum({_COUNTED}) FROM usage GROUP BY {_DAY_KEY}",
    ),
    (
        "the cost of a request and its transfers (request, currency, amount)",
        "SELECT request_id, currency, cost_nano FROM usage WHERE cost_nano <> 0",
        "SELECT request_id, currency, sum(amount_nano) FROM transfer WHERE kind = 'usage' "
        "GROUP BY request_id, currency",
    ),
    (
        "usage_paid (tenant, month, debit, currency, amount)",
        "SELECT tenant_id, month, debit, currency, amount_nano FROM usage_paid",
        "SELECT tenant_id, month, debit, transfer.currency, sum(amount_nano) "
        "FROM transfer JOIN usage ON usage.request_id = transfer.request_id WHERE kind = 'usage' "
        "GROUP BY tenant_id, month, debit, transfer.currency",
    ),
    (
        "account (id, currency, debits, credits)",
        "SELECT id, currency, debits_nano, credits_nano FROM account",
        "SELECT id, currency, sum(debit_nano), sum(credit_nano) FROM ("
        "SELECT debit AS id, currency, amount_nano AS debit_nano, 0 AS credit_nano FROM transfer UNION ALL "
        "SELECT credit, currency, 0, amount_nano FROM transfer) AS sides GROUP BY id, currency",
    ),
    (
        "standing (scope, day's tokens, month's tokens, month's cost)",
        "SELECT scope, day_tokens, month_tokens, month_nano FROM standing",
        f"WITH scoped AS ({_SCOPED}), scopes AS (SELECT scope FROM standing UNION SELECT scope FROM scoped) "
        "SELECT scopes.scope, coalesce(sum(CASE WHEN scoped.day = standing.day THEN counted_tokens END), 0), "
        "coalesce(sum(CASE WHEN scoped.month = standing.month THEN counted_tokens END), 0), "
        "coalesce(sum(CASE WHEN scoped.month = standing.month THEN cost_nano END), 0) "
        "FROM scopes LEFT JOIN standing ON standing.scope = scopes.scope "
        "LEFT JOIN scoped ON scoped.scope = scopes.scope GROUP BY scopes.scope",
    ),
)
"""What is kept, the query for it, and the query that adds it up again."""


def check_books(where: str | os.PathLike[str]) -> list[str]:
    """Every difference, in words, between what the books at `where` (a ledger file, or the URL of a
    PostgreSQL database) keep as sums and what their rows and transfers add up to; none: they are right.
    Raises Misconfigured or LedgerUnavailable when they cannot be read."""
    with ledger_view(where) as view:
        faults = [fault for check in _SUMS for fault in _differences(view, *check)]
        return faults + _wrong_funds(view)


def _differences(view: LedgerView, what: str, kept: str, again: str) -> list[str]:
    told = []
    for one, other, verdict in ((kept, again, "is kept and does not add up"), (again, kept, "is missing")):
        found = view.query(
            f"SELECT * FROM ({one}) AS a EXCEPT SELECT * FROM ({other}) AS b LIMIT {FAULTS_MAX}"
        )
        told += [f"{what}: {values} {verdict}" for values in found]
    return told


def _wrong_funds(view: LedgerView) -> list[str]:
    """Tenants whose funds are not the prepaid balance and the live packages of any of their currencies."""
    accounts: dict[str, dict[str, list[tuple[str, int, int]]]] = {}
    for name, currency, tenant_id, expires_ms, left_nano in view.query(
        "SELECT id, currency, tenant_id, expires_ms, credits_nano - debits_nano FROM account "
        "WHERE tenant_id <> ''"
    ):
        mine = accounts.setdefault(f"tenant:{tenant_id}", {}).setdefault(currency, [])
        mine.append((name, expires_ms, left_nano))
    told = []
    for scope, funds_nano, until_ms in view.query(
        "SELECT scope, funds_nano, funds_until_ms FROM standing WHERE scope LIKE 'tenant:%'"
    ):
        sums = {
            sum(
                left_nano
                for name, expires_ms, left_nano in mine
                if name.endswith(":prepaid") or (left_nano > 0 and expires_ms >= until_ms > 0)
            )
            for mine in accounts.get(scope, {"": []}).values()
        }
        if funds_nano not in sums:
            told.append(f"standing: {scope} has funds of {funds_nano}, its accounts {sorted(sums)}")
    return told[:FAULTS_MAX]
