"""Budgets and what was told of them, in the accounts database: who is warned when a month's spending passes
which share of an amount.

A budget warns and stops nothing; what stops is the limit `spend_nano_per_month`. Each threshold is one row a
month and channel, so that it is told once however many control processes look.
Neighbours: `accounts_schema.py` (the other tables), `sextant.operations.budgets` (looks and tells).
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import msgspec
import sqlalchemy as sa

from sextant.base.errors import BadRequest, NotFound
from sextant.base.ids import new_id
from sextant.store.accounts_database import wall_clock_ms
from sextant.store.accounts_schema import api_key, metadata, project, tenant

Channel = Literal["webhook", "email"]
DEFAULT_THRESHOLDS = (50, 80, 100)
THRESHOLD_MAX = 1000
THRESHOLDS_MAX = 10
EMAILS_MAX = 20
BUDGETS_OF_TENANT_MAX = 100
AMOUNT_NANO_MAX = 2**62
_PROBLEM_CHARACTERS = 500
_GIVEN_UP = -1

budget = sa.Table(
    "budget",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("tenant_id", sa.String(64), sa.ForeignKey("tenant.id"), nullable=False, index=True),
    sa.Column("scope", sa.String(80), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("amount_nano", sa.BigInteger, nullable=False),
    sa.Column("thresholds", sa.String(200), nullable=False),
    sa.Column("webhook_url", sa.String(2000), nullable=False),
    sa.Column("webhook_secret", sa.String(200), nullable=False),
    sa.Column("emails", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

budget_alert = sa.Table(
    "budget_alert",
    metadata,
    sa.Column("budget_id", sa.String(64), sa.ForeignKey("budget.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("month", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("threshold", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("channel", sa.String(16), primary_key=True),
    sa.Column("event_id", sa.String(64), nullable=False),
    sa.Column("spent_nano", sa.BigInteger, nullable=False),
    sa.Column("due_ms", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("told_ms", sa.BigInteger, nullable=False),
    sa.Column("problem", sa.String(500), nullable=False),
)


class BudgetTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a budget watches: the spending of `scope` (`tenant:ID`, `project:ID` or `key:ID`) in a calendar
    month of the tenant's time zone, against `amount_nano` of its currency. `thresholds` are per cent."""

    scope: str
    amount_nano: int
    name: str = ""
    thresholds: tuple[int, ...] = DEFAULT_THRESHOLDS
    webhook_url: str = ""
    emails: tuple[str, ...] = ()


class Budget(msgspec.Struct, frozen=True):
    id: str
    tenant_id: str
    terms: BudgetTerms
    created_ms: int


class Alert(msgspec.Struct, frozen=True):
    """One threshold of one month on one channel. `event_id` is the same however often it is sent; `told_ms`
    is 0 before it was told and -1 when that was given up."""

    budget_id: str
    month: int
    threshold: int
    channel: Channel
    event_id: str
    spent_nano: int
    due_ms: int
    attempts: int
    told_ms: int
    problem: str


class Crossing(msgspec.Struct, frozen=True):
    """A budget's spending in a month has reached these thresholds."""

    budget: Budget
    month: int
    thresholds: tuple[int, ...]
    spent_nano: int


