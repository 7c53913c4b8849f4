"""API keys in the accounts database: made, imported, rotated with overlap, revoked.

A secret is returned once, when it is made; the database holds its SHA-256 and its ends to tell keys apart.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from sextant.base.errors import BadRequest, NotFound
from sextant.base.ids import new_id, new_secret
from sextant.spec.policy import KeyPolicy, LimitRules
from sextant.store.accounts_database import (
    FIRST_PAGE,
    AccountsDatabase,
    Noted,
    Page,
    Tenants,
    checked_id,
    checked_limits,
    checked_name,
    digest,
    json_of,
)
from sextant.store.accounts_schema import api_key
from sextant.store.accounts_tenants import columns_of, default_project, live_project, live_tenant

ENDPOINTS = (
    "chat.completions",
    "completions",
    "embeddings",
    "messages",
    "messages.count_tokens",
    "rerank",
    "responses",
)
"""What a key may be limited to: the gateway's endpoints by their names in the ledger."""
SCOPE_ENTRIES_MAX = 256
MODEL_CHARACTERS_MAX = 300
OVERLAP_MS_MAX = 90 * 86_400_000


class KeyRecord(msgspec.Struct, frozen=True):
    """An API key without its secret. `hint` shows its ends (`sk-3f2k…w9x1`); 0 for never in the times.
    `previous_until_ms` is how long the secret before the last rotation is good."""

    id: str
    tenant_id: str
    name: str
    hint: str
    created_ms: int
    expires_ms: int
    revoked_ms: int
    project_id: str = ""
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    limits: LimitRules = LimitRules()
    previous_until_ms: int = 0


class KeyScope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a new key may be used for, and until when; the fields mean what they mean in `KeyPolicy`."""

    project_id: str = ""
    """Empty: the tenant's default project."""
    expires_ms: int = 0
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    limits: LimitRules = LimitRules()


UNSCOPED = KeyScope()
"""Whatever its tenant may, for good."""


class KeyChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be different of a key; None: as it is."""

    name: str | None = None
    expires_ms: int | None = None
    models: tuple[str, ...] | None = None
    endpoints: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    limits: LimitRules | None = None


class KnownSecret(msgspec.Struct, frozen=True):
    """A key that was made elsewhere, by its digest alone: its callers keep using it."""

    sha256: str
    hint: str = "imported"
    key_id: str = ""


class KeyAccounts(AccountsDatabase):
    """API keys."""

    def create_key(self, tenant_id: str, name: str, scope: KeyScope = UNSCOPED) -> tuple[KeyRecord, str]:
        """A new key and its secret, which nobody can show again. Raises NotFound, BadRequest."""
        secret = new_secret("sk")
        known = KnownSecret(digest(secret), _hint(secret))
        return self.import_key(tenant_id, name, scope, known), secret

    def import_key(self, tenant_id: str, name: str, scope: KeyScope, known: KnownSecret) -> KeyRecord:
        """A key whose secret we never see. Raises NotFound (tenant, project), BadRequest (a wrong value; code
        `exists` when there is such a key already)."""
        record = _checked(
            KeyRecord(
                checked_id(known.key_id) if known.key_id else new_id("key"),
                tenant_id,
                name,
                known.hint,
                self._now_ms(),
                scope.expires_ms,
                0,
                scope.project_id or default_project(tenant_id),
                scope.models,
                scope.endpoints,
                scope.networks,
                scope.limits,
            ),
            self._now_ms(),
        )
        with self.changing() as change:
            live_tenant(change.db, tenant_id)
            if live_project(change.db, record.project_id).tenant_id != tenant_id:
                raise NotFound(f"there is no project {record.project_id}", field="project_id")
            taken = sa.or_(
                api_key.c.id == record.id,
                api_key.c.sha256 == known.sha256,
                api_key.c.previous_sha256 == known.sha256,
            )
            if change.db.execute(sa.select(api_key.c.id).where(taken)).first() is not None:
                raise BadRequest("there is such a key already", field="sha256", code="exists")
            change.db.execute(sa.insert(api_key).values(**columns_of(record), sha256=known.sha256))
            change.note(Noted("key.create", record.id, tenant_id, {"name": name, "hint": known.hint}))
        return record

    def list_keys(
        self,
        page: Page = FIRST_PAGE,
        *,
        with_revoked: bool = False,
        tenants: Tenants = None,
        where: Sequence[sa.ColumnElement[bool]] = (),
    ) -> list[KeyRecord]:
        """Oldest first; `page.after` is a key's id. `where`: further conditions on `api_key`."""
        query = sa.select(api_key).where(*where)
        if page.after:
            before = sa.select(api_key.c.created_ms).where(api_key.c.id == page.after).scalar_subquery()
            query = query.where(sa.tuple_(api_key.c.created_ms, api_key.c.id) > sa.tuple_(before, page.after))
        if not with_revoked:
            query = query.where(api_key.c.revoked_ms == 0)
        if tenants is not None:
            query = query.where(api_key.c.tenant_id.in_(tenants))
        with self.reading() as db:
            ordered = query.order_by(api_key.c.created_ms, api_key.c.id).limit(page.limit)
            return [key_of(row) for row in db.execute(ordered)]

    def count_keys(self, tenant_id: str, since_ms: int) -> int:
        """How many keys a tenant has, with those made since then that are revoked."""
        counted = sa.or_(api_key.c.revoked_ms == 0, api_key.c.created_ms > since_ms)
        with self.reading() as db:
            query = sa.select(sa.func.count()).select_from(api_key)
            return db.scalar(query.where(api_key.c.tenant_id == tenant_id, counted)) or 0

    def key(self, key_id: str) -> KeyRecord:
        """Also a revoked one. Raises NotFound."""
        with self.reading() as db:
            return _found(db, key_id)

    def change_key(self, key_id: str, wanted: KeyChange) -> KeyRecord:
        """Raises NotFound, BadRequest."""
        given = {name: one for name, one in msgspec.structs.asdict(wanted).items() if one is not None}
        with self.changing() as change:
            record = _live(change.db, key_id)
            record = _checked(msgspec.structs.replace(record, **given), self._now_ms())
            change.db.execute(sa.update(api_key).where(api_key.c.id == key_id).values(**columns_of(record)))
            change.note(Noted("key.change", key_id, record.tenant_id, msgspec.to_builtins(wanted)))
        return record

    def rotate_key(self, key_id: str, *, overlap_ms: int) -> tuple[KeyRecord, str]:
        """A new secret for a key, its id and everything else unchanged. The old secret is good for
        `overlap_ms` more; one before that ends now. Raises NotFound, BadRequest."""
        if not 0 <= overlap_ms <= OVERLAP_MS_MAX:
            said = f"an overlap of {overlap_ms} ms is not 0 to {OVERLAP_MS_MAX}"
            raise BadRequest(said, field="overlap_hours")
        secret = new_secret("sk")
        with self.changing() as change:
            old = _live(change.db, key_id)
            until_ms = self._now_ms() + overlap_ms if overlap_ms else 0
            record = msgspec.structs.replace(old, hint=_hint(secret), previous_until_ms=until_ms)
            previous = api_key.c.sha256 if overlap_ms else None
            change.db.execute(
                sa.update(api_key)
                .where(api_key.c.id == key_id)
                .values(**columns_of(record), previous_sha256=previous, sha256=digest(secret))
            )
            change.note(Noted("key.rotate", key_id, old.tenant_id, {"previous_until_ms": until_ms}))
        return record, secret

    def revoke_key(self, key_id: str) -> KeyRecord:
        """Ends a key for good, a rotated one's old secret too; a second time changes nothing. Raises
        NotFound."""
        with self.changing() as change:
            record = _found(change.db, key_id)
            if record.revoked_ms:
                return record
            record = msgspec.structs.replace(record, revoked_ms=self._now_ms())
            stored = sa.update(api_key).where(api_key.c.id == key_id)
            change.db.execute(stored.values(revoked_ms=record.revoked_ms))
            change.note(Noted("key.revoke", key_id, record.tenant_id))
        return record


