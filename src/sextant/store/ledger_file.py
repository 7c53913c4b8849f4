"""`ledger.db`: opening, migrating, keeping, checkpointing. Only the ledger process uses this module to write.

Write-ahead log with `synchronous=FULL`: a COMMIT returns after the log is on disk. Checkpoints are ours to
call, so that none of them runs between a batch and its acknowledgement. apsw brings its own SQLite, because
older ones can corrupt a write-ahead log when it is reset (fixed in 3.51.3).
Neighbours: `ledger.py` serves this file to the gateways, `books_keeper.py` says what a transaction does,
`ledger_schema.py` has the tables, `statements.py` reads them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec
from msgspec.structs import astuple, replace

from sextant.base.errors import BadRequest, LedgerUnavailable, Misconfigured
from sextant.spec.ledger_wire import Delivery
from sextant.spec.policy import Standing
from sextant.spec.sites import SiteAnswer
from sextant.spec.transfer import Transfer
from sextant.spec.usage import UsageRow
from sextant.store import books_keeper, books_sites
from sextant.store.books import DAY_SUMS, Account, BadRows, Changes, Rates, Terms
from sextant.store.books_sites import KnownRow, SiteChanges, SiteEnd
from sextant.store.ledger_schema import SQLITE_STEPS

SQLITE_VERSION_MIN = (3, 51, 3)
SCHEMA_VERSION = 3
REMEMBERED_MAX = 100_000
"""Standings, and tenants' accounts, kept in memory; past it all are read again as they are met."""
CHECKPOINT_PAGES = 4096
"""Log pages after which a checkpoint is due: 16 MiB."""

Kept = TypeVar("Kept")
_log = logging.getLogger(__name__)


def _marks(count: int) -> str:
    return ",".join("?" * count)


_INSERT_USAGE = f"INSERT INTO usage VALUES ({_marks(20)})"
_INSERT_TRANSFER = f"INSERT INTO transfer VALUES ({_marks(10)})"
_PUT_STANDING = f"INSERT OR REPLACE INTO standing VALUES ({_marks(9)})"
_ADD_DAY = f"INSERT INTO usage_day VALUES ({_marks(18)}) ON CONFLICT DO UPDATE SET " + ", ".join(
    f"{name} = {name} + excluded.{name}" for name in DAY_SUMS
)
_ADD_ACCOUNT = (
    f"INSERT INTO account VALUES ({_marks(6)}) ON CONFLICT DO UPDATE SET "
    "debits_nano = debits_nano + excluded.debits_nano, credits_nano = credits_nano + excluded.credits_nano"
)
_ADD_PAID = (
    f"INSERT INTO usage_paid VALUES ({_marks(5)}) "
    "ON CONFLICT DO UPDATE SET amount_nano = amount_nano + excluded.amount_nano"
)
_AMONG = "IN (SELECT value FROM json_each(?))"
_FIND_STANDINGS = f"SELECT * FROM standing WHERE scope {_AMONG}"
_FIND_REQUESTS = f"SELECT request_id FROM usage WHERE request_id {_AMONG}"
_FIND_TRANSFERS = f"SELECT * FROM transfer WHERE id {_AMONG}"
_FIND_NAMED_ACCOUNTS = f"SELECT * FROM account WHERE id {_AMONG}"
_FIND_ACCOUNTS = (
    f"SELECT * FROM account WHERE tenant_id {_AMONG} AND (credits_nano <> debits_nano OR expires_ms = 0)"
)
_FIND_SITE_ROWS = (
    "SELECT request_id, booked_tenant_id, " + ", ".join(books_sites.CONTENT) + " FROM site_usage "
    f"WHERE site_id = ? AND request_id {_AMONG}"
)
_INSERT_SITE_ROW = f"INSERT INTO site_usage VALUES ({_marks(23)})"
_BOOK_SITE_ROW = "UPDATE site_usage SET booked_tenant_id = ? WHERE site_id = ? AND request_id = ?"
_PUT_SITE_END = f"INSERT OR REPLACE INTO site_end VALUES ({_marks(4)})"
_NUMBER = "INSERT INTO usage_order (request_id, policy_version) VALUES (?, ?)"
_NUMBER_THE_REST = (
    "INSERT INTO usage_order (request_id, policy_version) SELECT request_id, 0 FROM usage "
    "WHERE request_id NOT IN (SELECT request_id FROM usage_order) ORDER BY started_ms, request_id"
)
_UNFIT = (apsw.ConstraintError, apsw.MismatchError, ArithmeticError, ValueError)
"""What SQLite and its driver say of values that no table of ours takes."""


