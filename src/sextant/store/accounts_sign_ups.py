"""Strangers who sign up: a wish for a tenant, which becomes one when its mailed token comes back.

Asking never tells whether the address is somebody's: a row is kept and a message is owed either way. Each
wish is an e-mail to a stranger and perhaps credit, so wishes are bounded: by mailbox (whatever stands behind
a `+`), by the source they come from, and in all. Confirming is one transaction: of two at once one makes the
tenant. The credit is then owed until it is noted as posted; its transfer has a name that follows from the
tenant, so posting it again changes nothing.
Neighbours: `accounts_invitations.py`, `accounts_agreements.py`, `sextant.control.signup`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Any

import msgspec
import sqlalchemy as sa

from sextant.base.errors import Forbidden, RateLimited
from sextant.base.ids import new_id, new_secret
from sextant.spec.policy import Billing
from sextant.store.accounts_agreements import AgreementAccounts
from sextant.store.accounts_database import DAY_MS, SYSTEM, Change, Noted, checked_name, digest
from sextant.store.accounts_invitations import InvitationAccounts
from sextant.store.accounts_people import checked_email
from sextant.store.accounts_schema import person, sign_up
from sextant.store.accounts_tenants import TenantAccounts, TenantChange
from sextant.store.passwords import checked_password

TOKEN_MS = DAY_MS
"""How long a mailed token is good."""
PER_MAILBOX_MAX = 3
"""Wishes of one mailbox within 24 hours."""
KEPT_MS = 7 * DAY_MS
"""A wish that was not confirmed is forgotten so long after it was made; of one that was, all that it said but
for the digest of its mailbox."""
OWED_MAX = 100
"""Credits handed out for posting at once."""
REFUSED = (
    "the sign-up is refused: the token is not one, was used already, or is older than a day; sign in if you "
    "have confirmed it before, or sign up again"
)
_WITH_PORT = re.compile(r"\A(?:([\d.]+)|\[([^\]]+)\])(?::\d+)?\Z", re.ASCII)


class SignUpBounds(msgspec.Struct, frozen=True):
    """Most wishes within 24 hours, in all and from one source."""

    per_day: int
    per_source: int


class SignUpTerms(msgspec.Struct, frozen=True):
    """What a tenant that signs up gets. An empty `plan`: nothing is charged."""

    tier: str
    plan: str = ""
    credit_nano: int = 0
    time_zone: str = "UTC"

    def tenant(self, name: str) -> TenantChange:
        """The tenant of that name."""
        billing: Billing = "prepaid" if self.plan else "free"
        return TenantChange(
            name=name, tier=self.tier, billing=billing, plan=self.plan, time_zone=self.time_zone
        )


class NewSignUp(msgspec.Struct, frozen=True):
    """`name` is the tenant's; `source` the address that it is asked from."""

    email: str
    name: str
    language: str
    source: str


class Asked(msgspec.Struct, frozen=True):
    """A wish just kept. `known`: the address or its mailbox has an account here already, which nobody but its
    owner is told; then `secret` opens nothing."""

    id: str
    email: str
    secret: str
    known: bool


class Confirming(msgspec.Struct, frozen=True):
    """What whoever has the token chooses; `agreement`: the version that they have accepted, or none."""

    password: str
    person_name: str = ""
    agreement: str = ""


class Confirmed(msgspec.Struct, frozen=True):
    """A tenant just made, and who owns it."""

    id: str
    person_id: str
    tenant_id: str
    credit_nano: int
    currency: str


class OwedCredit(msgspec.Struct, frozen=True):
    """Credit of a tenant that signed up, which is not noted as posted."""

    id: str
    tenant_id: str
    credit_nano: int
    currency: str


