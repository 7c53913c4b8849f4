"""What tests of statements, invoices and budgets share: a policy, and a real ledger of priced rows."""

from __future__ import annotations

import datetime
import itertools
import zoneinfo
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from sextant.governance.pricing import PriceBook
from sextant.spec.billing_data import builtin_plans, builtin_tiers
from sextant.spec.policy import ProjectPolicy, TenantPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.transfer import CASH, DISCOUNT, Transfer, package_account, prepaid_account
from sextant.spec.usage import UsageRow
from sextant.store.ledger_file import LedgerFile

ZONE = "Asia/Shanghai"
NOVEMBER = 202611
USD = 1_000_000_000


def tenant(tenant_id: str = "acme", **changes: Any) -> TenantPolicy:
    plain = TenantPolicy(
        id=tenant_id,
        name="Acme 公司",
        tier="enterprise",
        billing="prepaid",
        plan="standard",
        currency="USD",
        time_zone=ZONE,
    )
    return msgspec.structs.replace(plain, **changes)


def policy(*tenants: TenantPolicy, **changes: Any) -> PolicySnapshot:
    projects = (ProjectPolicy("search", "acme", "Search"), ProjectPolicy("chat", "acme", "客服"))
    plain = PolicySnapshot(
        7, tenants=tenants or (tenant(),), projects=projects, tiers=builtin_tiers(), plans=builtin_plans()
    )
    return msgspec.structs.replace(plain, **changes)


def ms(text: str, zone: str = ZONE) -> int:
    local = datetime.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone))
    return int(local.timestamp() * 1000)


_NUMBERS = itertools.count(1)


def row(at: str = "2026-11-10T12:00", **changes: Any) -> UsageRow:
    plain = UsageRow(
        request_id=f"req_{next(_NUMBERS):09d}",
        tenant_id="acme",
        project_id="search",
        key_id="key_a",
        model="deepseek-chat",
        endpoint="chat.completions",
        outcome="ok",
        started_ms=ms(at),
        duration_ms=1200,
        ttft_ms=80,
        input_tokens=700,
        output_tokens=300,
        cached_tokens=64,
        reasoning_tokens=5,
        estimated=False,
    )
    return msgspec.structs.replace(plain, **changes)


def top_up(amount_nano: int, tenant_id: str = "acme", at: str = "2026-11-01T09:00") -> Transfer:
    account = prepaid_account(tenant_id)
    return Transfer(f"top_{next(_NUMBERS)}", "top-up", CASH, account, amount_nano, "USD", ms(at), note="wire")


def package(face_nano: int, tenant_id: str = "acme", at: str = "2026-11-01T10:00") -> list[Transfer]:
    """A package sold at half its face value, good for a year."""
    account, ends_ms = package_account(tenant_id, "year"), ms("2027-11-01")
    halves = ((CASH, "package"), (DISCOUNT, "discount"))
    return [
        Transfer(
            f"pkg_{next(_NUMBERS)}", kind, debit, account, face_nano // 2, "USD", ms(at), expires_ms=ends_ms
        )  # type: ignore[arg-type]
        for debit, kind in halves
    ]


def book(
    path: Path, rows: Iterable[UsageRow], transfers: Iterable[Transfer] = (), of: PolicySnapshot | None = None
) -> Path:
    """A ledger at `path` with these transfers and then these rows, rated by the policy."""
    rates, ledger = PriceBook(of or policy()), LedgerFile(path)
    try:
        posted = list(transfers)
        if posted:
            ledger.post(posted, rates)
        ledger.append(list(rows), rates)
    finally:
        ledger.close()
    return path
