"""Tenants, API keys and admin credentials, and the policy snapshot that gateways read of them.

Control is the one writer (before it runs, the supervisor). Every change raises the policy's version in the
same transaction; `publish` then puts the snapshot where the gateways look. Secrets are returned once, when
they are made; the database holds their SHA-256 and a few characters to tell them apart.
Neighbours: `accounts_schema.py` (tables), `migrations/`, `sextant.spec.snapshot`.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from sextant.base.errors import BadRequest, Misconfigured, NotFound
from sextant.base.ids import new_id, new_secret
from sextant.spec.policy import KeyPolicy, TenantPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.store.accounts_schema import admin_credential, api_key, open_sqlite, policy_version, tenant

DEFAULT_TENANT = "default"
NAME_CHARACTERS_MAX = 200


class TenantRecord(msgspec.Struct, frozen=True):
    id: str
    name: str
    enabled: bool
    created_ms: int


class KeyRecord(msgspec.Struct, frozen=True):
    """An API key without its secret. `hint` shows its ends (`sk-3f2k…w9x1`); 0 for never in the times."""

    id: str
    tenant_id: str
    name: str
    hint: str
    created_ms: int
    expires_ms: int
    revoked_ms: int


class AdminRecord(msgspec.Struct, frozen=True):
    id: str
    name: str
    created_ms: int
    revoked_ms: int


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Accounts:
    """The accounts database at `path`. Call `migrate` once before anything else."""

    def __init__(self, path: str | os.PathLike[str], now_ms: Callable[[], int] = _wall_clock_ms) -> None:
        self._path = Path(path)
        self._engine = open_sqlite(self._path)
        self._now_ms = now_ms

    def close(self) -> None:
        self._engine.dispose()

    def migrate(self) -> None:
        """Brings the schema up to date and makes the default tenant. Raises Misconfigured when the file was
        written by a newer Sextant, or is no database."""
        from alembic import command, util
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        try:
            with self._engine.begin() as db:
                config.attributes["connection"] = db
                command.upgrade(config, "head")
                if db.scalar(sa.select(tenant.c.id).where(tenant.c.id == DEFAULT_TENANT)) is None:
                    self._insert_tenant(db, TenantRecord(DEFAULT_TENANT, "Default", True, self._now_ms()))
        except util.CommandError as error:
            raise Misconfigured(
                f"{self._path} has a schema that this program does not know ({error}): "
                "it was written by a newer Sextant; start that one, or restore an older file"
            ) from error
        except sa.exc.DatabaseError as error:
            raise Misconfigured(f"cannot use the accounts {self._path}: {error.orig}") from error

    def create_tenant(self, tenant_id: str, name: str = "") -> TenantRecord:
        """Raises BadRequest when the id is taken."""
        record = TenantRecord(tenant_id, _checked_name(name or tenant_id), True, self._now_ms())
        with self._engine.begin() as db:
            if db.scalar(sa.select(tenant.c.id).where(tenant.c.id == tenant_id)) is not None:
                raise BadRequest(f"there is a tenant {tenant_id} already", field="tenant_id")
            self._insert_tenant(db, record)
        return record

    def list_tenants(self) -> list[TenantRecord]:
        with self._engine.begin() as db:
            return [_tenant_of(row) for row in db.execute(sa.select(tenant).order_by(tenant.c.created_ms))]

    def set_tenant_enabled(self, tenant_id: str, enabled: bool) -> None:
        """A tenant switched off keeps its keys; they are refused. Raises NotFound."""
        with self._engine.begin() as db:
            change = sa.update(tenant).where(tenant.c.id == tenant_id).values(enabled=enabled)
            if db.execute(change).rowcount == 0:
                raise NotFound(f"there is no tenant {tenant_id}", field="tenant_id")
            _raise_version(db)

    def create_key(self, tenant_id: str, name: str, *, expires_ms: int = 0) -> tuple[KeyRecord, str]:
        """A new key and its secret, which nobody can show again. `expires_ms` 0: never. Raises NotFound."""
        secret = new_secret("sk")
        record = KeyRecord(
            new_id("key"), tenant_id, _checked_name(name), _hint(secret), self._now_ms(), expires_ms, 0
        )
        if expires_ms < 0 or 0 < expires_ms <= record.created_ms:
            raise BadRequest(
                f"expiry {expires_ms} is not in the future (Unix milliseconds)", field="expires_ms"
            )
        with self._engine.begin() as db:
            if db.scalar(sa.select(tenant.c.id).where(tenant.c.id == tenant_id)) is None:
                raise NotFound(f"there is no tenant {tenant_id}", field="tenant_id")
            db.execute(sa.insert(api_key).values(**msgspec.structs.asdict(record), sha256=_digest(secret)))
            _raise_version(db)
        return record, secret

    def list_keys(self, *, with_revoked: bool = False) -> list[KeyRecord]:
        """Oldest first."""
        query = sa.select(api_key).order_by(api_key.c.created_ms, api_key.c.id)
        if not with_revoked:
            query = query.where(api_key.c.revoked_ms == 0)
        with self._engine.begin() as db:
            return [_key_of(row) for row in db.execute(query)]

    def revoke_key(self, key_id: str) -> KeyRecord:
        """Ends a key for good; a second time changes nothing. Raises NotFound."""
        with self._engine.begin() as db:
            found = db.execute(sa.select(api_key).where(api_key.c.id == key_id)).one_or_none()
            if found is None:
                raise NotFound(f"there is no key {key_id}; see `sextant key list`", field="key_id")
            record = _key_of(found)
            if record.revoked_ms:
                return record
            record = msgspec.structs.replace(record, revoked_ms=self._now_ms())
            db.execute(sa.update(api_key).where(api_key.c.id == key_id).values(revoked_ms=record.revoked_ms))
            _raise_version(db)
        return record

    def create_admin(self, name: str) -> tuple[AdminRecord, str]:
        """A credential for the admin API, shown once."""
        secret = new_secret("sxadmin")
        record = AdminRecord(new_id("adm"), _checked_name(name), self._now_ms(), 0)
        with self._engine.begin() as db:
            db.execute(
                sa.insert(admin_credential).values(**msgspec.structs.asdict(record), sha256=_digest(secret))
            )
        return record, secret

    def list_admins(self) -> list[AdminRecord]:
        """Oldest first, without the revoked."""
        query = sa.select(admin_credential).where(admin_credential.c.revoked_ms == 0)
        with self._engine.begin() as db:
            return [_admin_of(row) for row in db.execute(query.order_by(admin_credential.c.created_ms))]

    def verify_admin(self, secret: str) -> AdminRecord | None:
        """Whose credential this is; None for nobody's or a revoked one."""
        query = sa.select(admin_credential).where(
            admin_credential.c.sha256 == _digest(secret), admin_credential.c.revoked_ms == 0
        )
        with self._engine.begin() as db:
            found = db.execute(query).one_or_none()
        return None if found is None else _admin_of(found)

    def revoke_admin(self, admin_id: str) -> None:
        """Raises NotFound."""
        with self._engine.begin() as db:
            change = sa.update(admin_credential).where(admin_credential.c.id == admin_id)
            if db.execute(change.values(revoked_ms=self._now_ms())).rowcount == 0:
                raise NotFound(f"there is no admin credential {admin_id}", field="admin_id")

    def policy_snapshot(self) -> PolicySnapshot:
        """What gateways need to know; revoked keys are not in it. The version grows with every change."""
        with self._engine.begin() as db:
            version = db.scalar(sa.select(policy_version.c.version))
            tenants = db.execute(sa.select(tenant).order_by(tenant.c.id)).all()
            keys = db.execute(
                sa.select(api_key).where(api_key.c.revoked_ms == 0).order_by(api_key.c.id)
            ).all()
        return PolicySnapshot(
            version=int(version or 0),
            tenants=tuple(TenantPolicy(row.id, row.name, row.enabled) for row in tenants),
            keys=tuple(
                KeyPolicy(row.id, row.tenant_id, row.sha256, row.name, row.expires_ms) for row in keys
            ),
        )

    def _insert_tenant(self, db: sa.Connection, record: TenantRecord) -> None:
        db.execute(sa.insert(tenant).values(**msgspec.structs.asdict(record)))
        _raise_version(db)


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


def _digest(secret: str) -> str:
    """SHA-256 is enough: a secret of ours is 240 random bits, which no guessing reaches, so the slow, salted
    hashes that protect weak human passwords would only make each check dear."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _hint(secret: str) -> str:
    return f"{secret[:7]}…{secret[-4:]}"


def _checked_name(name: str) -> str:
    if not name.strip() or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise BadRequest(f"a name is 1 to {NAME_CHARACTERS_MAX} printable characters", field="name")
    return name


def _raise_version(db: sa.Connection) -> None:
    db.execute(sa.update(policy_version).values(version=policy_version.c.version + 1))


def _tenant_of(row: Any) -> TenantRecord:
    return TenantRecord(row.id, row.name, row.enabled, row.created_ms)


def _key_of(row: Any) -> KeyRecord:
    return KeyRecord(
        row.id, row.tenant_id, row.name, row.hint, row.created_ms, row.expires_ms, row.revoked_ms
    )


def _admin_of(row: Any) -> AdminRecord:
    return AdminRecord(row.id, row.name, row.created_ms, row.revoked_ms)
