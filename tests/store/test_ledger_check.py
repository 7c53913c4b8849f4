"""Checking the books on both databases: nothing is told of right ones, every kind of wrong sum is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from ledger_under_test import FlatRates, row
from sextant.base.errors import LedgerUnavailable, Misconfigured
from sextant.spec.transfer import Transfer, package_account, prepaid_account
from sextant.store.ledger_check import check_books
from sextant.store.ledger_file import LedgerFile
from sextant.store.ledger_postgres import LedgerDatabase, connected

NOW_MS = 1_795_000_000_000


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Books with some of everything in them."""
    server = request.param == "postgresql"
    place = str(request.getfixturevalue("database")) if server else str(tmp_path / "ledger.db")
    ledger = LedgerDatabase(place) if server else LedgerFile(place)
    rates = FlatRates(3, {"t2": "postpaid", "t3": "free"}, halved_after=900)
    for tenant in ("t0", "t1"):
        account = package_account(tenant, "p")
        ledger.post(
            [
                Transfer(f"{tenant}-top", "top-up", "cash", prepaid_account(tenant), 400, "CNY", NOW_MS),
                Transfer(
                    f"{tenant}-p", "package", "cash", account, 500, "CNY", NOW_MS, expires_ms=2 * NOW_MS
                ),
            ],
            rates,
        )
    outcomes = ("ok", "client_closed", "engine_error", "refused", "ok")
    for number in range(60):
        usage = row(
            f"r{number}",
            tenant_id=f"t{number % 4}",
            project_id=f"p{number % 3}" if number % 3 else "",
            key_id=f"k{number % 5}",
            started_ms=NOW_MS + number * 40_000_000 * (-1 if number % 7 == 0 else 1),
            outcome=outcomes[number % 5],
            estimated=number % 2 == 0,
        )
        ledger.append([usage], rates)
    ledger.close()
    return place


@pytest.fixture
def spoil(where: str) -> Iterator[Callable[[str], None]]:
    """Writes into the books behind Sextant's back."""

    def run(statement: str) -> None:
        if where.startswith("postgresql:"):
            with connected(where) as db:
                db.execute("ALTER TABLE usage DISABLE TRIGGER ALL; ALTER TABLE transfer DISABLE TRIGGER ALL")
                db.execute(statement.encode())
            return
        db = apsw.Connection(where)
        for trigger in ("usage_update", "usage_delete", "transfer_update", "transfer_delete"):
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute(statement)
        db.close()

    return run


def test_right_books_are_right(where: str) -> None:
    assert check_books(where) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE usage SET input_tokens = input_tokens + 1 WHERE request_id = 'r1'", "usage_day"),
        ("UPDATE usage SET outcome = 'engine_error' WHERE request_id = 'r4'", "usage_day"),
        ("DELETE FROM usage WHERE request_id = 'r1'", "cost of a request"),
        ("DELETE FROM transfer WHERE request_id = 'r1'", "cost of a request"),
        ("UPDATE transfer SET amount_nano = amount_nano + 1 WHERE id = 't0-top'", "account"),
        ("UPDATE account SET debits_nano = debits_nano - 1 WHERE id = 'cash'", "account"),
        ("INSERT INTO account VALUES ('tenant:x:prepaid', 'CNY', 'x', 0, 0, 5)", "account"),
        ("UPDATE usage_paid SET amount_nano = 1 WHERE tenant_id = 't1'", "usage_paid"),
        ("UPDATE standing SET day_tokens = day_tokens + 1 WHERE scope = 'key:k1'", "key:k1"),
        ("UPDATE standing SET month_nano = 0 WHERE scope = 'tenant:t2'", "tenant:t2"),
        ("DELETE FROM standing WHERE scope = 'project:p1'", "project:p1"),
        ("UPDATE standing SET funds_nano = funds_nano + 1 WHERE scope = 'tenant:t0'", "funds"),
        ("DELETE FROM usage_day WHERE tenant_id = 't3'", "is missing"),
    ],
)
def test_a_wrong_sum_is_told(where: str, spoil: Callable[[str], None], statement: str, found: str) -> None:
    spoil(statement)
    faults = check_books(where)
    assert any(found in fault for fault in faults), faults


def test_no_ledger_is_said(tmp_path: Path, database: str) -> None:
    with pytest.raises(Misconfigured, match="cannot read the ledger"):
        check_books(tmp_path / "ledger.db")
    with pytest.raises(Misconfigured, match="no ledger"):
        check_books(database)
    with pytest.raises(LedgerUnavailable, match="cannot read"):
        check_books("postgresql://nobody:x@127.0.0.1:1/none")
