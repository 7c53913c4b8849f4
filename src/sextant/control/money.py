"""A tenant's money in the admin API: its balance, and what people move: top-ups, packages, payments, credits.

Usage moves money by itself, in the ledger. A request with an `id` of the caller's may be sent again after an
unknown end: it counts once.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Response

from sextant.base.errors import BadRequest
from sextant.base.ids import new_id
from sextant.control.access import Allowed, Needs
from sextant.control.answers import Body, json_answer
from sextant.control.office import Office
from sextant.control.openapi import tells
from sextant.spec.policy import PPM, Billing
from sextant.spec.transfer import (
    CASH,
    CREDIT,
    DISCOUNT,
    Transfer,
    TransferKind,
    package_account,
    prepaid_account,
    receivable_account,
)
from sextant.store.accounts_database import AMOUNT_NANO_MAX, DAY_MS, Noted
from sextant.store.accounts_tenants import TenantRecord
from sextant.store.balances import Balance, balance_of
from sextant.store.ledger_reading import ledger_view

PACKAGE_DAYS = 365
PACKAGE_DAYS_MAX = 3660

Nano = Annotated[int, msgspec.Meta(ge=1, le=AMOUNT_NANO_MAX)]
AskedId = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{0,40}$")]
Note = Annotated[str, msgspec.Meta(max_length=500)]


class Amount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An amount to move, in the tenant's currency."""

    amount_nano: Nano
    id: AskedId = ""
    note: Note = ""


class Adjustment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A correction of the balance, up or down, which says why."""

    amount_nano: Annotated[int, msgspec.Meta(ge=-AMOUNT_NANO_MAX, le=AMOUNT_NANO_MAX)]
    note: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    id: AskedId = ""


class NewPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prepaid package of this face value; it costs what the tenant's price plan says."""

    face_nano: Nano
    id: AskedId = ""
    days: Annotated[int, msgspec.Meta(ge=1, le=PACKAGE_DAYS_MAX)] = PACKAGE_DAYS
    note: Note = ""


class TenantBalance(Balance, frozen=True, kw_only=True):
    """What a tenant has and owes, and in which currency."""

    tenant_id: str
    currency: str
    billing: Billing


ReadBalance = Annotated[Allowed, Depends(Needs("read", "balance"))]
MoveMoney = Annotated[Allowed, Depends(Needs("write", "balance", deployment=True))]
AmountBody = Annotated[Amount, Depends(Body(Amount))]
AdjustmentBody = Annotated[Adjustment, Depends(Body(Adjustment))]
PackageBody = Annotated[NewPackage, Depends(Body(NewPackage))]


def add_money(app: FastAPI, office: Office) -> None:
    """Routes of balances."""

    @app.get("/v1/tenants/{tenant_id}/balance")
    @tells(TenantBalance)
    def get_balance(tenant_id: str, allowed: ReadBalance) -> Response:
        """What the tenant has, package by package, and what it owes."""
        allowed.require(tenant_id, f"there is no tenant {tenant_id}", field="tenant_id")
        return _balance(office, office.accounts.tenant(tenant_id))

    @app.post("/v1/tenants/{tenant_id}/top-ups", status_code=201)
    @tells(TenantBalance)
    def top_up(tenant_id: str, allowed: MoveMoney, given: AmountBody) -> Response:
        """Puts money that was paid onto a prepaid tenant's balance; it can be used at once."""
        _refuse_unused_top_up(office.accounts.tenant(tenant_id))
        sides = CASH, prepaid_account(tenant_id)
        return _moved(office, allowed, tenant_id, _Move("top-up", *sides, given.amount_nano, given))

    @app.post("/v1/tenants/{tenant_id}/payments", status_code=201)
    @tells(TenantBalance)
    def pay(tenant_id: str, allowed: MoveMoney, given: AmountBody) -> Response:
        """Notes that a tenant which pays later, or owes from when it did, has paid."""
        _refuse_unowed_payment(office, office.accounts.tenant(tenant_id))
        sides = CASH, receivable_account(tenant_id)
        return _moved(office, allowed, tenant_id, _Move("payment", *sides, given.amount_nano, given))

    @app.post("/v1/tenants/{tenant_id}/refunds", status_code=201)
    @tells(TenantBalance)
    def refund(tenant_id: str, allowed: MoveMoney, given: AmountBody) -> Response:
        """Pays a balance out; no more than is there."""
        sides = prepaid_account(tenant_id), CASH
        return _moved(office, allowed, tenant_id, _Move("refund", *sides, given.amount_nano, given))

    @app.post("/v1/tenants/{tenant_id}/credits", status_code=201)
    @tells(TenantBalance)
    def credit(tenant_id: str, allowed: MoveMoney, given: AmountBody) -> Response:
        """Gives a tenant something without money: onto its balance, or off what it owes."""
        record = office.accounts.tenant(tenant_id)
        to = receivable_account if record.billing == "postpaid" else prepaid_account
        move = _Move("credit", CREDIT, to(tenant_id), given.amount_nano, given)
        return _moved(office, allowed, tenant_id, move)

    @app.post("/v1/tenants/{tenant_id}/adjustments", status_code=201)
    @tells(TenantBalance)
    def adjust(tenant_id: str, allowed: MoveMoney, given: AdjustmentBody) -> Response:
        """Corrects the balance; the one movement that may take it below zero."""
        debit, credit = CREDIT, prepaid_account(tenant_id)
        if given.amount_nano < 0:
            debit, credit = credit, debit
        move = _Move("adjustment", debit, credit, abs(given.amount_nano), given)
        return _moved(office, allowed, tenant_id, move)

    @app.post("/v1/tenants/{tenant_id}/packages", status_code=201)
    @tells(TenantBalance)
    def sell_package(tenant_id: str, allowed: MoveMoney, given: PackageBody) -> Response:
        """Sells a package: its face value can be used until it expires."""
        record = office.accounts.tenant(tenant_id)
        factor_ppm = office.accounts.plan(record.plan).package_factor_ppm if record.plan else PPM
        transfers = package_transfers(record, given, factor_ppm, office.now_ms())
        _post(office, transfers, given.id)
        detail = {"face_nano": given.face_nano, "transfers": [one.id for one in transfers]}
        office.by(allowed).note(Noted("balance.package", tenant_id, tenant_id, detail, policy=False))
        return _balance(office, record, 201)


