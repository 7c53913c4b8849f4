"""The books in PostgreSQL: several hosts at once, a server that dies or is away, schemas."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from ledger_under_test import FlatRates, RawClient, row
from servers import Postgres
from sextant.base.errors import LedgerUnavailable, Misconfigured
from sextant.governance.ledger_client import LedgerBounds, LedgerClient
from sextant.spec.ledger_wire import Ack, Refusal
from sextant.spec.policy import Standing
from sextant.spec.transfer import Transfer, prepaid_account
from sextant.spec.usage import UsageRow
from sextant.store import ledger_postgres
from sextant.store.ledger import LedgerServer, _listen
from sextant.store.ledger_postgres import SCHEMA_VERSION, LedgerDatabase, connected
from sextant.telemetry.table import Registry

RATES = FlatRates(1)
HOSTS = 3


def one(database: str, query: str) -> int:
    with connected(database) as db:
        found = db.execute(query).fetchone()
        assert found is not None
        return int(found[0])


def patiently(work: Callable[[], list[Standing]]) -> list[Standing]:
    """As a gateway does: the same again until it is kept."""
    give_up_s = time.monotonic() + 30
    while True:
        try:
            return work()
        except LedgerUnavailable:
            assert time.monotonic() < give_up_s
            time.sleep(0.02)


def test_hosts_that_share_tenants_stay_exact(database: str) -> None:
    """Every batch touches tenants in another order, some rows are sent by all hosts."""

    def host(number: int) -> dict[str, list[int]]:
        ledger, chance = LedgerDatabase(database), random.Random(number)
        versions: dict[str, list[int]] = {}
        for batch in range(40):
            rows = [own(number, batch, n, chance) for n in range(6)]
            rows += [row(f"shared-{batch}-{n}", tenant_id=f"t{n}", key_id=f"k{n}") for n in range(3)]
            chance.shuffle(rows)
            for standing in patiently(lambda rows=rows: ledger.append(rows, RATES)):  # type: ignore[misc]
                versions.setdefault(standing.scope, []).append(standing.version)
            top_up = Transfer(
                f"top-{number}-{batch}", "top-up", "cash", prepaid_account("t1"), 7, "CNY", batch + 1
            )
            patiently(lambda top_up=top_up: ledger.post([top_up], RATES))  # type: ignore[misc]
        ledger.close()
        return versions

    def own(number: int, batch: int, n: int, chance: random.Random) -> UsageRow:
        tenant = chance.randrange(4)
        return row(f"h{number}-{batch}-{n}", tenant_id=f"t{tenant}", key_id=f"k{tenant}")

    with ThreadPoolExecutor(HOSTS) as pool:
        seen = list(pool.map(host, range(HOSTS)))
    rows = HOSTS * 40 * 6 + 40 * 3
    assert one(database, "SELECT count(*) FROM usage") == rows
    assert one(database, "SELECT sum(day_tokens) FROM standing WHERE scope LIKE 'tenant:%'") == rows * 120
    assert one(database, "SELECT sum(day_tokens) FROM standing WHERE scope LIKE 'key:%'") == rows * 120
    assert one(database, "SELECT credits_nano - debits_nano FROM account WHERE id = 'revenue'") == rows * 120
    assert one(database, "SELECT debits_nano FROM account WHERE id = 'cash'") == HOSTS * 40 * 7
    assert one(database, "SELECT sum(credits_nano - debits_nano) FROM account") == 0
    assert one(database, "SELECT sum(funds_nano) FROM standing") == HOSTS * 40 * 7 - rows * 120
    for versions in seen:
        assert all(numbers == sorted(numbers) for numbers in versions.values())


@pytest.mark.slow
def test_a_server_killed_under_load_loses_nothing_and_doubles_nothing(
    database: str, postgres: Postgres
) -> None:
    kept: list[str] = []
    stop = threading.Event()

    def host(number: int) -> None:
        ledger = LedgerDatabase(database)
        batch = 0
        while not stop.is_set():
            names = [f"h{number}-{batch}-{n}" for n in range(3)]
            patiently(lambda names=names: ledger.append([row(name) for name in names], RATES))  # type: ignore[misc]
            kept.extend(names)
            batch += 1
        ledger.close()

    with ThreadPoolExecutor(2) as pool:
        hosts = [pool.submit(host, number) for number in range(2)]
        for _ in range(3):
            before = len(kept)
            give_up_s = time.monotonic() + 30
            while len(kept) < before + 60:
                assert time.monotonic() < give_up_s, [host.exception() for host in hosts if host.done()]
                time.sleep(0.005)
            postgres.restart()
        stop.set()
        for running in hosts:
            running.result(60)
    with connected(database) as db:
        stored = [name for (name,) in db.execute("SELECT request_id FROM usage")]
    assert set(kept) == set(stored), "each host ended with all its batches acknowledged"
    assert one(database, "SELECT debits_nano FROM account WHERE id = 'tenant:default:prepaid'") == 120 * len(
        kept
    )


@pytest.mark.slow
async def test_gateways_are_refused_while_the_server_is_away_and_go_on_after(
    database: str, postgres: Postgres, tmp_path: Path
) -> None:
    socket_path = tmp_path / "run" / "ledger.sock"
    bounds = LedgerBounds(retry_min_s=0.01, retry_max_s=0.05, settle_deadline_s=30)
    with served(database, socket_path):
        client = LedgerClient(str(socket_path), Registry(), bounds)
        await client.start()
        await client.submit(row("r1"))
        postgres.kill()
        waiter = client.submit(row("r2"))
        with RawClient(socket_path) as raw:
            raw.send_rows(1, [row("r3")])
            refusal = raw.receive()
            assert isinstance(refusal, Refusal)
            assert refusal.retryable
            assert "PostgreSQL" in refusal.reason
        with pytest.raises(LedgerUnavailable, match="PostgreSQL"):
            await client.standings(["tenant:default"])
        postgres.start()
        await waiter
        assert (await client.standings(["tenant:default"]))[0].day_tokens == 240
        await client.close()


@pytest.mark.slow
def test_a_server_that_is_away_at_the_start_is_found_later(database: str, postgres: Postgres) -> None:
    postgres.kill()
    ledger = LedgerDatabase(database)
    with pytest.raises(LedgerUnavailable, match="PostgreSQL"):
        ledger.append([row("r1")], RATES)
    postgres.start()
    patiently(lambda: ledger.append([row("r1")], RATES))
    assert one(database, "SELECT count(*) FROM usage") == 1
    ledger.close()


async def test_a_server_that_stands_still_only_delays(
    database: str, postgres: Postgres, tmp_path: Path
) -> None:
    socket_path = tmp_path / "run" / "ledger.sock"
    bounds = LedgerBounds(settle_deadline_s=0.2)
    with served(database, socket_path):
        client = LedgerClient(str(socket_path), Registry(), bounds)
        await client.start()
        await client.submit(row("r1"))
        with postgres.frozen():
            with pytest.raises(LedgerUnavailable, match="in time"):
                await client.submit(row("r2"))
            assert not client.ready
        await client.close(flush_s=20)
        assert client.pending_rows == 0
    assert one(database, "SELECT count(*) FROM usage") == 2


@pytest.mark.slow
def test_a_server_that_stands_still_is_given_up_and_found_again(
    database: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before it has answered a new connection; what was under way then is not kept twice."""
    monkeypatch.setattr(ledger_postgres, "TRANSACTION_TIMEOUT_S", 0.3)
    ledger = LedgerDatabase(database)
    ledger.append([row("r1")], RATES)
    with postgres.frozen():
        for work in (
            lambda: ledger.append([row("r2")], RATES),
            lambda: ledger.append([row("r2")], RATES),
            lambda: ledger.ask(["tenant:default"], RATES),
        ):
            with pytest.raises(LedgerUnavailable, match="PostgreSQL"):
                work()
    monkeypatch.undo()
    patiently(lambda: ledger.append([row("r2"), row("r3")], RATES))
    patiently(lambda: ledger.append([row("r2"), row("r3")], RATES))
    assert one(database, "SELECT count(*) FROM usage") == 3
    assert one(database, "SELECT credits_nano - debits_nano FROM account WHERE id = 'revenue'") == 360
    ledger.close()


