"""The books on both databases: money, counts and standings stay exact, whatever is sent twice or out of
order."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import psycopg
import pytest

from ledger_under_test import FlatRates, row
from sextant.base.errors import BadRequest
from sextant.spec.policy import Standing
from sextant.spec.transfer import Transfer, package_account, prepaid_account, receivable_account
from sextant.store.books import EXPIRY_GRACE_MS, BadRows
from sextant.store.ledger import Ledger
from sextant.store.ledger_check import check_books
from sextant.store.ledger_file import LedgerFile
from sextant.store.ledger_postgres import LedgerDatabase

NOW_MS = 1_795_000_000_000
DAY_MS = 86_400_000
DAY, MONTH = 20261118, 202611
RATES = FlatRates(1)


class Books:
    """A ledger with a clock of the test's own, and SQL to look behind it."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.ledger: Ledger = self.opened()

    def opened(self) -> Ledger:
        """A further process on the same books."""
        on_server = self.where.startswith("postgresql:")
        return LedgerDatabase(self.where) if on_server else LedgerFile(self.where)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        if self.where.startswith("postgresql:"):
            with psycopg.connect(self.where, options="-c search_path=ledger") as db:
                found = db.execute(query)
                return found.fetchall() if found.description else []
        db = apsw.Connection(self.where)
        try:
            return list(db.execute(query))
        finally:
            db.close()

    def balances(self) -> dict[str, int]:
        """Credits less debits by account."""
        found = self.sql("SELECT id, credits_nano - debits_nano FROM account ORDER BY id")
        return {name: int(left) for name, left in found}

    def top_up(self, tenant_id: str, amount_nano: int, name: str) -> list[Standing]:
        transfer = Transfer(name, "top-up", "cash", prepaid_account(tenant_id), amount_nano, "CNY", NOW_MS)
        return self.ledger.post([transfer], RATES)


@pytest.fixture(params=["sqlite", "postgresql"])
def books(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Books]:
    server = request.param == "postgresql"
    made = Books(request.getfixturevalue("database") if server else str(tmp_path / "ledger.db"))
    yield made
    made.ledger.close()


def by_scope(standings: list[Standing]) -> dict[str, Standing]:
    return {standing.scope: standing for standing in standings}


def counts(standing: Standing) -> tuple[int, ...]:
    """All but scope and version."""
    return msgspec.structs.astuple(standing)[2:]


def package(name: str, face_nano: int, expires_ms: int) -> list[Transfer]:
    """Half paid, half discount."""
    account = package_account("a", name)
    half = face_nano // 2
    return [
        Transfer(f"{name}-paid", "package", "cash", account, half, "CNY", NOW_MS, expires_ms=expires_ms),
        Transfer(f"{name}-off", "discount", "discount", account, half, "CNY", NOW_MS, expires_ms=expires_ms),
    ]


def test_a_priced_row_moves_money_and_counts_for_its_tenant_project_and_key(books: Books) -> None:
    books.top_up("a", 1000, "t1")
    told = by_scope(books.ledger.append([row("r1", tenant_id="a", project_id="p", key_id="k")], RATES))
    assert set(told) == {"tenant:a", "project:p", "key:k"}
    assert counts(told["tenant:a"]) == (DAY, 120, MONTH, 120, 120, 880, 0)
    assert counts(told["key:k"]) == counts(told["project:p"]) == (DAY, 120, MONTH, 120, 120, 0, 0)
    assert books.balances() == {"cash": -1000, "revenue": 120, "tenant:a:prepaid": 880}
    assert books.sql(
        "SELECT id, kind, debit, credit, amount_nano, request_id FROM transfer WHERE id = 'r1'"
    ) == [("r1", "usage", "tenant:a:prepaid", "revenue", 120, "r1")]
    assert books.sql("SELECT cost_nano, list_nano, currency, day, month, estimated FROM usage") == [
        (120, 120, "CNY", DAY, MONTH, 0)
    ]


