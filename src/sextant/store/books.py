"""What a batch of usage rows, a post or an expiry changes in the books: decided here, purely.

Flow 1 (serve), at its end: `ledger -> books_keeper` reads what is known, asks this module what follows of it,
and writes that in the same transaction. Nothing here knows a database, a clock or prices: the time and the
rates are given. Amounts are integer billionths of a currency unit.
Neighbours: `books_keeper.py` (reads and writes), `sextant.governance.pricing` (the rates of a policy).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec.structs import astuple

from sextant.base.errors import BadRequest
from sextant.spec.money import decimal_of
from sextant.spec.policy import Billing, Standing
from sextant.spec.transfer import (
    CASH,
    CREDIT,
    DISCOUNT,
    EXPIRED,
    REVENUE,
    Transfer,
    prepaid_account,
    receivable_account,
)
from sextant.spec.usage import UNBILLED, UsageRow

TOKENS_MAX = 2**40
"""Tokens of one kind in one row; more is no request's usage."""
AMOUNT_NANO_MAX = 2**62
MINUTE_MS = 60_000
"""No day begins inside a minute of UTC, in no time zone: its rows have one date."""
ID_CHARACTERS_MAX = 100
EXPIRY_GRACE_MS = 3_600_000
"""An expired package still pays for requests that began before its end; after this time what is left of it is
written off."""


class Rated(Protocol):
    """What one row costs; `list_nano` before volume and off-peak factors."""

    @property
    def cost_nano(self) -> int: ...

    @property
    def list_nano(self) -> int: ...

    @property
    def currency(self) -> str: ...


class Rates(Protocol):
    """One policy's prices, calendars and ways of billing, for every tenant: also for one that it does not
    know, which is free."""

    @property
    def version(self) -> int:
        """Of the policy; 0 where there is none."""

    def rate(self, row: UsageRow, month_tokens_before: int) -> Rated: ...

    def day_and_month(self, tenant_id: str, at_ms: int) -> tuple[int, int]: ...

    def currency(self, tenant_id: str) -> str: ...

    def billing(self, tenant_id: str) -> Billing: ...


class BadRows(Exception):
    """At least one row of a batch can never be kept; nothing of the batch was."""


class Account(msgspec.Struct, frozen=True, gc=False):
    """One account in one currency. `tenant_id` is empty for those of the house; `expires_ms` is a
    package's."""

    id: str
    currency: str
    tenant_id: str
    expires_ms: int
    debits_nano: int
    credits_nano: int

    @property
    def left_nano(self) -> int:
        """What stands on the credit side: of a prepaid account or a package, what can still be used."""
        return self.credits_nano - self.debits_nano


class Terms(msgspec.Struct, frozen=True):
    """What a transaction is decided by besides the books: rates, and the time in Unix microseconds."""

    rates: Rates
    now_us: int


class Charge(msgspec.Struct, frozen=True, gc=False):
    """A row that costs something."""

    row: UsageRow
    cost_nano: int
    currency: str
    month: int


class RatedRows(msgspec.Struct, gc=False):
    """What rating a batch gave: full rows of the table `usage`, sums for `usage_day`, and what costs."""

    usage: list[tuple[Any, ...]]
    days: dict[DayKey, list[int]]
    charges: list[Charge]


class Changes(msgspec.Struct, gc=False):
    """What one transaction writes."""

    standings: list[Standing] = []
    usage: list[tuple[Any, ...]] = []
    days: dict[DayKey, list[int]] = {}
    transfers: list[Transfer] = []
    accounts: list[Account] = []
    """With the amounts to be added to both sides; made where it is missing."""
    paid: dict[PaidKey, int] = {}


PaidKey = tuple[str, int, str, str]
"""tenant, month, debited account, currency: of a row's month, who paid for it."""


DayKey = tuple[str, int, int, str, str, str, str]
"""tenant, month, day, project, key, model, currency."""
DAY_SUMS = (
    "requests",
    "errors",
    "refused",
    "estimated",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_nano",
    "list_nano",
    "counted_tokens",
)
"""What `usage_day` adds up of the rows with one `DayKey`, in the order of the sums."""


def scopes_of(rows: Iterable[UsageRow]) -> set[str]:
    """The scopes whose standings `rows` touch."""
    triples = {(row.tenant_id, row.project_id, row.key_id) for row in rows}
    return {scope for triple in triples for scope in scopes_of_holder(*triple)}


def scopes_of_holder(tenant_id: str, project_id: str, key_id: str) -> list[str]:
    """A tenant's scope, and those of its project and key where they have names."""
    named = [f"tenant:{tenant_id}"]
    if project_id:
        named.append(f"project:{project_id}")
    if key_id:
        named.append(f"key:{key_id}")
    return named


