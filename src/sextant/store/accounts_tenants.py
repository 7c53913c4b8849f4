"""Tenants and their projects in the accounts database.

A deleted tenant or project stays as a row: the ledger's rows name it, and requests still under way are rated
by its plan. It is switched off for good, its keys are revoked, and no list shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec
import sqlalchemy as sa

from sextant.base.errors import BadRequest, NotFound
from sextant.base.ids import new_id
from sextant.spec.policy import Billing, LimitRules, PrivacyPolicy
from sextant.store.accounts_database import (
    FIRST_PAGE,
    AccountsDatabase,
    Change,
    Noted,
    Page,
    Tenants,
    checked_currency,
    checked_id,
    checked_limits,
    checked_name,
    checked_time_zone,
    json_of,
    text_of,
)
from sextant.store.accounts_schema import api_key, invitation, price_plan, project, role_grant, tenant, tier

DEFAULT_TENANT = "default"
NEW_TENANT_TIER = "free"
"""Of a tenant that names none: what a stranger may have. The default tenant, which is whoever runs the
installation, has `internal`, without limits."""

CurrenciesOf = Callable[[str], Collection[str]]
"""The currencies in which the books have moved money of a tenant."""


def _no_money(_tenant_id: str) -> Collection[str]:
    return ()


class TenantRecord(msgspec.Struct, frozen=True):
    """A tenant as the database has it; the fields mean what they mean in `TenantPolicy`."""

    id: str
    name: str
    enabled: bool
    created_ms: int
    tier: str = "internal"
    limits: LimitRules = LimitRules()
    billing: Billing = "free"
    plan: str = ""
    currency: str = "CNY"
    time_zone: str = "UTC"
    models: tuple[str, ...] = ()
    privacy: PrivacyPolicy = PrivacyPolicy()
    deleted_ms: int = 0

    @property
    def tenant_id(self) -> str:
        return self.id


class TenantChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be different; None: as it is. `limits`, `models` and `privacy` replace the whole."""

    name: str | None = None
    enabled: bool | None = None
    tier: str | None = None
    limits: LimitRules | None = None
    billing: Billing | None = None
    plan: str | None = None
    currency: str | None = None
    time_zone: str | None = None
    models: tuple[str, ...] | None = None
    privacy: PrivacyPolicy | None = None


ORDINARY = TenantChange()
"""Of a new tenant: everything as it comes."""


class ProjectRecord(msgspec.Struct, frozen=True):
    id: str
    tenant_id: str
    name: str
    enabled: bool
    created_ms: int
    limits: LimitRules = LimitRules()
    deleted_ms: int = 0


class ProjectChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be different; None: as it is."""

    name: str | None = None
    enabled: bool | None = None
    limits: LimitRules | None = None


def default_project(tenant_id: str) -> str:
    """The project that a tenant is made with; keys that name no other are its."""
    return f"{tenant_id}.default"


class TenantAccounts(AccountsDatabase):
    """Tenants and projects."""

    def create_tenant(self, tenant_id: str, wanted: TenantChange = ORDINARY) -> TenantRecord:
        """A tenant with its default project. Where nothing else is wanted: on the tier `NEW_TENANT_TIER`,
        free, in the currency of its plan or, without one, of the default tenant. Raises BadRequest for a
        wrong value or an id that is taken, also by a deleted one."""
        with self.changing() as change:
            return self._insert_tenant(change, tenant_id, wanted)

    def _insert_tenant(self, change: Change, tenant_id: str, wanted: TenantChange) -> TenantRecord:
        """As `create_tenant`, in a change under way."""
        checked_id(tenant_id)
        named = wanted if wanted.name is not None else msgspec.structs.replace(wanted, name=tenant_id)
        if change.db.scalar(sa.select(tenant.c.id).where(tenant.c.id == tenant_id)) is not None:
            raise BadRequest(f"there is a tenant {tenant_id} already", field="id", code="exists")
        record = self._new_tenant(change.db, tenant_id, named)
        change.db.execute(sa.insert(tenant).values(**columns_of(record)))
        first = ProjectRecord(default_project(tenant_id), tenant_id, "Default", True, record.created_ms)
        change.db.execute(sa.insert(project).values(**columns_of(first)))
        change.note(Noted("tenant.create", tenant_id, tenant_id, msgspec.to_builtins(named)))
        return record

    def _new_tenant(self, db: sa.Connection, tenant_id: str, wanted: TenantChange) -> TenantRecord:
        """What a new tenant would be. Raises BadRequest for a wrong value."""
        usual = live_tenant(db, DEFAULT_TENANT).currency
        fresh = TenantRecord(tenant_id, "", True, self._now_ms(), tier=NEW_TENANT_TIER, currency=usual)
        return _changed_tenant(db, fresh, wanted)

    def list_tenants(self, page: Page = FIRST_PAGE, *, tenants: Tenants = None) -> list[TenantRecord]:
        """By id, without the deleted."""
        query = sa.select(tenant).where(tenant.c.deleted_ms == 0, tenant.c.id > page.after)
        if tenants is not None:
            query = query.where(tenant.c.id.in_(tenants))
        with self.reading() as db:
            return [tenant_of(row) for row in db.execute(query.order_by(tenant.c.id).limit(page.limit))]

    def tenant(self, tenant_id: str) -> TenantRecord:
        """Raises NotFound."""
        with self.reading() as db:
            return live_tenant(db, tenant_id)

    def change_tenant(
        self, tenant_id: str, wanted: TenantChange, *, currencies_of: CurrenciesOf = _no_money
    ) -> TenantRecord:
        """A tenant switched off keeps its keys; they are refused. `currencies_of` is asked where the currency
        would change. Raises NotFound, BadRequest, and what `currencies_of` raises."""
        with self.changing() as change:
            before = live_tenant(change.db, tenant_id)
            record = _changed_tenant(change.db, before, wanted)
            if record.currency != before.currency:
                _refuse_two_currencies(record, currencies_of(tenant_id))
            change.db.execute(sa.update(tenant).where(tenant.c.id == tenant_id).values(**columns_of(record)))
            change.note(Noted("tenant.change", tenant_id, tenant_id, msgspec.to_builtins(wanted)))
        return record

    def delete_tenant(self, tenant_id: str) -> TenantRecord:
        """Ends a tenant, its projects and keys for good; its usage and invoices stay. Raises NotFound, and
        BadRequest for the default tenant."""
        if tenant_id == DEFAULT_TENANT:
            raise BadRequest("the default tenant stays: the local command line's own key is its", field="id")
        with self.changing() as change:
            record = live_tenant(change.db, tenant_id)
            record = msgspec.structs.replace(record, enabled=False, deleted_ms=self._now_ms())
            change.db.execute(sa.update(tenant).where(tenant.c.id == tenant_id).values(**columns_of(record)))
            mine = project.c.tenant_id == tenant_id, project.c.deleted_ms == 0
            ended = sa.update(project).where(*mine)
            change.db.execute(ended.values(enabled=False, deleted_ms=record.deleted_ms))
            _revoke_keys(change.db, api_key.c.tenant_id == tenant_id, record.deleted_ms)
            change.db.execute(sa.delete(role_grant).where(role_grant.c.tenant_id == tenant_id))
            asked = (invitation.c.tenant_id == tenant_id, invitation.c.redeemed_ms == 0)
            open_ones = sa.update(invitation).where(*asked, invitation.c.revoked_ms == 0)
            change.db.execute(open_ones.values(revoked_ms=record.deleted_ms))
            change.note(Noted("tenant.delete", tenant_id, tenant_id))
        return record

    def create_project(self, tenant_id: str, wanted: ProjectChange, *, project_id: str = "") -> ProjectRecord:
        """Raises NotFound (no such tenant), BadRequest (a wrong value, an id that is taken)."""
        made_id = checked_id(project_id) if project_id else new_id("project")
        fresh = ProjectRecord(made_id, tenant_id, made_id, True, self._now_ms())
        record = _changed_project(fresh, wanted)
        with self.changing() as change:
            live_tenant(change.db, tenant_id)
            if change.db.scalar(sa.select(project.c.id).where(project.c.id == made_id)) is not None:
                raise BadRequest(f"there is a project {made_id} already", field="id", code="exists")
            change.db.execute(sa.insert(project).values(**columns_of(record)))
            change.note(Noted("project.create", made_id, tenant_id, msgspec.to_builtins(wanted)))
        return record

    def list_projects(
        self, page: Page = FIRST_PAGE, *, tenant_id: str = "", tenants: Tenants = None
    ) -> list[ProjectRecord]:
        """By id, without the deleted."""
        query = sa.select(project).where(project.c.deleted_ms == 0, project.c.id > page.after)
        if tenants is not None:
            query = query.where(project.c.tenant_id.in_(tenants))
        if tenant_id:
            query = query.where(project.c.tenant_id == tenant_id)
        with self.reading() as db:
            return [project_of(row) for row in db.execute(query.order_by(project.c.id).limit(page.limit))]

    def count_projects(self, tenant_id: str, since_ms: int) -> int:
        """How many projects a tenant has, with those made since then that are deleted."""
        counted = sa.or_(project.c.deleted_ms == 0, project.c.created_ms > since_ms)
        with self.reading() as db:
            query = sa.select(sa.func.count()).select_from(project)
            return db.scalar(query.where(project.c.tenant_id == tenant_id, counted)) or 0

    def project(self, project_id: str) -> ProjectRecord:
        """Raises NotFound."""
        with self.reading() as db:
            return live_project(db, project_id)

    def change_project(self, project_id: str, wanted: ProjectChange) -> ProjectRecord:
        """Raises NotFound, BadRequest."""
        with self.changing() as change:
            record = _changed_project(live_project(change.db, project_id), wanted)
            stored = sa.update(project).where(project.c.id == project_id)
            change.db.execute(stored.values(**columns_of(record)))
            change.note(Noted("project.change", project_id, record.tenant_id, msgspec.to_builtins(wanted)))
        return record

    def delete_project(self, project_id: str) -> ProjectRecord:
        """Ends a project and its keys for good. Raises NotFound; BadRequest for a tenant's default one."""
        with self.changing() as change:
            record = live_project(change.db, project_id)
            if project_id == default_project(record.tenant_id):
                raise BadRequest(f"{project_id} stays: keys that name no project are its", field="id")
            record = msgspec.structs.replace(record, enabled=False, deleted_ms=self._now_ms())
            stored = sa.update(project).where(project.c.id == project_id)
            change.db.execute(stored.values(**columns_of(record)))
            _revoke_keys(change.db, api_key.c.project_id == project_id, record.deleted_ms)
            change.note(Noted("project.delete", project_id, record.tenant_id))
        return record


