"""Invitations: a role for an address, which becomes somebody's when they redeem a token.

Making one never looks whether the address is somebody's already, so nothing about it can tell. The token is
kept as SHA-256, ends after some days, is good once, for one address, and only as long as whoever invited may
still give the role. A first password may be set with a token that went to the mailbox alone, or that an
owner of the whole deployment was shown (who may give passwords anyway). With a token that a tenant's own
people were shown one must sign in: else they could try whether an address is somebody's, and sign in as its
owner.
Neighbours: `accounts_people.py` (people, roles), `sign_in.py` (passwords, lock-outs),
`sextant.control.invitations`.
See docs/decisions/0009-a-role-in-a-tenant-is-an-invitation.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from sextant.base.errors import BadRequest, Forbidden, NotFound, RateLimited
from sextant.base.ids import new_id, new_secret
from sextant.spec.roles import ROLES
from sextant.store.accounts_database import (
    DAY_MS,
    FIRST_PAGE,
    SYSTEM,
    Noted,
    Page,
    Tenants,
    checked_name,
    digest,
)
from sextant.store.accounts_people import EVERYWHERE, checked_email, person_record
from sextant.store.accounts_schema import invitation, oidc_identity, person
from sextant.store.accounts_tenants import live_tenant
from sextant.store.passwords import checked_password
from sextant.store.sign_in import SignInAccounts

GIVES: Mapping[str, tuple[str, ...]] = {"owner": ROLES, "operator": ("operator", "member")}
"""Who may invite to which role: never to one that may more than the inviter's own."""
DAYS_MAX = 30
KEPT_MS = 90 * DAY_MS
"""An invitation is forgotten so long after it was made; the audit trail keeps it."""
INVITED_A_DAY_MAX = 200
"""In one tenant: each may be an e-mail to a stranger."""
REFUSED = (
    "the invitation is refused: the token is not one, or was used, revoked or has expired, or it is for "
    "another address; or this address has a password here already, which is not the one given; or the token "
    "does not allow setting a first password. Sign in and redeem it then, or ask for another one"
)

State = Literal["open", "redeemed", "revoked", "expired"]


class NewInvitation(msgspec.Struct, frozen=True):
    """`name` is what the person is called unless they say otherwise."""

    email: str
    role: str
    tenant_id: str = EVERYWHERE
    name: str = ""
    days: int = 7


class InvitationRecord(msgspec.Struct, frozen=True):
    """An invitation without its token; 0 for never in the times."""

    id: str
    tenant_id: str
    email: str
    name: str
    role: str
    invited_by: str
    created_ms: int
    expires_ms: int
    redeemed_ms: int
    revoked_ms: int
    state: State


class Invited(msgspec.Struct, frozen=True):
    """An invitation just made. `shown`: whether whoever made it may see the token. `sets_password`: whether a
    first password can be set with it."""

    record: InvitationRecord
    secret: str
    shown: bool
    sets_password: bool


class Redeemer(msgspec.Struct, frozen=True):
    """Who wants to redeem: with the password that the address has here, or a first one."""

    email: str
    password: str
    name: str = ""


class Redeemed(msgspec.Struct, frozen=True):
    """What somebody got. `password_cleared`: as in `Granted`."""

    person_id: str
    role: str
    tenant_id: str
    password_cleared: bool = False