def unknown(scope: str) -> Standing:
    """Of a scope that the books have not seen."""
    return Standing(scope, 0, 0, 0, 0, 0, 0)


def rate_rows(rows: Iterable[UsageRow], rates: Rates, month_tokens: Callable[[str, int], int]) -> RatedRows:
    """Rates rows that are new, in their order. `month_tokens(tenant, month)` is what the books have of a
    month before them. Raises BadRows for counts that no request has."""
    rated = RatedRows([], {}, [])
    usage, charges, rate = rated.usage, rated.charges, rates.rate
    of_day: dict[DayKey, list[tuple[Any, ...]]] = {}
    so_far: dict[tuple[str, int], int] = {}
    dates: dict[tuple[str, int], tuple[int, int]] = {}
    for row in rows:
        tenant_id, started_ms = row.tenant_id, row.started_ms
        minute = tenant_id, started_ms // MINUTE_MS
        date = dates.get(minute)
        if date is None:
            date = dates[minute] = rates.day_and_month(tenant_id, started_ms)
        day, month = date
        of_month = tenant_id, month
        before = so_far.get(of_month)
        if before is None:
            before = month_tokens(tenant_id, month)
        price = rate(row, before)
        cost_nano, currency = price.cost_nano, price.currency
        values = (*astuple(row), cost_nano, price.list_nano, currency, day, month)
        usage.append(values)
        if cost_nano:
            charges.append(Charge(row, cost_nano, currency, month))
        key = (tenant_id, month, day, row.project_id, row.key_id, row.model, currency)
        same = of_day.get(key)
        if same is None:
            of_day[key] = [values]
        else:
            same.append(values)
        so_far[of_month] = (
            before if row.outcome in UNBILLED else before + row.input_tokens + row.output_tokens
        )
    for key, same in of_day.items():
        rated.days[key] = _sums(same)
    return rated


_OUTCOME = UsageRow.__struct_fields__.index("outcome")
_TOKENS = UsageRow.__struct_fields__.index("input_tokens")
_COUNTS = len(("input", "output", "cached", "reasoning"))


def _sums(rows: Sequence[tuple[Any, ...]]) -> list[int]:
    """`DAY_SUMS` of rows of the table `usage`, column by column. Raises BadRows."""
    columns = tuple(zip(*rows, strict=True))
    counts = columns[_TOKENS : _TOKENS + _COUNTS]
    for at, column in enumerate(counts, _TOKENS):
        if min(column) < 0 or max(column) > TOKENS_MAX:
            worst = next(row for row in rows if not 0 <= row[at] <= TOKENS_MAX)
            raise BadRows(f"request {worst[0]} has a token count that is not between 0 and {TOKENS_MAX}")
    outcomes, (estimated, cost_nano, list_nano) = columns[_OUTCOME], columns[_TOKENS + _COUNTS :][:3]
    tokens = [sum(column) for column in counts]
    counted_tokens = tokens[0] + tokens[1]
    errors, refused = outcomes.count("engine_error"), outcomes.count("refused")
    if errors or refused:
        counted_tokens -= sum(row[_TOKENS] + row[_TOKENS + 1] for row in rows if row[_OUTCOME] in UNBILLED)
    money = sum(cost_nano), sum(list_nano)
    return [len(rows), errors, refused, sum(estimated), *tokens, *money, counted_tokens]


def counted(
    standings: Mapping[str, Standing], days: Mapping[DayKey, Sequence[int]], now_us: int
) -> dict[str, Standing]:
    """The standings of all scopes that `days` touch, after them. A day or month before the one that a
    standing counts changes no count. Funds are left as they are."""
    after: dict[str, Standing] = {}
    for key in sorted(days, key=lambda key: key[2]):
        tenant_id, month, day, project_id, key_id, _, _ = key
        sums = days[key]
        tokens, cost_nano = sums[10], sums[8]
        for scope in scopes_of_holder(tenant_id, project_id, key_id):
            old = after.get(scope)
            if old is None:
                known = standings.get(scope) or unknown(scope)
                old = msgspec.structs.replace(known, version=next_version(known, now_us))
            day_tokens = old.day_tokens if day <= old.day else 0
            month_tokens, month_nano = (old.month_tokens, old.month_nano) if month <= old.month else (0, 0)
            after[scope] = Standing(
                scope,
                old.version,
                max(day, old.day),
                day_tokens + (tokens if day >= old.day else 0),
                max(month, old.month),
                month_tokens + (tokens if month >= old.month else 0),
                month_nano + (cost_nano if month >= old.month else 0),
                old.funds_nano,
                old.funds_until_ms,
            )
    return after


