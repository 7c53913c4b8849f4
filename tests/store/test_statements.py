"""Usage reports out of the ledger, on SQLite and PostgreSQL: the same rows give the same lines."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from billing_under_test import USD, book, ms, package, policy, row, tenant, top_up
from sextant.base.errors import BadRequest, LedgerUnavailable, Misconfigured
from sextant.governance.pricing import PriceBook
from sextant.store.ledger_file import LedgerFile
from sextant.store.ledger_postgres import LedgerDatabase
from sextant.store.ledger_reading import LedgerView, ledger_view
from sextant.store.statements import (
    Totals,
    UsageQuery,
    charged_lines,
    movements,
    paid_parts,
    transfer_of,
    usage_lines,
    usage_total,
)

NOVEMBER = UsageQuery(first_day=20261101, last_day=20261130)
POLICY = policy(tenant(), tenant("beta", billing="postpaid"), tenant("gamma", billing="free", currency="CNY"))


def rows() -> list[Any]:
    dice = random.Random(3)
    return [
        row(
            f"2026-{dice.choice([10, 11, 11, 12])}-{dice.randint(1, 30):02d}T{dice.randint(0, 23):02d}:00",
            tenant_id=dice.choice(["acme", "beta", "gamma"]),
            project_id=dice.choice(["search", "chat"]),
            key_id=dice.choice(["key_a", "key_b"]),
            model=dice.choice(["m1", "m2"]),
            outcome=dice.choice(["ok", "ok", "engine_error", "refused", "client_closed"]),
            estimated=dice.random() < 0.2,
        )
        for _ in range(300)
    ]


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger with 300 rows, a package and two top-ups."""
    url = str(tmp_path / "ledger.db") if request.param == "sqlite" else request.getfixturevalue("database")
    ledger: Any = LedgerFile(url) if request.param == "sqlite" else LedgerDatabase(url)
    rates = PriceBook(POLICY)
    fixed = [msgspec.structs.replace(one, request_id=f"r{number}") for number, one in enumerate(rows())]
    ledger.post([*package(50_000_000), top_up(USD), top_up(USD, "beta", "2026-12-01T00:00")], rates)
    ledger.append(fixed, rates)
    ledger.close()
    return str(url)


