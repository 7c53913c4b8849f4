"""Whether the databases are sound: `sextant db check`.

Reads only, so that it can look at a running deployment too: SQLite's own check of every page and index and of
references between tables (PostgreSQL keeps both itself), then the books against what they follow from.
Neighbours: `ledger_check.py` (the books), `upgrade.py`, `cli/db.py`.
"""

from __future__ import annotations

from pathlib import Path

import apsw

from sextant.store.ledger_check import check_books
from sextant.store.ledger_file import SCHEMA_VERSION
from sextant.store.upgrade_backup import Databases

FAULTS_MAX = 20
"""Faults told of each kind; a damaged file has thousands."""
_COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "duration_ms")


def check_databases(databases: Databases) -> list[str]:
    """Every fault found, one sentence each; empty when all is well. A database that is not there has none."""
    if databases.url:
        return check_books(databases.url)
    faults = [fault for path in (databases.accounts, databases.ledger) for fault in _check_file(path)]
    if not faults and databases.ledger.exists():
        faults += _check_usage(databases.ledger)
        if _ledger_version(databases.ledger) == SCHEMA_VERSION:
            faults += check_books(databases.ledger)
    return faults


def _ledger_version(path: Path) -> int:
    db = _open(path)
    try:
        return int(db.pragma("user_version"))
    finally:
        db.close()


def _check_file(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        db = _open(path)
    except apsw.Error as error:
        return [f"{path} cannot be opened: {error}"]
    try:
        found = [str(row[0]) for row in db.execute(f"PRAGMA integrity_check({FAULTS_MAX})")]
        faults = [f"{path} is damaged: {text}" for text in found if text != "ok"]
        references = db.execute("SELECT * FROM pragma_foreign_key_check LIMIT ?", (FAULTS_MAX,))
        faults += [
            f"{path}: row {row[1]} of {row[0]} refers to a missing row of {row[2]}" for row in references
        ]
        return faults
    except apsw.Error as error:
        return [f"{path} cannot be read: {error}"]
    finally:
        db.close()


def _check_usage(path: Path) -> list[str]:
    """Rows that no gateway can have written."""
    wrong = " OR ".join(f"{column} < 0" for column in _COUNTS)
    query = f"SELECT request_id FROM usage WHERE request_id = '' OR {wrong} LIMIT ?"
    db = _open(path)
    try:
        if not db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'usage'").get:
            return []
        return [
            f"{path}: the usage row {name!r} has a number below zero"
            for (name,) in db.execute(query, (FAULTS_MAX,))
        ]
    finally:
        db.close()


def _open(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    db.set_busy_timeout(10_000)
    db.pragma("query_only", "on")
    return db