def next_version(standing: Standing, now_us: int) -> int:
    """Above the one before; near the clock, so that it grows over a restored backup too."""
    return max(standing.version + 1, now_us)


class _Slot(msgspec.Struct, gc=False):
    """One account in a transaction: as it was, and what is added to its sides."""

    account: Account
    debited_nano: int = 0
    credited_nano: int = 0

    @property
    def left_nano(self) -> int:
        return self.account.left_nano + self.credited_nano - self.debited_nano


class Purses:
    """The accounts of some tenants while a transaction moves money; collects what it writes."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self.transfers: list[Transfer] = []
        self.paid: dict[PaidKey, int] = {}
        self._slots: dict[tuple[str, str], _Slot] = {}
        self._packages: dict[str, list[_Slot]] = {}
        for account in accounts:
            self._open(account)

    def _open(self, account: Account) -> _Slot:
        slot = self._slots[account.id, account.currency] = _Slot(account)
        if ":package:" in account.id:
            packages = self._packages.setdefault(account.tenant_id, [])
            packages.append(slot)
            packages.sort(key=lambda slot: (slot.account.expires_ms, slot.account.id))
        return slot

    def _slot(self, account_id: str, currency: str, expires_ms: int = 0) -> _Slot:
        slot = self._slots.get((account_id, currency))
        return slot or self._open(Account(account_id, currency, tenant_of(account_id), expires_ms, 0, 0))

    def charge(self, charges: Iterable[Charge], terms: Terms) -> None:
        """Debits each row's cost: packages first, the one that expires soonest before the others, then the
        tenant's balance, or its receivable when it pays later."""
        now_ms = terms.now_us // 1000
        last: dict[str, str] = {}
        paid = self.paid
        for charge in charges:
            row, currency = charge.row, charge.currency
            tenant_id, request_id = row.tenant_id, row.request_id
            account_id = last.get(tenant_id)
            if account_id is None:
                account_id = last[tenant_id] = _last_account(tenant_id, terms.rates)
            parts = (
                self._parts(charge, account_id)
                if tenant_id in self._packages
                else ((account_id, charge.cost_nano),)
            )
            name = request_id
            for part, (debit, amount_nano) in enumerate(parts):
                if part:
                    name = f"{request_id}:{part}"
                key = (tenant_id, charge.month, debit, currency)
                paid[key] = paid.get(key, 0) + amount_nano
                self.move(Transfer(name, "usage", debit, REVENUE, amount_nano, currency, now_ms, request_id))

    def _parts(self, charge: Charge, last: str) -> list[tuple[str, int]]:
        """The accounts that pay for a row, each with its part; `last` pays what the packages do not."""
        row, left_nano = charge.row, charge.cost_nano
        parts = []
        for package in self._packages.get(row.tenant_id, ()):
            account = package.account
            if account.currency == charge.currency and account.expires_ms > row.started_ms:
                amount_nano = min(left_nano, package.left_nano)
                if amount_nano > 0:
                    parts.append((account.id, amount_nano))
                    left_nano -= amount_nano
        if left_nano:
            parts.append((last, left_nano))
        return parts

    def expire(self, tenant_id: str, now_ms: int) -> None:
        """Writes off what is left of packages whose time and grace are over."""
        for package in self._packages.get(tenant_id, ()):
            account, left_nano = package.account, package.left_nano
            if left_nano > 0 and account.expires_ms + EXPIRY_GRACE_MS <= now_ms:
                name = f"expiry:{account.id}:{account.currency}:{account.credits_nano}"
                self.move(Transfer(name, "expiry", account.id, EXPIRED, left_nano, account.currency, now_ms))

    def funds(self, tenant_id: str, currency: str, now_ms: int) -> tuple[int, int]:
        """(funds_nano, funds_until_ms) of a tenant's standing."""
        live = [
            package
            for package in self._packages.get(tenant_id, ())
            if package.account.currency == currency
            and package.account.expires_ms > now_ms
            and package.left_nano > 0
        ]
        prepaid = self._slots.get((prepaid_account(tenant_id), currency))
        funds_nano = (prepaid.left_nano if prepaid else 0) + sum(package.left_nano for package in live)
        return funds_nano, live[0].account.expires_ms if live else 0

    def move(self, transfer: Transfer) -> None:
        """Posts a transfer, whatever the balances are."""
        currency, amount_nano, slots = transfer.currency, transfer.amount_nano, self._slots
        debit = slots.get((transfer.debit, currency)) or self._slot(transfer.debit, currency)
        debit.debited_nano += amount_nano
        credit = slots.get((transfer.credit, currency))
        if credit is None:
            credit = self._slot(transfer.credit, currency, transfer.expires_ms)
        credit.credited_nano += amount_nano
        self.transfers.append(transfer)

    def post(self, transfer: Transfer) -> None:
        """Posts a transfer of somebody's. Raises BadRequest when its accounts do not allow it."""
        package = self._slots.get((transfer.credit, transfer.currency))
        if package is not None and transfer.expires_ms != package.account.expires_ms:
            raise BadRequest(
                f"transfer {transfer.id}: {transfer.credit} expires at {package.account.expires_ms}, not at "
                f"{transfer.expires_ms}; a package keeps its end, open another one"
            )
        self.move(transfer)
        debited = self._slot(transfer.debit, transfer.currency)
        if transfer.kind != "adjustment" and holds_funds(transfer.debit) and debited.left_nano < 0:
            had_nano = debited.left_nano + transfer.amount_nano
            raise BadRequest(
                f"transfer {transfer.id} takes {decimal_of(transfer.amount_nano)} {transfer.currency} from "
                f"{transfer.debit}, which has {decimal_of(had_nano)}; take no more than that, or post an "
                f"adjustment"
            )

    def changes(self) -> list[Account]:
        """What is to be added to both sides of accounts, in the order of their names."""
        moved = [slot for slot in self._slots.values() if slot.debited_nano or slot.credited_nano]
        return sorted(
            (
                msgspec.structs.replace(
                    slot.account, debits_nano=slot.debited_nano, credits_nano=slot.credited_nano
                )
                for slot in moved
            ),
            key=lambda account: (account.id, account.currency),
        )


