"""Who may administer: people, service tokens, and the roles that both are granted.

A role is granted for one tenant or, with an empty tenant id, for the whole deployment. The last owner of the
deployment stays one: a change that would leave none is refused.
Neighbours: `sign_in.py` (passwords, sessions), `sextant.control.permissions` (what a role may do).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import msgspec
import sqlalchemy as sa

from sextant.base.errors import BadRequest, Forbidden, NotFound
from sextant.base.ids import new_id, new_secret
from sextant.spec.roles import ROLES
from sextant.store.accounts_database import (
    FIRST_PAGE,
    SYSTEM,
    AccountsDatabase,
    Noted,
    Page,
    Tenants,
    checked_name,
    digest,
)
from sextant.store.accounts_schema import oidc_identity, person, role_grant, service_token, session
from sextant.store.accounts_tenants import live_tenant

EMAIL = re.compile(r"[^\s@\x00-\x1f]{1,64}@[^\s@\x00-\x1f]{1,189}")
EVERYWHERE = ""
"""The tenant id of a grant for the whole deployment."""


class Grant(msgspec.Struct, frozen=True):
    """`source` is `local`, or `oidc` for a role that an identity provider's groups give."""

    id: str
    subject_id: str
    role: str
    tenant_id: str
    source: str
    created_ms: int


class Granted(Grant, frozen=True):
    """A grant just asked for. `password_cleared`: the person had a password from somebody who may not manage
    where the role is for; it is gone, and so are the person's sessions."""

    password_cleared: bool = False


class PersonRecord(msgspec.Struct, frozen=True):
    id: str
    email: str
    name: str
    enabled: bool
    created_ms: int
    has_password: bool
    grants: tuple[Grant, ...] = ()


class TokenRecord(msgspec.Struct, frozen=True):
    """A service token without its secret; 0 for never in the times."""

    id: str
    name: str
    created_ms: int
    expires_ms: int
    revoked_ms: int
    grants: tuple[Grant, ...] = ()


class NewPerson(msgspec.Struct, frozen=True):
    """`password_hash` empty: signs in elsewhere, or not yet."""

    email: str
    name: str
    password_hash: str = ""
    role: str = ""
    tenant_id: str = EVERYWHERE