def plain(by: tuple[str, ...], **wanted: str) -> dict[tuple[Any, ...], Totals]:
    """The same report by adding up in Python."""
    rates, found = PriceBook(POLICY), {}
    for one in rows():
        day, _ = rates.day_and_month(one.tenant_id, one.started_ms)
        if not 20261101 <= day <= 20261130 or any(
            getattr(one, name) != value for name, value in wanted.items()
        ):
            continue
        sides = {"day": day, "month": day // 100, "tenant": one.tenant_id, "project": one.project_id}
        sides |= {"key": one.key_id, "model": one.model}
        rated = rates.rate(one, 0)
        billed = one.outcome not in ("engine_error", "refused")
        more = (1, one.outcome == "engine_error", one.outcome == "refused", one.estimated)
        more += (one.input_tokens, one.output_tokens, one.cached_tokens, one.reasoning_tokens)
        more += (rated.cost_nano, rated.list_nano, billed * (one.input_tokens + one.output_tokens))
        key = (*(sides[side] for side in by), rated.currency)
        before = msgspec.structs.astuple(found.get(key, Totals()))
        found[key] = Totals(*(int(a + b) for a, b in zip(before, more, strict=True)))
    return found


def asked(view: LedgerView, query: UsageQuery) -> dict[tuple[Any, ...], Totals]:
    columns = {"tenant": "tenant_id", "project": "project_id", "key": "key_id"}
    lines = usage_lines(view, query)
    keys = [(*(getattr(one, columns.get(side, side)) for side in query.by), one.currency) for one in lines]
    assert keys == sorted(keys)
    return dict(zip(keys, (one.totals for one in lines), strict=True))


@pytest.mark.parametrize(
    "by",
    [("day", "tenant", "project", "key", "model"), ("tenant",), ("model", "day"), ("month",), ("key",), ()],
    ids="-".join,
)
def test_usage_is_told_apart_by_any_side(location: str, by: Any) -> None:
    with ledger_view(location) as view:
        assert asked(view, msgspec.structs.replace(NOVEMBER, by=by)) == plain(by) != {}


@pytest.mark.parametrize(
    "wanted",
    [
        {"tenant_id": "beta"},
        {"project_id": "chat"},
        {"key_id": "key_a", "model": "m2"},
        {"tenant_id": "nobody"},
    ],
)
def test_usage_of_some_alone(location: str, wanted: dict[str, str]) -> None:
    query = msgspec.structs.replace(NOVEMBER, by=("day", "model"), **wanted)
    with ledger_view(location) as view:
        assert asked(view, query) == plain(("day", "model"), **wanted)
        assert usage_total(view, query) == {key[-1]: value for key, value in plain((), **wanted).items()}


def test_a_caller_sees_his_tenants_alone(location: str) -> None:
    with ledger_view(location) as view:
        for tenants in (frozenset({"acme", "gamma"}), frozenset({"nobody"}), frozenset[str]()):
            query = msgspec.structs.replace(NOVEMBER, by=("tenant",), tenants=tenants)
            assert {line.tenant_id for line in usage_lines(view, query)} == tenants & {"acme", "gamma"}
        sly = msgspec.structs.replace(NOVEMBER, tenant_id="beta", tenants=frozenset({"acme"}))
        assert usage_lines(view, sly) == []


def test_pages_follow_one_another(location: str) -> None:
    with ledger_view(location) as view:
        whole = usage_lines(view, NOVEMBER)
        pages = [
            usage_lines(view, msgspec.structs.replace(NOVEMBER, limit=7, offset=offset))
            for offset in range(0, len(whole), 7)
        ]
        assert [line for page in pages for line in page] == whole
        for bad in ({"limit": 0}, {"limit": 10_001}, {"offset": -1}):
            with pytest.raises(BadRequest, match="limit"):
                usage_lines(view, msgspec.structs.replace(NOVEMBER, **bad))
        with pytest.raises(BadRequest, match="not by hour"):
            usage_lines(view, msgspec.structs.replace(NOVEMBER, by=("hour",)))


def test_a_name_is_no_sql(location: str) -> None:
    evil = "x' OR '1'='1' -- :first %s %(first)s"
    with ledger_view(location) as view:
        query = msgspec.structs.replace(NOVEMBER, tenant_id=evil, tenants=frozenset({evil}))
        assert usage_lines(view, query) == []


def test_who_paid_and_what_moved(location: str) -> None:
    with ledger_view(location) as view:
        november = sum(one.cost_nano for key, one in plain(("tenant",)).items() if key[0] == "acme")
        paid = {part.account: part.amount_nano for part in paid_parts(view, "acme", 202611)}
        assert sum(paid.values()) == november
        assert set(paid) <= {"tenant:acme:package:year", "tenant:acme:prepaid"}
        owed = {part.account for part in paid_parts(view, "beta", 202611)}
        assert owed <= {"tenant:beta:prepaid", "tenant:beta:receivable"}
        moved = movements(view, "acme", ms("2026-11-01T00:00"), ms("2026-12-01T00:00"))
        assert [one.kind for one in moved] == ["top-up", *sorted(["package", "discount"], key=_id_of(moved))]
        assert movements(view, "beta", ms("2026-11-01T00:00"), ms("2026-12-01T00:00")) == []
        (late,) = movements(view, "beta", ms("2026-12-01T00:00"), ms("2026-12-01T00:00") + 1)
        assert transfer_of(view, late.id) == late
        assert transfer_of(view, "nothing") is None


def _id_of(moved: list[Any]) -> Any:
    ids = {one.kind: one.id for one in moved}
    return lambda kind: ids[kind]


def test_a_month_cut_at_price_changes_adds_up(location: str) -> None:
    cuts = [
        (20261110, ms("2026-11-10T10:00")),
        (20261110, ms("2026-11-10T17:00")),
        (20261120, ms("2026-11-20T00:00")),
    ]
    with ledger_view(location) as view:
        whole, cut = charged_lines(view, "acme", 202611), charged_lines(view, "acme", 202611, cuts)
    assert {line.segment for line in whole} == {0}
    assert {line.segment for line in cut} == {0, 1, 2, 3}
    for name in ("requests", "cost_nano", "list_nano", "counted_tokens", "refused", "estimated"):
        assert sum(getattr(line.totals, name) for line in cut) == sum(
            getattr(line.totals, name) for line in whole
        )
    starts = [0, *(at_ms for _, at_ms in cuts)]
    rates = PriceBook(POLICY)
    for segment, since in enumerate(starts):
        until = starts[segment + 1] if segment < 3 else 2**60
        mine = [
            one
            for one in rows()
            if one.tenant_id == "acme"
            and since <= one.started_ms < until
            and rates.day_and_month("acme", one.started_ms)[1] == 202611
        ]
        assert sum(line.totals.requests for line in cut if line.segment == segment) == len(mine)


def test_a_view_is_of_one_moment(tmp_path: Path) -> None:
    path = book(tmp_path / "ledger.db", [row()], [top_up(USD)])
    with ledger_view(path) as view:
        before = usage_lines(view, NOVEMBER)
        book(path, [row(), row()])
        assert usage_lines(view, NOVEMBER) == before
    with ledger_view(path) as view:
        assert usage_lines(view, NOVEMBER) != before


def test_a_view_cannot_write(location: str) -> None:
    with pytest.raises(Exception, match=r"read.?only"), ledger_view(location) as view:
        view.query("DELETE FROM usage_day WHERE day > 0 RETURNING day")


def test_no_ledger_there(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with pytest.raises(Misconfigured, match="cannot read the ledger"), ledger_view(tmp_path / "none.db"):
        pass
    apsw.Connection(str(tmp_path / "newer.db")).pragma("user_version", 99)
    with pytest.raises(Misconfigured, match="newer"), ledger_view(tmp_path / "newer.db"):
        pass
    empty = request.getfixturevalue("database")
    with pytest.raises(Misconfigured, match="no ledger yet"), ledger_view(empty) as view:
        usage_lines(view, NOVEMBER)
    with pytest.raises(LedgerUnavailable), ledger_view("postgresql://127.0.0.1:9/none"):
        pass