def _last_account(tenant_id: str, rates: Rates) -> str:
    prepaid = rates.billing(tenant_id) == "prepaid"
    return prepaid_account(tenant_id) if prepaid else receivable_account(tenant_id)


_TENANT_ACCOUNT = re.compile(r"tenant:([^:]+):(prepaid|receivable|package:[^:]+)")
_HOUSE_ACCOUNTS = frozenset((CASH, REVENUE, DISCOUNT, CREDIT, EXPIRED))
_CURRENCY = re.compile(r"[A-Z]{3}")


def checked(transfer: Transfer) -> Transfer:
    """`transfer` itself when it is one that may be posted. Raises BadRequest."""
    for account_id in (transfer.debit, transfer.credit):
        if account_id not in _HOUSE_ACCOUNTS and not _TENANT_ACCOUNT.fullmatch(account_id):
            raise BadRequest(
                f"transfer {transfer.id}: no account is named {account_id!r}; there are "
                f"{', '.join(sorted(_HOUSE_ACCOUNTS))}, tenant:ID:prepaid, tenant:ID:receivable and "
                "tenant:ID:package:ID"
            )
    trouble = ""
    if transfer.kind in ("usage", "expiry"):
        trouble = f"kind {transfer.kind} is made by the ledger alone"
    elif not 0 < transfer.amount_nano <= AMOUNT_NANO_MAX:
        trouble = f"amount {transfer.amount_nano} is not between 1 and {AMOUNT_NANO_MAX} billionths"
    elif transfer.debit == transfer.credit:
        trouble = f"both sides are {transfer.debit}"
    elif not _CURRENCY.fullmatch(transfer.currency):
        trouble = f"currency {transfer.currency!r} is not three capital letters, as USD"
    elif not transfer.id or ":" in transfer.id or len(transfer.id) > ID_CHARACTERS_MAX:
        trouble = f"an id has 1 to {ID_CHARACTERS_MAX} characters and no colon"
    elif (":package:" in transfer.credit) != (transfer.expires_ms > 0):
        trouble = "expires_ms stands exactly where a package is credited"
    if trouble:
        raise BadRequest(f"transfer {transfer.id} cannot be posted: {trouble}")
    return transfer


def same_transfer(one: Transfer, other: Transfer) -> bool:
    """Whether two transfers of one id are the same one sent twice; when and why is not compared."""
    return (one.kind, one.debit, one.credit, one.amount_nano, one.currency) == (
        other.kind,
        other.debit,
        other.credit,
        other.amount_nano,
        other.currency,
    )


def tenant_of(account_id: str) -> str:
    """The tenant of an account; empty for one of the house."""
    parts = account_id.split(":")
    return parts[1] if parts[0] == "tenant" and len(parts) > 2 else ""


def holds_funds(account_id: str) -> bool:
    """Whether an account is a tenant's money, which only an adjustment may overdraw."""
    return bool(tenant_of(account_id)) and not account_id.endswith(":receivable")