class PeopleAccounts(AccountsDatabase):
    """People, service tokens, grants."""

    def create_service_token(
        self, name: str, role: str = "owner", *, tenant_id: str = EVERYWHERE, expires_ms: int = 0
    ) -> tuple[TokenRecord, str]:
        """A credential for the admin API, shown once. Raises NotFound, BadRequest."""
        secret = new_secret("sxadmin")
        now_ms = self._now_ms()
        if expires_ms < 0 or 0 < expires_ms <= now_ms:
            said = f"expiry {expires_ms} is not in the future (Unix milliseconds)"
            raise BadRequest(said, field="expires_ms")
        token_id = new_id("adm")
        with self.changing() as change:
            values = {"id": token_id, "name": checked_name(name), "created_ms": now_ms}
            ends = {"expires_ms": expires_ms, "revoked_ms": 0}
            change.db.execute(sa.insert(service_token).values(**values, **ends, sha256=digest(secret)))
            self._insert_grant(change.db, token_id, role, tenant_id)
            detail = {"name": name, "role": role}
            change.note(Noted("token.create", token_id, tenant_id, detail, policy=False))
            return _token(change.db, token_id), secret

    def list_service_tokens(self, page: Page = FIRST_PAGE, *, tenants: Tenants = None) -> list[TokenRecord]:
        """By id, without the revoked; with `tenants` those whose every grant is for one of them."""
        query = sa.select(service_token).where(
            service_token.c.revoked_ms == 0, service_token.c.id > page.after
        )
        if tenants is not None:
            query = query.where(_granted_only(service_token.c.id, tenants))
        with self.reading() as db:
            found = db.execute(query.order_by(service_token.c.id).limit(page.limit)).all()
            grants = grants_of(db, [row.id for row in found])
            return [_token_of(row, grants) for row in found]

    def verify_service_token(self, secret: str) -> TokenRecord | None:
        """Whose credential this is; None for nobody's, a revoked or an expired one."""
        query = sa.select(service_token.c.id).where(
            service_token.c.sha256 == digest(secret),
            service_token.c.revoked_ms == 0,
            sa.or_(service_token.c.expires_ms == 0, service_token.c.expires_ms > self._now_ms()),
        )
        with self.reading() as db:
            found = db.scalar(query)
            return None if found is None else _token(db, found)

    def revoke_service_token(self, token_id: str, *, tenants: Tenants = None) -> TokenRecord:
        """Raises NotFound, and BadRequest when no owner would be left."""
        with self.changing() as change:
            record = _token(change.db, token_id)
            if tenants is not None and not _within(record.grants, tenants):
                raise _no_token(token_id)
            stored = sa.update(service_token).where(service_token.c.id == token_id)
            change.db.execute(stored.values(revoked_ms=record.revoked_ms or self._now_ms()))
            self._keep_an_owner(change.db)
            change.note(Noted("token.revoke", token_id, _where(record.grants), policy=False))
            return _token(change.db, token_id)

    def create_person(self, new: NewPerson) -> PersonRecord:
        """Raises BadRequest (code `exists` when the e-mail address is someone's), NotFound (the tenant)."""
        email = checked_email(new.email)
        person_id = new_id("person")
        with self.changing() as change:
            if change.db.scalar(sa.select(person.c.id).where(person.c.email == email)) is not None:
                raise BadRequest(f"there is a person with the address {email}", field="email", code="exists")
            values = {"id": person_id, "email": email, "name": checked_name(new.name)}
            state = {"password_hash": new.password_hash, "enabled": True, "created_ms": self._now_ms()}
            state["password_by"] = self._actor if new.password_hash else ""
            change.db.execute(sa.insert(person).values(**values, **state))
            if new.role:
                self._insert_grant(change.db, person_id, new.role, new.tenant_id)
            detail = {"email": email, "role": new.role}
            change.note(Noted("person.create", person_id, new.tenant_id, detail, policy=False))
            return person_record(change.db, person_id)

    def list_people(self, page: Page = FIRST_PAGE, *, tenants: Tenants = None) -> list[PersonRecord]:
        """By id; with `tenants` those who have a role in one of them, and only those roles."""
        query = sa.select(person).where(person.c.id > page.after)
        if tenants is not None:
            mine = sa.select(role_grant.c.subject_id).where(role_grant.c.tenant_id.in_(tenants))
            query = query.where(person.c.id.in_(mine))
        with self.reading() as db:
            found = db.execute(query.order_by(person.c.id).limit(page.limit)).all()
            grants = grants_of(db, [row.id for row in found])
            return [seen_by(_person_of(row, grants), tenants) for row in found]

    def person(self, person_id: str) -> PersonRecord:
        """Raises NotFound."""
        with self.reading() as db:
            return person_record(db, person_id)

    def set_person(
        self, person_id: str, *, enabled: bool | None = None, name: str | None = None, password_hash: str = ""
    ) -> PersonRecord:
        """Changes what is given; someone switched off, or with a new password, has no session left. Raises
        NotFound, BadRequest, Forbidden (the person has roles beyond what the actor may manage)."""
        with self.changing() as change:
            record = person_record(change.db, person_id)
            self._refuse_beyond(change.db, record)
            values: dict[str, Any] = {} if enabled is None else {"enabled": enabled}
            if name is not None:
                values["name"] = checked_name(name)
            detail = dict(values)
            if password_hash:
                values |= {"password_hash": password_hash, "password_by": self._actor}
                detail["password"] = "changed"
            if values:
                change.db.execute(sa.update(person).where(person.c.id == person_id).values(**values))
            if enabled is False or password_hash:
                change.db.execute(sa.delete(session).where(session.c.person_id == person_id))
            self._keep_an_owner(change.db)
            change.note(Noted("person.change", person_id, _where(record.grants), detail, policy=False))
            return person_record(change.db, person_id)

    def change_own_password(self, person_id: str, present_hash: str, password_hash: str) -> None:
        """After the present password was given; ends all the person's sessions. Whoever gave the password
        that this one goes back to may know this one too, having signed in and changed it: `password_by`
        stays. Raises NotFound, Forbidden (the present password has just been changed or taken away)."""
        with self.changing() as change:
            record = person_record(change.db, person_id)
            mine = sa.update(person).where(person.c.id == person_id, person.c.password_hash == present_hash)
            if not change.db.execute(mine.values(password_hash=password_hash)).rowcount:
                raise Forbidden("your password has just been changed or taken away by somebody else")
            change.db.execute(sa.delete(session).where(session.c.person_id == person_id))
            detail = {"password": "changed by the person"}
            change.note(Noted("person.change", person_id, _where(record.grants), detail, policy=False))

    def delete_person(self, person_id: str) -> None:
        """Raises NotFound, BadRequest when no owner would be left, and Forbidden as `set_person` does."""
        with self.changing() as change:
            record = person_record(change.db, person_id)
            self._refuse_beyond(change.db, record)
            for table in (session, oidc_identity):
                change.db.execute(sa.delete(table).where(table.c.person_id == person_id))
            change.db.execute(sa.delete(role_grant).where(role_grant.c.subject_id == person_id))
            change.db.execute(sa.delete(person).where(person.c.id == person_id))
            self._keep_an_owner(change.db)
            detail = {"email": record.email}
            change.note(Noted("person.delete", person_id, _where(record.grants), detail, policy=False))

    def list_grants(self, page: Page = FIRST_PAGE, *, tenants: Tenants = None) -> list[Grant]:
        """By id."""
        query = sa.select(role_grant).where(role_grant.c.id > page.after)
        if tenants is not None:
            query = query.where(role_grant.c.tenant_id.in_(tenants))
        with self.reading() as db:
            found = db.execute(query.order_by(role_grant.c.id).limit(page.limit))
            return [Grant(**row._asdict()) for row in found]

    def grant_role(self, person_id: str, role: str, *, tenant_id: str = EVERYWHERE) -> Granted:
        """A second time changes nothing. A role beyond what whoever gave the person's password may manage
        takes that password away. Raises NotFound, BadRequest."""
        with self.changing() as change:
            record = person_record(change.db, person_id)
            for one in record.grants:
                if (one.role, one.tenant_id, one.source) == (role, tenant_id, "local"):
                    return Granted(**msgspec.structs.asdict(one))
            made = self._insert_grant(change.db, person_id, role, tenant_id)
            cleared = self._clear_foreign_password(change.db, person_id, [tenant_id])
            detail = {"to": person_id, "role": role} | ({"password": "cleared"} if cleared else {})
            change.note(Noted("grant.create", made.id, tenant_id, detail, policy=False))
        return Granted(**msgspec.structs.asdict(made), password_cleared=cleared)

    def revoke_grant(self, grant_id: str, *, tenants: Tenants = None) -> Grant:
        """Raises NotFound, and BadRequest when the deployment, or for a caller limited to `tenants`
        the tenant, would have no owner left."""
        with self.changing() as change:
            found = change.db.execute(sa.select(role_grant).where(role_grant.c.id == grant_id)).one_or_none()
            if found is None or (tenants is not None and found.tenant_id not in tenants):
                raise NotFound(f"there is no grant {grant_id}", field="grant_id")
            grant = Grant(**found._asdict())
            change.db.execute(sa.delete(role_grant).where(role_grant.c.id == grant_id))
            self._keep_an_owner(change.db)
            if tenants is not None and grant.role == "owner":
                self._keep_an_owner(change.db, grant.tenant_id)
            detail = {"from": grant.subject_id, "role": grant.role}
            change.note(Noted("grant.revoke", grant_id, grant.tenant_id, detail, policy=False))
        return grant

    def _insert_grant(
        self, db: sa.Connection, subject_id: str, role: str, tenant_id: str, source: str = "local"
    ) -> Grant:
        if role not in ROLES:
            raise BadRequest(f"{role!r} is no role; expected one of {', '.join(ROLES)}", field="role")
        if tenant_id:
            live_tenant(db, tenant_id)
        made = Grant(new_id("grant"), subject_id, role, tenant_id, source, self._now_ms())
        db.execute(sa.insert(role_grant).values(**msgspec.structs.asdict(made)))
        return made

    def _clear_foreign_password(self, db: sa.Connection, person_id: str, gained: Collection[str]) -> bool:
        """Takes the person's password and sessions away when whoever gave the password may not manage all of
        the tenants `gained`: he could sign in as the person there. Returns whether it did."""
        found = db.execute(sa.select(person).where(person.c.id == person_id)).one()
        if not found.password_hash:
            return False
        reach = self._reach(db, found.password_by)
        if reach is None or all(one in reach for one in gained):
            return False
        stored = sa.update(person).where(person.c.id == person_id)
        db.execute(stored.values(password_hash="", password_by=""))
        db.execute(sa.delete(session).where(session.c.person_id == person_id))
        return True

    def _refuse_beyond(self, db: sa.Connection, record: PersonRecord) -> None:
        """In the transaction of the change: a role granted meanwhile counts. Raises Forbidden."""
        reach = self._reach(db, self._actor)
        if reach is not None and any(one.tenant_id not in reach for one in record.grants):
            raise Forbidden(
                "this person has roles elsewhere too; take the role here back instead", field="person_id"
            )

    def _reach(self, db: sa.Connection, actor: str) -> Tenants:
        """The tenants whose people `actor` may manage now (None: all): those that it owns."""
        if actor == SYSTEM:
            return None
        tenants = frozenset(where for role, where in self._held(db, actor) if role == "owner")
        return None if EVERYWHERE in tenants else tenants

    def _held(self, db: sa.Connection, actor: str) -> set[tuple[str, str]]:
        """(role, tenant id) of all that `actor` is granted; nothing for one switched off, revoked or over."""
        token = sa.select(service_token.c.id).where(
            service_token.c.revoked_ms == 0,
            sa.or_(service_token.c.expires_ms == 0, service_token.c.expires_ms > self._now_ms()),
        )
        live = sa.or_(
            role_grant.c.subject_id.in_(sa.select(person.c.id).where(person.c.enabled)),
            role_grant.c.subject_id.in_(token),
        )
        mine = sa.select(role_grant.c.role, role_grant.c.tenant_id).where(
            role_grant.c.subject_id == actor.partition(":")[2], live
        )
        return {(row.role, row.tenant_id) for row in db.execute(mine)}

    def _keep_an_owner(self, db: sa.Connection, tenant_id: str = EVERYWHERE) -> None:
        """Raises BadRequest when nobody is left who owns the tenant, or the deployment, for good."""
        people = sa.select(person.c.id).where(person.c.enabled)
        tokens = sa.select(service_token.c.id).where(
            service_token.c.revoked_ms == 0, service_token.c.expires_ms == 0
        )
        owners = sa.select(role_grant.c.id).where(
            role_grant.c.role == "owner",
            role_grant.c.tenant_id == tenant_id,
            sa.or_(role_grant.c.subject_id.in_(people), role_grant.c.subject_id.in_(tokens)),
        )
        if db.execute(owners.limit(1)).first() is None:
            whose = f"tenant {tenant_id}" if tenant_id else "the deployment"
            raise BadRequest(
                f"this would leave {whose} without an owner; make another owner first", code="last_owner"
            )


