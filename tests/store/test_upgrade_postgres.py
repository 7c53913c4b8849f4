"""The same with PostgreSQL: backup, restore in one transaction, migration, refusal of a newer schema."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from ledger_under_test import row
from sextant.base.errors import Misconfigured, SextantError
from sextant.store import ledger_file, ledger_postgres, upgrade_postgres
from sextant.store.accounts import DEFAULT_TENANT, Accounts
from sextant.store.ledger import NoRates
from sextant.store.ledger_postgres import LedgerDatabase
from sextant.store.upgrade import bring_up_to_date, found_schemas, known_schemas
from sextant.store.upgrade_backup import Databases, Schemas, make_backup, read_manifest, restore_backup
from sextant.store.upgrade_check import check_databases


@pytest.fixture
def databases(tmp_path: Path, database: str) -> Databases:
    """A store in PostgreSQL, with a key and a row."""
    accounts = Accounts(database)
    accounts.migrate()
    accounts.create_key(DEFAULT_TENANT, "one")
    accounts.close()
    keep(database, "r1")
    return Databases(tmp_path, tmp_path / "accounts.db", tmp_path / "ledger.db", database)


def keep(url: str, name: str) -> None:
    books = LedgerDatabase(url)
    books.append([row(name)], NoRates())
    books.close()


def rows(url: str) -> set[str]:
    with psycopg.connect(url) as db:
        return {name for (name,) in db.execute("SELECT request_id FROM ledger.usage")}


def run_sql(url: str, statement: str) -> None:
    with psycopg.connect(url) as db:
        db.execute(statement)  # type: ignore[arg-type]


def test_both_stores_have_one_number() -> None:
    assert ledger_file.SCHEMA_VERSION == ledger_postgres.SCHEMA_VERSION


def test_an_empty_database_has_nothing_to_migrate(tmp_path: Path, database: str) -> None:
    empty = Databases(tmp_path, tmp_path / "a", tmp_path / "l", database)
    assert found_schemas(empty) == Schemas("", 0)
    assert bring_up_to_date(empty) is None
    with pytest.raises(Misconfigured, match="no ledger yet"):
        check_databases(empty)


@pytest.mark.slow
def test_a_backup_comes_back_and_what_was_there_is_kept(databases: Databases) -> None:
    assert found_schemas(databases) == known_schemas()
    assert check_databases(databases) == []
    folder = make_backup(databases, known_schemas(), made_for="person")
    assert "of-the-tests" not in (folder / "manifest.json").read_text()
    keep(databases.url, "later")
    run_sql(databases.url, "CREATE TABLE of_a_newer_sextant (id integer)")
    aside = restore_backup(databases, folder)
    assert rows(databases.url) == {"r1"}
    assert check_databases(databases) == []
    assert found_schemas(databases) == known_schemas()
    with psycopg.connect(databases.url) as db:
        assert db.execute("SELECT to_regclass('public.of_a_newer_sextant')").fetchone() == (None,)
    assert aside is not None
    restore_backup(databases, aside)
    assert rows(databases.url) == {"r1", "later"}
    keep(databases.url, "and on")
    assert rows(databases.url) == {"r1", "later", "and on"}


def test_a_restore_under_a_connected_deployment_is_refused(databases: Databases) -> None:
    folder = make_backup(databases, known_schemas(), made_for="person")
    books = LedgerDatabase(databases.url)
    with pytest.raises(SextantError, match="in use by sextant-ledger on 127"):
        restore_backup(databases, folder)
    books.close()


def test_a_dump_that_fails_half_way_changes_nothing(databases: Databases, tmp_path: Path) -> None:
    folder = make_backup(databases, known_schemas(), made_for="person")
    keep(databases.url, "later")
    run_sql(databases.url, "CREATE TABLE public.holds_it (id integer)")
    cut = tmp_path / "cut"
    data = (folder / "sextant.pgdump").read_bytes()
    cut.write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(SextantError, match=r"pg_restore failed|psql failed"):
        upgrade_postgres.restore(databases.url, cut)
    assert rows(databases.url) == {"r1", "later"}


def test_a_backup_of_the_other_kind_of_store_is_refused(databases: Databases, tmp_path: Path) -> None:
    folder = make_backup(databases, known_schemas(), made_for="person")
    files = Databases(tmp_path, tmp_path / "accounts.db", tmp_path / "ledger.db")
    with pytest.raises(Misconfigured, match="keeps files"):
        restore_backup(files, folder)
    ledger_file.LedgerFile(files.ledger).close()
    other = make_backup(files, known_schemas(), made_for="person")
    with pytest.raises(Misconfigured, match="in PostgreSQL"):
        restore_backup(databases, other)


@pytest.mark.slow
def test_a_newer_schema_is_refused_and_an_older_one_migrated(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = known_schemas()
    with monkeypatch.context() as later:
        steps = (*ledger_postgres.POSTGRES_STEPS, "CREATE TABLE later (n integer)")
        later.setattr(ledger_postgres, "POSTGRES_STEPS", steps)
        for module in (ledger_postgres, ledger_file):
            later.setattr(module, "SCHEMA_VERSION", known.ledger + 1)
        done = bring_up_to_date(databases)
        assert done is not None
        assert (done.before.ledger, done.after.ledger) == (known.ledger, known.ledger + 1)
        assert read_manifest(Path(done.backup)).schemas == done.before
    with pytest.raises(Misconfigured, match="newer than this program") as refused:
        bring_up_to_date(databases)
    assert done.backup in refused.value.message
    assert "of-the-tests" not in refused.value.message
    restore_backup(databases, Path(done.backup))
    assert found_schemas(databases) == known_schemas()
    assert bring_up_to_date(databases) is None


def test_a_machine_without_pg_dump_is_told_what_to_install(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade_postgres.shutil, "which", lambda _: None)
    with pytest.raises(SextantError, match="postgresql-client"):
        make_backup(databases, known_schemas(), made_for="person")
    assert list(databases.backups.iterdir()) == []
