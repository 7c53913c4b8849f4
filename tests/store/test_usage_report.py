"""Totals by key, model and day, read while the ledger writes and after it has stopped."""

from __future__ import annotations

import stat
from pathlib import Path

import apsw
import pytest

from ledger_under_test import FlatRates, RawClient, row, serving
from sextant.base.errors import Misconfigured
from sextant.spec.usage import UsageRow
from sextant.store.ledger_file import SCHEMA_VERSION, LedgerFile
from sextant.store.usage_report import DAY_MS, UsageTotal, usage_report

DAY_1_MS = 1_795_046_400_000  # 2026-11-19
DAY_1, DAY_2 = "2026-11-19", "2026-11-20"

ROWS = [
    row("r1", started_ms=DAY_1_MS, input_tokens=1, output_tokens=2, cached_tokens=3, reasoning_tokens=4),
    row("r2", started_ms=DAY_1_MS + DAY_MS - 1, input_tokens=10, output_tokens=20),
    row("r3", started_ms=DAY_1_MS + DAY_MS, outcome="engine_error"),
    row("r4", started_ms=DAY_1_MS, key_id="key_b", model="other"),
    row("r5", started_ms=DAY_1_MS, tenant_id="acme", key_id="key_c", outcome="client_closed"),
]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    _write(path, ROWS)
    return path


def _write(path: Path, rows: list[UsageRow]) -> None:
    file = LedgerFile(path)
    file.append(rows, FlatRates(1))
    file.close()


def report(path: Path, **filters: str) -> list[UsageTotal]:
    return usage_report(path, since_ms=DAY_1_MS, until_ms=DAY_1_MS + 2 * DAY_MS, **filters)


def test_totals_by_key_model_and_day(ledger: Path) -> None:
    assert report(ledger) == [
        UsageTotal(DAY_1, "acme", "key_c", "nano", "CNY", 1, 0, 100, 20, 64, 5, 120),
        UsageTotal(DAY_1, "default", "key_a", "nano", "CNY", 2, 0, 11, 22, 67, 9, 33),
        UsageTotal(DAY_1, "default", "key_b", "other", "CNY", 1, 0, 100, 20, 64, 5, 120),
        UsageTotal(DAY_2, "default", "key_a", "nano", "CNY", 1, 1, 100, 20, 64, 5, 120),
    ]


def test_filters_and_the_window(ledger: Path) -> None:
    assert {total.key_id for total in report(ledger, tenant_id="default")} == {"key_a", "key_b"}
    assert [total.requests for total in report(ledger, key_id="key_c")] == [1]
    assert report(ledger, tenant_id="acme", key_id="key_a") == []
    end = DAY_1_MS + DAY_MS
    assert {total.day for total in usage_report(ledger, since_ms=DAY_1_MS, until_ms=end)} == {DAY_1}
    assert {total.day for total in usage_report(ledger, since_ms=end, until_ms=end + 1)} == {DAY_2}
    assert usage_report(ledger, since_ms=end, until_ms=end) == []


def test_the_window_is_found_by_index(ledger: Path) -> None:
    db = apsw.Connection(str(ledger))
    plan = db.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM usage WHERE started_ms >= 1 AND started_ms < 2"
    ).fetchall()
    db.close()
    assert "USING INDEX usage_by_start" in str(plan)


def test_reading_while_the_ledger_writes(tmp_path: Path) -> None:
    path, socket_path = tmp_path / "ledger.db", tmp_path / "run" / "ledger.sock"
    with serving(path, socket_path), RawClient(socket_path) as client:
        for seq in range(1, 21):
            client.send_rows(seq, [row(f"r{seq}", started_ms=DAY_1_MS)])
            assert client.receive_seq() == seq
            assert [total.requests for total in report(path)] == [seq]


def test_reading_creates_nothing_that_others_may_read(ledger: Path) -> None:
    report(ledger)
    for entry in ledger.parent.iterdir():
        assert stat.S_IMODE(entry.stat().st_mode) == 0o600, entry


def test_no_ledger_yet_is_said(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot read the ledger"):
        report(tmp_path / "ledger.db")
    assert not (tmp_path / "ledger.db").exists()


def test_a_ledger_of_a_newer_program_is_refused(ledger: Path) -> None:
    db = apsw.Connection(str(ledger))
    db.pragma("user_version", SCHEMA_VERSION + 1)
    db.close()
    with pytest.raises(Misconfigured, match="newer Sextant"):
        report(ledger)


def test_a_sum_beyond_64_bits_is_an_error_not_a_wrong_number(ledger: Path) -> None:
    db = apsw.Connection(str(ledger))
    row_1 = next(iter(db.execute("SELECT * FROM usage WHERE request_id = 'r1'")))
    for number in range(2):
        big = (f"big{number}", *row_1[1:15], 2**62, *row_1[16:])
        db.execute(f"INSERT INTO usage VALUES ({','.join('?' * 20)})", big)
    db.close()
    with pytest.raises(Misconfigured, match="overflow"):
        report(ledger)