@pytest.mark.slow
def test_the_loop_answers_while_the_server_stands_still(
    database: str, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gateways get refusals to try again, instead of silence."""
    monkeypatch.setattr(ledger_postgres, "TRANSACTION_TIMEOUT_S", 0.3)
    with (
        served(database, tmp_path / "run" / "ledger.sock"),
        RawClient(tmp_path / "run" / "ledger.sock") as raw,
    ):
        raw.send_rows(1, [row("r1")])
        assert isinstance(raw.receive(), Ack)
        with postgres.frozen():
            for number in (2, 3):
                raw.send_rows(number, [row("r2")])
                refusal = raw.receive()
                assert isinstance(refusal, Refusal)
                assert (refusal.seq, refusal.retryable) == (number, True)
        number, answer = 3, refusal
        while not isinstance(answer, Ack):
            assert answer.retryable
            number += 1
            raw.send_rows(number, [row("r2")])
            answer = raw.receive()
    assert one(database, "SELECT count(*) FROM usage") == 2


def test_attempts_to_connect_have_pauses_as_long_as_they_took(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_s, attempts = [100.0], []

    def unreachable(_url: str) -> psycopg.Connection[tuple[object, ...]]:
        attempts.append(clock_s[0])
        clock_s[0] += 2.0
        raise psycopg.OperationalError("timeout expired")

    ledger = LedgerDatabase(database)
    ledger.close()
    monkeypatch.setattr(ledger_postgres, "connected", unreachable)
    monkeypatch.setattr(time, "monotonic", lambda: clock_s[0])
    for _ in range(100):
        with pytest.raises(LedgerUnavailable):
            ledger.ask(["tenant:a"], RATES)
        clock_s[0] += 0.1
    assert [round(one - other) for other, one in itertools.pairwise(attempts)] == [4, 4, 4, 4]


@pytest.mark.slow
def test_a_deadlock_is_tried_again(database: str) -> None:
    """Somebody else's transaction takes two scopes in the wrong order."""
    ledger = LedgerDatabase(database)
    first = [row("r1", tenant_id="a", key_id="x"), row("r2", tenant_id="b", key_id="x")]
    ledger.append(first, RATES)
    with connected(database) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT 1 FROM standing WHERE scope = 'tenant:b' FOR UPDATE")
        again = [row("r3", tenant_id="a", key_id="x"), row("r4", tenant_id="b", key_id="x")]
        pending = pool.submit(ledger.append, again, RATES)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        give_up_s = time.monotonic() + 10
        with psycopg.connect(database, autocommit=True) as watcher:
            while watcher.execute(waiting).fetchone() == (0,):
                assert time.monotonic() < give_up_s
                time.sleep(0.005)
        with contextlib.suppress(psycopg.errors.DeadlockDetected):
            other.execute("SELECT 1 FROM standing WHERE scope = 'tenant:a' FOR UPDATE")
        other.rollback()
        assert {standing.day_tokens for standing in pending.result(30)} == {240, 480}
    ledger.close()


def test_a_newer_schema_is_refused_and_left_alone(database: str) -> None:
    LedgerDatabase(database).close()
    with connected(database) as db:
        db.execute("UPDATE schema_version SET version = %s", (SCHEMA_VERSION + 1,))
    with pytest.raises(Misconfigured, match="sextant db restore"):
        LedgerDatabase(database)


def test_hosts_that_start_together_make_one_schema(database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for ledger in pool.map(lambda _: LedgerDatabase(database), range(4)):
            ledger.append([row("r1")], RATES)
            ledger.close()
    assert one(database, "SELECT count(*) FROM schema_version") == 1


def test_a_user_who_may_not_make_tables_is_told_what_to_grant(database: str, postgres: Postgres) -> None:
    name = database.rpartition("/")[2]
    postgres.sql("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'guest'")
    url = f"postgresql://guest:guest@127.0.0.1:{postgres.port}/{name}"
    with pytest.raises(Misconfigured, match="GRANT CREATE ON DATABASE"):
        LedgerDatabase(url)


def test_commits_wait_for_the_disk_whatever_the_server_is_set_to(database: str, postgres: Postgres) -> None:
    name = database.rpartition("/")[2]
    postgres.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with connected(database) as db:
        assert db.execute("SHOW synchronous_commit").fetchone() == ("on",)


@contextlib.contextmanager
def served(database: str, socket_path: Path):  # type: ignore[no-untyped-def]
    """A ledger process over PostgreSQL, in a thread."""
    ledger, listener = LedgerDatabase(database), _listen(socket_path)
    server = LedgerServer(ledger, listener, lambda _version: RATES)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
        server.close()
        listener.close()
        ledger.close()
