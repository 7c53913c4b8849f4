"""The door between the gateway and governance: identify, admit, settle.

Flow 1 (serve): `gateway -> identify(secret) -> admit(principal, claim) -> engine -> settle(admission, …)`.
Neighbours: `governor.py` implements it over the policy snapshot and the ledger client.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from sextant.spec.usage import Usage


class Principal(msgspec.Struct, frozen=True, gc=False):
    """The holder of a key, as governance knows it."""

    tenant_id: str
    key_id: str


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What a request asks for, before anything is spent. `max_output_tokens` 0 means the model's limit."""

    request_id: str
    model: str
    endpoint: str
    prompt_bytes: int
    max_output_tokens: int
    peer: str = ""


class Admission(msgspec.Struct, gc=False):
    """Leave to run one request. Exactly one `settle` or `refund` ends it; a second is a no-op."""

    principal: Principal
    claim: Claim
    started_ms: int
    closed: bool = False


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a request ended: `result` is "ok", "client_closed" or "engine_error"."""

    usage: Usage
    result: str
    duration_ms: int
    ttft_ms: int = -1


class Governor(Protocol):
    def identify(self, secret: bytes) -> Principal:
        """The principal of an API key. Raises Unauthenticated, or Forbidden (its tenant is switched off)."""

    async def admit(self, principal: Principal, claim: Claim) -> Admission:
        """Reserves what the request may cost at most. Raises Unauthenticated (revoked or expired
        since `identify`), Forbidden, InsufficientBalance, RateLimited, or LedgerUnavailable when usage could
        not be made durable."""

    async def settle(self, admission: Admission, outcome: Outcome) -> None:
        """Returns when the usage row is durable. The last event of an answer leaves only after this.
        Idempotent by request id. Raises LedgerUnavailable when it cannot be made durable in time (the row
        stays queued and is sent again)."""

    def settle_soon(self, admission: Admission, outcome: Outcome) -> None:
        """The same without waiting, for a client that has left. Never raises."""

    def refund(self, admission: Admission) -> None:
        """Nothing was run: gives the reservation back, writes no row."""

    def balance(self, principal: Principal) -> list[tuple[str, int]] | None:
        """(currency, billionths) pairs, or None where the tenant is not prepaid."""

    @property
    def ready(self) -> bool:
        """False while usage cannot be made durable."""
