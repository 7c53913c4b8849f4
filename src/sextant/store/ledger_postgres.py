"""The books in PostgreSQL, for several hosts: the same transactions as in `ledger_file`.

Each host's ledger process has one connection and commits its gateways' batches in one transaction at a time.
What two hosts could both change is locked in the order of its name: first the standings of all scopes
concerned, and with them the tenants' accounts and sums; the accounts of the house last. A transaction that
the server gives up in favour of another is made again; one whose end is unknown is sent again by the gateways
and finds its rows by their ids. Tables lie in the schema `ledger`.
Neighbours: `books_keeper.py` says what a transaction does, `ledger_schema.py` has the tables.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg import errors

from sextant.base.errors import BadRequest, LedgerUnavailable, Misconfigured
from sextant.spec.ledger_wire import Delivery
from sextant.spec.policy import Standing
from sextant.spec.sites import SiteAnswer
from sextant.spec.transfer import Transfer
from sextant.spec.usage import UsageRow
from sextant.store import books_keeper, books_sites
from sextant.store.books import DAY_SUMS, Account, BadRows, Changes, Rates, Terms
from sextant.store.books_sites import KnownRow, SiteChanges, SiteEnd
from sextant.store.bounded_connection import BoundedConnection
from sextant.store.ledger_schema import POSTGRES_STEPS

SCHEMA_VERSION = 3
"""As in a ledger file, which has the same tables."""
CONNECT_TIMEOUT_S = 2
STATEMENT_TIMEOUT_MS = 4_000
"""The server's own bound, for one statement; it ends such a one in good order."""
TRANSACTION_TIMEOUT_S = 5.0
"""Our bound, for a whole transaction, where the server tells nothing: a machine or process that stands still
keeps its side of TCP, and only we can give up. The loop of a host's ledger is held up no longer than this."""
CONFLICTS_MAX = 20
"""Times that a transaction is made again in a row before its batch is put off."""
CONFLICT_PAUSE_S = 0.005
RECONNECT_PAUSE_S = 0.2
"""Between two attempts to connect, and at least as long as the first one took: what comes meanwhile is put
off at once, so that the process answers although its server does not."""

_SESSION = (
    "-c search_path=ledger -c synchronous_commit=on -c default_transaction_isolation=read\\ committed "
    f"-c statement_timeout={STATEMENT_TIMEOUT_MS} "
    f"-c idle_in_transaction_session_timeout={STATEMENT_TIMEOUT_MS} "
    # Between the statements of one pipeline neither of these two runs. A host that is cut off just then would
    # keep its locks, and all others waiting, for as long as the server's kernel keeps TCP: two hours.
    "-c tcp_keepalives_idle=4 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3 "
    f"-c tcp_user_timeout={STATEMENT_TIMEOUT_MS}"
)
_CONFLICTS = (errors.DeadlockDetected, errors.SerializationFailure, errors.UniqueViolation)
_MIGRATION_LOCK = 0x5E87A47
"""Any number that nobody else locks by: one process migrates at a time."""

_log = logging.getLogger(__name__)
Kept = TypeVar("Kept")


def _marks(count: int) -> str:
    return ",".join(["%s"] * count)


def _added(table: str, *names: str) -> str:
    return ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in names)