class InvitationAccounts(SignInAccounts):
    """Invitations."""

    def invite(self, new: NewInvitation, *, mailed: bool) -> Invited:
        """Replaces an open invitation of the same address to the same tenant. `mailed`: the token goes to the
        address by e-mail. Raises BadRequest, NotFound (the tenant), Forbidden (a role beyond the inviter's),
        RateLimited (too many on one day)."""
        email, now_ms, secret = checked_email(new.email), self._now_ms(), new_secret("sxinvite")
        if new.role not in ROLES:
            said = f"{new.role[:60]!r} is no role; expected one of {', '.join(ROLES)}"
            raise BadRequest(said, field="role")
        if not 1 <= new.days <= DAYS_MAX:
            raise BadRequest(f"an invitation lasts 1 to {DAYS_MAX} days; given {new.days}", field="days")
        with self.changing() as change:
            if new.tenant_id:
                live_tenant(change.db, new.tenant_id)
            self._refuse_to_give(change.db, new.role, new.tenant_id)
            self._make_room(change.db, new.tenant_id, email)
            owns_all = self._reach(change.db, self._actor) is None
            giver = self._actor if owns_all else SYSTEM if mailed else ""
            made_id = new_id("invitation")
            values = {"id": made_id, "tenant_id": new.tenant_id, "email": email, "role": new.role}
            values |= {"name": checked_name(new.name or email), "sha256": digest(secret)}
            times = {"created_ms": now_ms, "expires_ms": now_ms + new.days * DAY_MS}
            ends = {"redeemed_ms": 0, "revoked_ms": 0, "invited_by": self._actor, "password_by": giver}
            change.db.execute(sa.insert(invitation).values(**values, **times, **ends))
            detail = {"email": email, "role": new.role}
            change.note(Noted("invitation.create", made_id, new.tenant_id, detail, policy=False))
            record = _record(_row(change.db, made_id), now_ms)
        return Invited(record, secret, shown=owns_all or not mailed, sets_password=bool(giver))

    def list_invitations(self, page: Page = FIRST_PAGE, *, tenants: Tenants = None) -> list[InvitationRecord]:
        """By id, those of the past three months."""
        query = sa.select(invitation).where(invitation.c.id > page.after)
        if tenants is not None:
            query = query.where(invitation.c.tenant_id.in_(tenants))
        with self.reading() as db:
            found = db.execute(query.order_by(invitation.c.id).limit(page.limit))
            return [_record(row, self._now_ms()) for row in found]

    def revoke_invitation(self, invitation_id: str, *, tenants: Tenants = None) -> InvitationRecord:
        """One that has ended stays as it is. Raises NotFound, Forbidden (a role beyond the caller's)."""
        with self.changing() as change:
            found = _row(change.db, invitation_id, tenants)
            self._refuse_to_give(change.db, found.role, found.tenant_id)
            now_ms = self._now_ms()
            if _state(found, now_ms) == "open":
                mine = sa.update(invitation).where(invitation.c.id == invitation_id)
                change.db.execute(mine.values(revoked_ms=now_ms))
                detail = {"email": found.email, "role": found.role}
                change.note(Noted("invitation.revoke", invitation_id, found.tenant_id, detail, policy=False))
            return _record(_row(change.db, invitation_id), now_ms)

    def redeem_invitation(self, secret: str, given: Redeemer) -> Redeemed:
        """For somebody who is not signed in. Raises Forbidden (in the same words whatever is wrong),
        BadRequest (a password too short), RateLimited (too many wrong attempts), Overloaded."""
        checked_password(given.password)
        name = checked_name(given.name) if given.name else ""
        with self.reading() as db:
            found = db.execute(sa.select(invitation).where(*_is(secret))).one_or_none()
        if found is None or _state(found, self._now_ms()) != "open":
            raise _refused()
        guards = (f"invitation:{found.id}", found.email)
        self._count_attempt(guards[0])
        if given.email.strip().lower() != found.email:
            raise _refused()
        self._count_attempt(guards[1])
        with self.reading() as db:
            known = db.execute(sa.select(person).where(person.c.email == found.email)).one_or_none()
            fresh = bool(found.password_by) and self._may_set_first(db, known, found.invited_by)
        if fresh:
            hashed = self.passwords.hash(given.password)
            made = self._redeem(found, known, {"password_hash": hashed, "name": name or found.name})
        else:
            stored = "" if known is None else known.password_hash
            if not self.passwords.verify(given.password, stored):
                raise _refused()
            made = self._redeem(found, known, {})
        for guard in guards:
            self._forgive(guard)
        return made

    def redeem_signed_in(self, secret: str, person_id: str) -> Redeemed:
        """For somebody who is signed in with the address: by a password, or through a provider that vouches
        for the address. Raises Forbidden (in the same words whatever is wrong), RateLimited."""
        with self.reading() as db:
            found = db.execute(sa.select(invitation).where(*_is(secret))).one_or_none()
            known = db.execute(sa.select(person).where(person.c.id == person_id)).one_or_none()
            vouched = sa.select(oidc_identity.c.subject).where(
                oidc_identity.c.person_id == person_id, oidc_identity.c.vouched
            )
            is_theirs = db.execute(vouched).first() is not None
        if found is None or known is None or _state(found, self._now_ms()) != "open":
            raise _refused()
        guard = f"invitation:{found.id}"
        self._count_attempt(guard)
        if known.email != found.email or not (known.password_hash or is_theirs):
            raise _refused()
        made = self._redeem(found, known, {})
        self._forgive(guard)
        return made

    def _redeem(self, found: Any, known: Any, first: Mapping[str, str]) -> Redeemed:
        """The role, in one transaction in which all that was looked at before still holds; `first` is what a
        person gets who has no password yet. Raises Forbidden."""
        person_id = new_id("person") if known is None else str(known.id)
        with self.by(f"person:{person_id}").changing() as change:
            db = change.db
            now = db.execute(sa.select(invitation).where(invitation.c.id == found.id)).one_or_none()
            present = db.execute(sa.select(person).where(person.c.email == found.email)).one_or_none()
            if now is None or _state(now, self._now_ms()) != "open" or present != known:
                raise _refused()
            if present is not None and not present.enabled:
                raise _refused()
            try:
                if now.tenant_id:
                    live_tenant(db, now.tenant_id)
            except NotFound:
                raise _refused() from None
            if not self._gives(db, now.invited_by, now.role, now.tenant_id):
                raise _refused()
            if first:
                if not self._may_set_first(db, present, now.invited_by):
                    raise _refused()
                self._give_first_password(db, now, person_id, first)
            held = {(one.role, one.tenant_id, one.source) for one in person_record(db, person_id).grants}
            cleared = False
            if (now.role, now.tenant_id, "local") not in held:
                self._insert_grant(db, person_id, now.role, now.tenant_id)
                cleared = self._clear_foreign_password(db, person_id, [now.tenant_id])
            mine = sa.update(invitation).where(invitation.c.id == now.id)
            db.execute(mine.values(redeemed_ms=self._now_ms()))
            detail = {"to": person_id, "role": now.role} | ({"password": "cleared"} if cleared else {})
            change.note(Noted("invitation.redeem", now.id, now.tenant_id, detail, policy=False))
        return Redeemed(person_id, now.role, now.tenant_id, cleared)

    def _give_first_password(
        self, db: sa.Connection, found: Any, person_id: str, first: Mapping[str, str]
    ) -> None:
        given = {"password_hash": first["password_hash"], "password_by": found.password_by}
        stored = sa.update(person).where(person.c.id == person_id)
        if not db.execute(stored.values(**given)).rowcount:
            values = {"id": person_id, "email": found.email, "name": first["name"], **given}
            db.execute(sa.insert(person).values(**values, enabled=True, created_ms=self._now_ms()))

    def _may_set_first(self, db: sa.Connection, known: Any, invited_by: str) -> bool:
        """Whether a first password may be set for this person (None: there is none yet): not for one who has
        a password or an identity, nor roles that whoever invited may not manage."""
        if known is None:
            return True
        identity = sa.select(oidc_identity.c.subject).where(oidc_identity.c.person_id == known.id)
        if known.password_hash or db.execute(identity).first() is not None:
            return False
        reach = self._reach(db, invited_by)
        return reach is None or all(one.tenant_id in reach for one in person_record(db, known.id).grants)

    def _make_room(self, db: sa.Connection, tenant_id: str, email: str) -> None:
        """Forgets what is old, ends an open one that this one replaces. Raises RateLimited."""
        now_ms = self._now_ms()
        db.execute(sa.delete(invitation).where(invitation.c.created_ms <= now_ms - KEPT_MS))
        mine = invitation.c.tenant_id == tenant_id
        today = sa.select(sa.func.count()).where(mine, invitation.c.created_ms > now_ms - DAY_MS)
        if (db.scalar(today) or 0) >= INVITED_A_DAY_MAX:
            raise RateLimited(
                f"{INVITED_A_DAY_MAX} invitations within a day is the most; try again tomorrow",
                code="too_many_invitations",
                retry_after_s=DAY_MS / 1000,
            )
        same = sa.update(invitation).where(
            mine,
            invitation.c.email == email,
            invitation.c.redeemed_ms == 0,
            invitation.c.revoked_ms == 0,
        )
        db.execute(same.values(revoked_ms=now_ms))

    def _gives(self, db: sa.Connection, actor: str, role: str, tenant_id: str) -> bool:
        """Whether `actor` may give `role` there now."""
        if actor == SYSTEM:
            return True
        held = self._held(db, actor)
        return any(
            (giver, where) in held and role in given
            for giver, given in GIVES.items()
            for where in (tenant_id, EVERYWHERE)
        )

    def _refuse_to_give(self, db: sa.Connection, role: str, tenant_id: str) -> None:
        if not self._gives(db, self._actor, role, tenant_id):
            raise Forbidden(f"your role does not allow inviting or revoking an {role}", field="role")


def _is(secret: str) -> tuple[sa.ColumnElement[bool]]:
    return (invitation.c.sha256 == digest(secret),)


def _row(db: sa.Connection, invitation_id: str, tenants: Tenants = None) -> Any:
    """Raises NotFound, also for one of another tenant."""
    found = db.execute(sa.select(invitation).where(invitation.c.id == invitation_id)).one_or_none()
    if found is None or (tenants is not None and found.tenant_id not in tenants):
        raise NotFound(f"there is no invitation {invitation_id}", field="invitation_id")
    return found


def _state(row: Any, now_ms: int) -> State:
    if row.redeemed_ms:
        return "redeemed"
    if row.revoked_ms:
        return "revoked"
    return "expired" if row.expires_ms <= now_ms else "open"


def _record(row: Any, now_ms: int) -> InvitationRecord:
    told = row._asdict()
    kept = {name: told[name] for name in InvitationRecord.__struct_fields__ if name != "state"}
    return InvitationRecord(**kept, state=_state(row, now_ms))


def _refused() -> Forbidden:
    return Forbidden(REFUSED, code="invitation_refused")
