"""Agreements that tenants accept: their texts by version, and who accepted which one when.

A text that somebody has accepted stays as it is; so do acceptances, which triggers keep from being changed.
Neighbours: `accounts_sign_ups.py`, `sextant.control.agreements`.
"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from sextant.base.errors import Misconfigured, NotFound
from sextant.base.ids import new_id
from sextant.store.accounts_database import FIRST_PAGE, AccountsDatabase, Change, Noted, Page, Tenants, digest
from sextant.store.accounts_schema import acceptance, agreement, person
from sextant.store.accounts_tenants import DEFAULT_TENANT, live_tenant


class AgreementRecord(msgspec.Struct, frozen=True):
    """One version; `sha256` is its text's, in UTF-8."""

    version: str
    sha256: str
    text: str
    since_ms: int


class Acceptance(msgspec.Struct, frozen=True):
    """A tenant's, by one of its owners, whose address it was then."""

    id: str
    tenant_id: str
    version: str
    sha256: str
    person_id: str
    email: str
    accepted_ms: int


class AgreementAccounts(AccountsDatabase):
    """Agreements and their acceptances."""

    def publish_agreement(self, version: str, text: str) -> AgreementRecord:
        """Keeps the text of a version; again, it changes nothing. Raises Misconfigured for another text than
        the one that somebody has accepted."""
        sha256 = digest(text)
        with self.changing() as change:
            found = change.db.execute(_version(version)).one_or_none()
            if found is not None and found.sha256 == sha256:
                return AgreementRecord(**found._asdict())
            made = AgreementRecord(version, sha256, text, self._now_ms())
            values = msgspec.structs.asdict(made)
            if found is None:
                change.db.execute(sa.insert(agreement).values(**values))
            elif change.db.execute(_accepted(version).limit(1)).first() is not None:
                raise Misconfigured(
                    f"the agreement {version} has another text than the one that tenants have accepted "
                    f"(SHA-256 {found.sha256}); give the new text another version, or put the old one back",
                    field="spec.portal.agreement.version",
                )
            else:
                changed = sa.update(agreement).where(agreement.c.version == version)
                change.db.execute(changed.values(**values))
            detail = {"sha256": sha256}
            change.note(Noted("agreement.publish", version, detail=detail, policy=False))
            return made

    def list_agreements(self) -> list[AgreementRecord]:
        """All versions, the newest first."""
        with self.reading() as db:
            found = db.execute(sa.select(agreement).order_by(agreement.c.since_ms.desc()))
            return [AgreementRecord(**row._asdict()) for row in found]

    def agreement(self, version: str) -> AgreementRecord:
        """Raises NotFound."""
        with self.reading() as db:
            return _found(db, version)

    def accept_agreement(self, version: str, tenant_id: str, person_id: str) -> Acceptance:
        """Notes that a person has accepted a version for a tenant; who was first stays. Raises NotFound."""
        with self.changing() as change:
            live_tenant(change.db, tenant_id)
            return self._accept(change, version, tenant_id, person_id)

    def list_acceptances(
        self, page: Page = FIRST_PAGE, *, version: str = "", tenant_id: str = "", tenants: Tenants = None
    ) -> list[Acceptance]:
        """By id, those of deleted tenants too."""
        query = sa.select(acceptance).where(acceptance.c.id > page.after)
        if version:
            query = query.where(acceptance.c.version == version)
        if tenant_id:
            query = query.where(acceptance.c.tenant_id == tenant_id)
        if tenants is not None:
            query = query.where(acceptance.c.tenant_id.in_(tenants))
        with self.reading() as db:
            found = db.execute(query.order_by(acceptance.c.id).limit(page.limit))
            return [Acceptance(**row._asdict()) for row in found]

    def without_acceptance(self, version: str, tenants: set[str]) -> set[str]:
        """Which of `tenants` have not accepted a version. The tenant `default`, which is whoever runs the
        deployment, need not."""
        with self.reading() as db:
            query = sa.select(acceptance.c.tenant_id).where(acceptance.c.version == version)
            return (
                tenants - {DEFAULT_TENANT} - set(db.scalars(query.where(acceptance.c.tenant_id.in_(tenants))))
            )

    def _accept(self, change: Change, version: str, tenant_id: str, person_id: str) -> Acceptance:
        db = change.db
        known = _found(db, version)
        mine = _accepted(version).where(acceptance.c.tenant_id == tenant_id)
        found = db.execute(mine).one_or_none()
        if found is not None:
            return Acceptance(**found._asdict())
        email = db.scalar(sa.select(person.c.email).where(person.c.id == person_id)) or ""
        made = Acceptance(
            new_id("acceptance"), tenant_id, version, known.sha256, person_id, email, self._now_ms()
        )
        db.execute(sa.insert(acceptance).values(**msgspec.structs.asdict(made)))
        detail = {"version": version, "sha256": known.sha256, "by": person_id}
        change.note(Noted("agreement.accept", made.id, tenant_id, detail, policy=False))
        return made


def _version(version: str) -> sa.Select[tuple[str, str, str, int]]:
    return sa.select(agreement).where(agreement.c.version == version)


def _accepted(version: str) -> sa.Select[tuple[str, str, str, str, str, str, int]]:
    return sa.select(acceptance).where(acceptance.c.version == version)


def _found(db: sa.Connection, version: str) -> AgreementRecord:
    """Raises NotFound."""
    found = db.execute(_version(version)).one_or_none()
    if found is None:
        raise NotFound(f"there is no agreement {version[:40]!r}", field="version")
    return AgreementRecord(**found._asdict())
