"""A site's usage in the centre's books, in both databases: each row once, in its order, with its amounts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from ledger_under_test import FlatRates, row
from sextant.base.errors import BadRequest
from sextant.spec.ledger_wire import Delivery
from sextant.spec.sites import AMOUNT_NANO_MAX, COUNT_MAX, SiteAnswer, SiteRow
from sextant.store import books_sites
from sextant.store.ledger import Ledger
from sextant.store.ledger_check import check_books
from sextant.store.ledger_file import LedgerFile
from sextant.store.ledger_reading import ledger_view

RATES = FlatRates(7)
ARRIVED_MS = 1_795_000_100_000
PLANTS = {"default": "plants"}


def site_row(number: int, **changes: Any) -> SiteRow:
    plain = SiteRow(
        number, f"r{number}", "default", "default.default", "key_a", "nano", "chat.completions", "ok",
        1_795_000_000_000 + number, 1200, 80, 100, 20, 64, 5, False, 1000 + number, 2000 + number, "CNY", 3,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


def delivery(*rows: SiteRow, after: str = "", **changes: Any) -> Delivery:
    plain = Delivery("shanghai", ARRIVED_MS, after, list(rows), PLANTS)
    return msgspec.structs.replace(plain, **changes)


class Books:
    """A ledger in one of the databases, and what is in it."""

    def __init__(self, ledger: Ledger, where: str) -> None:
        self.ledger, self.where = ledger, where

    def deliver(self, *rows: SiteRow, after: str = "", **changes: Any) -> SiteAnswer:
        return self.ledger.deliver(delivery(*rows, after=after, **changes), RATES)

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        with ledger_view(self.where) as view:
            return view.query(sql)


@pytest.fixture(params=["sqlite", "postgres"])
def books(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Books]:
    if request.param == "sqlite":
        where = str(tmp_path / "ledger.db")
        ledger: Ledger = LedgerFile(where)
    else:
        from sextant.store.ledger_postgres import LedgerDatabase

        where = request.getfixturevalue("database")
        ledger = LedgerDatabase(where)
    yield Books(ledger, where)
    ledger.close()
    assert check_books(where) == []


def test_rows_are_booked_with_the_sites_own_amounts_once(books: Books) -> None:
    rows = [site_row(number) for number in range(1, 6)]
    assert books.deliver(*rows) == SiteAnswer(5, "r5", booked=5)
    assert books.deliver(*rows) == SiteAnswer(5, "r5", known=5)
    assert books.deliver(*rows[3:], site_row(6), after="r3") == SiteAnswer(6, "r6", booked=1, known=2)
    found = books.all("SELECT request_id, tenant_id, key_id, cost_nano, list_nano FROM usage ORDER BY 1")
    assert found == [(f"shanghai/r{n}", "plants", "shanghai/key_a", 1000 + n, 2000 + n) for n in range(1, 7)]
    assert books.all("SELECT sum(amount_nano) FROM transfer") == [(sum(1000 + n for n in range(1, 7)),)]
    kept = books.all("SELECT project_id, policy_version, arrived_ms FROM site_usage WHERE number = 1")
    assert kept == [("default.default", 3, ARRIVED_MS)]


def test_rows_that_do_not_follow_change_nothing_and_the_answer_says_from_where(books: Books) -> None:
    books.deliver(site_row(1))
    assert books.deliver(site_row(3), after="r2") == SiteAnswer(1, "r1")
    assert books.all("SELECT count(*) FROM site_usage") == [(1,)]
    assert books.deliver() == SiteAnswer(1, "r1")


def test_a_tenant_that_nobody_knows_is_held_and_booked_later(books: Books) -> None:
    stranger = site_row(2, tenant_id="stranger")
    assert books.deliver(site_row(1), stranger) == SiteAnswer(2, "r2", booked=1, held=1)
    assert books.all("SELECT count(*) FROM usage") == [(1,)]
    known = {**PLANTS, "stranger": "guests"}
    assert books.deliver(stranger, tenants=known, follows=False) == SiteAnswer(2, "r2", booked=1)
    assert books.deliver(stranger, tenants=known, follows=False) == SiteAnswer(2, "r2", known=1)
    assert books.all("SELECT cost_nano FROM usage WHERE tenant_id = 'guests'") == [(1002,)]


def test_one_id_with_two_contents_keeps_the_first_and_is_told(books: Books) -> None:
    books.deliver(site_row(1))
    changed = site_row(1, cost_nano=5)
    assert books.deliver(changed) == SiteAnswer(1, "r1", differing=1)
    assert books.all("SELECT cost_nano FROM site_usage") == [(1001,)]


def test_two_sites_with_the_same_ids_do_not_meet(books: Books) -> None:
    books.deliver(site_row(1))
    assert books.deliver(site_row(1), site_id="beijing") == SiteAnswer(1, "r1", booked=1)
    assert books.all("SELECT count(*) FROM usage") == [(2,)]


def test_a_clock_that_is_far_off_books_at_the_arrival(books: Books) -> None:
    books.deliver(site_row(1, started_ms=5_000), site_row(2, started_ms=ARRIVED_MS + 10**9))
    assert books.all("SELECT DISTINCT started_ms FROM usage") == [(ARRIVED_MS,)]
    assert books.all("SELECT started_ms FROM site_usage ORDER BY 1") == [(5_000,), (ARRIVED_MS + 10**9,)]


def test_a_count_that_no_book_can_hold_is_refused_whole(books: Books) -> None:
    with pytest.raises(BadRequest, match="cannot hold"):
        books.deliver(site_row(1), site_row(2, input_tokens=2**41))
    assert books.all("SELECT count(*) FROM site_usage") == [(0,)]


@pytest.mark.parametrize("size", [{"cost_nano": AMOUNT_NANO_MAX // 4 - 1}, {"input_tokens": COUNT_MAX}])
def test_a_site_whose_credential_was_stolen_cannot_fill_the_books_for_everybody(
    books: Books, size: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all sites bring together ends where there is as much room again for rows of our own."""
    monkeypatch.setattr(books_sites, "TOKENS_ROOM", 20 * COUNT_MAX)
    after, number = "", 0
    with pytest.raises(BadRequest, match="cannot hold"):
        for number in range(1, 40):
            after = books.deliver(site_row(number, **size), after=after).through_id
    assert 2 < number < 40
    mine = row("mine", tenant_id="plants", input_tokens=10, output_tokens=5)
    books.ledger.append([mine], RATES)
    assert books.all("SELECT count(*) FROM usage WHERE request_id = 'mine'") == [(1,)]
    assert books.deliver(site_row(number, cost_nano=0), after=after).booked == 1


