"""A prepaid tenant whose balance runs out again and again, and what must hold of its books."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sextant.store.ledger_reading import ledger_view
from stack_under_test import Stack, until

TENANT = "paid"
TOP_UP_NANO = 8_000_000
"""About a dozen answers at the built-in price; then it is refused until the next."""
LIMITS = {"concurrent_requests": 4, "tokens_per_min": 1_000_000}


class PayingTenant:
    """Tops its balance up, each time under one id until that was acknowledged: what was paid is counted once
    whatever is killed meanwhile."""

    def __init__(self, up: Stack) -> None:
        self._up = up
        self.topped_up = 0
        made = self._post(
            "/v1/tenants",
            {
                "id": TENANT,
                "tier": "internal",
                "billing": "prepaid",
                "plan": "standard",
                "currency": "USD",
            },
        )
        assert made == 201, made
        answer = up.ask(
            "POST", "/v1/keys", {"name": "paid", "tenant_id": TENANT, "limits": LIMITS}, port=up.control_port
        )
        assert answer.status == 201, answer.body
        self.key: str = answer.json()["key"]
        self.top_up()

    def top_up(self) -> None:
        """Returns when the payment is in the books."""
        body = {"amount_nano": TOP_UP_NANO, "id": f"payment-{self.topped_up}"}
        until(
            lambda: self._post(f"/v1/tenants/{TENANT}/top-ups", body) == 201, "a top-up is acknowledged", 60
        )
        self.topped_up += 1

    def _post(self, path: str, body: object) -> int:
        with contextlib.suppress(OSError):
            return self._up.ask("POST", path, body, port=self._up.control_port).status
        return 0

    def check(self, ledger: Path | str) -> None:
        """Its balance is what was paid in less what its rows cost, and not below zero."""
        account = f"tenant:{TENANT}:prepaid"
        with ledger_view(ledger) as view:
            spent = view.query("SELECT sum(cost_nano) FROM usage WHERE tenant_id = :tenant", tenant=TENANT)
            balance = view.query("SELECT credits_nano - debits_nano FROM account WHERE id = :id", id=account)
        ((spent_nano,),), ((balance_nano,),) = spent, balance
        assert spent_nano, "nothing was ever charged"
        assert balance_nano == self.topped_up * TOP_UP_NANO - spent_nano
        assert balance_nano >= 0, f"the balance is {balance_nano}"
