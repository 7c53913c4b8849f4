"""Sites that send usage here, in the accounts database: which tenant each of theirs is, and a credential.

A site's credential is good for sending that site's usage and for nothing else. A site stays for ever, since
rows in the books name it; without a credential it sends nothing more.
Neighbours: `books_sites.py` (what has come from them), `sextant.control.sites` (the routes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from sextant.base.errors import BadRequest, NotFound
from sextant.base.ids import new_secret
from sextant.store.accounts_database import (
    AccountsDatabase,
    Noted,
    Page,
    checked_id,
    checked_name,
    digest,
    json_of,
    text_of,
)
from sextant.store.accounts_schema import site
from sextant.store.accounts_tenants import live_tenant

TENANTS_MAX = 1000
"""Tenants of one site that are somebody here."""


class SiteRecord(msgspec.Struct, frozen=True):
    """A site without its secret. `tenants`: its tenants to those here; usage of others is held.
    `credential_ms` is when the present credential was made, 0 for none."""

    id: str
    name: str
    created_ms: int
    credential_ms: int
    tenants: dict[str, str] = {}


class SiteAccounts(AccountsDatabase):
    """Sites and their credentials."""

    def create_site(
        self, site_id: str, name: str = "", tenants: Mapping[str, str] | None = None
    ) -> tuple[SiteRecord, str]:
        """A site and its credential, shown once. Raises BadRequest (code `exists`), NotFound (a tenant)."""
        checked_id(site_id)
        secret = new_secret("sxsite")
        now_ms = self._now_ms()
        with self.changing() as change:
            if change.db.scalar(sa.select(site.c.id).where(site.c.id == site_id)) is not None:
                raise BadRequest(f"there is a site {site_id} already", field="id", code="exists")
            known = _checked(change.db, tenants or {})
            change.db.execute(
                sa.insert(site).values(
                    id=site_id,
                    name=checked_name(name or site_id),
                    sha256=digest(secret),
                    created_ms=now_ms,
                    credential_ms=now_ms,
                    tenants=text_of(known),
                )
            )
            change.note(Noted("site.create", site_id, detail={"tenants": known}, policy=False))
            return _record(change.db, site_id), secret

    def site(self, site_id: str) -> SiteRecord:
        """Raises NotFound."""
        with self.reading() as db:
            return _record(db, site_id)

    def list_sites(self, page: Page) -> list[SiteRecord]:
        """By id."""
        query = sa.select(site).where(site.c.id > page.after).order_by(site.c.id).limit(page.limit)
        with self.reading() as db:
            return [_of(row) for row in db.execute(query)]

    def map_site(self, site_id: str, tenants: Mapping[str, str]) -> SiteRecord:
        """Says which tenants here the site's are, all of them. Raises NotFound, BadRequest."""
        with self.changing() as change:
            _record(change.db, site_id)
            known = _checked(change.db, tenants)
            change.db.execute(sa.update(site).where(site.c.id == site_id).values(tenants=text_of(known)))
            change.note(Noted("site.map", site_id, detail={"tenants": known}, policy=False))
            return _record(change.db, site_id)

    def renew_site(self, site_id: str) -> tuple[SiteRecord, str]:
        """A new credential; the one before is good for nothing from now on. Raises NotFound."""
        secret = new_secret("sxsite")
        return self._set_credential(site_id, digest(secret), "site.credential"), secret

    def revoke_site(self, site_id: str) -> SiteRecord:
        """Takes the site's credential away at once. Raises NotFound."""
        return self._set_credential(site_id, None, "site.revoke")

    def verify_site(self, secret: str) -> SiteRecord | None:
        """Whose credential this is; None for nobody's."""
        with self.reading() as db:
            found = db.execute(sa.select(site).where(site.c.sha256 == digest(secret))).one_or_none()
            return None if found is None else _of(found)

    def _set_credential(self, site_id: str, sha256: str | None, action: str) -> SiteRecord:
        with self.changing() as change:
            _record(change.db, site_id)
            made_ms = self._now_ms() if sha256 else 0
            stored = sa.update(site).where(site.c.id == site_id)
            change.db.execute(stored.values(sha256=sha256, credential_ms=made_ms))
            change.note(Noted(action, site_id, policy=False))
            return _record(change.db, site_id)


def _checked(db: sa.Connection, tenants: Mapping[str, str]) -> dict[str, str]:
    """Raises BadRequest, and NotFound for a tenant that is not here."""
    if len(tenants) > TENANTS_MAX:
        raise BadRequest(
            f"{len(tenants)} tenants of one site; expected at most {TENANTS_MAX}", field="tenants"
        )
    for theirs, ours in tenants.items():
        checked_id(theirs, "tenants")
        live_tenant(db, ours)
    return dict(sorted(tenants.items()))


def _record(db: sa.Connection, site_id: str) -> SiteRecord:
    found = db.execute(sa.select(site).where(site.c.id == site_id)).one_or_none()
    if found is None:
        raise NotFound(f"there is no site {site_id}", field="site_id")
    return _of(found)


def _of(row: Any) -> SiteRecord:
    return SiteRecord(
        row.id, row.name, row.created_ms, row.credential_ms, json_of(row.tenants, dict[str, str])
    )
