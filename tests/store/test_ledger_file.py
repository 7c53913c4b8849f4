"""The ledger file by itself: schema, durability, duplicates, refusals."""

from __future__ import annotations

import stat
from pathlib import Path

import apsw
import pytest
from msgspec.structs import astuple

from ledger_under_test import TestDisk, row, stored
from sextant.base.errors import LedgerUnavailable, Misconfigured
from sextant.spec.policy import Standing
from sextant.spec.usage import UsageRow
from sextant.store import ledger_file
from sextant.store.books import BadRows
from sextant.store.ledger import NoRates
from sextant.store.ledger_check import check_books
from sextant.store.ledger_file import SCHEMA_VERSION, LedgerFile, check_sqlite_version

NO_RATES = NoRates()


def append(file: LedgerFile, *rows: UsageRow) -> None:
    file.append(rows, NO_RATES)


def test_columns_are_the_fields_of_a_usage_row_in_order(tmp_path: Path) -> None:
    LedgerFile(tmp_path / "ledger.db").close()
    db = apsw.Connection(str(tmp_path / "ledger.db"))
    columns = [name for _, name, *_ in db.execute("PRAGMA table_info(usage)")]
    db.close()
    reported = list(UsageRow.__struct_fields__)
    assert columns == [*reported, "cost_nano", "list_nano", "currency", "day", "month"]


