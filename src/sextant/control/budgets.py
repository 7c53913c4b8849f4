"""Budgets in the admin API, and the watch over them that control keeps."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Response

from sextant.base.config import resolve_secret
from sextant.base.errors import BadRequest, NotFound
from sextant.control.access import Allowed, Needs
from sextant.control.answers import Body, json_answer, paged
from sextant.control.office import Office
from sextant.control.openapi import Listing, tells
from sextant.control.settings import AlertSettings
from sextant.operations.alert_channels import Channels, SmtpServer
from sextant.operations.budgets import BudgetWatch, spending_of, watch_budgets
from sextant.operations.estimate import Estimate
from sextant.store.accounts_database import Noted, Page
from sextant.store.budgets import Alert, Budget, BudgetBook, BudgetTerms
from sextant.store.ledger_reading import ledger_view

ReadBudgets = Annotated[Allowed, Depends(Needs("read", "budget"))]
WriteBudgets = Annotated[Allowed, Depends(Needs("write", "budget"))]
Paging = Annotated[Page, Depends(paged)]


class NewBudget(BudgetTerms, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A budget to make. `tenant_id` may be left out where `scope` names the tenant."""

    tenant_id: str = ""


class BudgetShown(BudgetTerms, frozen=True, kw_only=True):
    """A budget with its terms beside its id."""

    id: str
    tenant_id: str
    created_ms: int


class BudgetMade(BudgetShown, frozen=True, kw_only=True):
    """`webhook_secret` is shown here and nowhere again; `warning` says what stands in the way of telling."""

    webhook_secret: str
    warning: str


class BudgetSpent(BudgetShown, frozen=True, kw_only=True):
    """What a budget has spent in its month, and what was told of it."""

    month: int
    spent_nano: int
    currency: str
    estimate: Estimate
    alerts: list[Alert]


BudgetBody = Annotated[NewBudget, Depends(Body(NewBudget))]


def add_budgets(app: FastAPI, office: Office) -> None:
    """Routes of budgets."""
    book = BudgetBook(office.accounts.engine)

    @app.get("/v1/budgets")
    @tells(Listing("budgets", BudgetShown))
    def list_budgets(allowed: ReadBudgets, page: Paging, tenant_id: str = "") -> Response:
        """Budgets, oldest first."""
        tenants = allowed.tenants
        mine = [one for one in book.list_budgets(tenant_id) if tenants is None or one.tenant_id in tenants]
        start = next((number for number, one in enumerate(mine, 1) if one.id == page.after), 0)
        shown = mine[start : start + page.limit]
        more = shown[-1].id if len(mine) > start + page.limit else None
        return json_answer({"budgets": [BudgetShown(**_flat(one)) for one in shown], "next": more})

    @app.post("/v1/budgets", status_code=201)
    @tells(BudgetMade)
    def create_budget(allowed: WriteBudgets, new: BudgetBody) -> Response:
        """Makes a budget. `webhook_secret` in the answer is shown here and nowhere again; `warning` says what
        stands in the way of telling, empty where nothing does."""
        tenant_id = _tenant_of(office, new)
        allowed.require(tenant_id, f"there is no {new.scope}", field="scope")
        if new.webhook_url.startswith("http:") and not office.settings.alerts.private_webhooks:
            said = "a webhook needs https, unless the document says `spec.alerts.private_webhooks: true`"
            raise BadRequest(said, field="webhook_url")
        given = msgspec.structs.asdict(new)
        del given["tenant_id"]
        made, secret = book.create(tenant_id, BudgetTerms(**given))
        detail = {"scope": new.scope, "amount_nano": new.amount_nano}
        office.by(allowed).note(Noted("budget.create", made.id, tenant_id, detail, policy=False))
        warning = _unmailed(office.settings.alerts, new)
        return json_answer(BudgetMade(**_flat(made), webhook_secret=secret, warning=warning), 201)

    @app.get("/v1/budgets/{budget_id}")
    @tells(BudgetSpent)
    def get_budget(budget_id: str, allowed: ReadBudgets) -> Response:
        """One budget: what it has spent this month, what the month is estimated to cost, what was told."""
        found = _found(book, allowed, budget_id)
        with ledger_view(office.settings.ledger_db) as view:
            spent = spending_of(view, found, office.accounts.policy_snapshot(), now_ms=office.now_ms())
        told = BudgetSpent(
            **_flat(found),
            month=spent.month,
            spent_nano=spent.spent_nano,
            currency=spent.currency,
            estimate=spent.estimate,
            alerts=book.alerts(budget_id),
        )
        return json_answer(told)

    @app.delete("/v1/budgets/{budget_id}")
    @tells(BudgetShown)
    def delete_budget(budget_id: str, allowed: WriteBudgets) -> Response:
        """Deletes a budget with what was told of it."""
        found = _found(book, allowed, budget_id)
        deleted = book.delete(budget_id)
        office.by(allowed).note(Noted("budget.delete", budget_id, found.tenant_id, policy=False))
        return json_answer(BudgetShown(**_flat(deleted)))


async def watch(office: Office) -> None:
    """Looks at all budgets and tells what is to be told, until cancelled."""
    await watch_budgets(
        BudgetWatch(
            BudgetBook(office.accounts.engine),
            office.settings.ledger_db,
            office.accounts.policy_snapshot,
            channels_of(office.settings.alerts),
        )
    )


def channels_of(alerts: AlertSettings) -> Channels:
    """The ways that alerts take, the mail server's password included. Raises Misconfigured."""
    if not alerts.smtp_host:
        return Channels(private_webhooks=alerts.private_webhooks)
    server = SmtpServer(
        host=alerts.smtp_host,
        sender=alerts.smtp_sender,
        port=alerts.smtp_port,
        security=alerts.smtp_security,
        user=alerts.smtp_user,
        password=resolve_secret(alerts.smtp_password_ref) if alerts.smtp_password_ref else "",
        ca_file=alerts.smtp_ca_file,
    )
    return Channels(server, alerts.private_webhooks)


def _unmailed(alerts: AlertSettings, new: BudgetTerms) -> str:
    """Why the addresses of a budget get no e-mail as things are; empty where they do."""
    if not new.emails or alerts.smtp_host:
        return ""
    return (
        f"no e-mail will reach {', '.join(new.emails)}: no mail server is configured; set `spec.alerts.smtp` "
        "in the document and start again"
    )


def _flat(budget: Budget) -> dict[str, Any]:
    """The fields of a `BudgetShown`."""
    told = msgspec.structs.asdict(budget)
    return {**msgspec.structs.asdict(told.pop("terms")), **told}


def _tenant_of(office: Office, new: NewBudget) -> str:
    """The tenant that a scope belongs to. Raises NotFound in the same words for what is not there."""
    kind, _, scope_id = new.scope.partition(":")
    if kind not in ("tenant", "project", "key") or not scope_id:
        raise BadRequest(f"scope {new.scope}: expected tenant:ID, project:ID or key:ID", field="scope")
    try:
        if new.tenant_id or kind not in ("project", "key"):
            return new.tenant_id or scope_id
        accounts = office.accounts
        return (accounts.project(scope_id) if kind == "project" else accounts.key(scope_id)).tenant_id
    except NotFound:
        raise NotFound(f"there is no {new.scope}", field="scope") from None


def _found(book: BudgetBook, allowed: Allowed, budget_id: str) -> Budget:
    found = book.get(budget_id)
    missing = f"there is no budget {budget_id}; see `sextant budget list`"
    allowed.require(found.tenant_id, missing, field="budget_id")
    return found