class BudgetBook:
    """Budgets in the accounts database; `Accounts.engine` is its engine."""

    def __init__(self, engine: sa.Engine, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._engine = engine
        self._now_ms = now_ms

    def create(self, tenant_id: str, terms: BudgetTerms) -> tuple[Budget, str]:
        """A new budget, and the secret that its webhooks are signed with (empty without a webhook), which
        nobody can show again. Raises BadRequest, or NotFound for a scope that is not of the tenant."""
        made = Budget(new_id("bud"), tenant_id, checked_terms(terms), self._now_ms())
        secret = _new_webhook_secret() if terms.webhook_url else ""
        with self._engine.begin() as db:
            if not _is_of_tenant(db, tenant_id, terms.scope):
                raise NotFound(f"there is no {terms.scope} of the tenant {tenant_id}", field="scope")
            count = sa.select(sa.func.count()).where(budget.c.tenant_id == tenant_id)
            if (db.scalar(count) or 0) >= BUDGETS_OF_TENANT_MAX:
                raise BadRequest(f"a tenant has at most {BUDGETS_OF_TENANT_MAX} budgets; delete one first")
            values = msgspec.structs.asdict(terms)
            values |= {"thresholds": _json(terms.thresholds), "emails": _json(terms.emails)}
            db.execute(
                sa.insert(budget).values(
                    id=made.id,
                    tenant_id=tenant_id,
                    webhook_secret=secret,
                    created_ms=made.created_ms,
                    **values,
                )
            )
        return made, secret

    def list_budgets(self, tenant_id: str = "") -> list[Budget]:
        """Of one tenant or of all, oldest first."""
        query = sa.select(budget).order_by(budget.c.created_ms, budget.c.id)
        if tenant_id:
            query = query.where(budget.c.tenant_id == tenant_id)
        with self._engine.connect() as db:
            return [_budget_of(row) for row in db.execute(query)]

    def get(self, budget_id: str) -> Budget:
        """Raises NotFound."""
        with self._engine.connect() as db:
            row = db.execute(sa.select(budget).where(budget.c.id == budget_id)).one_or_none()
        if row is None:
            raise NotFound(f"there is no budget {budget_id}; see `sextant budget list`", field="budget_id")
        return _budget_of(row)

    def delete(self, budget_id: str) -> Budget:
        """With its alerts, those that wait included. Raises NotFound."""
        found = self.get(budget_id)
        with self._engine.begin() as db:
            db.execute(sa.delete(budget_alert).where(budget_alert.c.budget_id == budget_id))
            db.execute(sa.delete(budget).where(budget.c.id == budget_id))
        return found

    def alerts(self, budget_id: str) -> list[Alert]:
        """What was told of a budget or waits to be, newest month first."""
        query = sa.select(budget_alert).where(budget_alert.c.budget_id == budget_id)
        order = (budget_alert.c.month.desc(), budget_alert.c.threshold, budget_alert.c.channel)
        with self._engine.connect() as db:
            return [Alert(**row._mapping) for row in db.execute(query.order_by(*order))]

    def note_crossings(self, crossings: Iterable[Crossing]) -> int:
        """Puts what is to be told in line, each threshold once a month and channel. Returns how many were
        new."""
        rows = [
            Alert(one.budget.id, one.month, threshold, channel, "", one.spent_nano, self._now_ms(), 0, 0, "")
            for one in crossings
            for threshold in one.thresholds
            for channel in channels_of(one.budget.terms)
        ]
        new = 0
        with self._engine.begin() as db:
            for alert in rows:
                values = msgspec.structs.asdict(alert) | {"event_id": new_id("evt")}
                new += db.execute(_INSERT_NEW, values).rowcount
        return new

    def known_thresholds(self, budget_id: str, month: int) -> set[tuple[int, str]]:
        """(threshold, channel) of all that is in line or was told of a budget's month."""
        query = sa.select(budget_alert.c.threshold, budget_alert.c.channel).where(
            budget_alert.c.budget_id == budget_id, budget_alert.c.month == month
        )
        with self._engine.connect() as db:
            return {(row[0], row[1]) for row in db.execute(query)}

    def claim_due(self, *, limit: int, lease_ms: int) -> list[tuple[Alert, Budget, str]]:
        """Alerts that are due, each with its budget and webhook secret. They are the caller's for `lease_ms`:
        nobody else gets them meanwhile, and should the caller die, somebody does after it."""
        now_ms = self._now_ms()
        waiting = sa.and_(budget_alert.c.told_ms == 0, budget_alert.c.due_ms <= now_ms)
        query = sa.select(budget_alert).where(waiting).order_by(budget_alert.c.due_ms).limit(limit)
        claimed = []
        with self._engine.begin() as db:
            for row in db.execute(query).all():
                alert = Alert(**row._mapping)
                mine = sa.and_(_is(alert), budget_alert.c.due_ms == alert.due_ms, waiting)
                values = {"due_ms": now_ms + lease_ms, "attempts": alert.attempts + 1}
                if db.execute(sa.update(budget_alert).where(mine).values(values)).rowcount:
                    of = db.execute(sa.select(budget).where(budget.c.id == alert.budget_id)).one()
                    taken = msgspec.structs.replace(alert, **values)
                    claimed.append((taken, _budget_of(of), of.webhook_secret))
        return claimed

    def told(self, alert: Alert) -> None:
        """It has arrived."""
        self._settle(alert, {"told_ms": self._now_ms(), "problem": ""})

    def not_told(self, alert: Alert, problem: str, *, again_ms: int) -> None:
        """It has not arrived, and is due again at `again_ms`; 0: given up."""
        values: dict[str, Any] = {"problem": problem[:_PROBLEM_CHARACTERS]}
        values |= {"due_ms": again_ms} if again_ms else {"told_ms": _GIVEN_UP}
        self._settle(alert, values)

    def _settle(self, alert: Alert, values: dict[str, Any]) -> None:
        with self._engine.begin() as db:
            db.execute(sa.update(budget_alert).where(_is(alert), budget_alert.c.told_ms == 0).values(values))


_INSERT_NEW = sa.text(
    "INSERT INTO budget_alert (budget_id, month, threshold, channel, event_id, spent_nano, due_ms, attempts, "
    "told_ms, problem) VALUES (:budget_id, :month, :threshold, :channel, :event_id, :spent_nano, :due_ms, "
    ":attempts, :told_ms, :problem) ON CONFLICT DO NOTHING"
)


def channels_of(terms: BudgetTerms) -> list[Channel]:
    """Where alerts of a budget go."""
    given: dict[Channel, object] = {"webhook": terms.webhook_url, "email": terms.emails}
    return [channel for channel in get_args(Channel) if given[channel]]


def checked_terms(terms: BudgetTerms) -> BudgetTerms:
    """`terms` itself. Raises BadRequest naming the field."""
    if not 0 < terms.amount_nano <= AMOUNT_NANO_MAX:
        raise BadRequest(f"a budget is more than nothing, not {terms.amount_nano}", field="amount_nano")
    given = terms.thresholds
    if not given or len(given) > THRESHOLDS_MAX or list(given) != sorted(set(given)):
        raise BadRequest(
            f"thresholds are 1 to {THRESHOLDS_MAX} per cents that rise, as 50, 80, 100", field="thresholds"
        )
    if not all(1 <= one <= THRESHOLD_MAX for one in given):
        raise BadRequest(f"a threshold is 1 to {THRESHOLD_MAX} per cent", field="thresholds")
    if len(terms.name) > 200 or not (terms.name or "-").isprintable():
        raise BadRequest("a name is at most 200 printable characters", field="name")
    if not channels_of(terms):
        raise BadRequest("a budget needs webhook_url or emails, or nobody would hear of it", field="emails")
    url = terms.webhook_url
    if url and (not url.startswith(("https://", "http://")) or len(url) > 2000 or not url.isprintable()):
        raise BadRequest("webhook_url is an https:// address of at most 2000 characters", field="webhook_url")
    if len(terms.emails) > EMAILS_MAX or not all(_is_email(one) for one in terms.emails):
        raise BadRequest(
            f"emails are at most {EMAILS_MAX} plain addresses, as ops@example.com", field="emails"
        )
    return terms


def _is_email(text: str) -> bool:
    name, at, host = text.rpartition("@")
    plain = text.isascii() and text.isprintable() and not set(text) & set(' ,;:<>()"\\[]')
    plain = plain and "=?" not in text  # the beginning of an encoded word
    return bool(name and at and host) and plain and len(text) <= 254 and name.count("@") == 0


def _is_of_tenant(db: sa.Connection, tenant_id: str, scope: str) -> bool:
    kind, _, scope_id = scope.partition(":")
    if db.scalar(sa.select(tenant.c.id).where(tenant.c.id == tenant_id)) is None:
        return False
    if kind == "tenant":
        return scope_id == tenant_id
    table = {"project": project, "key": api_key}.get(kind)
    if table is None:
        return False
    found = sa.select(table.c.id).where(table.c.id == scope_id, table.c.tenant_id == tenant_id)
    return db.scalar(found) is not None


def _is(alert: Alert) -> sa.ColumnElement[bool]:
    return sa.and_(
        budget_alert.c.budget_id == alert.budget_id,
        budget_alert.c.month == alert.month,
        budget_alert.c.threshold == alert.threshold,
        budget_alert.c.channel == alert.channel,
    )


def _budget_of(row: Any) -> Budget:
    terms = BudgetTerms(
        scope=row.scope,
        amount_nano=row.amount_nano,
        name=row.name,
        thresholds=msgspec.json.decode(row.thresholds, type=tuple[int, ...]),
        webhook_url=row.webhook_url,
        emails=msgspec.json.decode(row.emails, type=tuple[str, ...]),
    )
    return Budget(row.id, row.tenant_id, terms, row.created_ms)


def _new_webhook_secret() -> str:
    """As Standard Webhooks writes them: 24 to 64 random bytes in base64 (standardwebhooks.com)."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
