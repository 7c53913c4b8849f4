"""Usage totals out of `ledger.db`, for control and the command line. Opens the file read-only, briefly."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import msgspec

from sextant.base.errors import Misconfigured
from sextant.store.ledger_file import check_sqlite_version, schema_version

DAY_MS = 86_400_000


class UsageTotal(msgspec.Struct, frozen=True):
    """Totals of one key, model and UTC day (`day` is `2026-11-21`)."""

    day: str
    tenant_id: str
    key_id: str
    model: str
    currency: str
    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_nano: int


_QUERY = """
    SELECT date(started_ms / 86400000 * 86400, 'unixepoch'), tenant_id, key_id, model, currency,
        count(*), sum(outcome = 'engine_error'),
        sum(input_tokens), sum(output_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost_nano)
    FROM usage
    WHERE started_ms >= :since AND started_ms < :until
        AND (:tenant IS NULL OR tenant_id = :tenant) AND (:key IS NULL OR key_id = :key)
    GROUP BY started_ms / 86400000, tenant_id, key_id, model, currency
    ORDER BY started_ms / 86400000, tenant_id, key_id, model, currency
"""


def usage_report(
    db_path: str | os.PathLike[str],
    *,
    since_ms: int,
    until_ms: int,
    tenant_id: str | None = None,
    key_id: str | None = None,
) -> list[UsageTotal]:
    """Totals of the requests that started in [`since_ms`, `until_ms`), oldest day first. Raises Misconfigured
    when there is no readable ledger at `db_path`."""
    check_sqlite_version()
    path = Path(db_path)
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error as error:
        raise Misconfigured(f"cannot read the ledger {path}: {error}") from error
    try:
        db.set_busy_timeout(5000)
        schema_version(db, path)
        bindings = {"since": since_ms, "until": until_ms, "tenant": tenant_id, "key": key_id}
        return [UsageTotal(*row) for row in db.execute(_QUERY, bindings)]
    except apsw.Error as error:
        raise Misconfigured(f"cannot read the ledger {path}: {error}") from error
    finally:
        db.close()
