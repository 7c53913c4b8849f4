"""API keys in the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Query, Response

from sextant.base.errors import BadRequest
from sextant.control.access import Allowed, Needs
from sextant.control.agreements import refuse_without_agreement
from sextant.control.answers import Body, json_answer, listing, more_than, paged
from sextant.control.bounds import refuse_more_keys
from sextant.control.office import Office
from sextant.control.openapi import Listing, tells
from sextant.spec.policy import LimitRules
from sextant.store.accounts import DEFAULT_TENANT
from sextant.store.accounts_database import DAY_MS, Page
from sextant.store.accounts_keys import KeyChange, KeyRecord, KeyScope, KnownSecret
from sextant.store.accounts_schema import api_key

DAYS_MAX = 3650
OVERLAP_HOURS_MAX = 90 * 24
HOUR_MS = 3_600_000

Days = Annotated[int, msgspec.Meta(ge=1, le=DAYS_MAX)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to make. With `sha256` (and `id`, `hint`) a key that was made elsewhere is taken over; that needs
    a role of the whole deployment."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "unnamed"
    tenant_id: str = DEFAULT_TENANT
    project_id: str = ""
    expires_in_days: Days | None = None
    expires_ms: int = 0
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    limits: LimitRules = LimitRules()
    sha256: Sha256 | None = None
    hint: Annotated[str, msgspec.Meta(max_length=16)] = "imported"
    id: str = ""


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the old secret stays good beside the new one."""

    overlap_hours: Annotated[int, msgspec.Meta(ge=0, le=OVERLAP_HOURS_MAX)] = 24


class KeyMade(KeyRecord, frozen=True):
    """`key` is the secret; missing of a key that was made elsewhere."""

    key: str | msgspec.UnsetType = msgspec.UNSET


ReadKeys = Annotated[Allowed, Depends(Needs("read", "key"))]
WriteKeys = Annotated[Allowed, Depends(Needs("write", "key"))]
Paging = Annotated[Page, Depends(paged)]
KeyBody = Annotated[NewKey, Depends(Body(NewKey))]
KeyChangeBody = Annotated[KeyChange, Depends(Body(KeyChange))]
RotationBody = Annotated[Rotation, Depends(Body(Rotation))]


def add_keys(app: FastAPI, office: Office) -> None:
    """Routes of keys."""

    @app.get("/v1/keys")
    @tells(Listing("keys", KeyRecord))
    def list_keys(
        allowed: ReadKeys,
        page: Paging,
        with_revoked: bool = False,
        tenant_id: Annotated[str | None, Query()] = None,
        project_id: Annotated[str | None, Query()] = None,
    ) -> Response:
        """Keys, oldest first, without their secrets."""
        wanted = ((api_key.c.tenant_id, tenant_id), (api_key.c.project_id, project_id))
        found = office.accounts.list_keys(
            more_than(page),
            with_revoked=with_revoked,
            tenants=allowed.tenants,
            where=[column == value for column, value in wanted if value is not None],
        )
        return listing("keys", found, page)

    @app.post("/v1/keys", status_code=201)
    @tells(KeyMade)
    def create_key(allowed: WriteKeys, new: KeyBody) -> Response:
        """Makes a key. `key` in the answer is shown here and nowhere again. A tenant's own people must have
        accepted the agreement where the deployment requires one."""
        allowed.require(new.tenant_id, f"there is no tenant {new.tenant_id}", field="tenant_id")
        refuse_without_agreement(office, allowed, new.tenant_id)
        refuse_more_keys(office, allowed, new.tenant_id)
        record, secret = office.changed(lambda: _make(office, allowed, new))
        shown = msgspec.UNSET if secret is None else secret
        return json_answer(KeyMade(**msgspec.structs.asdict(record), key=shown), 201)

    @app.get("/v1/keys/{key_id}")
    @tells(KeyRecord)
    def get_key(key_id: str, allowed: ReadKeys) -> Response:
        """One key, also a revoked one."""
        return json_answer(_found(office, allowed, key_id))

    @app.patch("/v1/keys/{key_id}")
    @tells(KeyRecord)
    def change_key(key_id: str, allowed: WriteKeys, wanted: KeyChangeBody) -> Response:
        """Changes what is given."""
        _found(office, allowed, key_id)
        return json_answer(office.changed(lambda: office.by(allowed).change_key(key_id, wanted)))

    @app.post("/v1/keys/{key_id}/rotate")
    @tells(KeyMade)
    def rotate_key(key_id: str, allowed: WriteKeys, rotation: RotationBody) -> Response:
        """A new secret, shown here and nowhere again; the old one stays good for a while."""
        _found(office, allowed, key_id)
        overlap_ms = rotation.overlap_hours * HOUR_MS
        record, secret = office.changed(lambda: office.by(allowed).rotate_key(key_id, overlap_ms=overlap_ms))
        return json_answer(KeyMade(**msgspec.structs.asdict(record), key=secret))

    @app.delete("/v1/keys/{key_id}")
    @tells(KeyRecord)
    def revoke_key(key_id: str, allowed: WriteKeys) -> Response:
        """Revokes a key; gateways refuse it within a second."""
        _found(office, allowed, key_id)
        return json_answer(office.changed(lambda: office.by(allowed).revoke_key(key_id)))


def _found(office: Office, allowed: Allowed, key_id: str) -> KeyRecord:
    record = office.accounts.key(key_id)
    missing = f"there is no key {key_id}; see `sextant key list`"
    allowed.require(record.tenant_id, missing, field="key_id")
    return record


def _make(office: Office, allowed: Allowed, new: NewKey) -> tuple[KeyRecord, str | None]:
    expires_ms = new.expires_ms
    if new.expires_in_days is not None:
        expires_ms = office.now_ms() + new.expires_in_days * DAY_MS
    scope = KeyScope(new.project_id, expires_ms, new.models, new.endpoints, new.networks, new.limits)
    accounts = office.by(allowed)
    if new.sha256 is None and not new.id:
        return accounts.create_key(new.tenant_id, new.name, scope)
    if new.sha256 is None:
        raise BadRequest("an id of one's own comes with sha256, for a key made elsewhere", field="id")
    if not allowed.everywhere:
        said = "taking over a key made elsewhere needs a role of the whole deployment"
        raise BadRequest(said, field="sha256")
    known = KnownSecret(new.sha256, new.hint, new.id)
    return accounts.import_key(new.tenant_id, new.name, scope, known), None