def checked_email(given: str) -> str:
    """The address in lower case. Raises BadRequest."""
    email = given.strip().lower()
    if not EMAIL.fullmatch(email) or not email.isprintable():
        raise BadRequest(f"{given[:80]!r} is no e-mail address", field="email")
    return email


def grants_of(db: sa.Connection, subjects: list[str]) -> dict[str, tuple[Grant, ...]]:
    """The grants of each of `subjects`, oldest first."""
    found: dict[str, tuple[Grant, ...]] = {}
    query = sa.select(role_grant).where(role_grant.c.subject_id.in_(subjects))
    for row in db.execute(query.order_by(role_grant.c.created_ms, role_grant.c.id)):
        found[row.subject_id] = (*found.get(row.subject_id, ()), Grant(**row._asdict()))
    return found


def person_record(db: sa.Connection, person_id: str) -> PersonRecord:
    """Raises NotFound."""
    found = db.execute(sa.select(person).where(person.c.id == person_id)).one_or_none()
    if found is None:
        raise NotFound(f"there is no person {person_id}", field="person_id")
    return _person_of(found, grants_of(db, [person_id]))


def seen_by(record: PersonRecord, tenants: Tenants) -> PersonRecord:
    """`record` with only those of its roles that a caller limited to `tenants` may know of, and made when the
    first of them was given: whether the person was here before is not theirs to know."""
    if tenants is None:
        return record
    mine = tuple(one for one in record.grants if one.tenant_id in tenants)
    since_ms = min((one.created_ms for one in mine), default=record.created_ms)
    return msgspec.structs.replace(record, grants=mine, created_ms=since_ms)