class _Remembered:
    """What the tables `standing` and `account` have of scopes and tenants that were met lately. True since no
    other connection writes; thrown away when a transaction fails."""

    def __init__(self) -> None:
        self.standings: dict[str, Standing] = {}
        self.accounts: dict[str, dict[tuple[str, str], Account]] = {}

    def note(self, changes: Changes) -> None:
        """Takes over what was written."""
        if len(self.standings) > REMEMBERED_MAX or len(self.accounts) > REMEMBERED_MAX:
            self.standings, self.accounts = {}, {}
        for standing in changes.standings:
            self.standings[standing.scope] = standing
        for added in changes.accounts:
            mine = self.accounts.get(added.tenant_id)
            if mine is not None:
                old = mine.get((added.id, added.currency))
                if old is None:
                    del self.accounts[added.tenant_id]  # a new one, or one that was used up: look again
                else:
                    mine[added.id, added.currency] = replace(
                        old,
                        debits_nano=old.debits_nano + added.debits_nano,
                        credits_nano=old.credits_nano + added.credits_nano,
                    )


class LedgerFile:
    """The one writing connection to `ledger.db`."""

    def __init__(self, path: str | os.PathLike[str], *, numbered: bool = False) -> None:
        """Opens or creates the file (mode 0600) and migrates it. `numbered`: the order in which rows are kept
        is kept too; what was not numbered before is numbered now. Raises Misconfigured when SQLite is too
        old, the file is no ledger, or its schema is newer than this program's; LedgerUnavailable when the
        disk is full or fails."""
        check_sqlite_version()
        self._path = Path(path)
        self._numbered = numbered
        self._policy_version = 0
        """Of the rates of the transaction under way."""
        self._remembered = _Remembered()
        self._any_known = False
        """Whether rows of the transaction may be in the books already: after a lost acknowledgement."""
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
            for step in SQLITE_STEPS[version:]:
                self._db.execute(step)
            if version < SCHEMA_VERSION:
                self._db.pragma("user_version", SCHEMA_VERSION)
        if self._numbered and self._count("usage") != self._count("usage_order"):
            self._db.execute(_NUMBER_THE_REST)

    def _count(self, table: str) -> int:
        return int(self._db.execute(f"SELECT count(*) FROM {table}").get)

    def append(self, rows: Sequence[UsageRow], rates: Rates) -> list[Standing]:
        """All rows in one transaction; durable when this returns the standings of all scopes that they touch.
        A row whose request id is known is left as it is. Raises LedgerUnavailable when the disk is full,
        BadRows when a row can never be kept, apsw.Error when the file is bad; nothing was kept then."""
        self._any_known = False
        try:
            return self._transact(lambda terms: books_keeper.keep_rows(self, rows, terms), rates)
        except apsw.ConstraintError:
            _log.info("some of %d rows are known, or cannot be kept: looking which", len(rows))
        except _UNFIT as error:
            raise BadRows(str(error)) from error
        self._any_known = True
        try:
            return self._transact(lambda terms: books_keeper.keep_rows(self, rows, terms), rates)
        except _UNFIT as error:
            raise BadRows(str(error)) from error

    def post(self, transfers: Sequence[Transfer], rates: Rates) -> list[Standing]:
        """All transfers or none, each once. Raises BadRequest, LedgerUnavailable or apsw.Error."""
        try:
            return self._transact(lambda terms: books_keeper.keep_transfers(self, transfers, terms), rates)
        except _UNFIT as error:
            raise BadRequest(f"the books cannot hold these transfers: {error}") from error

    def ask(self, scopes: Collection[str], rates: Rates) -> list[Standing]:
        """The present standings of `scopes`. Raises LedgerUnavailable or apsw.Error."""
        return self._transact(lambda terms: books_keeper.ask(self, scopes, terms), rates)

    def deliver(self, delivery: Delivery, rates: Rates) -> SiteAnswer:
        """Rows of a site, all or none, each once. Raises BadRequest, LedgerUnavailable or apsw.Error."""
        try:
            return self._transact(lambda terms: books_sites.keep_delivery(self, delivery, terms), rates)
        except (*_UNFIT, BadRows) as error:
            raise BadRequest(f"the books cannot hold these rows: {error}") from error

    def _transact(self, work: Callable[[Terms], Kept], rates: Rates) -> Kept:
        """`work` in one transaction, durable when this returns."""
        self._policy_version = rates.version
        try:
            self._db.execute("BEGIN IMMEDIATE")
            kept = work(Terms(rates, time.time_ns() // 1000))
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._remembered = _Remembered()
            if isinstance(error, apsw.FullError):
                raise LedgerUnavailable(f"no space left for {self._path}: free some disk space") from error
            raise
        return kept

    # inside a transaction, as books_keeper.Transaction

    def standings(self, scopes: Collection[str], *, make: bool) -> dict[str, Standing]:
        """Those of `scopes` that are known. This connection is the only writer: nothing needs to be held."""
        known = self._remembered.standings
        missing = [scope for scope in scopes if scope not in known]
        if missing:
            for values in self._among(_FIND_STANDINGS, missing):
                known[values[0]] = Standing(*values)
        return {scope: known[scope] for scope in scopes if scope in known}

    def known_requests(self, request_ids: Sequence[str]) -> set[str]:
        """None, until one of them cannot be inserted: then the transaction is made again and this looks."""
        if not self._any_known:
            return set()
        return {values[0] for values in self._among(_FIND_REQUESTS, request_ids)}

    def month_tokens(self, tenant_id: str, month: int) -> int:
        sql = "SELECT sum(counted_tokens) FROM usage_day WHERE tenant_id = ? AND month = ?"
        return self._db.execute(sql, (tenant_id, month)).get or 0

    def accounts(self, tenant_ids: Collection[str], *, also: Collection[str] = ()) -> list[Account]:
        known = self._remembered.accounts
        missing = [tenant_id for tenant_id in tenant_ids if tenant_id not in known]
        if missing:
            known.update((tenant_id, {}) for tenant_id in missing)
            for values in self._among(_FIND_ACCOUNTS, missing):
                known[values[2]][values[0], values[1]] = Account(*values)
        found = {key: account for tenant_id in tenant_ids for key, account in known[tenant_id].items()}
        for values in self._among(_FIND_NAMED_ACCOUNTS, also) if also else ():
            found[values[0], values[1]] = Account(*values)
        return list(found.values())

    def known_transfers(self, transfer_ids: Sequence[str]) -> dict[str, Transfer]:
        found = self._among(_FIND_TRANSFERS, transfer_ids)
        return {values[0]: Transfer(*values) for values in found}

    def write(self, changes: Changes) -> None:
        for sql, rows in (
            (_INSERT_USAGE, changes.usage),
            (_ADD_DAY, [(*key, *sums) for key, sums in changes.days.items()]),
            (_INSERT_TRANSFER, [astuple(transfer) for transfer in changes.transfers]),
            (_ADD_PAID, [(*key, amount_nano) for key, amount_nano in changes.paid.items()]),
            (_ADD_ACCOUNT, [astuple(account) for account in changes.accounts]),
            (_PUT_STANDING, [astuple(standing) for standing in changes.standings]),
        ):
            if rows:
                self._db.executemany(sql, rows)
        if self._numbered and changes.usage:
            self._db.executemany(_NUMBER, [(values[0], self._policy_version) for values in changes.usage])
        self._remembered.note(changes)

    def site_rows(self, site_id: str, request_ids: Collection[str]) -> dict[str, KnownRow]:
        wanted = msgspec.json.encode(list(request_ids)).decode()
        found = self._db.execute(_FIND_SITE_ROWS, (site_id, wanted))
        return {values[0]: KnownRow(values[1], tuple(values[2:])) for values in found}

    def site_end(self, site_id: str) -> SiteEnd:
        found = list(
            self._db.execute("SELECT number, request_id FROM site_end WHERE site_id = ?", (site_id,))
        )
        return SiteEnd(*found[0]) if found else SiteEnd()

    def write_site(self, changes: SiteChanges) -> None:
        for sql, rows in (
            (_INSERT_SITE_ROW, changes.fresh),
            (_BOOK_SITE_ROW, changes.released),
            (_PUT_SITE_END, changes.ends),
        ):
            if rows:
                self._db.executemany(sql, rows)

    def _among(self, sql: str, values: Collection[str]) -> list[tuple[Any, ...]]:
        """The rows that `sql` finds for a JSON list of `values`."""
        return list(self._db.execute(sql, (msgspec.json.encode(list(values)).decode(),)))

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