_MAKE_STANDINGS = (
    "INSERT INTO standing SELECT scope, 0, 0, 0, 0, 0, 0, 0, 0 FROM unnest(%s::text[]) AS given (scope) "
    "ORDER BY scope ON CONFLICT DO NOTHING"
)
_STANDING_COLUMNS = tuple(field.name for field in msgspec.structs.fields(Standing))
_PUT_STANDING = (
    f"INSERT INTO standing VALUES ({_marks(len(_STANDING_COLUMNS))}) ON CONFLICT (scope) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _STANDING_COLUMNS[1:])
)
_ADD_DAY = (
    f"INSERT INTO usage_day VALUES ({_marks(7 + len(DAY_SUMS))}) "
    "ON CONFLICT (tenant_id, month, day, project_id, key_id, model, currency) DO UPDATE SET "
    + _added("usage_day", *DAY_SUMS)
)
_ADD_PAID = (
    f"INSERT INTO usage_paid VALUES ({_marks(5)}) "
    "ON CONFLICT (tenant_id, month, debit, currency) DO UPDATE SET " + _added("usage_paid", "amount_nano")
)
_ADD_ACCOUNT = f"INSERT INTO account VALUES ({_marks(6)}) ON CONFLICT (id, currency) DO UPDATE SET " + _added(
    "account", "debits_nano", "credits_nano"
)
_FIND_SITE_ROWS = (
    "SELECT request_id, booked_tenant_id, " + ", ".join(books_sites.CONTENT) + " FROM site_usage "
    "WHERE site_id = %s AND request_id = ANY(%s) FOR UPDATE"
)
_INSERT_SITE_ROW = f"INSERT INTO site_usage VALUES ({_marks(23)})"
_BOOK_SITE_ROW = "UPDATE site_usage SET booked_tenant_id = %s WHERE site_id = %s AND request_id = %s"
_PUT_SITE_END = (
    f"INSERT INTO site_end VALUES ({_marks(4)}) ON CONFLICT (site_id) DO UPDATE SET "
    "number = excluded.number, request_id = excluded.request_id, arrived_ms = excluded.arrived_ms"
)


