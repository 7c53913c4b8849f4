"""Backups, restores and migrations of both databases, with the accidents that may befall them."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import apsw
import pytest
import sqlalchemy as sa

from ledger_under_test import row, serving, stored
from sextant.base.errors import Misconfigured, SextantError
from sextant.store import ledger_file, upgrade, upgrade_backup
from sextant.store.accounts import DEFAULT_TENANT, Accounts
from sextant.store.ledger import NoRates
from sextant.store.ledger_file import LedgerFile
from sextant.store.upgrade import bring_up_to_date, found_schemas, known_schemas, restore_command
from sextant.store.upgrade_backup import (
    Databases,
    Schemas,
    list_backups,
    make_backup,
    read_manifest,
    refuse_half_restored,
    restore_backup,
    verify,
)
from sextant.store.upgrade_check import check_databases

FUTURE_REVISION = "9999"


def keep(file: LedgerFile, *names: str) -> None:
    file.append([row(name) for name in names], NoRates())


@pytest.fixture
def databases(tmp_path: Path) -> Databases:
    """Both databases, with a key and two usage rows."""
    made = Databases(tmp_path, tmp_path / "accounts.db", tmp_path / "ledger.db")
    accounts = Accounts(made.accounts)
    accounts.migrate()
    accounts.create_key(DEFAULT_TENANT, "one")
    accounts.close()
    file = LedgerFile(made.ledger)
    keep(file, "r1", "r2")
    file.close()
    return made


def key_names(databases: Databases) -> list[str]:
    accounts = Accounts(databases.accounts)
    try:
        return [key.name for key in accounts.list_keys()]
    finally:
        accounts.close()


def add_row(databases: Databases, name: str) -> None:
    file = LedgerFile(databases.ledger)
    keep(file, name)
    file.close()


def make_newer(databases: Databases) -> None:
    """What a later Sextant would leave."""
    for path, statement in (
        (databases.ledger, f"PRAGMA user_version = {ledger_file.SCHEMA_VERSION + 1}"),
        (databases.accounts, f"UPDATE alembic_version SET version_num = '{FUTURE_REVISION}'"),
    ):
        db = apsw.Connection(str(path))
        db.execute(statement)
        db.close()


def test_the_revisions_are_alembics_own() -> None:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(upgrade.__file__).with_name("migrations")))
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    assert revisions == upgrade._account_revisions()
    assert scripts.get_heads() == [known_schemas().accounts]


def test_nothing_is_done_where_nothing_is_due(databases: Databases) -> None:
    assert found_schemas(databases) == known_schemas()
    assert bring_up_to_date(databases) is None
    assert not databases.backups.exists()


def test_a_first_start_has_nothing_to_migrate(tmp_path: Path) -> None:
    empty = Databases(tmp_path, tmp_path / "accounts.db", tmp_path / "ledger.db")
    empty.ledger.touch()  # a start that was killed early
    assert bring_up_to_date(empty) is None
    assert found_schemas(empty) == Schemas("", 0)


def test_a_backup_of_a_ledger_in_full_flow_is_one_moment_of_it(databases: Databases) -> None:
    """Rows go in while the copy is made: it holds a gapless beginning of them, and passes the check."""
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        file = LedgerFile(databases.ledger)
        while not stop.is_set():
            keep(file, *(f"w{written:06}-{number}" for number in range(20)))
            written += 1
        file.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        folders = [make_backup(databases, known_schemas(), made_for="person") for _ in range(5)]
    finally:
        stop.set()
        writer.join(30)
    assert written > 5, "the load was real"
    for folder in folders:
        verify(folder, read_manifest(folder))
        copy = Databases(folder, folder / "accounts.db", folder / "ledger.db")
        assert check_databases(copy) == []
        names = sorted(name for name in stored(copy.ledger) if name.startswith("w"))
        whole = len(names) // 20
        assert names == [f"w{batch:06}-{n}" for batch in range(whole) for n in sorted(range(20), key=str)]
    assert len({folder.name for folder in folders}) == 5


def test_a_backup_is_private_and_has_no_companions(databases: Databases, tmp_path: Path) -> None:
    folder = make_backup(databases, known_schemas(), made_for="person", into=tmp_path / "elsewhere")
    assert folder.parent == tmp_path / "elsewhere"
    assert sorted(path.name for path in folder.iterdir()) == ["accounts.db", "ledger.db", "manifest.json"]
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_restoring_brings_back_the_moment_and_keeps_what_was_there(databases: Databases) -> None:
    folder = make_backup(databases, known_schemas(), made_for="person")
    add_row(databases, "later")
    aside = restore_backup(databases, folder)
    assert set(stored(databases.ledger)) == {"r1", "r2"}
    assert key_names(databases) == ["one"]
    assert aside is not None
    assert set(stored(aside / "ledger.db")) == {"r1", "r2", "later"}
    assert check_databases(databases) == []
    assert not databases.restore_marker.exists()


def test_what_a_killed_ledger_left_in_its_log_is_backed_up_and_set_aside(databases: Databases) -> None:
    """Rows that are in the write-ahead log alone, as after kill -9, are rows."""
    first = make_backup(databases, known_schemas(), made_for="person")
    pid = os.fork()
    if pid == 0:
        keep(LedgerFile(databases.ledger), "in the log")
        os._exit(0)  # without closing: the log stays
    os.waitpid(pid, 0)
    assert databases.ledger.with_name("ledger.db-wal").stat().st_size
    second = make_backup(databases, known_schemas(), made_for="person")
    assert "in the log" in stored(second / "ledger.db")
    aside = restore_backup(databases, first)
    assert aside is not None
    assert "in the log" not in stored(databases.ledger)
    assert "in the log" in stored(aside / "ledger.db")


@pytest.mark.parametrize("cut_after", range(1, 9))
def test_a_restore_cut_off_anywhere_is_ended_by_the_next(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, cut_after: int
) -> None:
    """The n-th move does not happen. Nothing starts then; the same command again ends what was begun, and
    what was there before is set aside whole."""
    folder = make_backup(databases, known_schemas(), made_for="person")
    add_row(databases, "later")
    left = cut_after

    def rename(self: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError("power cut")
        os.replace(self, target)  # noqa: PTH105 - Path.rename is this

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        try:
            restore_backup(databases, folder)
        except SextantError as error:
            assert "run it again: sextant db restore" in error.message
            with pytest.raises(Misconfigured, match="did not end"):
                refuse_half_restored(databases)
            with pytest.raises(Misconfigured, match="did not end"):
                bring_up_to_date(databases)
        else:
            assert left > 0, "only a restore with fewer moves may pass"
    restore_backup(databases, folder)
    refuse_half_restored(databases)
    assert set(stored(databases.ledger)) == {"r1", "r2"}
    kept = [set(stored(path)) for path in databases.backups.glob("set-aside-*/ledger.db")]
    assert {"r1", "r2", "later"} in kept


def test_a_changed_backup_is_refused_before_anything_moves(databases: Databases) -> None:
    folder = make_backup(databases, known_schemas(), made_for="person")
    with (folder / "ledger.db").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff")
    with pytest.raises(Misconfigured, match="SHA-256"):
        restore_backup(databases, folder)
    (folder / "ledger.db").unlink()
    with pytest.raises(Misconfigured, match="lacks ledger"):
        restore_backup(databases, folder)
    assert set(stored(databases.ledger)) == {"r1", "r2"}


def test_what_is_no_backup_is_refused(databases: Databases, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="is no backup"):
        read_manifest(tmp_path)
    folder = make_backup(databases, known_schemas(), made_for="person")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(Misconfigured, match="format 2, this program reads 1"):
        read_manifest(folder)


def test_no_room_means_no_backup_and_nothing_left(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade_backup, "SPARE_BYTES", 1 << 60)
    with pytest.raises(SextantError, match="make room, or name another folder"):
        make_backup(databases, known_schemas(), made_for="person")
    assert list(databases.backups.iterdir()) == []


def test_a_damaged_database_is_not_backed_up_but_told(databases: Databases) -> None:
    with databases.accounts.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096))
    with pytest.raises(SextantError):
        make_backup(databases, known_schemas(), made_for="person")
    assert list(databases.backups.iterdir()) == []
    assert check_databases(databases) != []


def test_a_newer_schema_is_refused_with_the_command_that_goes_back(databases: Databases) -> None:
    folder = make_backup(databases, known_schemas(), made_for="migration")
    make_newer(databases)
    make_backup(databases, found_schemas(databases), made_for="person")  # readable by the newer one alone
    with pytest.raises(Misconfigured) as refused:
        bring_up_to_date(databases)
    command = f"sextant db restore --state {databases.root} {folder}"
    assert command in refused.value.message
    assert restore_command(databases) == command
    restore_backup(databases, folder)
    assert bring_up_to_date(databases) is None


def test_old_schemas_are_backed_up_and_migrated_a_bounded_number_kept(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program of later is this one with one more step in the ledger's schema each time."""
    mine = make_backup(databases, known_schemas(), made_for="person")
    for number in range(upgrade.AUTOMATIC_BACKUPS_MAX + 3):
        steps = (*ledger_file.SQLITE_STEPS, f"CREATE TABLE later_{number} (n INTEGER);")
        monkeypatch.setattr(ledger_file, "SQLITE_STEPS", steps)
        monkeypatch.setattr(ledger_file, "SCHEMA_VERSION", len(steps))
        done = bring_up_to_date(databases)
        assert done is not None
        assert (done.before.ledger, done.after.ledger) == (len(steps) - 1, len(steps))
        assert read_manifest(Path(done.backup)).schemas == done.before
        assert set(stored(databases.ledger)) == {"r1", "r2"}
    kept = list_backups(databases)
    assert sum(manifest.made_for == "migration" for _, manifest in kept) == upgrade.AUTOMATIC_BACKUPS_MAX
    assert mine in [path for path, _ in kept], "a person's backup stays"


