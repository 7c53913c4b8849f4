"""Money on its way between two accounts of the books: the noun of double entry, and how accounts are named.

The ledger makes transfers of usage itself; control posts the others (top-ups, packages, credits,
adjustments). Every amount stands once on the debit side of one account and once on the credit side of
another, so the sums of both sides are equal at any moment.
Neighbours: `ledger_wire.py` carries them, `sextant.store.books` posts them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

TransferKind = Literal[
    "usage", "expiry", "top-up", "package", "discount", "credit", "payment", "refund", "adjustment"
]
"""`usage` and `expiry` are made by the ledger alone. `package` and `discount` are the two parts of a package
sold below its face value; `payment` settles a receivable; `refund` pays a balance out."""

CASH = "cash"
REVENUE = "revenue"
DISCOUNT = "discount"
"""Debited with what packages were sold below their face value."""
CREDIT = "credit"
"""Debited with what was given without money: for a broken promise of availability, or as goodwill."""
EXPIRED = "expired"
"""Credited with what was left in packages when they expired."""


class Transfer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One double entry; never changed once it is in the books. `amount_nano` is above 0."""

    id: str
    """Unique for ever: the same transfer sent twice counts once."""
    kind: TransferKind
    debit: str
    credit: str
    amount_nano: int
    currency: str
    at_ms: int
    request_id: str = ""
    note: str = ""
    expires_ms: int = 0
    """When the credited package expires (Unix milliseconds); 0 for every other account."""


def prepaid_account(tenant_id: str) -> str:
    """Where a tenant's balance stands: what it has paid in and not used."""
    return f"tenant:{tenant_id}:prepaid"


def receivable_account(tenant_id: str) -> str:
    """What a postpaid tenant owes."""
    return f"tenant:{tenant_id}:receivable"


def package_account(tenant_id: str, package_id: str) -> str:
    """What is left of one package of a tenant."""
    return f"tenant:{tenant_id}:package:{package_id}"
