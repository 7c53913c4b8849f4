"""What talks to PostgreSQL gives up on a server that stands still, and goes on afterwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from servers import Postgres
from sextant.base.errors import LedgerUnavailable
from sextant.store import accounts_schema
from sextant.store.accounts import MIGRATION_LOCK, Accounts
from sextant.store.bounded_connection import BoundedConnection

BRIEF_S = 0.2


def test_a_wait_ends_by_itself_and_closes_the_connection(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "_wait_max_s", BRIEF_S)
    with BoundedConnection.connect(database, autocommit=True) as db:
        assert db.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="did not answer in time"):
            db.execute("SELECT pg_sleep(60)")
        assert db.closed


def test_a_deadline_holds_for_all_waiting_together_and_can_be_lifted(database: str) -> None:
    with BoundedConnection.connect(database, autocommit=True) as db:
        db.within(BRIEF_S)
        with pytest.raises(psycopg.OperationalError, match="did not answer in time"):
            for _ in range(100):
                db.execute("SELECT pg_sleep(0.02)")
    with BoundedConnection.connect(database, autocommit=True) as db:
        db.within(BRIEF_S)
        db.within(None)
        db.execute("SELECT pg_sleep(%s)", (2 * BRIEF_S,))


def test_an_error_of_the_servers_stays_what_it_is(database: str) -> None:
    with BoundedConnection.connect(database, autocommit=True) as db:
        db.within(5)
        with pytest.raises(psycopg.errors.UndefinedTable):
            db.execute("SELECT * FROM nothing")
        assert not db.closed


@pytest.mark.slow
def test_a_migration_waits_for_anothers_as_long_as_that_takes(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound_s = 2.5 * BRIEF_S
    accounts = Accounts(database)
    accounts.engine.connect().close()
    monkeypatch.setattr(BoundedConnection, "_wait_max_s", bound_s)
    with psycopg.connect(database) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        migrated = pool.submit(accounts.migrate)
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not migrated.done() and other.execute(waits).fetchone() == (0,):
            pass
        other.execute("SELECT pg_sleep(%s)", (2 * bound_s,))
        other.rollback()
        migrated.result(60)
    with pytest.raises(LedgerUnavailable), accounts.writing() as db:
        db.execute(sa.text("SELECT pg_sleep(60)"))
    accounts.close()


@pytest.mark.slow
def test_accounts_say_that_a_frozen_server_is_away(
    database: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "_wait_max_s", BRIEF_S)
    monkeypatch.setattr(accounts_schema, "CONNECT_TIMEOUT_S", 1)
    accounts = Accounts(database)
    monkeypatch.setattr(BoundedConnection, "_wait_max_s", 10.0)
    accounts.migrate()
    monkeypatch.setattr(BoundedConnection, "_wait_max_s", BRIEF_S)
    with postgres.frozen(), pytest.raises(LedgerUnavailable, match="cannot be used now"):
        accounts.list_tenants()
    monkeypatch.setattr(BoundedConnection, "_wait_max_s", 10.0)
    assert [one.id for one in accounts.list_tenants()] == ["default"]
    accounts.close()
