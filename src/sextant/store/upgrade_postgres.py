"""Backups of a PostgreSQL store: PostgreSQL's own programs, asked so that nothing is left half done.

`pg_dump` copies the schemas of accounts and ledger as of one moment, also while deployments run. A restore is
one transaction: what is there goes and the copy comes, or nothing changes. The database must be Sextant's
alone. Neighbours: `upgrade_backup.py` (folders and manifests), `upgrade.py`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sextant.base.config import child_environment
from sextant.base.errors import LedgerUnavailable, SextantError
from sextant.store.upgrade_backup import DUMP

SCHEMAS = ("public", "ledger")
"""Of the accounts and of the ledger."""
CONNECT_TIMEOUT_S = 5


def found_versions(url: str) -> tuple[str, int]:
    """(accounts' revision, ledger's version) of the database; "" and 0 where there is none. Raises
    LedgerUnavailable."""
    with _connected(url) as db:
        revision = _only(db, "public.alembic_version", "version_num")
        version = _only(db, "ledger.schema_version", "max(version)")
        return str(revision or ""), int(version or 0)


def dump(url: str, folder: Path) -> Path:
    """Writes both schemas to a file in `folder`, readable by us alone. Raises SextantError."""
    target = folder / DUMP
    target.touch(mode=0o600)
    schemas = [f"--schema={name}" for name in SCHEMAS]
    _run(url, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", *schemas, f"--file={target}")
    return target


def check_dump(file: Path) -> None:
    """Raises SextantError when PostgreSQL cannot read the file."""
    _run("", "pg_restore", "--list", str(file))


def restore(url: str, file: Path) -> None:
    """Puts the dump in the place of both schemas, in one transaction. Raises SextantError when somebody is
    connected, or PostgreSQL refuses: then nothing was changed."""
    _refuse_connected(url)
    with tempfile.TemporaryDirectory(prefix="sx-restore-") as folder:
        script, before = Path(folder, "restore.sql"), Path(folder, "before.sql")
        _run("", "pg_restore", "--no-owner", "--no-privileges", f"--file={script}", str(file))
        drops = [f"DROP SCHEMA IF EXISTS {name} CASCADE;" for name in SCHEMAS]
        with script.open(encoding="utf-8") as lines:
            makes_public = any(line.startswith("CREATE SCHEMA public") for line in lines)
        before.write_text("\n".join([*drops, "" if makes_public else "CREATE SCHEMA public;"]) + "\n")
        options = ("--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1")
        _run(url, "psql", *options, f"--file={before}", f"--file={script}")


def _refuse_connected(url: str) -> None:
    query = (
        "SELECT coalesce(nullif(application_name, ''), 'a client'), coalesce(host(client_addr), 'this host') "
        "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    with _connected(url) as db:
        others = sorted({f"{name} on {where}" for name, where in db.execute(query)})
    if others:
        raise SextantError(
            f"the database is in use by {', '.join(others)}; stop every deployment that shares it, then "
            "restore again",
            code="already_running",
        )


def _only(db: psycopg.Connection[tuple[Any, ...]], table: str, column: str) -> Any:
    """A value of a table that may be missing."""
    found = db.execute("SELECT to_regclass(%s)::text", (table,)).fetchone()
    if found is None or found[0] is None:
        return None
    row = db.execute(f"SELECT {column} FROM {table}").fetchone()
    return None if row is None else row[0]


def _connected(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    try:
        return psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S, application_name="sextant-db")
    except psycopg.Error as error:
        raise LedgerUnavailable(
            f"PostgreSQL does not answer: {str(error).strip().splitlines()[0] or type(error).__name__}"
        ) from error


def _run(url: str, name: str, *arguments: str) -> None:
    """Runs one of PostgreSQL's programs; the password goes by its environment, never by its arguments."""
    program = shutil.which(name)
    if program is None:
        raise SextantError(
            f"{name} is not on this machine, and backups of PostgreSQL need it (Debian package "
            "postgresql-client): install it, or make a backup of your own and run `sextant db migrate "
            "--no-backup`"
        )
    environment = child_environment()
    where: list[str] = []
    if url:
        parameters = conninfo_to_dict(url)
        environment["PGPASSWORD"] = str(parameters.pop("password", "") or "")
        where = [f"--dbname={make_conninfo('', **parameters)}"]
    command = [program, *where, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SextantError(f"{name} failed: {done.stderr.strip() or f'exit status {done.returncode}'}")