def test_the_state_of_the_first_version_is_brought_up_to_date(databases: Databases) -> None:
    """Both databases as the first schemas had them, with what was in them."""
    for path in (databases.ledger, databases.accounts):
        path.unlink()
    db = apsw.Connection(str(databases.ledger))
    db.execute(ledger_file.SQLITE_STEPS[0])
    db.execute("INSERT INTO usage VALUES ('r1','default','key_a','m','chat','ok',0,1,1,3,2,0,0,0,0,'CNY')")
    db.pragma("user_version", 1)
    db.close()
    first_accounts(databases.accounts)
    done = bring_up_to_date(databases)
    assert done is not None
    assert (done.before, done.after) == (Schemas("0001", 1), known_schemas())
    assert stored(databases.ledger)["r1"][:4] == ("r1", "default", "", "key_a")
    assert key_names(databases) == ["old"]
    assert check_databases(databases) == []
    assert found_schemas(Databases(databases.root, *sorted(Path(done.backup).glob("*.db")))) == done.before
    assert bring_up_to_date(databases) is None


def first_accounts(path: Path) -> None:
    """The accounts at their first revision, with the default tenant and a key."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(upgrade.__file__).with_name("migrations")))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO tenant VALUES ('default', 'Default', 1, 0)")
        connection.exec_driver_sql(
            "INSERT INTO api_key VALUES ('key_a', 'default', 'old', '" + "0" * 64 + "', 'sk-', 0, 0, 0)"
        )
    engine.dispose()


def test_faults_are_told(databases: Databases) -> None:
    assert check_databases(databases) == []
    db = apsw.Connection(str(databases.accounts))
    db.pragma("foreign_keys", "off")
    db.execute("UPDATE api_key SET tenant_id = 'nobody'")
    db.close()
    (fault,) = check_databases(databases)
    assert "of api_key refers to a missing row of tenant" in fault
    databases.accounts.write_bytes(b"not a database, but long enough to look at" * 100)
    assert any("accounts.db" in fault for fault in check_databases(databases))


def test_a_running_ledger_may_be_checked(databases: Databases, tmp_path: Path) -> None:
    with serving(databases.ledger, tmp_path / "run" / "l.sock"):
        assert check_databases(databases) == []