def columns_of(record: msgspec.Struct) -> dict[str, Any]:
    """A record as column values: what is no plain value becomes JSON."""
    values = msgspec.structs.asdict(record)
    return {name: value if isinstance(value, str | int) else text_of(value) for name, value in values.items()}


def tenant_of(row: Any) -> TenantRecord:
    """The record of a row of `tenant`."""
    values = row._asdict() | {
        "limits": json_of(row.limits, LimitRules),
        "models": json_of(row.models, tuple[str, ...]),
        "privacy": json_of(row.privacy, PrivacyPolicy),
    }
    return TenantRecord(**values)


def project_of(row: Any) -> ProjectRecord:
    """The record of a row of `project`."""
    return ProjectRecord(**(row._asdict() | {"limits": json_of(row.limits, LimitRules)}))


def live_tenant(db: sa.Connection, tenant_id: str) -> TenantRecord:
    """Raises NotFound, also for a deleted one."""
    query = sa.select(tenant).where(tenant.c.id == tenant_id, tenant.c.deleted_ms == 0)
    found = db.execute(query).one_or_none()
    if found is None:
        raise NotFound(f"there is no tenant {tenant_id}", field="tenant_id")
    return tenant_of(found)


def live_project(db: sa.Connection, project_id: str) -> ProjectRecord:
    """Raises NotFound, also for a deleted one."""
    query = sa.select(project).where(project.c.id == project_id, project.c.deleted_ms == 0)
    found = db.execute(query).one_or_none()
    if found is None:
        raise NotFound(f"there is no project {project_id}", field="project_id")
    return project_of(found)