def _person_of(row: Any, grants: dict[str, tuple[Grant, ...]]) -> PersonRecord:
    return PersonRecord(
        row.id,
        row.email,
        row.name,
        row.enabled,
        row.created_ms,
        bool(row.password_hash),
        grants.get(row.id, ()),
    )


def _token(db: sa.Connection, token_id: str) -> TokenRecord:
    found = db.execute(sa.select(service_token).where(service_token.c.id == token_id)).one_or_none()
    if found is None:
        raise _no_token(token_id)
    return _token_of(found, grants_of(db, [token_id]))


def _token_of(row: Any, grants: dict[str, tuple[Grant, ...]]) -> TokenRecord:
    return TokenRecord(
        row.id, row.name, row.created_ms, row.expires_ms, row.revoked_ms, grants.get(row.id, ())
    )


def _no_token(token_id: str) -> NotFound:
    return NotFound(f"there is no service token {token_id}", field="token_id")


def _within(grants: tuple[Grant, ...], tenants: Tenants) -> bool:
    return tenants is None or all(one.tenant_id in tenants for one in grants)


def _granted_only(column: sa.Column[str], tenants: frozenset[str]) -> sa.ColumnElement[bool]:
    inside = sa.select(role_grant.c.subject_id).where(role_grant.c.tenant_id.in_(tenants))
    outside = sa.select(role_grant.c.subject_id).where(role_grant.c.tenant_id.not_in(tenants))
    return sa.and_(column.in_(inside), column.not_in(outside))


def _where(grants: tuple[Grant, ...]) -> str:
    """The one tenant that all `grants` are for, or none."""
    tenants = {one.tenant_id for one in grants}
    return tenants.pop() if len(tenants) == 1 else EVERYWHERE