def test_appended_rows_come_back_unchanged_in_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    file = LedgerFile(path)
    odd = row("r2", outcome="client_closed", ttft_ms=-1, estimated=True, input_tokens=2**40, model="模型")
    append(file, row("r1"), odd)
    file.close()
    assert stored(path) == {"r1": astuple(row("r1")), "r2": astuple(odd)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_row_sent_again_changes_nothing(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db")
    append(file, row("r1", input_tokens=7))
    append(file, row("r1", input_tokens=8), row("r2"))
    append(file, row("r3"), row("r3"))
    file.close()
    assert stored(tmp_path / "ledger.db")["r1"] == astuple(row("r1", input_tokens=7))


def test_append_returns_after_a_sync(tmp_path: Path) -> None:
    with TestDisk() as disk:
        file = LedgerFile(tmp_path / "ledger.db")
        for number in range(20):
            before = disk.syncs
            append(file, row(f"r{number}"))
            assert disk.syncs > before
        file.close()


def test_rows_a_killed_predecessor_left_in_the_log_are_synced_before_anything_is_acknowledged(
    tmp_path: Path,
) -> None:
    """Sent again they would be duplicates, which write nothing, so nothing else would ever sync them."""
    file = LedgerFile(tmp_path / "ledger.db")
    append(file, row("r1"))
    left = tmp_path / "left"
    left.mkdir()
    for name in ("ledger.db", "ledger.db-wal"):
        (left / name).write_bytes((tmp_path / name).read_bytes())
    file.close()
    with TestDisk() as disk:
        again = LedgerFile(left / "ledger.db")
        assert disk.syncs >= 2, "the log, then the file"
        assert (left / "ledger.db-wal").stat().st_size == 0
        append(again, row("r1"))
        again.close()


def test_a_full_disk_keeps_nothing_and_recovers(tmp_path: Path) -> None:
    with TestDisk() as disk:
        file = LedgerFile(tmp_path / "ledger.db")
        append(file, row("r1"))
        disk.full = True
        with pytest.raises(LedgerUnavailable, match="no space left"):
            append(file, row("r2"))
        disk.full = False
        append(file, row("r2"), row("r3"))
        file.close()
    assert set(stored(tmp_path / "ledger.db")) == {"r1", "r2", "r3"}


def test_a_full_disk_at_start_can_be_tried_again(tmp_path: Path) -> None:
    with TestDisk() as disk:
        disk.full = True
        with pytest.raises(LedgerUnavailable, match="cannot open the ledger"):
            LedgerFile(tmp_path / "ledger.db")
        disk.full = False
        LedgerFile(tmp_path / "ledger.db").close()


def test_a_bad_row_takes_its_whole_batch_with_it(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db")
    with pytest.raises(BadRows, match="r2"):
        append(file, row("r1"), row("r2", input_tokens=2**63))
    append(file, row("r1"))
    file.close()


@pytest.mark.parametrize(
    ("found", "accepted"),
    [("3.40.1", False), ("3.51.2", False), ("3.51.3", True), ("3.54.1", True), ("4.0.0", True)],
)
def test_sqlite_versions_with_the_reset_bug_are_refused(found: str, accepted: bool) -> None:
    if accepted:
        check_sqlite_version(found)
    else:
        with pytest.raises(Misconfigured, match=found):
            check_sqlite_version(found)


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    LedgerFile(path).close()
    db = apsw.Connection(str(path))
    db.pragma("user_version", SCHEMA_VERSION + 1)
    db.close()
    with pytest.raises(Misconfigured, match="written by a newer Sextant"):
        LedgerFile(path)


def test_rows_of_the_first_schema_keep_their_counts_and_have_no_price(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    db = apsw.Connection(str(path))
    db.execute(ledger_file.SQLITE_STEPS[0])
    for number, started_ms in enumerate((1_795_000_000_000, 1_795_000_000_000, 1_797_000_000_000)):
        old = astuple(row(f"r{number}", started_ms=started_ms))
        db.execute(f"INSERT INTO usage VALUES ({'?,' * 14}?,?)", (*old[:2], *old[3:], 99, "CNY"))
    db.pragma("user_version", 1)
    db.close()
    file = LedgerFile(path)
    standings = {one.scope: one for one in file.ask(["tenant:default", "key:key_a"], NO_RATES)}
    file.close()
    assert standings["key:key_a"] == Standing("key:key_a", 1, 20261211, 120, 202612, 120, 0)
    assert set(stored(path)) == {"r0", "r1", "r2"}
    assert stored(path)["r1"] == astuple(row("r1"))
    db = apsw.Connection(str(path))
    days = list(db.execute("SELECT day, requests, input_tokens, cost_nano FROM usage_day ORDER BY day"))
    assert days == [(20261118, 2, 200, 0), (20261211, 1, 100, 0)]
    db.close()
    assert check_books(path) == []


def test_an_older_schema_is_brought_forward_with_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    file = LedgerFile(path)
    append(file, row("r1"))
    file.close()
    steps = (*ledger_file.SQLITE_STEPS, "CREATE TABLE added (x INTEGER) STRICT")
    monkeypatch.setattr(ledger_file, "SQLITE_STEPS", steps)
    monkeypatch.setattr(ledger_file, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    LedgerFile(path).close()
    LedgerFile(path).close()
    db = apsw.Connection(str(path))
    assert db.pragma("user_version") == SCHEMA_VERSION + 1
    assert db.execute("SELECT count(*) FROM usage, (SELECT count(*) FROM added)").get == 1
    db.close()


def test_a_migration_that_fails_leaves_the_old_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    LedgerFile(path).close()
    steps = (*ledger_file.SQLITE_STEPS, "CREATE TABLE added (x INTEGER) STRICT; no such statement")
    monkeypatch.setattr(ledger_file, "SQLITE_STEPS", steps)
    monkeypatch.setattr(ledger_file, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with pytest.raises(Misconfigured, match="syntax error"):
        LedgerFile(path)
    db = apsw.Connection(str(path))
    assert db.pragma("user_version") == SCHEMA_VERSION
    assert db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'added'").get == 0
    db.close()


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE recipes (name)")
    db.close()
    with pytest.raises(Misconfigured, match="is no ledger"):
        LedgerFile(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database, though long enough to look at" * 100)
    with pytest.raises(Misconfigured, match="cannot open the ledger"):
        LedgerFile(path)


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot open the ledger"):
        LedgerFile(tmp_path / "missing" / "ledger.db")


def test_checkpoints_empty_the_log_and_a_reader_only_delays_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    file = LedgerFile(path)
    append(file, row("r1"))
    assert file.log_pages > 0
    reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM usage").get == 1
    append(file, row("r2"))
    file.checkpoint()
    assert file.log_pages > 0, "the reader still needs the log"
    reader.execute("COMMIT")
    reader.close()
    file.checkpoint()
    assert file.log_pages == 0
    file.close()
    assert not (tmp_path / "ledger.db-wal").exists()