def test_a_row_sent_again_in_whatever_company_counts_once_and_tells_the_standing(books: Books) -> None:
    first = by_scope(books.ledger.append([row("r1", tenant_id="a")], RATES))
    again = by_scope(books.ledger.append([row("r1", tenant_id="a", input_tokens=7)], RATES))
    assert again == first, "what the books say now, unchanged"
    mixed = by_scope(
        books.ledger.append([row(name, tenant_id="a") for name in ("r2", "r1", "r2", "r3", "r2")], RATES)
    )
    assert mixed["tenant:a"].day_tokens == 3 * 120
    assert mixed["tenant:a"].version > first["tenant:a"].version
    assert books.sql("SELECT count(*) FROM usage") == books.sql("SELECT count(*) FROM transfer") == [(3,)]
    assert books.balances()["tenant:a:prepaid"] == -360, "owed: usage is never refused afterwards"


def test_free_and_postpaid_tenants(books: Books) -> None:
    rates = FlatRates(1, {"free": "free", "later": "postpaid"})
    told = by_scope(books.ledger.append([row("r1", tenant_id="free"), row("r2", tenant_id="later")], rates))
    assert counts(told["tenant:free"])[1:] == (120, MONTH, 120, 0, 0, 0)
    assert books.balances() == {"revenue": 120, receivable_account("later"): -120}


def test_what_failed_counts_in_the_days_but_against_no_limit(books: Books) -> None:
    rates = FlatRates(1, {"a": "free"})
    told = by_scope(
        books.ledger.append(
            [row("r1", tenant_id="a", outcome="engine_error"), row("r2", tenant_id="a", outcome="refused")],
            rates,
        )
    )
    assert counts(told["tenant:a"]) == (DAY, 0, MONTH, 0, 0, 0, 0)
    sums = books.sql("SELECT requests, errors, refused, input_tokens, counted_tokens FROM usage_day")
    assert sums == [(2, 1, 1, 200, 0)]


def test_packages_pay_first_soonest_to_expire_first_and_a_row_may_be_split(books: Books) -> None:
    now_ms = time.time_ns() // 1_000_000
    late, soon = now_ms + 9 * DAY_MS, now_ms + DAY_MS
    books.ledger.post([*package("late", 200, late), *package("soon", 100, soon)], RATES)
    (told,) = books.top_up("a", 1000, "t1")
    assert (told.funds_nano, told.funds_until_ms) == (1300, soon)
    usage = row("r1", tenant_id="a", started_ms=now_ms, input_tokens=400, output_tokens=0)
    tenant = by_scope(books.ledger.append([usage], RATES))["tenant:a"]
    assert (tenant.funds_nano, tenant.funds_until_ms) == (900, 0)
    used = books.sql("SELECT id, debit, amount_nano FROM transfer WHERE kind = 'usage' ORDER BY id")
    assert used == [
        ("r1", "tenant:a:package:soon", 100),
        ("r1:1", "tenant:a:package:late", 200),
        ("r1:2", "tenant:a:prepaid", 100),
    ]
    assert books.balances() == {
        "cash": -1150, "discount": -150, "revenue": 400,
        "tenant:a:package:late": 0, "tenant:a:package:soon": 0, "tenant:a:prepaid": 900,
    }  # fmt: skip
    paid = dict(books.sql("SELECT debit, amount_nano FROM usage_paid"))
    assert paid == {"tenant:a:package:soon": 100, "tenant:a:package:late": 200, "tenant:a:prepaid": 100}


def test_an_expired_package_leaves_the_funds_pays_what_began_before_and_is_written_off(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, NOW_MS)
    ends = NOW_MS + 1000
    (sold,) = books.ledger.post(package("p", 500, ends), RATES)
    assert (sold.funds_nano, sold.funds_until_ms) == (500, ends)
    clock.ms = ends
    (asked,) = books.ledger.ask(["tenant:a"], RATES)
    assert (asked.funds_nano, asked.funds_until_ms) == (0, 0)
    assert asked.version > sold.version, "so that gateways take it"
    assert books.ledger.ask(["tenant:a"], RATES) == [asked], "nothing changed since"
    before, after = (row(f"r{n}", tenant_id="a", started_ms=ends - 1 + n) for n in range(2))
    books.ledger.append([before, after], RATES)
    assert books.balances()["tenant:a:package:p"] == 380
    assert books.balances()["tenant:a:prepaid"] == -120
    clock.ms = ends + EXPIRY_GRACE_MS
    books.ledger.ask(["tenant:a"], RATES)
    assert books.balances()["tenant:a:package:p"] == 0
    assert books.balances()["expired"] == 380