def test_any_way_of_sending_again_ends_with_every_row_once(books: Books) -> None:
    """Acknowledgements lost and cursors gone back, as a seed says: the sums are those of the rows."""
    chance = random.Random(20261122)
    rows = [site_row(number) for number in range(1, 61)]
    at = 0
    while at < len(rows):
        size = chance.randint(1, 9)
        books.deliver(*rows[at : at + size], after=rows[at - 1].request_id if at else "")
        at = chance.choice((at + size, at + size, at, max(0, at - 7)))
    expected = [(one.request_id, one.cost_nano) for one in rows]
    assert sorted(books.all("SELECT request_id, cost_nano FROM site_usage")) == sorted(expected)
    assert books.all("SELECT count(*), sum(cost_nano) FROM usage") == [(60, sum(c for _, c in expected))]


def test_a_numbered_ledger_keeps_the_order_of_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    plain = LedgerFile(path)
    plain.append([row("b", started_ms=2_000), row("a", started_ms=1_000)], RATES)
    plain.close()
    for _ in range(2):
        numbered = LedgerFile(path, numbered=True)
        numbered.append([row("z", started_ms=500), row("b", started_ms=2_000)], RATES)
        numbered.close()
    plain = LedgerFile(path)
    plain.append([row("y")], RATES)
    plain.close()
    LedgerFile(path, numbered=True).close()
    db = apsw.Connection(str(path))
    order = list(db.execute("SELECT number, request_id FROM usage_order ORDER BY number"))
    assert order == [(1, "a"), (2, "b"), (3, "z"), (4, "y")]
    db.close()
