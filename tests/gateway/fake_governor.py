"""A governor in memory that fails on demand, behind the same protocol as the real one."""

from __future__ import annotations

import asyncio

from sextant.base.errors import LedgerUnavailable, SextantError, Unauthenticated
from sextant.governance.door import Admission, Claim, Outcome, Principal
from sextant.spec.policy import PrivacyPolicy

SECRET = "sk-test"


class FakeGovernor:
    def __init__(self) -> None:
        self.rows: list[tuple[Claim, Outcome]] = []
        self.refunds: list[Claim] = []
        self.unserved_outcomes: list[Outcome] = []
        self.open = 0
        self.ready = True
        self.limits = (True, "")
        self.privacy: PrivacyPolicy | None = None
        self.refusal: SextantError | None = None
        self.settle_gate: asyncio.Event | None = None
        self.settle_fails = False
        self.funds: tuple[str, int | None] = ("CNY", None)

    def identify(self, secret: bytes, peer: str = "") -> Principal:
        if secret != SECRET.encode():
            raise Unauthenticated("no such API key")
        return Principal("tenant", "key", privacy=self.privacy)

    async def admit(self, principal: Principal, claim: Claim) -> Admission:
        if self.refusal is not None:
            raise self.refusal
        self.open += 1
        return Admission(principal, claim, 1)

    async def settle(self, admission: Admission, outcome: Outcome) -> None:
        self.settle_soon(admission, outcome)
        if self.settle_gate is not None:
            await self.settle_gate.wait()
        if self.settle_fails:
            raise LedgerUnavailable("the ledger is gone")

    def settle_soon(self, admission: Admission, outcome: Outcome) -> None:
        if not admission.closed:
            admission.closed = True
            self.open -= 1
            self.rows.append((admission.claim, outcome))

    def refund(self, admission: Admission) -> None:
        if not admission.closed:
            admission.closed = True
            self.open -= 1
            self.refunds.append(admission.claim)

    def unserved(self, admission: Admission, outcome: Outcome) -> None:
        if not admission.closed:
            self.unserved_outcomes.append(outcome)
        self.refund(admission)

    async def balance(self, principal: Principal) -> tuple[str, int | None]:
        return self.funds