def test_days_and_months_roll_over_and_late_rows_count_for_their_own(books: Books) -> None:
    rates = FlatRates(2, halved_after=100)
    december = NOW_MS + 20 * DAY_MS
    for number, (started_ms, tokens) in enumerate(((NOW_MS, 60), (december, 60), (NOW_MS, 60), (NOW_MS, 60))):
        one = row(f"r{number}", tenant_id="a", started_ms=started_ms, input_tokens=tokens, output_tokens=0)
        told = by_scope(books.ledger.append([one], rates))["tenant:a"]
    assert counts(told)[:5] == (20261208, 60, 202612, 60, 120)
    assert books.sql("SELECT request_id, cost_nano FROM usage ORDER BY 1") == [
        ("r0", 120), ("r1", 120), ("r2", 120), ("r3", 60),
    ], "the fourth comes after 120 tokens of November"  # fmt: skip
    one_batch = [
        row(f"s{n}", tenant_id="b", started_ms=NOW_MS, input_tokens=60, output_tokens=0) for n in range(3)
    ]
    books.ledger.append(one_batch, rates)
    assert books.sql("SELECT cost_nano FROM usage WHERE tenant_id = 'b' ORDER BY request_id") == [
        (120,), (120,), (60,),
    ]  # fmt: skip


def test_standings_grow_in_version_over_reopening(books: Books) -> None:
    version = by_scope(books.ledger.append([row("r1")], RATES))["tenant:default"].version
    books.ledger.close()
    books.ledger = books.opened()
    assert by_scope(books.ledger.append([row("r2")], RATES))["tenant:default"].version > version


def test_unknown_scopes_are_zeros_and_asking_writes_nothing(books: Books) -> None:
    asked = books.ledger.ask(["tenant:x", "key:y", "nonsense"], RATES)
    assert asked == [Standing(scope, 0, 0, 0, 0, 0, 0) for scope in ("tenant:x", "key:y", "nonsense")]
    assert books.sql("SELECT count(*) FROM standing") == [(0,)]


def test_a_transfer_posted_twice_counts_once(books: Books) -> None:
    first = books.top_up("a", 100, "t1")
    assert books.top_up("a", 100, "t1") == first
    twice = Transfer("t2", "top-up", "cash", prepaid_account("a"), 5, "CNY", NOW_MS)
    (told,) = books.ledger.post([twice, msgspec.structs.replace(twice, at_ms=1, note="again")], RATES)
    assert told.funds_nano == 105
    with pytest.raises(BadRequest, match="t1 is that of another transfer"):
        books.top_up("a", 101, "t1")
    assert books.balances() == {"cash": -105, "tenant:a:prepaid": 105}


GOOD = Transfer("g", "refund", prepaid_account("a"), "cash", 10, "CNY", NOW_MS)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (
            msgspec.structs.replace(GOOD, amount_nano=101),
            "takes 0.000000101 CNY from tenant:a:prepaid, which has 0.000000099",
        ),
        (msgspec.structs.replace(GOOD, amount_nano=0), "not between"),
        (msgspec.structs.replace(GOOD, amount_nano=-5), "not between"),
        (msgspec.structs.replace(GOOD, amount_nano=2**63), "not between"),
        (msgspec.structs.replace(GOOD, debit="cash"), "both sides"),
        (msgspec.structs.replace(GOOD, credit="tenant:a:wallet"), "no account is named"),
        (msgspec.structs.replace(GOOD, currency="yuan"), "three capital letters"),
        (msgspec.structs.replace(GOOD, kind="usage"), "by the ledger alone"),
        (msgspec.structs.replace(GOOD, id="a:b"), "no colon"),
        (msgspec.structs.replace(GOOD, currency="USD"), "which has 0"),
        (msgspec.structs.replace(GOOD, expires_ms=5), "where a package is credited"),
        (msgspec.structs.replace(GOOD, credit=package_account("a", "p")), "where a package is credited"),
        (msgspec.structs.replace(GOOD, credit=package_account("a", "p"), expires_ms=7), "keeps its end"),
    ],
)
def test_a_post_that_cannot_be_keeps_nothing_of_its_company(books: Books, bad: Transfer, why: str) -> None:
    books.top_up("a", 100, "t1")
    books.ledger.post(package("p", 50, NOW_MS * 2), RATES)
    before = books.balances()
    with pytest.raises(BadRequest, match=why):
        books.ledger.post([msgspec.structs.replace(GOOD, id="ok", amount_nano=1), bad], RATES)
    assert books.balances() == before
    books.ledger.post([GOOD], RATES)
    assert books.balances()["tenant:a:prepaid"] == 90


