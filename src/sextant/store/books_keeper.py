"""One transaction on the books: what is known is read, `books` decides what follows, that is written.

Flow 1 (serve), at its end: `ledger -> ledger_file | ledger_postgres -> here -> books`. The transaction
itself, its locks and its end are the caller's, so that one description serves both databases.
Neighbours: `books.py` (decides), `ledger_file.py` and `ledger_postgres.py` (the transactions).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from sextant.base.errors import BadRequest
from sextant.spec.policy import Standing
from sextant.spec.transfer import Transfer
from sextant.spec.usage import UsageRow
from sextant.store.books import (
    Account,
    Changes,
    Purses,
    Terms,
    checked,
    counted,
    next_version,
    rate_rows,
    same_transfer,
    scopes_of,
    tenant_of,
    unknown,
)


class Transaction(Protocol):
    """What a database does inside one transaction. Nobody else changes a scope between `standings` and the
    transaction's end, nor the accounts and rows of its tenant."""

    def standings(self, scopes: Collection[str], *, make: bool) -> dict[str, Standing]:
        """Those that are known, held for this transaction; with `make` unknown ones are held too."""

    def known_requests(self, request_ids: Sequence[str]) -> set[str]: ...

    def month_tokens(self, tenant_id: str, month: int) -> int: ...

    def accounts(self, tenant_ids: Collection[str], *, also: Collection[str] = ()) -> list[Account]:
        """Of these tenants, but for packages that are used up; and those named in `also`."""

    def known_transfers(self, transfer_ids: Sequence[str]) -> dict[str, Transfer]: ...

    def write(self, changes: Changes) -> None: ...


def keep_rows(tx: Transaction, rows: Sequence[UsageRow], terms: Terms) -> list[Standing]:
    """Keeps the rows whose request ids are new, each once, with what they cost. Returns the standings of all
    scopes that `rows` touch, known rows included. Raises BadRows."""
    scopes = scopes_of(rows)
    standings = tx.standings(scopes, make=True)
    known = tx.known_requests([row.request_id for row in rows])
    fresh: dict[str, UsageRow] = {}
    for row in rows:
        if row.request_id not in known:
            fresh.setdefault(row.request_id, row)
    if fresh:

        def month_tokens(tenant_id: str, month: int) -> int:
            standing = standings.get(f"tenant:{tenant_id}")
            if standing is None or month > standing.month:
                return 0
            return standing.month_tokens if month == standing.month else tx.month_tokens(tenant_id, month)

        rated = rate_rows(fresh.values(), terms.rates, month_tokens)
        changes = Changes(usage=rated.usage, days=rated.days)
        after = counted(standings, rated.days, terms.now_us)
        if rated.charges:
            tenants = {charge.row.tenant_id for charge in rated.charges}
            purses = Purses(tx.accounts(tenants))
            purses.charge(rated.charges, terms)
            after |= _close(purses, after, tenants, terms)
            changes.transfers, changes.accounts = purses.transfers, purses.changes()
            changes.paid = purses.paid
        changes.standings = [after[scope] for scope in sorted(after)]
        tx.write(changes)
        standings = standings | after
    return [standings.get(scope) or unknown(scope) for scope in scopes]


def keep_transfers(tx: Transaction, transfers: Sequence[Transfer], terms: Terms) -> list[Standing]:
    """Keeps the transfers whose ids are new, all or none. Returns the standings of the tenants that they
    touch. Raises BadRequest for one that cannot be posted, or whose id is another's."""
    sides = {side for transfer in transfers for side in (checked(transfer).debit, transfer.credit)}
    tenants = {tenant_of(side) for side in sides} - {""}
    scopes = [f"tenant:{tenant_id}" for tenant_id in tenants]
    standings = {scope: unknown(scope) for scope in scopes} | tx.standings(scopes, make=True)
    known = tx.known_transfers([transfer.id for transfer in transfers])
    purses = Purses(tx.accounts(tenants, also=sides))
    for transfer in transfers:
        before = known.setdefault(transfer.id, transfer)
        if before is transfer:
            purses.post(transfer)
        elif not same_transfer(before, transfer):
            raise BadRequest(f"the id {transfer.id} is that of another transfer; give this one its own")
    if purses.transfers:
        after = _close(purses, standings, tenants, terms)
        standings = {
            scope: msgspec.structs.replace(standing, version=next_version(standings[scope], terms.now_us))
            for scope, standing in after.items()
        }
        tx.write(
            Changes(
                standings=[standings[scope] for scope in sorted(standings)],
                transfers=purses.transfers,
                accounts=purses.changes(),
            )
        )
    return list(standings.values())


def ask(tx: Transaction, scopes: Collection[str], terms: Terms) -> list[Standing]:
    """The present standings of `scopes`. A package that has expired since shows here first."""
    standings = tx.standings(scopes, make=False)
    tenants = [scope.partition(":")[2] for scope in standings if scope.startswith("tenant:")]
    if tenants:
        purses = Purses(tx.accounts(tenants))
        changed = []
        for scope, standing in _close(purses, standings, tenants, terms).items():
            if standing != standings[scope]:
                version = next_version(standing, terms.now_us)
                standings[scope] = msgspec.structs.replace(standing, version=version)
                changed.append(standings[scope])
        if changed or purses.transfers:
            changed.sort(key=lambda standing: standing.scope)
            tx.write(Changes(standings=changed, transfers=purses.transfers, accounts=purses.changes()))
    return [standings.get(scope) or unknown(scope) for scope in scopes]


def _close(
    purses: Purses, standings: Mapping[str, Standing], tenants: Iterable[str], terms: Terms
) -> dict[str, Standing]:
    """Writes off what has expired. Returns the standings of `tenants` with the funds that are left."""
    after = {}
    now_ms = terms.now_us // 1000
    for tenant_id in tenants:
        purses.expire(tenant_id, now_ms)
        funds_nano, until_ms = purses.funds(tenant_id, terms.rates.currency(tenant_id), now_ms)
        scope = f"tenant:{tenant_id}"
        after[scope] = msgspec.structs.replace(
            standings[scope], funds_nano=funds_nano, funds_until_ms=until_ms
        )
    return after
