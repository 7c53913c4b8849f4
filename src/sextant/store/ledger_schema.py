"""Tables of the ledger, as steps from one schema version to the next.

`usage` and `transfer` only grow: triggers refuse any change. `usage_day`, `usage_paid`, `standing` and
`account` are sums over them, kept in the same transaction; `ledger_check.py` adds up again. The SQLite tables
have no rowid: their keys grow at the right edge, or are short.
Neighbours: `ledger_file.py` (SQLite), `ledger_postgres.py`.
"""

from __future__ import annotations

_TO_1 = """
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
"""

_TABLES_2 = """
    CREATE TABLE usage (
        request_id TEXT NOT NULL PRIMARY KEY,
        tenant_id TEXT NOT NULL,
        project_id TEXT NOT NULL,
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
        list_nano INTEGER NOT NULL,
        currency TEXT NOT NULL,
        day INTEGER NOT NULL,
        month INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE usage_day (
        tenant_id TEXT NOT NULL,
        month INTEGER NOT NULL,
        day INTEGER NOT NULL,
        project_id TEXT NOT NULL,
        key_id TEXT NOT NULL,
        model TEXT NOT NULL,
        currency TEXT NOT NULL,
        requests INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        refused INTEGER NOT NULL,
        estimated INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        cost_nano INTEGER NOT NULL,
        list_nano INTEGER NOT NULL,
        counted_tokens INTEGER NOT NULL,
        PRIMARY KEY (tenant_id, month, day, project_id, key_id, model, currency)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE standing (
        scope TEXT NOT NULL PRIMARY KEY,
        version INTEGER NOT NULL,
        day INTEGER NOT NULL,
        day_tokens INTEGER NOT NULL,
        month INTEGER NOT NULL,
        month_tokens INTEGER NOT NULL,
        month_nano INTEGER NOT NULL,
        funds_nano INTEGER NOT NULL,
        funds_until_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE transfer (
        id TEXT NOT NULL PRIMARY KEY,
        kind TEXT NOT NULL,
        debit TEXT NOT NULL,
        credit TEXT NOT NULL,
        amount_nano INTEGER NOT NULL CHECK (amount_nano > 0),
        currency TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        request_id TEXT NOT NULL,
        note TEXT NOT NULL,
        expires_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX transfer_by_time ON transfer (at_ms) WHERE kind <> 'usage';
    CREATE TABLE account (
        id TEXT NOT NULL,
        currency TEXT NOT NULL,
        tenant_id TEXT NOT NULL,
        expires_ms INTEGER NOT NULL,
        debits_nano INTEGER NOT NULL,
        credits_nano INTEGER NOT NULL,
        PRIMARY KEY (id, currency)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE usage_paid (
        tenant_id TEXT NOT NULL,
        month INTEGER NOT NULL,
        debit TEXT NOT NULL,
        currency TEXT NOT NULL,
        amount_nano INTEGER NOT NULL,
        PRIMARY KEY (tenant_id, month, debit, currency)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX account_by_tenant ON account (tenant_id);
"""

_FROM_1 = """
    INSERT INTO usage
    SELECT request_id, tenant_id, '', key_id, model, endpoint, outcome, started_ms, duration_ms, ttft_ms,
        input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, 0, 0, currency,
        CAST(strftime('%Y%m%d', started_ms / 1000, 'unixepoch') AS INTEGER),
        CAST(strftime('%Y%m', started_ms / 1000, 'unixepoch') AS INTEGER)
    FROM usage_1;
    INSERT INTO usage_day
    SELECT tenant_id, month, day, project_id, key_id, model, currency,
        count(*), sum(outcome = 'engine_error'), sum(outcome = 'refused'), sum(estimated),
        sum(input_tokens), sum(output_tokens), sum(cached_tokens), sum(reasoning_tokens), 0, 0,
        sum(iif(outcome IN ('engine_error', 'refused'), 0, input_tokens + output_tokens))
    FROM usage GROUP BY 1, 2, 3, 4, 5, 6, 7;
    INSERT INTO standing
    WITH counts (scope, day, month, tokens) AS (
        SELECT 'tenant:' || tenant_id, day, month, counted_tokens FROM usage_day
        UNION ALL SELECT 'key:' || key_id, day, month, counted_tokens FROM usage_day
    ), latest (scope, day, month) AS (SELECT scope, max(day), max(month) FROM counts GROUP BY scope)
    SELECT latest.scope, 1,
        latest.day, sum(iif(counts.day = latest.day, tokens, 0)),
        latest.month, sum(iif(counts.month = latest.month, tokens, 0)), 0, 0, 0
    FROM latest JOIN counts USING (scope) GROUP BY latest.scope;
    DROP TABLE usage_1;
"""
"""Before this version nothing had a price or a project, and days were those of UTC."""

_FINAL = "".join(
    f"""
    CREATE TRIGGER {table}_{change} BEFORE {change} ON {table}
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no {change} of {table}'); END;
"""
    for table in ("usage", "transfer")
    for change in ("update", "delete")
)

_SITES_3 = """
    CREATE TABLE site_usage (
        site_id TEXT NOT NULL,
        request_id TEXT NOT NULL,
        tenant_id TEXT NOT NULL,
        project_id TEXT NOT NULL,
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
        list_nano INTEGER NOT NULL,
        currency TEXT NOT NULL,
        policy_version INTEGER NOT NULL,
        number INTEGER NOT NULL,
        arrived_ms INTEGER NOT NULL,
        booked_tenant_id TEXT NOT NULL,
        PRIMARY KEY (site_id, request_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX site_usage_held ON site_usage (site_id, tenant_id) WHERE booked_tenant_id = '';
    CREATE TABLE site_end (
        site_id TEXT NOT NULL PRIMARY KEY,
        number INTEGER NOT NULL,
        request_id TEXT NOT NULL,
        arrived_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
"""
"""What sites have sent: their rows as they are, an empty `booked_tenant_id` for one that waits for a tenant;
and the last row of each site up to which all are here."""

_ORDER_3 = """
    CREATE TABLE usage_order (
        number INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        policy_version INTEGER NOT NULL
    ) STRICT;
"""
"""The order in which rows were kept, where they are forwarded to a centre. A site keeps a file of its own, so
PostgreSQL has no such table."""

SQLITE_STEPS = (
    _TO_1,
    f"""
    ALTER TABLE usage RENAME TO usage_1;
    DROP INDEX usage_by_start;
    {_TABLES_2}
    {_FROM_1}
    CREATE INDEX usage_by_start ON usage (started_ms);
    {_FINAL}
    """,
    _SITES_3 + _ORDER_3,
)
"""What brings a ledger file from version n to n + 1."""

_POSTGRES_FINAL = """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the ledger is append-only: no % of %', TG_OP, TG_TABLE_NAME; END $$;
""" + "".join(
    f"""
    CREATE TRIGGER {table}_is_final BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""
    for table in ("usage", "transfer")
)


def _in_postgres(tables: str) -> str:
    return tables.replace(") STRICT, WITHOUT ROWID", ")").replace("INTEGER", "BIGINT")


POSTGRES_STEPS = (
    f"{_in_postgres(_TABLES_2)} CREATE INDEX usage_by_start ON usage (started_ms); {_POSTGRES_FINAL}",
    _in_postgres(_SITES_3),
)
"""What makes version 2, the first one in PostgreSQL, and later steps from n to n + 1. Names without a schema
are found by the session's search path."""