class LedgerDatabase:
    """One host's connection to the shared books; implements `ledger.Ledger`."""

    log_pages = 0
    """There is no log of ours to checkpoint."""

    def __init__(self, url: str) -> None:
        """Connects and migrates; a server that does not answer is tried again with each use. Raises
        Misconfigured when its schema is a newer program's, or we may not make ours."""
        self._url = url
        self._connection: BoundedConnection | None = None
        self._try_again_s = 0.0
        self._any_known = False
        """Whether rows of the transaction may be in the books already: after a lost acknowledgement."""
        try:
            self._db  # noqa: B018 - connects
        except LedgerUnavailable as error:
            _log.error("%s; trying again", error)

    def append(self, rows: Sequence[UsageRow], rates: Rates) -> list[Standing]:
        """All rows in one transaction; durable when this returns the standings of all scopes that they touch.
        A row whose request id is known is left as it is. Raises BadRows when a row can never be kept,
        LedgerUnavailable while the server is away or full; nothing was kept then, as far as is known."""
        self._any_known = False
        return self._transact(lambda terms: books_keeper.keep_rows(self, rows, terms), rates)

    def post(self, transfers: Sequence[Transfer], rates: Rates) -> list[Standing]:
        """All transfers or none, each once. Raises BadRequest or LedgerUnavailable."""
        try:
            return self._transact(lambda terms: books_keeper.keep_transfers(self, transfers, terms), rates)
        except BadRows as error:
            raise BadRequest(f"the books cannot hold these transfers: {error}") from error

    def ask(self, scopes: Collection[str], rates: Rates) -> list[Standing]:
        """The present standings of `scopes`. Raises LedgerUnavailable."""
        return self._transact(lambda terms: books_keeper.ask(self, scopes, terms), rates)

    def deliver(self, delivery: Delivery, rates: Rates) -> SiteAnswer:
        """Rows of a site, all or none, each once. Raises BadRequest or LedgerUnavailable."""
        try:
            return self._transact(lambda terms: books_sites.keep_delivery(self, delivery, terms), rates)
        except BadRows as error:
            raise BadRequest(f"the books cannot hold these rows: {error}") from error

    def checkpoint(self) -> None:
        """The server's own business."""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _transact(self, work: Callable[[Terms], Kept], rates: Rates) -> Kept:
        """`work` in one transaction, durable when this returns."""
        for _ in range(CONFLICTS_MAX):
            db = self._db
            db.within(TRANSACTION_TIMEOUT_S)
            try:
                kept = work(Terms(rates, time.time_ns() // 1000))
                db.commit()
                return kept
            except _CONFLICTS as error:
                self._roll_back()
                self._any_known = True
                _log.info("another host was first, or rows are known; once more: %s", error)
                time.sleep(CONFLICT_PAUSE_S * random.random())
            except (psycopg.DataError, psycopg.IntegrityError, ArithmeticError, ValueError) as error:
                self._roll_back()
                raise BadRows(str(error)) from error
            except psycopg.Error as error:
                self.close()
                raise LedgerUnavailable(f"PostgreSQL failed: {_told(error)}") from error
            except BaseException:
                self._roll_back()
                raise
        raise LedgerUnavailable(f"{CONFLICTS_MAX} times in a row another host was first")

    def _roll_back(self) -> None:
        if self._connection is not None:
            try:
                self._connection.rollback()
            except psycopg.Error:
                self.close()

    @property
    def _db(self) -> BoundedConnection:
        """A connection that works as far as we know. Raises LedgerUnavailable or Misconfigured."""
        if self._connection is None:
            started_s = time.monotonic()
            if started_s < self._try_again_s:
                raise LedgerUnavailable("PostgreSQL is away")
            try:
                self._connection = connected(self._url)
                self._connection.within(TRANSACTION_TIMEOUT_S)
                migrate(self._connection)
            except psycopg.Error as error:
                self.close()
                now_s = time.monotonic()
                self._try_again_s = now_s + max(RECONNECT_PAUSE_S, now_s - started_s)
                raise LedgerUnavailable(f"PostgreSQL does not answer: {_told(error)}") from error
            except BaseException:
                self.close()
                raise
        return self._connection

    # inside a transaction, as books_keeper.Transaction

    def standings(self, scopes: Collection[str], *, make: bool) -> dict[str, Standing]:
        """Those of `scopes` that are known, locked until the transaction ends; with `make` all of them."""
        wanted = sorted(scopes)
        query = "SELECT * FROM standing WHERE scope = ANY(%s) ORDER BY scope FOR UPDATE"
        found = self._db.execute(query, (wanted,)).fetchall()
        if make and len(found) < len(wanted):
            self._db.execute(_MAKE_STANDINGS, (wanted,))
            found = self._db.execute(query, (wanted,)).fetchall()
        return {values[0]: Standing(*values) for values in found}

    def known_requests(self, request_ids: Sequence[str]) -> set[str]:
        """None, until one of them cannot be inserted: then the transaction is made again and this looks."""
        if not self._any_known:
            return set()
        query = "SELECT request_id FROM usage WHERE request_id = ANY(%s)"
        return {values[0] for values in self._db.execute(query, (list(request_ids),))}

    def month_tokens(self, tenant_id: str, month: int) -> int:
        query = "SELECT sum(counted_tokens) FROM usage_day WHERE tenant_id = %s AND month = %s"
        found = self._db.execute(query, (tenant_id, month)).fetchone()
        return int(found[0] or 0) if found else 0

    def accounts(self, tenant_ids: Collection[str], *, also: Collection[str] = ()) -> list[Account]:
        query = (
            "SELECT * FROM account WHERE id = ANY(%s) "
            "OR tenant_id = ANY(%s) AND (credits_nano <> debits_nano OR expires_ms = 0)"
        )
        return [Account(*values) for values in self._db.execute(query, (list(also), list(tenant_ids)))]

    def known_transfers(self, transfer_ids: Sequence[str]) -> dict[str, Transfer]:
        found = self._db.execute("SELECT * FROM transfer WHERE id = ANY(%s)", (list(transfer_ids),))
        return {values[0]: Transfer(*values) for values in found}

    def write(self, changes: Changes) -> None:
        """What is not copied goes out together, and is waited for once."""
        usage = [(*values[:14], int(values[14]), *values[15:]) for values in changes.usage]
        transfers = [msgspec.structs.astuple(transfer) for transfer in changes.transfers]
        statements = (
            (_ADD_DAY, [(*key, *sums) for key, sums in changes.days.items()]),
            (_ADD_PAID, [(*key, amount_nano) for key, amount_nano in changes.paid.items()]),
            (_PUT_STANDING, [msgspec.structs.astuple(one) for one in changes.standings]),
            (_ADD_ACCOUNT, [msgspec.structs.astuple(one) for one in changes.accounts]),
        )
        with self._db.cursor() as cursor:
            for table, rows in (("usage", usage), ("transfer", transfers)):
                if rows:
                    with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                        for values in rows:
                            copy.write_row(values)
            with self._db.pipeline():
                for sql, rows in statements:
                    if rows:
                        cursor.executemany(sql, rows)

    def site_rows(self, site_id: str, request_ids: Collection[str]) -> dict[str, KnownRow]:
        found = self._db.execute(_FIND_SITE_ROWS, (site_id, list(request_ids)))
        return {values[0]: KnownRow(values[1], tuple(values[2:])) for values in found}

    def site_end(self, site_id: str) -> SiteEnd:
        query = "SELECT number, request_id FROM site_end WHERE site_id = %s FOR UPDATE"
        found = self._db.execute(query, (site_id,)).fetchone()
        return SiteEnd(*found) if found else SiteEnd()

    def write_site(self, changes: SiteChanges) -> None:
        statements = (
            (_INSERT_SITE_ROW, changes.fresh),
            (_BOOK_SITE_ROW, changes.released),
            (_PUT_SITE_END, changes.ends),
        )
        with self._db.cursor() as cursor:
            for sql, rows in statements:
                if rows:
                    cursor.executemany(sql, rows)


def connected(url: str) -> BoundedConnection:
    """A connection to the books at `url`, with the settings that they need. Raises psycopg.Error."""
    return BoundedConnection.connect(
        url,
        options=_SESSION,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name="sextant-ledger",
        keepalives_idle=10,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=int(TRANSACTION_TIMEOUT_S * 1000),
    )


def migrate(db: BoundedConnection) -> None:
    """Makes the schema, or brings it up to date, which takes what it takes. Raises Misconfigured when it is a
    newer program's, or we may not; psycopg.Error."""
    try:
        if schema_version(db) < SCHEMA_VERSION:
            db.within(None)
            db.execute("SET LOCAL statement_timeout = 0")
            db.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            db.execute("CREATE SCHEMA IF NOT EXISTS ledger")
            db.execute("CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL)")
            for step in POSTGRES_STEPS[max(schema_version(db) - 1, 0) :]:
                db.execute(step)
            db.execute("DELETE FROM schema_version")
            db.execute("INSERT INTO schema_version VALUES (%s)", (SCHEMA_VERSION,))
        db.commit()
    except (errors.InsufficientPrivilege, errors.InvalidSchemaName) as error:
        raise Misconfigured(
            f"may not make the ledger's tables ({_told(error)}); "
            "run as the database's owner: GRANT CREATE ON DATABASE <name> TO <user>"
        ) from error


def schema_version(db: psycopg.Connection[tuple[Any, ...]]) -> int:
    """The schema version of the books; 0 where there are none. Raises Misconfigured for a newer one."""
    found = db.execute("SELECT to_regclass('ledger.schema_version')").fetchone()
    if found is None or found[0] is None:
        return 0
    row = db.execute("SELECT max(version) FROM ledger.schema_version").fetchone()
    version = int(row[0] or 0) if row else 0
    if version > SCHEMA_VERSION:
        raise Misconfigured(
            f"the ledger in PostgreSQL has schema version {version}, this program knows {SCHEMA_VERSION}: "
            "it was written by a newer Sextant; start that one, or go back with `sextant db restore FOLDER`",
            code="newer_schema",
        )
    return version


def _told(error: psycopg.Error) -> str:
    """The server's words, without a second line, and never with our password in them (libpq has none)."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
