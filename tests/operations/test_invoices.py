"""Invoices out of a real ledger: every total is the ledger's own, whatever the month looked like."""

from __future__ import annotations

import random
from pathlib import Path

import apsw
import msgspec
import pytest

from billing_under_test import NOVEMBER, USD, book, ms, package, policy, row, tenant, top_up
from sextant.base.errors import BadRequest, Misconfigured, NotFound
from sextant.governance.pricing import PriceBook
from sextant.operations.invoices import Invoice, invoice_of, sla_transfers
from sextant.spec.policy import PPM, OffPeak, Price, PricePlan, TierPolicy, VolumeStep
from sextant.spec.snapshot import PolicySnapshot
from sextant.store.ledger_file import LedgerFile
from sextant.store.ledger_reading import ledger_view

MILLION = 1_000_000
AFTER = ms("2026-12-01T01:00")


def invoice(
    path: Path, of: PolicySnapshot | None = None, *, now_ms: int = AFTER, month: int = NOVEMBER
) -> Invoice:
    with ledger_view(path) as view:
        return invoice_of(view, of or policy(), "acme", month, now_ms=now_ms)


def ledger_sum(path: Path, sql: str) -> int:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return int(db.execute(sql).get or 0)
    finally:
        db.close()


def test_an_invoice_adds_up_to_the_ledger(tmp_path: Path) -> None:
    """A month of random requests over projects, models, prices that change twice in it, windows and a volume
    line: the lines, the payments and the totals are the sums of the single rows."""
    dice = random.Random(7)
    changes = (ms("2026-11-10T08:30:00.123"), ms("2026-11-20T00:00"))
    night = (OffPeak(23 * 60, 7 * 60, "Asia/Shanghai", PPM // 3),)
    prices = (
        Price("*", 3 * USD, USD // 3, 7 * USD, 5 * USD, off_peak=night),
        Price("*", 2 * USD + 1, USD // 7, 6 * USD, 4 * USD, 11, valid_from_ms=changes[0]),
        Price("deepseek-chat", USD, USD, USD, USD, valid_from_ms=changes[1]),
    )
    plan = PricePlan("standard", "USD", prices, (VolumeStep(2 * MILLION, 600_000),))
    priced = policy(plans=(plan,))
    rows = [
        row(
            f"2026-11-{dice.randint(1, 30):02d}T{dice.randint(0, 23):02d}:{dice.randint(0, 59):02d}",
            project_id=dice.choice(["search", "chat", ""]),
            model=dice.choice(["deepseek-chat", "deepseek-reasoner"]),
            outcome=dice.choice(["ok"] * 8 + ["client_closed", "engine_error", "refused"]),
            input_tokens=dice.randint(0, 3000),
            cached_tokens=dice.randint(0, 500),
            output_tokens=dice.randint(0, 3000),
        )
        for _ in range(2000)
    ]
    others = [row("2026-10-31T23:59:59"), row("2026-12-01T00:00"), row(tenant_id="other")]
    path = book(tmp_path / "ledger.db", rows + others, [*package(4 * USD), top_up(5 * USD)], priced)
    found = invoice(path, priced)
    mine = "FROM usage WHERE tenant_id = 'acme' AND month = 202611"
    (sums,) = found.sums
    assert sums.cost_nano == ledger_sum(path, f"SELECT sum(cost_nano) {mine}") > 0
    assert sums.list_nano == ledger_sum(path, f"SELECT sum(list_nano) {mine}") > sums.cost_nano
    assert sum(line.totals.cost_nano for line in found.lines) == sums.cost_nano
    assert sum(line.totals.requests for line in found.lines) == 2000
    assert sums.packages_nano + sums.prepaid_nano + sums.receivable_nano == sums.cost_nano
    assert sums.packages_nano == 4 * USD
    assert sums.due_nano == 0
    assert found.volume_tokens == found.month_tokens - 2 * MILLION > 0
    starts = {line.from_ms for line in found.lines}
    assert starts == {found.from_ms, *changes}
    for line in found.lines:
        until = min([at for at in changes if at > line.from_ms], default=found.until_ms)
        where = (
            f"{mine} AND project_id = '{line.project_id}' AND model = '{line.model}' "
            f"AND started_ms >= {line.from_ms} AND started_ms < {until}"
        )
        assert line.totals.cost_nano == ledger_sum(path, f"SELECT sum(cost_nano) {where}")
        assert line.totals.requests == ledger_sum(path, f"SELECT count(*) {where}")
    held = {(line.model, line.from_ms): line.price for line in found.lines}
    assert held["deepseek-chat", changes[1]] == prices[2]
    assert held["deepseek-reasoner", changes[1]] == prices[1]
    assert held["deepseek-chat", found.from_ms] == prices[0]


def test_a_month_is_final_an_hour_after_its_end(tmp_path: Path) -> None:
    path = book(tmp_path / "ledger.db", [row()], [top_up(USD)])
    before = invoice(path, now_ms=ms("2026-12-01T00:59:59"))
    assert (before.state, before.estimate) == ("preview", None)
    assert invoice(path).state == "final"
    during = invoice(path, now_ms=ms("2026-11-11T00:00"))
    assert during.state == "preview"
    assert during.estimate is not None
    assert during.estimate.basis == "linear"
    assert during.estimate.month_nano == 3_000_000 * 21  # the 10th, and as much on each of 20 days to come
    assert invoice(path, now_ms=AFTER, month=202612).state == "preview"
    with pytest.raises(BadRequest, match=r"2027-01 has not begun in Asia/Shanghai"):
        invoice(path, month=202701)
    for month in (202613, 202600, 0, -1, 99999999):
        with pytest.raises(BadRequest, match="is no month"):
            invoice(path, month=month)


def test_the_month_is_that_of_the_tenant(tmp_path: Path) -> None:
    path = book(tmp_path / "ledger.db", [row("2026-11-01T00:00"), row("2026-10-31T23:59:59.999")])
    assert [line.totals.requests for line in invoice(path).lines] == [1]
    assert [line.totals.requests for line in invoice(path, month=202610).lines] == [1]


def test_who_pays_later_owes_what_no_package_paid(tmp_path: Path) -> None:
    later = policy(tenant(billing="postpaid"))
    path = book(tmp_path / "ledger.db", [row() for _ in range(3)], package(4_000_000), later)
    (sums,) = invoice(path, later).sums
    assert (sums.cost_nano, sums.packages_nano, sums.receivable_nano) == (9_000_000, 4_000_000, 5_000_000)
    assert sums.due_nano == 5_000_000
    kinds = [(one.kind, one.amount_nano) for one in invoice(path, later).movements]
    assert sorted(kinds) == [("discount", 2_000_000), ("package", 2_000_000)]


@pytest.mark.parametrize(
    ("good", "errors", "refused", "available_ppm", "credit_ppm"),
    [
        (1000, 0, 0, PPM, 0),
        (999, 1, 0, 999_000, 0),  # exactly the promise
        (998, 1, 0, 998_998, 100_000),
        (989, 5, 6, 989_000, 250_000),
        (1, 0, 1, 500_000, PPM),
        (0, 0, 0, PPM, 0),
    ],
)
def test_a_broken_promise_of_availability_is_credited(
    tmp_path: Path, good: int, errors: int, refused: int, available_ppm: int, credit_ppm: int
) -> None:
    later = policy(tenant(billing="postpaid"))
    rows = [row() for _ in range(good)]
    rows += [row(outcome="engine_error") for _ in range(errors)]
    rows += [row(outcome="refused", input_tokens=0, output_tokens=0) for _ in range(refused)]
    path = book(tmp_path / "ledger.db", rows, [], later)
    found = invoice(path, later)
    assert found.availability is not None
    assert found.availability.available_ppm == available_ppm
    assert found.availability.failed == errors + refused
    assert found.availability.credit_ppm == credit_ppm
    (sums,) = found.sums
    assert sums.cost_nano == good * 3_000_000
    assert sums.sla_credit_nano == sums.cost_nano * credit_ppm // PPM
    assert sums.due_nano == sums.cost_nano - sums.sla_credit_nano


def test_a_tier_that_promises_less_is_not_paid_for_more(tmp_path: Path) -> None:
    modest = policy(tenant(tier="modest"), tiers=(TierPolicy("modest", sla_ppm=980_000), TierPolicy("none")))
    rows = [row() for _ in range(985)] + [row(outcome="engine_error") for _ in range(15)]
    path = book(tmp_path / "ledger.db", rows, [], modest)
    found = invoice(path, modest)
    assert found.availability is not None
    assert (found.availability.available_ppm, found.availability.credit_ppm) == (985_000, 0)
    without = msgspec.structs.replace(modest, tenants=(tenant(tier="none"),))
    assert invoice(path, without).availability is None


@pytest.mark.parametrize(("billing", "account"), [("prepaid", "prepaid"), ("postpaid", "receivable")])
def test_the_credit_comes_into_the_books_once(tmp_path: Path, billing: str, account: str) -> None:
    sold = policy(tenant(billing=billing))
    path = book(tmp_path / "ledger.db", [row(), row(outcome="engine_error")], [top_up(USD)], sold)
    assert sla_transfers(invoice(path, sold, now_ms=ms("2026-11-30T12:00"))) == []
    found = invoice(path, sold)
    assert not found.sla_credit_posted
    (transfer,) = sla_transfers(found)
    assert (transfer.debit, transfer.credit) == ("credit", f"tenant:acme:{account}")
    assert transfer.amount_nano == 3_000_000
    ledger = LedgerFile(path)
    try:
        for _ in range(2):
            ledger.post(sla_transfers(found), PriceBook(sold))
    finally:
        ledger.close()
    assert ledger_sum(path, "SELECT count(*) FROM transfer WHERE kind = 'credit'") == 1
    again = invoice(path, sold)
    assert again.sla_credit_posted
    assert again.sums == found.sums


def test_a_free_tenant_has_an_invoice_of_nothing(tmp_path: Path) -> None:
    free = policy(tenant(billing="free", tier="free", currency="CNY", plan=""))
    path = book(tmp_path / "ledger.db", [row()], [], free)
    (sums,) = invoice(path, free).sums
    assert (sums.currency, sums.cost_nano, sums.due_nano) == ("CNY", 0, 0)
    assert invoice(path, free).lines[0].totals.requests == 1


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    path = book(tmp_path / "ledger.db", [row()])
    with ledger_view(path) as view, pytest.raises(NotFound, match="there is no tenant nobody"):
        invoice_of(view, policy(), "nobody", NOVEMBER, now_ms=AFTER)
    with pytest.raises(Misconfigured, match="cannot read the ledger"):
        invoice(tmp_path / "nothing.db")
    (tmp_path / "garbage.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Misconfigured, match="cannot read the ledger"):
        invoice(tmp_path / "garbage.db")
