"""What a tenant has and owes, read out of the books. Never a write.

Neighbours: `ledger_reading.py` (the view), `sextant.spec.transfer` (how accounts are named).
"""

from __future__ import annotations

import msgspec

from sextant.spec.transfer import package_account, prepaid_account, receivable_account
from sextant.store.ledger_reading import LedgerView


class PackageLeft(msgspec.Struct, frozen=True):
    """A prepaid package; `face_nano` is what it gave, `left_nano` what is left of it until
    `expires_ms`."""

    id: str
    currency: str
    face_nano: int
    left_nano: int
    expires_ms: int


class Balance(msgspec.Struct, frozen=True):
    """A tenant's money in its currency. `funds_nano` is the balance and what is left of packages that have
    not expired; `receivable_nano` is what it owes."""

    prepaid_nano: int
    receivable_nano: int
    funds_nano: int
    packages: tuple[PackageLeft, ...]


def balance_of(view: LedgerView, tenant_id: str, currency: str, *, now_ms: int) -> Balance:
    """The balance as of `now_ms`; zeros for a tenant that the books do not know."""
    prepaid_nano = receivable_nano = 0
    packages: list[PackageLeft] = []
    prefix = package_account(tenant_id, "")
    for account, expires_ms, debits_nano, credits_nano in view.query(
        "SELECT id, expires_ms, debits_nano, credits_nano FROM account "
        "WHERE tenant_id = :tenant AND currency = :currency ORDER BY expires_ms, id",
        tenant=tenant_id,
        currency=currency,
    ):
        left_nano = credits_nano - debits_nano
        if account == prepaid_account(tenant_id):
            prepaid_nano = left_nano
        elif account == receivable_account(tenant_id):
            receivable_nano = -left_nano
        elif account.startswith(prefix):
            package_id = account.removeprefix(prefix)
            packages.append(PackageLeft(package_id, currency, credits_nano, left_nano, expires_ms))
    usable_nano = sum(one.left_nano for one in packages if one.expires_ms > now_ms)
    return Balance(prepaid_nano, receivable_nano, prepaid_nano + usable_nano, tuple(packages))


def currencies_of(view: LedgerView, tenant_id: str) -> frozenset[str]:
    """The currencies in which a tenant has ever paid, been given or owed anything."""
    rows = view.query("SELECT DISTINCT currency FROM account WHERE tenant_id = :tenant", tenant=tenant_id)
    return frozenset(row[0] for row in rows)