def test_an_adjustment_may_overdraw_and_the_next_top_up_makes_it_good(books: Books) -> None:
    adjustment = Transfer("adj", "adjustment", prepaid_account("a"), "credit", 30, "CNY", NOW_MS)
    assert books.ledger.post([adjustment], RATES)[0].funds_nano == -30
    assert books.top_up("a", 100, "t1")[0].funds_nano == 70


def test_an_account_that_would_overflow_refuses_the_post_and_the_ledger_goes_on(books: Books) -> None:
    books.top_up("a", 2**62, "t1")
    with pytest.raises(BadRequest, match="cannot hold"):
        books.top_up("a", 2**62, "t2")
    books.ledger.append([row("r1", tenant_id="a")], RATES)
    assert books.balances()["tenant:a:prepaid"] == 2**62 - 120
    assert check_books(books.where) == []


@pytest.mark.parametrize(
    "odd", [{"output_tokens": -1}, {"input_tokens": 2**40 + 1}, {"started_ms": 2**62}, {"duration_ms": 2**63}]
)
def test_a_row_that_no_request_leaves_takes_its_batch_with_it_and_no_more(
    books: Books, odd: dict[str, int]
) -> None:
    with pytest.raises(BadRows):
        books.ledger.append([row("r1"), row("r2", **odd)], RATES)
    assert books.sql("SELECT count(*) FROM usage") == [(0,)]
    books.ledger.append([row("r1")], RATES)
    assert books.sql("SELECT count(*) FROM usage") == [(1,)]


@pytest.mark.parametrize("statement", ["UPDATE usage SET cost_nano = 0", "DELETE FROM transfer"])
def test_rows_and_transfers_are_never_changed(books: Books, statement: str) -> None:
    books.ledger.append([row("r1")], RATES)
    with pytest.raises((apsw.ConstraintError, psycopg.errors.RaiseException), match="append-only"):
        books.sql(statement)


def test_every_sum_is_that_of_its_parts_after_a_random_history(books: Books) -> None:
    chance = random.Random(7)
    rates = FlatRates(3, {"t2": "postpaid", "t3": "free"}, halved_after=3000)
    names = [f"r{number}" for number in range(120)]
    for number in range(60):
        rows = [
            row(
                name,
                tenant_id=f"t{int(name[1:]) % 4}",
                project_id=f"p{int(name[1:]) % 8}",
                key_id=f"k{int(name[1:]) % 8}",
                started_ms=NOW_MS + int(name[1:]) * DAY_MS // 6,
                input_tokens=int(name[1:]),
                outcome=("ok", "client_closed", "engine_error")[int(name[1:]) % 3],
            )
            for name in chance.choices(names, k=chance.randrange(1, 9))
        ]
        books.ledger.append(rows, rates)
        if number % 7 == 0:
            books.top_up(f"t{number % 4}", 500 + number, f"top-{number}")
        if number % 20 == 0:
            books.ledger.close()
            books.ledger = books.opened()
    assert check_books(books.where) == []
    assert sum(books.balances().values()) == 0
    for query in (
        "SELECT sum(cost_nano) FROM usage",
        "SELECT sum(cost_nano) FROM usage_day",
        "SELECT sum(amount_nano) FROM usage_paid",
        "SELECT sum(amount_nano) FROM transfer WHERE kind = 'usage'",
    ):
        assert int(books.sql(query)[0][0]) == books.balances()["revenue"]


class Clock:
    """What `time.time_ns` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ms: int) -> None:
        self.ms = ms
        monkeypatch.setattr(time, "time_ns", lambda: self.ms * 1_000_000)