def _changed_tenant(db: sa.Connection, record: TenantRecord, wanted: TenantChange) -> TenantRecord:
    """`record` as `wanted`, checked against what else there is. Raises BadRequest."""
    changed = msgspec.structs.replace(record, **_given(wanted))
    checked_name(changed.name)
    checked_limits(changed.limits)
    if db.scalar(sa.select(tier.c.id).where(tier.c.id == changed.tier)) is None:
        known = ", ".join(db.scalars(sa.select(tier.c.id).order_by(tier.c.id)))
        raise BadRequest(f"there is no tier {changed.tier!r}; expected one of {known}", field="tier")
    checked_time_zone(changed.time_zone)
    checked_currency(changed.currency)
    if changed.currency != record.currency and record.billing != "free":
        raise BadRequest(
            f"tenant {record.id} has accounts in {record.currency}; make another for {changed.currency}, or "
            f"set billing to free first if it has neither paid nor used anything",
            field="currency",
        )
    return _with_plan(db, changed, wanted, paying=record.billing != "free")


def _refuse_two_currencies(record: TenantRecord, moved: Collection[str]) -> None:
    """What a tenant has paid, owes or spends stays in one currency. Raises BadRequest."""
    others = sorted(set(moved) - {record.currency})
    if others:
        raise BadRequest(
            f"tenant {record.id} has paid or used in {', '.join(others)} already, which stays its currency; "
            f"make another tenant for {record.currency}",
            field="currency",
        )


def _with_plan(
    db: sa.Connection, changed: TenantRecord, wanted: TenantChange, *, paying: bool
) -> TenantRecord:
    """A tenant that pays has a plan, in its own currency, which is the plan's for one that was not `paying`
    and names none. Raises BadRequest."""
    if not changed.plan:
        if changed.billing != "free":
            raise BadRequest(f"billing {changed.billing} needs a price plan; give `plan`", field="plan")
        return changed
    currency = db.scalar(sa.select(price_plan.c.currency).where(price_plan.c.id == changed.plan))
    if currency is None:
        known = ", ".join(db.scalars(sa.select(price_plan.c.id).order_by(price_plan.c.id)))
        raise BadRequest(f"there is no price plan {changed.plan!r}; expected one of {known}", field="plan")
    if changed.currency == currency:
        return changed
    if wanted.currency is None and not paying:
        return msgspec.structs.replace(changed, currency=currency)
    raise BadRequest(
        f"price plan {changed.plan} is in {currency}, tenant {changed.id} in {changed.currency}", field="plan"
    )


def _changed_project(record: ProjectRecord, wanted: ProjectChange) -> ProjectRecord:
    """Raises BadRequest."""
    changed = msgspec.structs.replace(record, **_given(wanted))
    checked_name(changed.name)
    checked_limits(changed.limits)
    return changed


def _given(wanted: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}


def _revoke_keys(db: sa.Connection, which: sa.ColumnElement[bool], now_ms: int) -> None:
    db.execute(sa.update(api_key).where(which, api_key.c.revoked_ms == 0).values(revoked_ms=now_ms))