class _Move(msgspec.Struct, frozen=True):
    """Money between two accounts, as it was asked for."""

    kind: TransferKind
    debit: str
    credit: str
    amount_nano: int
    given: Amount | Adjustment


def package_transfers(
    record: TenantRecord, given: NewPackage, factor_ppm: int, now_ms: int
) -> list[Transfer]:
    """What puts a package into the books: what is paid for it, and what it gives beyond that. Pure."""
    package_id = given.id or new_id("package")
    paid_nano = (given.face_nano * factor_ppm + PPM // 2) // PPM
    parts: tuple[tuple[TransferKind, str, int], ...] = (
        ("package", CASH, paid_nano),
        ("discount", DISCOUNT, given.face_nano - paid_nano),
    )
    return [
        Transfer(
            id=f"{kind}-{record.id}-{package_id}",
            kind=kind,
            debit=debit,
            credit=package_account(record.id, package_id),
            amount_nano=amount_nano,
            currency=record.currency,
            at_ms=now_ms,
            note=given.note,
            expires_ms=now_ms + given.days * DAY_MS,
        )
        for kind, debit, amount_nano in parts
        if amount_nano
    ]


def _refuse_unused_top_up(record: TenantRecord) -> None:
    """Raises BadRequest for a tenant whose calls never use a balance."""
    if record.billing == "prepaid":
        return
    raise BadRequest(
        f"tenant {record.id} is {record.billing} and would never use a balance; note what a postpaid "
        f"tenant has paid with POST /v1/tenants/{record.id}/payments, or make it prepaid first: PATCH "
        f'/v1/tenants/{record.id} with {{"billing": "prepaid", "plan": PLAN}}',
        field="tenant_id",
    )


def _refuse_unowed_payment(office: Office, record: TenantRecord) -> None:
    """Raises BadRequest for a tenant that neither pays later nor owes anything from when it did."""
    if record.billing == "postpaid" or _found(office, record).receivable_nano > 0:
        return
    raise BadRequest(
        f"tenant {record.id} is {record.billing} and owes nothing; what a prepaid tenant pays is a "
        f"top-up: POST /v1/tenants/{record.id}/top-ups",
        field="tenant_id",
    )


def _moved(office: Office, allowed: Allowed, tenant_id: str, move: _Move) -> Response:
    record = office.accounts.tenant(tenant_id)
    transfer = Transfer(
        id=f"{move.kind}-{tenant_id}-{move.given.id or new_id('move')}",
        kind=move.kind,
        debit=move.debit,
        credit=move.credit,
        amount_nano=move.amount_nano,
        currency=record.currency,
        at_ms=office.now_ms(),
        note=move.given.note,
    )
    _post(office, [transfer], move.given.id)
    detail = {"amount_nano": move.amount_nano, "transfer": transfer.id, "note": move.given.note}
    office.by(allowed).note(Noted(f"balance.{move.kind}", tenant_id, tenant_id, detail, policy=False))
    return _balance(office, record, 201)


def _post(office: Office, transfers: list[Transfer], given_id: str) -> None:
    """Puts transfers into the books. Raises BadRequest, in which they have the caller's own id where there is
    one, and LedgerUnavailable."""
    try:
        office.books.post(transfers)
    except BadRequest as error:
        said = error.message
        for transfer in transfers if given_id else ():
            said = said.replace(transfer.id, given_id)
        raise BadRequest(said, field=error.field) from None


def _balance(office: Office, record: TenantRecord, status: int = 200) -> Response:
    found = msgspec.structs.asdict(_found(office, record))
    told = TenantBalance(**found, tenant_id=record.id, currency=record.currency, billing=record.billing)
    return json_answer(told, status)


def _found(office: Office, record: TenantRecord) -> Balance:
    with ledger_view(office.settings.ledger_db) as view:
        return balance_of(view, record.id, record.currency, now_ms=office.now_ms())