def key_of(row: Any) -> KeyRecord:
    """The record of a row of `api_key`."""
    values = row._asdict()
    del values["sha256"], values["previous_sha256"]
    for name in ("models", "endpoints", "networks"):
        values[name] = json_of(values[name], tuple[str, ...])
    return KeyRecord(**(values | {"limits": json_of(row.limits, LimitRules)}))


def key_policies(row: Any, now_ms: int) -> list[KeyPolicy]:
    """A row of `api_key` as gateways know it: once, and once more while an old secret overlaps."""
    record = key_of(row)
    present = KeyPolicy(
        record.id,
        record.tenant_id,
        row.sha256,
        record.name,
        record.expires_ms,
        record.project_id,
        record.models,
        record.endpoints,
        record.networks,
        record.limits,
    )
    if row.previous_sha256 is None or record.previous_until_ms <= now_ms:
        return [present]
    until_ms = min(record.previous_until_ms, record.expires_ms or record.previous_until_ms)
    return [present, msgspec.structs.replace(present, sha256=row.previous_sha256, expires_ms=until_ms)]


def _found(db: sa.Connection, key_id: str) -> KeyRecord:
    found = db.execute(sa.select(api_key).where(api_key.c.id == key_id)).one_or_none()
    if found is None:
        raise NotFound(f"there is no key {key_id}; see `sextant key list`", field="key_id")
    return key_of(found)


def _live(db: sa.Connection, key_id: str) -> KeyRecord:
    record = _found(db, key_id)
    if record.revoked_ms:
        raise BadRequest(f"key {key_id} is revoked for good; make a new one", field="key_id")
    return record


def _checked(record: KeyRecord, now_ms: int) -> KeyRecord:
    """Raises BadRequest."""
    checked_name(record.name)
    checked_limits(record.limits)
    if record.expires_ms < 0 or 0 < record.expires_ms <= now_ms:
        said = f"expiry {record.expires_ms} is not in the future (Unix milliseconds)"
        raise BadRequest(said, field="expires_ms")
    for name in ("models", "endpoints", "networks"):
        if len(getattr(record, name)) > SCOPE_ENTRIES_MAX:
            raise BadRequest(f"{name} has more than {SCOPE_ENTRIES_MAX} entries", field=name)
    for model in record.models:
        if len(model) > MODEL_CHARACTERS_MAX:
            said = f"{model[:60]!r}… has {len(model)} characters; no model's name has more than "
            raise BadRequest(f"{said}{MODEL_CHARACTERS_MAX}", field="models")
    for endpoint in record.endpoints:
        if endpoint not in ENDPOINTS:
            said = f"{endpoint!r} is no endpoint; expected some of {', '.join(ENDPOINTS)}"
            raise BadRequest(said, field="endpoints")
    for network in record.networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            said = f"{network!r} is no network ({error}); expected CIDR notation as 10.0.0.0/8"
            raise BadRequest(said, field="networks") from None
    return record


def _hint(secret: str) -> str:
    return f"{secret[:7]}…{secret[-4:]}"