class SignUpAccounts(InvitationAccounts, AgreementAccounts, TenantAccounts):
    """Sign-ups."""

    def ask_sign_up(self, new: NewSignUp, bounds: SignUpBounds, terms: SignUpTerms) -> Asked:
        """Keeps a wish and makes its token. Raises BadRequest (no address, no name), RateLimited, and
        BadRequest (field `tier` or `plan`) where nobody could get what `terms` say."""
        email, name = checked_email(new.email), checked_name(new.name)
        mailbox, source = digest(mailbox_of(email)), source_of(new.source)
        secret, now_ms = new_secret("sxsignup"), self._now_ms()
        with self.changing() as change:
            self._new_tenant(change.db, "sign-up", terms.tenant(name))
            self._forget_old(change.db, now_ms)
            _refuse_too_many(change.db, bounds, now_ms=now_ms, mailbox=mailbox, source=source)
            known = self._is_known(change.db, email, mailbox)
            made_id = new_id("signup")
            texts = {"id": made_id, "email": email, "mailbox_sha256": mailbox, "name": name}
            texts |= {"language": new.language, "sha256": digest(secret), "source": source}
            times = {"created_ms": now_ms, "expires_ms": now_ms + (0 if known else TOKEN_MS)}
            later = {"confirmed_ms": 0, "tenant_id": "", "credit_nano": 0, "currency": "", "credited_ms": 0}
            change.db.execute(sa.insert(sign_up).values(**texts, **times, **later))
            return Asked(made_id, email, secret, known)

    def forget_sign_up(self, sign_up_id: str) -> None:
        """One whose message did not leave: it counts no longer."""
        mine = sign_up.c.id == sign_up_id, sign_up.c.confirmed_ms == 0
        with self.writing() as db:
            db.execute(sa.delete(sign_up).where(*mine))

    def confirm_sign_up(self, secret: str, given: Confirming, terms: SignUpTerms) -> Confirmed:
        """Makes the tenant with its first owner. Raises Forbidden (code `sign_up_refused`, in the same words
        whatever is wrong; `person_exists`), BadRequest (the password; field `tier` or `plan` where nobody
        could get what `terms` say), Overloaded."""
        checked_password(given.password)
        with self.reading() as db:
            _open(db, secret, self._now_ms())
        hashed = self.passwords.hash(given.password)
        person_id, tenant_id = new_id("person"), new_id("tenant")
        with self.by(f"person:{person_id}").changing() as change:
            found = _open(change.db, secret, self._now_ms())
            if self._is_known(change.db, found.email, found.mailbox_sha256):
                said = "this address has an account here by now: sign in with it"
                raise Forbidden(said, code="person_exists")
            name = checked_name(given.person_name or found.email)
            values = {"id": person_id, "email": found.email, "name": name, "password_hash": hashed}
            state = {"password_by": SYSTEM, "enabled": True, "created_ms": self._now_ms()}
            change.db.execute(sa.insert(person).values(**values, **state))
            record = self._insert_tenant(change, tenant_id, terms.tenant(found.name))
            self._insert_grant(change.db, person_id, "owner", tenant_id)
            if given.agreement:
                self._accept(change, given.agreement, tenant_id, person_id)
            made = Confirmed(found.id, person_id, tenant_id, terms.credit_nano, record.currency)
            self._note_confirmed(change, made)
            return made

    def owed_credits(self, besides: Collection[str] = ()) -> list[OwedCredit]:
        """Of tenants that signed up, oldest first, at most `OWED_MAX`; without the sign-ups `besides`."""
        owed = [sign_up.c.confirmed_ms > 0, sign_up.c.credited_ms == 0, sign_up.c.credit_nano > 0]
        if besides:
            owed.append(sign_up.c.id.not_in(besides))
        query = sa.select(sign_up).where(*owed).order_by(sign_up.c.confirmed_ms).limit(OWED_MAX)
        with self.reading() as db:
            return [
                OwedCredit(row.id, row.tenant_id, row.credit_nano, row.currency) for row in db.execute(query)
            ]

    def note_credited(self, owed: OwedCredit, transfer_id: str) -> None:
        """After its transfer is in the books; a second time changes nothing."""
        mine = sign_up.c.id == owed.id, sign_up.c.credited_ms == 0
        with self.changing() as change:
            stored = sa.update(sign_up).where(*mine).values(credited_ms=self._now_ms())
            if change.db.execute(stored).rowcount:
                detail = {"amount_nano": owed.credit_nano, "transfer": transfer_id, "note": "sign-up"}
                change.note(Noted("balance.credit", owed.tenant_id, owed.tenant_id, detail, policy=False))

    def _note_confirmed(self, change: Change, made: Confirmed) -> None:
        mine = sa.update(sign_up).where(sign_up.c.id == made.id)
        kept = {"tenant_id": made.tenant_id, "credit_nano": made.credit_nano, "currency": made.currency}
        change.db.execute(mine.values(confirmed_ms=self._now_ms(), **kept))
        detail = {"owner": made.person_id, "credit_nano": made.credit_nano}
        change.note(Noted("sign-up.confirm", made.id, made.tenant_id, detail, policy=False))

    def _is_known(self, db: sa.Connection, email: str, mailbox: str) -> bool:
        """Whether the address is somebody's, or its mailbox has signed up under any tag."""
        someone = sa.select(person.c.id).where(person.c.email.in_({email, mailbox_of(email)}))
        before = sa.select(sign_up.c.id).where(
            sign_up.c.mailbox_sha256 == mailbox, sign_up.c.confirmed_ms > 0
        )
        return db.execute(someone).first() is not None or db.execute(before).first() is not None

    def _forget_old(self, db: sa.Connection, now_ms: int) -> None:
        old = sign_up.c.created_ms <= now_ms - KEPT_MS
        db.execute(sa.delete(sign_up).where(old, sign_up.c.confirmed_ms == 0))
        db.execute(sa.update(sign_up).where(old, sign_up.c.email != "").values(email="", name="", source=""))


def mailbox_of(email: str) -> str:
    """The address without what stands behind a `+`: most providers deliver both to the same mailbox."""
    local, at, domain = email.rpartition("@")
    return f"{local.partition('+')[0] or local}{at}{domain}"


def source_of(address: str) -> str:
    """What one household has of the Internet: an IPv4 address, or an IPv6 network of 64 bits. Some proxies
    write a port behind it."""
    bare = _WITH_PORT.sub(r"\1\2", address)
    try:
        found = ipaddress.ip_address(bare)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found.packed, 64), strict=False))


def _open(db: sa.Connection, secret: str, now_ms: int) -> Any:
    """The wish with that token. Raises Forbidden for one that was used, is over, or is none."""
    mine = sign_up.c.sha256 == digest(secret)
    found = db.execute(sa.select(sign_up).where(mine)).one_or_none()
    if found is None or found.confirmed_ms or found.expires_ms <= now_ms:
        raise Forbidden(REFUSED, code="sign_up_refused")
    return found


def _refuse_too_many(
    db: sa.Connection, bounds: SignUpBounds, *, now_ms: int, mailbox: str, source: str
) -> None:
    """Raises RateLimited in the same words whichever bound is reached."""
    for limit, which in (
        (PER_MAILBOX_MAX, sign_up.c.mailbox_sha256 == mailbox),
        (bounds.per_source, sign_up.c.source == source),
        (bounds.per_day, sa.true()),
    ):
        since = sa.select(sa.func.count()).where(which, sign_up.c.created_ms > now_ms - DAY_MS)
        if (db.scalar(since) or 0) >= limit:
            raise RateLimited(
                "too many sign-ups within a day; try again tomorrow",
                code="too_many_sign_ups",
                retry_after_s=DAY_MS / 1000,
            )
