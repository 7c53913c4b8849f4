"""The accounts database underneath all its nouns: transactions, the policy's version, the audit trail.

Every change locks the one row of `policy_version` first, so changes by several processes, also on several
hosts with one PostgreSQL, come one after the other, and what a change has read is still true when it commits.
Neighbours: `accounts.py` (all nouns together), `accounts_schema.py` (tables).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import re
import time
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import msgspec
import sqlalchemy as sa

from sextant.base.errors import BadRequest, LedgerUnavailable
from sextant.spec.policy import LimitRules
from sextant.store.accounts_schema import READS, audit, open_accounts, person, policy_version, service_token

NAME_CHARACTERS_MAX = 200
DAY_MS = 86_400_000
SYSTEM = "system"
"""Who acts when nobody asked: the first start, a migration."""
AMOUNT_NANO_MAX = 2**62
COUNT_MAX = 2**53
"""Greatest count that JavaScript's numbers and ours agree on."""
ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
"""Ids that people choose. No dot and no colon: those join ids."""

Tenants = frozenset[str] | None
"""The tenants that a caller may touch; None: all."""


class AuditEntry(msgspec.Struct, frozen=True):
    """One change by someone. `actor` is `token:ID`, `person:ID` or `system`."""

    id: int
    at_ms: int
    actor: str
    action: str
    tenant_id: str
    target: str
    detail: dict[str, Any]
    actor_name: str = ""
    """Of the token, or the person's address; empty for a person since removed, and for those who see but some
    tenants."""


class Noted(msgspec.Struct, frozen=True):
    """What the audit trail says of a change: `action` as `key.create`, `detail` never a secret."""

    action: str
    target: str
    tenant_id: str = ""
    detail: Mapping[str, Any] = {}
    policy: bool = True
    """Whether the policy snapshot shows it."""


class Page(msgspec.Struct, frozen=True):
    """Which part of a list: at most `limit` entries after the entry `after`."""

    limit: int = 1000
    after: str = ""


FIRST_PAGE = Page()


def wall_clock_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Change:
    """A change under way: its connection, and what it leaves in the audit trail."""

    def __init__(self, db: sa.Connection, note: Callable[[Noted], None]) -> None:
        self.db = db
        self.note = note


class AccountsDatabase:
    """One database; the base of its nouns. `url_or_path`: a SQLite file, or `postgresql://…`."""

    def __init__(
        self, url_or_path: str | os.PathLike[str], now_ms: Callable[[], int] = wall_clock_ms
    ) -> None:
        self._engine = open_accounts(url_or_path)
        self._now_ms = now_ms
        self._actor = SYSTEM

    @property
    def engine(self) -> sa.Engine:
        """For `BudgetBook`, which keeps its tables here."""
        return self._engine

    def by(self, actor: str) -> Self:
        """The same database, whose changes are `actor`'s in the audit trail."""
        view = copy.copy(self)
        view._actor = actor
        return view

    def close(self) -> None:
        self._engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database. Raises LedgerUnavailable (it is away)."""
        options: dict[str, Any] = {READS: True}
        if self._engine.dialect.name == "postgresql":
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with _reachable(), self._engine.connect() as plain:
            connection = plain.execution_options(**options)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction after which nothing is noted: sign-ins, sessions. Raises LedgerUnavailable."""
        with _reachable(), self._engine.begin() as db:
            yield db

    @contextlib.contextmanager
    def changing(self) -> Iterator[Change]:
        """A transaction that has all changes to itself. Raises LedgerUnavailable."""
        with self.writing() as db:
            db.execute(sa.select(policy_version.c.version).with_for_update())
            yield Change(db, lambda noted: self._note(db, noted))

    def note(self, noted: Noted) -> None:
        """Puts a change that was made elsewhere (money in the books, a budget) into the audit trail."""
        with self.writing() as db:
            self._note(db, noted)

    def policy_version(self) -> int:
        """Grows with every change that the policy snapshot shows."""
        with self.reading() as db:
            return int(db.scalar(sa.select(policy_version.c.version)) or 0)

    def list_audit(self, page: Page, *, tenants: Tenants = None) -> list[AuditEntry]:
        """Newest first; `page.after` is an entry's id."""
        query = sa.select(audit).order_by(audit.c.id.desc()).limit(page.limit)
        if page.after.isdigit():
            query = query.where(audit.c.id < int(page.after))
        if tenants is not None:
            query = query.where(audit.c.tenant_id.in_(tenants))
        with self.reading() as db:
            found = db.execute(query).all()
            names = _names_of(db, {row.actor for row in found}) if tenants is None else {}
            return [
                AuditEntry(
                    row.id,
                    row.at_ms,
                    row.actor,
                    row.action,
                    row.tenant_id,
                    row.target,
                    json_of(row.detail, dict),
                    names.get(row.actor, ""),
                )
                for row in found
            ]

    def _note(self, db: sa.Connection, noted: Noted) -> None:
        db.execute(
            sa.insert(audit).values(
                at_ms=self._now_ms(),
                actor=self._actor,
                action=noted.action,
                tenant_id=noted.tenant_id,
                target=noted.target,
                detail=text_of(dict(noted.detail)),
            )
        )
        if noted.policy:
            db.execute(sa.update(policy_version).values(version=policy_version.c.version + 1))


