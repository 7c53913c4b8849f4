"""`ledger.db`: schema, opening, appending, checkpointing. Only the ledger process uses this module to write.

Write-ahead log with `synchronous=FULL`: a COMMIT returns after the log is on disk. Checkpoints are ours to
call, so that none of them runs between a batch and its acknowledgement. apsw brings its own SQLite, because
older ones can corrupt a write-ahead log when it is reset (fixed in 3.51.3).
Neighbours: `ledger.py` serves this file to the gateways, `usage_report.py` reads it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import apsw

from sextant.base.errors import LedgerUnavailable, Misconfigured
from sextant.spec.ledger_wire import RowValues

SQLITE_VERSION_MIN = (3, 51, 3)
SCHEMA_VERSION = 1
CHECKPOINT_PAGES = 4096
"""Log pages after which a checkpoint is due: 16 MiB."""

_MIGRATIONS = (
    # to version 1
    """
    CREATE TABLE usage (
        request_id TEXT NOT NULL PRIMARY KEY,
        tenant_id TEXT NOT NULL,
        key_id TEXT NOT NULL,
        model TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        outcome TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        duration_ms INTEGER NOT NULL,
        ttft_ms INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        estimated INTEGER NOT NULL,
        cost_nano INTEGER NOT NULL,
        currency TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX usage_by_start ON usage (started_ms);
    """,
)

_INSERT = "INSERT OR IGNORE INTO usage VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"


class LedgerFile:
    """The one writing connection to `ledger.db`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens or creates the file (mode 0600) and migrates it. Raises Misconfigured when SQLite is too old,
        the file is no ledger, or its schema is newer than this program's; LedgerUnavailable when the disk is
        full or fails."""
        check_sqlite_version()
        self._path = Path(path)
        self.log_pages = 0
        """Pages in the write-ahead log since the last full checkpoint."""
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._db = apsw.Connection(str(self._path))
            self._prepare()
        except (apsw.FullError, apsw.IOError, apsw.BusyError) as error:
            raise LedgerUnavailable(f"cannot open the ledger {self._path} now: {error}") from error
        except (OSError, apsw.Error) as error:
            raise Misconfigured(f"cannot open the ledger {self._path}: {error}") from error

    def _prepare(self) -> None:
        self._db.set_busy_timeout(5000)
        mode = self._db.pragma("journal_mode", "wal")
        if mode != "wal":
            raise Misconfigured(
                f"{self._path} stays in journal mode {mode}; a ledger needs wal (a local file system)"
            )
        self._db.pragma("synchronous", "FULL")
        self._db.set_wal_hook(self._note_log_pages)
        self._migrate()
        # What a killed predecessor left in the log may not be on disk yet, while a row sent again would count
        # as a duplicate and be acknowledged without a write. A checkpoint syncs it all.
        self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self.log_pages = 0

    def _note_log_pages(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self.log_pages = pages
        return apsw.SQLITE_OK

    def _migrate(self) -> None:
        with self._db:
            version = schema_version(self._db, self._path)
            for step in _MIGRATIONS[version:]:
                self._db.execute(step)
            if version < SCHEMA_VERSION:
                self._db.pragma("user_version", SCHEMA_VERSION)

    def append(self, batches: Sequence[Sequence[RowValues]]) -> int:
        """All rows of all batches in one transaction; durable when this returns the number of rows that were
        new. A row whose request id is known is left as it is. Raises LedgerUnavailable when the disk is full
        (nothing was kept), apsw.Error when the rows or the file are bad (nothing was kept)."""
        before = self._db.total_changes()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for rows in batches:
                self._db.executemany(_INSERT, rows)
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, apsw.FullError):
                raise LedgerUnavailable(f"no space left for {self._path}: free some disk space") from error
            raise
        return self._db.total_changes() - before

    def checkpoint(self) -> None:
        """Copies the log into the file. Leaves what a reader still needs for the next time."""
        pages, done = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.log_pages = pages - done

    def close(self) -> None:
        """Checkpoints and removes the log."""
        self._db.close()


def check_sqlite_version(found: str | None = None) -> None:
    """Raises Misconfigured when apsw's SQLite is older than the one that resets write-ahead logs safely."""
    found = found or apsw.sqlite_lib_version()
    if tuple(int(part) for part in found.split(".")[:3]) < SQLITE_VERSION_MIN:
        wanted = ".".join(map(str, SQLITE_VERSION_MIN))
        raise Misconfigured(
            f"SQLite {found} can corrupt a write-ahead log; install apsw with SQLite {wanted} or newer"
        )


def schema_version(db: apsw.Connection, path: Path) -> int:
    """The file's schema version, 0 for an empty file. Raises Misconfigured for a newer or a foreign file."""
    version = int(db.pragma("user_version"))
    if version > SCHEMA_VERSION:
        raise Misconfigured(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}: "
            "it was written by a newer Sextant; start that one, or restore an older file"
        )
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_schema").get:
        raise Misconfigured(f"{path} holds tables but is no ledger; move it away")
    return version
