"""The accounts database, all its nouns together, and the policy snapshot that gateways read of it.

Control writes it, before it runs the supervisor, and with PostgreSQL the controls of other hosts. Every
change raises the policy's version in the same transaction; `publish` then puts the snapshot where the
gateways look.
Neighbours: `accounts_*.py` (one file a noun), `accounts_schema.py` (tables), `migrations/`,
`sextant.spec.snapshot`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from sextant.base.errors import Misconfigured
from sextant.spec.policy import ProjectPolicy, TenantPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.store.accounts_keys import KeyAccounts, key_policies
from sextant.store.accounts_prices import PriceAccounts, load_builtin, plans_of, tiers_of
from sextant.store.accounts_schema import api_key, policy_version, project, tenant
from sextant.store.accounts_sign_ups import SignUpAccounts
from sextant.store.accounts_sites import SiteAccounts
from sextant.store.accounts_tenants import (
    DEFAULT_TENANT,
    ProjectRecord,
    TenantRecord,
    columns_of,
    default_project,
    project_of,
    tenant_of,
)

__all__ = ["DEFAULT_TENANT", "Accounts", "publish"]

MIGRATION_LOCK = 7_165_012_004
"""PostgreSQL's advisory lock that one migrating process at a time holds: an arbitrary number of ours."""


class Accounts(SignUpAccounts, KeyAccounts, PriceAccounts, SiteAccounts):
    """The accounts database in a SQLite file or at a `postgresql://` URL. Call `migrate` once before anything
    else."""

    def migrate(self) -> None:
        """Brings the schema up to date; makes the default tenant, the shipped tiers and price plans. Raises
        Misconfigured when the database was written by a newer Sextant, is none, or cannot be reached."""
        from alembic import command, util
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        where = self._engine.url.render_as_string()
        try:
            with self._engine.begin() as db, _patient(db):
                if self._engine.dialect.name == "postgresql":
                    db.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                config.attributes["connection"] = db
                command.upgrade(config, "head")
                load_builtin(db, self._now_ms())
                self._make_default_tenant(db)
        except util.CommandError as error:
            raise Misconfigured(
                f"{where} has a schema that this program does not know ({error}): it was written by a newer "
                "Sextant; start that one, or bring an older copy back with `sextant db restore FILE`"
            ) from error
        except sa.exc.DatabaseError as error:
            raise Misconfigured(f"cannot use the accounts {where}: {error.orig}") from error

    def policy_snapshot(self) -> PolicySnapshot:
        """What gateways need to know. Revoked keys are not in it; a deleted tenant is, switched off: its
        last requests may still be rated. The version grows with every change."""
        now_ms = self._now_ms()
        with self.reading() as db:
            version = db.scalar(sa.select(policy_version.c.version))
            tenants = [tenant_of(row) for row in db.execute(sa.select(tenant).order_by(tenant.c.id))]
            projects = [project_of(row) for row in db.execute(sa.select(project).order_by(project.c.id))]
            live = sa.select(api_key).where(api_key.c.revoked_ms == 0).order_by(api_key.c.id)
            keys = [policy for row in db.execute(live) for policy in key_policies(row, now_ms)]
            tiers, plans = tiers_of(db), plans_of(db)
        return PolicySnapshot(
            version=int(version or 0),
            tenants=tuple(_tenant_policy(record) for record in tenants),
            keys=tuple(keys),
            projects=tuple(
                ProjectPolicy(one.id, one.tenant_id, one.name, one.enabled, one.limits) for one in projects
            ),
            tiers=tuple(tiers),
            plans=tuple(plans),
        )

    def store_id(self) -> str:
        """Tells these books from others, also after a restore or a move: made of the moment in which they
        began, which the default tenant keeps. A copy has the id of its original."""
        began = f"{DEFAULT_TENANT}:{self.tenant(DEFAULT_TENANT).created_ms}"
        return hashlib.sha256(began.encode()).hexdigest()[:16]

    def _make_default_tenant(self, db: sa.Connection) -> None:
        if db.scalar(sa.select(tenant.c.id).where(tenant.c.id == DEFAULT_TENANT)) is not None:
            return
        made = TenantRecord(DEFAULT_TENANT, "Default", True, self._now_ms())
        db.execute(sa.insert(tenant).values(**columns_of(made)))
        first = ProjectRecord(default_project(made.id), made.id, "Default", True, made.created_ms)
        db.execute(sa.insert(project).values(**columns_of(first)))
        db.execute(sa.update(policy_version).values(version=policy_version.c.version + 1))


def publish(policy: PolicySnapshot, path: str | os.PathLike[str]) -> None:
    """Writes `policy` to `path` (mode 0600) such that a reader sees the old file or the new one, whole, and a
    power cut leaves one of the two."""
    target = Path(path)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            file.write(msgspec.json.encode(policy))
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _tenant_policy(record: TenantRecord) -> TenantPolicy:
    values = msgspec.structs.asdict(record)
    return TenantPolicy(**{field.name: values[field.name] for field in msgspec.structs.fields(TenantPolicy)})


def _patient(db: sa.Connection) -> contextlib.AbstractContextManager[None]:
    """Lets this connection wait for as long as it takes."""
    driver: Any = db.connection.driver_connection
    return driver.patient() if db.dialect.name == "postgresql" else contextlib.nullcontext()
