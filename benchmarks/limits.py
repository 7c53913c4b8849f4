"""What limits cost a request in the gateway: `python -m benchmarks.limits`.

`admit` and `settle` of the real governor and limiter, with prices, before a ledger client that acknowledges
at once with a standing for each scope; nothing of HTTP. Microseconds per request, the least of many short
runs.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from sextant.governance.door import Claim, Outcome
from sextant.governance.governor import LocalGovernor
from sextant.governance.ledger_client import LedgerClient
from sextant.spec.policy import (
    KeyPolicy,
    LimitRules,
    Price,
    PricePlan,
    ProjectPolicy,
    Standing,
    TenantPolicy,
)
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.usage import Usage, UsageRow
from sextant.telemetry.table import Registry

ROUNDS = 1500
REQUESTS = 25
SECRET = b"sk-limits"
PLENTY = 10**15
RATES = LimitRules(requests_per_s=1e6, tokens_per_min=10**9, concurrent_requests=1000)
ALL = LimitRules(
    requests_per_s=1e6,
    tokens_per_min=10**9,
    concurrent_requests=1000,
    tokens_per_day=PLENTY,
    spend_nano_per_month=PLENTY,
)
NONE = LimitRules()
VARIANTS: dict[str, tuple[LimitRules, LimitRules, LimitRules, str]] = {
    "no_limits": (NONE, NONE, NONE, "free"),
    "rates_of_the_key": (RATES, NONE, NONE, "free"),
    "rates_of_key_project_tenant": (RATES, RATES, RATES, "free"),
    "all_of_the_key_postpaid": (ALL, NONE, NONE, "postpaid"),
    "all_of_key_project_tenant_prepaid": (ALL, ALL, ALL, "prepaid"),
}
"""Limits of key, project and tenant, and how the tenant pays."""


class Ledger:
    """Acknowledges every row at once, and says what the books would."""

    policy_version = 0
    ready = True

    def __init__(self) -> None:
        self.on_standings: Callable[[Sequence[Standing]], None] = lambda _: None
        self._version = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done.set_result(None)

    def room_for(self, _open: int) -> bool:
        return True

    async def standings(self, scopes: Sequence[str]) -> list[Standing]:
        return [self._standing(scope) for scope in scopes]

    def submit(self, row: UsageRow, then: Callable[[], None] | None = None) -> asyncio.Future[None]:
        self._version += 1
        scopes = (f"key:{row.key_id}", f"project:{row.project_id}", f"tenant:{row.tenant_id}")
        self.on_standings([self._standing(scope) for scope in scopes])
        if then is not None:
            then()
        return self._done

    def _standing(self, scope: str) -> Standing:
        return Standing(scope, self._version, 20261122, 0, 202611, 0, 0, PLENTY)


def policy(key: LimitRules, project: LimitRules, tenant: LimitRules, billing: str) -> PolicySnapshot:
    plan = PricePlan("p", "CNY", (Price("*", 3 * 10**9, 3 * 10**8, 6 * 10**9, 6 * 10**9),))
    paying = {} if billing == "free" else {"billing": billing, "plan": "p"}
    return PolicySnapshot(
        1,
        (msgspec.convert({"id": "t", "name": "T", "limits": tenant, **paying}, TenantPolicy),),
        (KeyPolicy("k", "t", hashlib.sha256(SECRET).hexdigest(), project_id="p", limits=key),),
        (ProjectPolicy("p", "t", "P", limits=project),),
        plans=(plan,),
    )


async def cost_us(snapshot: PolicySnapshot) -> float:
    """Microseconds of one admission and its end."""
    ledger = Ledger()
    governor = LocalGovernor(snapshot, cast(LedgerClient, cast(Any, ledger)), Registry())
    principal = governor.identify(SECRET)
    outcome = Outcome(Usage(150, 64), "ok", duration_ms=20)
    claims = [
        Claim(f"req_{n}", "nano", "chat.completions", 900, 64, context_tokens=4096) for n in range(REQUESTS)
    ]
    best_s = float("inf")
    for _ in range(ROUNDS):
        begun_s = time.perf_counter()
        for claim in claims:
            await governor.settle(await governor.admit(principal, claim), outcome)
        best_s = min(best_s, time.perf_counter() - begun_s)
    return best_s / REQUESTS * 1e6


async def measure() -> dict[str, float]:
    gc.disable()
    return {name: round(await cost_us(policy(*limits)), 2) for name, limits in VARIANTS.items()}


def main() -> int:
    figures = asyncio.run(measure())
    for name, cost in figures.items():
        print(f"{cost:>8.2f} us  {name.replace('_', ' ')}")
    print(json.dumps({"benchmark": "limits", "figures": {f"{name}_us": v for name, v in figures.items()}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