def _names_of(db: sa.Connection, actors: set[str]) -> dict[str, str]:
    """What people call these actors, revoked tokens too."""
    ids = [actor.partition(":")[2] for actor in actors]
    tokens = sa.select(service_token.c.id, service_token.c.name).where(service_token.c.id.in_(ids))
    people = sa.select(person.c.id, person.c.email).where(person.c.id.in_(ids))
    return {f"token:{row.id}": row.name for row in db.execute(tokens)} | {
        f"person:{row.id}": row.email for row in db.execute(people)
    }


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """A database that is away is a matter of time, not of the request."""
    try:
        yield
    except sa.exc.OperationalError as error:
        raise LedgerUnavailable(
            f"the accounts database cannot be used now ({type(error.orig).__name__}); try again",
            code="accounts_unavailable",
            retry_after_s=1.0,
        ) from error


def digest(secret: str) -> str:
    """SHA-256 is enough: a secret of ours is 240 random bits, which no guessing reaches, so the slow, salted
    hashes that protect weak human passwords would only make each check dear."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def text_of(value: object) -> str:
    """`value` as the JSON that a column keeps."""
    return msgspec.json.encode(value).decode()


def json_of(text: str, kind: Any) -> Any:
    """What `text_of` made, as `kind`."""
    return msgspec.json.decode(text, type=kind)


def checked_name(name: str) -> str:
    """Raises BadRequest."""
    if not name.strip() or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise BadRequest(f"a name is 1 to {NAME_CHARACTERS_MAX} printable characters", field="name")
    return name


def checked_id(given: str, field: str = "id") -> str:
    """Raises BadRequest."""
    if not ID_PATTERN.fullmatch(given):
        raise BadRequest(
            f"{given[:60]!r} is no id; expected 1 to 48 of a-z, 0-9, - and _, not beginning with - or _",
            field=field,
        )
    return given


def checked_time_zone(name: str, field: str = "time_zone") -> str:
    """Raises BadRequest for a name that the tz database does not have."""
    try:
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        said = f"{name[:60]!r} is no time zone; expected a name as Asia/Shanghai or UTC"
        raise BadRequest(said, field=field) from None
    return name


def checked_currency(code: str) -> str:
    """Raises BadRequest for what is no ISO 4217 code by its form."""
    if len(code) != 3 or not code.isascii() or not code.isalpha() or not code.isupper():
        said = f"{code[:60]!r} is no currency; expected an ISO 4217 code as USD or CNY"
        raise BadRequest(said, field="currency")
    return code


def checked_limits(limits: LimitRules) -> LimitRules:
    """Raises BadRequest for a limit that is negative, or greater than can be counted."""
    for name in msgspec.structs.fields(LimitRules):
        value = getattr(limits, name.name)
        most = AMOUNT_NANO_MAX if name.name.startswith("spend") else COUNT_MAX
        if value is not None and not 0 <= value <= most:
            raise BadRequest(
                f"limits.{name.name} is {value}; expected 0 to {most}, or null for no limit",
                field=f"limits.{name.name}",
            )
    return limits
