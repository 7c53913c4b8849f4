"""Signing in: sessions, the lock-out after failures, and identities from an OpenID Connect provider.

A session's secret is like a key's: 240 random bits, kept as SHA-256. Failures are counted before a password
is looked at, by the name tried: guesses in parallel count, and a name that nobody has behaves like any other.
Neighbours: `passwords.py`, `accounts_people.py` (people, roles), `sextant.control.oidc` (the protocol).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection
from typing import Literal

import msgspec
import sqlalchemy as sa

from sextant.base.errors import Forbidden, RateLimited, Unauthenticated
from sextant.base.ids import new_id, new_secret
from sextant.spec.roles import ROLES
from sextant.store.accounts_database import Noted, digest, wall_clock_ms
from sextant.store.accounts_people import (
    PeopleAccounts,
    PersonRecord,
    checked_email,
    person_record,
)
from sextant.store.accounts_schema import (
    oidc_attempt,
    oidc_identity,
    person,
    role_grant,
    session,
    sign_in_guard,
    tenant,
)
from sextant.store.passwords import Passwords

SessionKind = Literal["cookie", "bearer"]
SESSION_MS = 12 * 3_600_000
IDLE_MS = 2 * 3_600_000
SEEN_EVERY_MS = 60_000
SESSIONS_MAX = 50
"""Of one person; the oldest ends when another begins."""
FREE_FAILURES = 5
FIRST_LOCK_MS = 30_000
LOCK_MS_MAX = 900_000
FORGET_FAILURES_MS = 86_400_000
GUARD_ROWS_MAX = 10_000
ATTEMPT_MS = 600_000
ATTEMPTS_MAX = 1_000
WRONG = "the e-mail address or the password is wrong"


class OidcIdentity(msgspec.Struct, frozen=True):
    """Who an OpenID Connect provider says that someone is."""

    issuer: str
    subject: str
    email: str
    email_verified: bool
    name: str


class OidcAttempt(msgspec.Struct, frozen=True):
    """What a sign-in under way at a provider must come back with."""

    nonce: str
    verifier: str


class SignInAccounts(PeopleAccounts):
    """Sessions and the ways into one."""

    def __init__(
        self, url_or_path: str | os.PathLike[str], now_ms: Callable[[], int] = wall_clock_ms
    ) -> None:
        super().__init__(url_or_path, now_ms)
        self.passwords = Passwords()

    def sign_in(self, email: str, password: str, kind: SessionKind) -> tuple[PersonRecord, str]:
        """A session for whoever has this password. Raises Unauthenticated (in the same words whatever is
        wrong), RateLimited (locked out for a while), Overloaded."""
        name = email.strip().lower()
        self._count_attempt(name)
        with self.reading() as db:
            found = db.execute(sa.select(person).where(person.c.email == name)).one_or_none()
        good = self.passwords.verify(password, "" if found is None else found.password_hash)
        if found is None or not good or not found.enabled:
            raise Unauthenticated(WRONG, code="wrong_password")
        self._forgive(name)
        now = found.password_hash
        if self.passwords.is_dated(now):
            stored = self.passwords.renewed(password)
            same = (person.c.id == found.id, person.c.password_hash == now)
            with self.writing() as db:
                if db.execute(sa.update(person).where(*same).values(password_hash=stored)).rowcount:
                    now = stored
        return self.open_session(found.id, kind, "password", password_hash=now)

    def check_password(self, person_id: str, password: str) -> str:
        """The hash that the password matched; for someone signed in who changes something grave. Raises
        Unauthenticated, RateLimited."""
        with self.reading() as db:
            found = db.execute(sa.select(person).where(person.c.id == person_id)).one()
        self._count_attempt(found.email)
        if not self.passwords.verify(password, found.password_hash):
            raise Unauthenticated("the present password is wrong", code="wrong_password")
        self._forgive(found.email)
        return str(found.password_hash)

    def open_session(
        self, person_id: str, kind: SessionKind, how: str, *, password_hash: str | None = None
    ) -> tuple[PersonRecord, str]:
        """A session and its secret; with `password_hash` only while that is the person's: looking at one
        takes time in which a grant may take it away. Raises NotFound, Unauthenticated."""
        secret = new_secret("sxsession")
        now_ms = self._now_ms()
        with self.by(f"person:{person_id}").changing() as change:
            record = person_record(change.db, person_id)
            stored = change.db.scalar(sa.select(person.c.password_hash).where(person.c.id == person_id))
            if password_hash is not None and stored != password_hash:
                raise Unauthenticated(WRONG, code="wrong_password")
            mine = sa.select(session.c.id).where(session.c.person_id == person_id)
            kept = mine.order_by(session.c.created_ms.desc()).limit(SESSIONS_MAX - 1)
            ended = sa.or_(
                sa.and_(session.c.person_id == person_id, session.c.id.not_in(kept)),
                session.c.expires_ms <= now_ms,
            )
            change.db.execute(sa.delete(session).where(ended))
            values = {"id": new_id("session"), "person_id": person_id, "sha256": digest(secret), "kind": kind}
            times = {"created_ms": now_ms, "seen_ms": now_ms, "expires_ms": now_ms + SESSION_MS}
            change.db.execute(sa.insert(session).values(**values, **times))
            change.note(Noted("session.create", person_id, detail={"how": how}, policy=False))
        return record, secret

    def verify_session(self, secret: str, kind: SessionKind) -> PersonRecord | None:
        """Whose session this is; None for nobody's, one that has ended or lay idle for too long, and one of
        someone who is switched off."""
        now_ms = self._now_ms()
        live = (
            session.c.sha256 == digest(secret),
            session.c.kind == kind,
            session.c.expires_ms > now_ms,
            session.c.seen_ms > now_ms - IDLE_MS,
        )
        with self.reading() as db:
            found = db.execute(sa.select(session).where(*live)).one_or_none()
            record = None if found is None else person_record(db, found.person_id)
        if found is None or record is None or not record.enabled:
            return None
        if now_ms - found.seen_ms > SEEN_EVERY_MS:
            with self.writing() as db:
                db.execute(sa.update(session).where(session.c.id == found.id).values(seen_ms=now_ms))
        return record

    def close_session(self, secret: str) -> None:
        """Ends a session; one that has ended already is left so."""
        with self.writing() as db:
            db.execute(sa.delete(session).where(session.c.sha256 == digest(secret)))

    def begin_oidc(self, state: str, attempt: OidcAttempt) -> None:
        """Remembers what a sign-in at a provider must come back with, for ten minutes."""
        now_ms = self._now_ms()
        with self.changing() as change:
            newest = sa.select(oidc_attempt.c.state_sha256).order_by(oidc_attempt.c.expires_ms.desc())
            kept = newest.limit(ATTEMPTS_MAX - 1)
            past = sa.or_(oidc_attempt.c.expires_ms <= now_ms, oidc_attempt.c.state_sha256.not_in(kept))
            change.db.execute(sa.delete(oidc_attempt).where(past))
            values = {"state_sha256": digest(state), "nonce": attempt.nonce, "verifier": attempt.verifier}
            change.db.execute(sa.insert(oidc_attempt).values(**values, expires_ms=now_ms + ATTEMPT_MS))

    def take_oidc(self, state: str) -> OidcAttempt | None:
        """What was remembered for `state`, once: whoever comes second gets None, as after ten minutes."""
        gone = sa.delete(oidc_attempt).where(oidc_attempt.c.state_sha256 == digest(state))
        with self.writing() as db:
            found = db.execute(gone.returning(oidc_attempt)).one_or_none()
        if found is None or found.expires_ms <= self._now_ms():
            return None
        return OidcAttempt(found.nonce, found.verifier)

    def oidc_person(self, identity: OidcIdentity, roles: Collection[tuple[str, str]]) -> PersonRecord:
        """The person whom the provider vouches for, made at the first sign-in; `roles` are (role, tenant id)
        and replace what the provider's groups gave before. Raises Forbidden (switched off, or the address is
        someone's who signs in otherwise), BadRequest (no usable address)."""
        with self.changing() as change:
            person_id = self._identified(change.db, identity)
            record = person_record(change.db, person_id)
            if not record.enabled:
                raise Forbidden(f"{record.email} is switched off here; ask an owner", code="person_disabled")
            live = set(change.db.scalars(sa.select(tenant.c.id).where(tenant.c.deleted_ms == 0)))
            wanted = {
                (role, where) for role, where in roles if role in ROLES and (not where or where in live)
            }
            had = {(one.role, one.tenant_id): one for one in record.grants if one.source == "oidc"}
            for pair, one in had.items():
                if pair not in wanted:
                    change.db.execute(sa.delete(role_grant).where(role_grant.c.id == one.id))
            for role, where in sorted(wanted - set(had)):
                self._insert_grant(change.db, person_id, role, where, "oidc")
            if wanted != set(had):
                gained = [where for _, where in wanted - set(had)]
                detail: dict[str, object] = {
                    "roles": sorted(f"{role}@{where or '*'}" for role, where in wanted)
                }
                if self._clear_foreign_password(change.db, person_id, gained):
                    detail["password"] = "cleared"
                change.note(Noted("grant.oidc", person_id, detail=detail, policy=False))
            return person_record(change.db, person_id)

    def _identified(self, db: sa.Connection, identity: OidcIdentity) -> str:
        """The id of the person with this identity, which is attached or made where there is none."""
        mine = (
            oidc_identity.c.issuer == identity.issuer,
            oidc_identity.c.subject == identity.subject,
        )
        known = db.scalar(sa.select(oidc_identity.c.person_id).where(*mine))
        if known is not None:
            same = identity.email.strip().lower() == person_record(db, known).email
            stored = sa.update(oidc_identity).where(*mine)
            db.execute(stored.values(vouched=identity.email_verified and same))
            return str(known)
        email = checked_email(identity.email)
        found = db.execute(sa.select(person).where(person.c.email == email)).one_or_none()
        taken = found is not None and (found.password_hash or _has_identity(db, found.id))
        if taken or (found is not None and not identity.email_verified):
            raise Forbidden(
                f"{email} is someone here who signs in otherwise; an owner may delete that person first",
                code="person_exists",
            )
        person_id = new_id("person") if found is None else str(found.id)
        if found is None:
            name = identity.name if identity.name.strip() and identity.name.isprintable() else email
            values = {"id": person_id, "email": email, "name": name[:200], "password_hash": ""}
            db.execute(sa.insert(person).values(**values, enabled=True, created_ms=self._now_ms()))
        link = {"issuer": identity.issuer, "subject": identity.subject, "person_id": person_id}
        said = {"vouched": identity.email_verified, "created_ms": self._now_ms()}
        db.execute(sa.insert(oidc_identity).values(**link, **said))
        self._note(db, Noted("person.oidc", person_id, detail={"issuer": identity.issuer}, policy=False))
        return person_id

    def _forgive(self, name: str) -> None:
        with self.writing() as db:
            db.execute(sa.delete(sign_in_guard).where(sign_in_guard.c.name_sha256 == digest(name)))

    def _count_attempt(self, name: str) -> None:
        """Counts a failure in advance; success takes it back. Raises RateLimited while locked out."""
        now_ms = self._now_ms()
        key = digest(name)
        with self.changing() as change:
            change.db.execute(
                sa.delete(sign_in_guard).where(sign_in_guard.c.changed_ms <= now_ms - FORGET_FAILURES_MS)
            )
            mine = sign_in_guard.c.name_sha256 == key
            found = change.db.execute(sa.select(sign_in_guard).where(mine)).one_or_none()
            if found is not None and found.locked_until_ms > now_ms:
                wait_s = (found.locked_until_ms - now_ms) / 1000
                raise RateLimited(
                    f"too many wrong passwords; try again in {math.ceil(wait_s)} s",
                    code="locked_out",
                    retry_after_s=wait_s,
                )
            failures = 1 if found is None else found.failures + 1
            values = {
                "failures": failures,
                "locked_until_ms": now_ms + lock_ms(failures),
                "changed_ms": now_ms,
            }
            if found is not None:
                change.db.execute(sa.update(sign_in_guard).where(mine).values(**values))
                return
            newest = sa.select(sign_in_guard.c.name_sha256).order_by(sign_in_guard.c.changed_ms.desc())
            kept = newest.limit(GUARD_ROWS_MAX - 1)
            change.db.execute(sa.delete(sign_in_guard).where(sign_in_guard.c.name_sha256.not_in(kept)))
            change.db.execute(sa.insert(sign_in_guard).values(name_sha256=key, **values))


def lock_ms(failures: int) -> int:
    """How long nobody may try again after so many failures in a row: nothing at first, then doubling."""
    if failures < FREE_FAILURES:
        return 0
    return min(FIRST_LOCK_MS << min(failures - FREE_FAILURES, 10), LOCK_MS_MAX)


def _has_identity(db: sa.Connection, person_id: str) -> bool:
    query = sa.select(oidc_identity.c.subject).where(oidc_identity.c.person_id == person_id)
    return db.execute(query).first() is not None
