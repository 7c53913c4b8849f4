"""The ledger as an outbox: rated rows in the order in which they were kept, read and never written.

The ledger process numbers rows where a centre is configured (`--numbered`). The numbers of one file have no
gaps, so what waits is counted, not searched. Neighbours: `forwarding.py` (who reads here).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from sextant.spec.sites import SiteRow
from sextant.store.ledger_reading import LedgerView, ledger_view

_OWN = ("number", "policy_version")
_COLUMNS = ", ".join(
    f"{'usage_order' if field.name in _OWN else 'usage'}.{field.name}"
    for field in msgspec.structs.fields(SiteRow)
)
_NEXT = (
    f"SELECT {_COLUMNS} FROM usage_order JOIN usage ON usage.request_id = usage_order.request_id "
    "WHERE number > :after ORDER BY number LIMIT :most"
)


class Place(msgspec.Struct, frozen=True):
    """A place in the order: a row's number and its request id; 0 and empty before the first."""

    number: int = 0
    request_id: str = ""


START = Place()


class Waiting(msgspec.Struct, frozen=True):
    """What waits to be sent: rows, and when the first of them began (Unix milliseconds; 0 for none)."""

    rows: int
    since_ms: int


class Outbox:
    """One ledger file. Every call is one consistent look; each raises Misconfigured while there is none."""

    def __init__(self, ledger_db: Path) -> None:
        self._ledger_db = ledger_db

    def after(self, place: Place, most: int) -> list[SiteRow]:
        """The rows that follow on `place`, at most so many."""
        with ledger_view(self._ledger_db) as view:
            found = view.query(_NEXT, after=place.number, most=most)
        return [_row(values) for values in found]

    def has(self, place: Place) -> bool:
        """Whether the order has this row in this place: it has not after a restore of an older file."""
        with ledger_view(self._ledger_db) as view:
            return not place.number or _id_at(view, place.number) == place.request_id

    def waiting(self, place: Place) -> Waiting:
        """What follows on `place`."""
        with ledger_view(self._ledger_db) as view:
            last = view.query("SELECT coalesce(max(number), 0) FROM usage_order")[0][0]
            if last <= place.number:
                return Waiting(0, 0)
            since = view.query(
                "SELECT started_ms FROM usage WHERE request_id = :id", id=_id_at(view, place.number + 1)
            )
            return Waiting(last - place.number, since[0][0])


def _row(values: tuple[Any, ...]) -> SiteRow:
    """As it is, unchecked: what the centre cannot take it refuses, and that is shown."""
    named = dict(zip(SiteRow.__struct_fields__, values, strict=True))
    return SiteRow(**{**named, "estimated": bool(named["estimated"])})


def _id_at(view: LedgerView, number: int) -> str:
    found = view.query("SELECT request_id FROM usage_order WHERE number = :number", number=number)
    return str(found[0][0]) if found else ""
