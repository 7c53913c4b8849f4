"""Reading the ledger: one consistent look at `ledger.db` or its tables in PostgreSQL, never a write.

Neighbours: `statements.py` asks through it; `ledger_file.py` and `ledger_schema.py` say what is there.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw

from sextant.base.errors import LedgerUnavailable, Misconfigured
from sextant.store.ledger_file import check_sqlite_version, schema_version

BUSY_TIMEOUT_MS = 5000
CONNECT_TIMEOUT_S = 5
_NAMED = re.compile(r"(?<!:):([a-z_]+)")


class LedgerView:
    """What the ledger says at one moment: all queries of a view see the same state."""

    def __init__(self, run: Any, *, numbered: bool) -> None:
        self._run = run
        self._numbered = numbered

    def query(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """All rows of `sql`, in which `:name` stands for a value. Sums are integers in both databases."""
        if self._numbered:
            return list(self._run(sql, values))
        found = self._run(_NAMED.sub(r"%(\1)s", sql.replace("%", "%%")), values).fetchall()
        return [tuple(int(one) if isinstance(one, Decimal) else one for one in row) for row in found]


@contextlib.contextmanager
def ledger_view(location: str | os.PathLike[str]) -> Iterator[LedgerView]:
    """A view of the ledger at `location`, a file or `postgresql://…`. Raises Misconfigured when there is no
    readable ledger, LedgerUnavailable when PostgreSQL cannot be reached now."""
    if str(location).startswith(("postgresql://", "postgres://")):
        with _postgres(str(location)) as view:
            yield view
    else:
        with _sqlite(Path(location)) as view:
            yield view


@contextlib.contextmanager
def _sqlite(path: Path) -> Iterator[LedgerView]:
    check_sqlite_version()
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error as error:
        raise Misconfigured(f"cannot read the ledger {path}: {error}") from error
    try:
        db.set_busy_timeout(BUSY_TIMEOUT_MS)
        schema_version(db, path)
        db.execute("BEGIN")
        yield LedgerView(db.execute, numbered=True)
    except apsw.Error as error:
        raise Misconfigured(f"cannot read the ledger {path}: {error}") from error
    finally:
        db.close()


@contextlib.contextmanager
def _postgres(url: str) -> Iterator[LedgerView]:
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S, options="-c search_path=ledger") as db:
            db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            db.read_only = True
            yield LedgerView(db.execute, numbered=False)
    except psycopg.errors.UndefinedTable as error:
        raise Misconfigured("the database has no ledger yet; start Sextant once") from error
    except psycopg.OperationalError as error:
        raise LedgerUnavailable(
            f"cannot read the ledger in PostgreSQL now ({type(error).__name__}); is the server up?",
            retry_after_s=1.0,
        ) from error
