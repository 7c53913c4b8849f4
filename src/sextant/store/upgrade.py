"""Schema versions of the two databases: which this program knows, which it finds, and the way from one to the
other.

`sextant up` calls `bring_up_to_date` before anything opens a database: a newer schema is refused with the
command that restores a backup, an older one is backed up and migrated. Each database migrates itself
(`Accounts.migrate`, `LedgerFile`); here stands only the order and the safety around it.
Neighbours: `upgrade_backup.py` (copies), `upgrade_check.py` (is what is there sound), `cli/db.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec

from sextant import __version__
from sextant.base.errors import Misconfigured
from sextant.store import ledger_file
from sextant.store.accounts import Accounts
from sextant.store.upgrade_backup import (
    Databases,
    Manifest,
    Schemas,
    list_backups,
    make_backup,
    prune_backups,
    refuse_half_restored,
)

AUTOMATIC_BACKUPS_MAX = 5
"""Backups made before migrations that are kept; older ones are removed. Those that a person made stay."""

Found = TypeVar("Found")


class Migration(msgspec.Struct, frozen=True):
    """What `bring_up_to_date` did. `backup` is the folder with the state before; empty for no backup."""

    before: Schemas
    after: Schemas
    backup: str


def known_schemas() -> Schemas:
    """The newest schemas that this program knows, which are those it writes."""
    return Schemas(_account_revisions()[-1], ledger_file.SCHEMA_VERSION)


def found_schemas(databases: Databases) -> Schemas:
    """The schemas of the databases that are there; "" and 0 for one that is not there or empty. Raises
    Misconfigured when a file is no database."""
    if databases.url:
        from sextant.store.upgrade_postgres import found_versions

        return Schemas(*found_versions(databases.url))
    return Schemas(_accounts_revision(databases.accounts), _ledger_version(databases.ledger))


def bring_up_to_date(databases: Databases, *, backup: bool = True) -> Migration | None:
    """Migrates what is older than this program, after a backup of both databases; None when there was nothing
    to do. Call with the state directory's lock held. Raises Misconfigured for a schema newer than this
    program, for a restore that did not end, and for a file that is no database; LedgerUnavailable or
    SextantError when the disk is full: then nothing was changed."""
    refuse_half_restored(databases)
    found, known = found_schemas(databases), known_schemas()
    refuse_newer(databases, found)
    due = Schemas(found.accounts or known.accounts, found.ledger or known.ledger) != known
    if not due:
        return None
    made = make_backup(databases, found, made_for="migration") if backup else None
    _migrate(databases, found)
    prune_backups(databases, AUTOMATIC_BACKUPS_MAX)
    return Migration(found, found_schemas(databases), str(made or ""))


def refuse_newer(databases: Databases, found: Schemas) -> None:
    """Raises Misconfigured, naming the restore command, when a newer Sextant wrote the databases."""
    if found.accounts and found.accounts not in _account_revisions():
        what = f"{'PostgreSQL' if databases.url else databases.accounts} has the schema {found.accounts}"
    elif found.ledger > ledger_file.SCHEMA_VERSION:
        what = f"{'PostgreSQL' if databases.url else databases.ledger} has the schema version {found.ledger}"
    else:
        return
    known = known_schemas()
    raise Misconfigured(
        f"{what}, which is newer than this program ({__version__} knows accounts {known.accounts} and ledger "
        f"{known.ledger}): start the newer Sextant, or go back to the state before it migrated (what was "
        f"written since is set aside): {restore_command(databases)}",
        code="newer_schema",
    )


def restore_command(databases: Databases) -> str:
    """The command that brings back the newest backup that this program can read."""
    usable = [path for path, manifest in list_backups(databases) if readable(manifest)]
    folder = shlex.quote(str(usable[-1])) if usable else "FOLDER"
    return f"sextant db restore --state {shlex.quote(str(databases.root))} {folder}"


def readable(manifest: Manifest) -> bool:
    """Whether this program knows the schemas of a backup."""
    found = manifest.schemas
    known_accounts = found.accounts in ("", *_account_revisions())
    return known_accounts and found.ledger <= ledger_file.SCHEMA_VERSION


def _migrate(databases: Databases, found: Schemas) -> None:
    if found.accounts:
        accounts = Accounts(databases.url or databases.accounts)
        try:
            accounts.migrate()
        finally:
            accounts.close()
    if found.ledger and databases.url:
        from sextant.store import ledger_postgres

        with ledger_postgres.connected(databases.url) as db:
            ledger_postgres.migrate(db)
    elif found.ledger:
        ledger_file.LedgerFile(databases.ledger).close()


def _account_revisions() -> list[str]:
    """The revisions of the accounts' migrations, oldest first: their files begin with them."""
    folder = Path(__file__).with_name("migrations") / "versions"
    return sorted(path.name.partition("_")[0] for path in folder.glob("[0-9]*.py"))


def _accounts_revision(path: Path) -> str:
    def read(db: apsw.Connection) -> str:
        if not db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'alembic_version'").get:
            return ""
        return str(db.execute("SELECT version_num FROM alembic_version").get or "")

    return _read(path, read, "")


def _ledger_version(path: Path) -> int:
    return _read(path, lambda db: int(db.pragma("user_version")), 0)


def _read(path: Path, read: Callable[[apsw.Connection], Found], absent: Found) -> Found:
    if not path.exists() or path.stat().st_size == 0:
        return absent
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error as error:
        raise Misconfigured(f"cannot open {path}: {error}") from error
    try:
        db.set_busy_timeout(5000)
        return read(db)
    except apsw.Error as error:
        raise Misconfigured(
            f"{path} cannot be read ({error}); see `sextant db check`, or restore a backup: "
            "sextant db restore FOLDER"
        ) from error
    finally:
        db.close()
