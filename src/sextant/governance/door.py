"""The door between the gateway and governance: identify, admit, settle.

Flow 1 (serve): `gateway -> identify(secret) -> admit(principal, claim) -> engine -> settle(admission, …)`.
Neighbours: `governor.py` implements it over the policy snapshot and the ledger client.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from sextant.governance.limits.limiter import Hold
from sextant.spec.policy import PrivacyPolicy, RequestKind
from sextant.spec.usage import Usage

TEXT: tuple[RequestKind, ...] = ("text",)


class Reach(msgspec.Struct, frozen=True):
    """Which of the models served somebody may see and use."""

    tenant_id: str = ""
    pool: str = ""
    """The engine pool of the tenant's tier."""
    models: frozenset[str] | None = None
    """Ids; None: every one."""
    own_models: bool = False
    """Whether models that are some tenants' own can be among them."""


class Principal(msgspec.Struct, frozen=True, gc=False):
    """The holder of a key, as governance knows it."""

    tenant_id: str
    key_id: str
    project_id: str = ""
    reach: Reach = Reach()
    weight: int = 1
    """Its tenant's share of a saturated engine, against the other tenants that wait."""
    privacy: PrivacyPolicy | None = None
    """What becomes of personal data in its prompts; None: nothing is looked for."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What a request asks for at most, before anything is spent."""

    request_id: str
    model: str
    endpoint: str
    input_tokens: int
    output_tokens: int
    peer: str = ""
    kinds: tuple[RequestKind, ...] = TEXT
    """What is in it; text where there is nothing richer."""
    context_tokens: int = 0
    """Input and output together; 0: no less than their sum."""
    metered: bool = True
    """False: it runs no model, so that it takes no tokens and costs nothing."""


class Admission(msgspec.Struct, gc=False):
    """Leave to run one request. Exactly one `settle` or `refund` ends it; a second is a no-op."""

    principal: Principal
    claim: Claim
    started_ms: int
    closed: bool = False
    hold: Hold | None = None
    """What it has set aside; None where nothing is limited."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a request ended: `result` is "ok", "client_closed", "engine_error" or "refused"."""

    usage: Usage
    result: str
    duration_ms: int
    ttft_ms: int = -1


class Governor(Protocol):
    def identify(self, secret: bytes, peer: str = "") -> Principal:
        """The principal of an API key, used from the address `peer`. Raises Unauthenticated, or Forbidden
        (its tenant or project is switched off, or it may not be used from there)."""

    async def admit(self, principal: Principal, claim: Claim) -> Admission:
        """Reserves what the request may cost at most. Raises Unauthenticated (revoked or expired
        since `identify`), Forbidden, InsufficientBalance, RateLimited, or LedgerUnavailable when usage could
        not be made durable, LimitsUnavailable when limits cannot be checked."""

    async def settle(self, admission: Admission, outcome: Outcome) -> None:
        """Returns when the usage row is durable. The last event of an answer leaves only after this.
        Idempotent by request id. Raises LedgerUnavailable when it cannot be made durable in time (the row
        stays queued and is sent again)."""

    def settle_soon(self, admission: Admission, outcome: Outcome) -> None:
        """The same without waiting, for a client that has left. Never raises."""

    def refund(self, admission: Admission) -> None:
        """Nothing was run: gives the reservation back, writes no row."""

    def unserved(self, admission: Admission, outcome: Outcome) -> None:
        """The same, where the caller would have been served had all been well: a tenant that was promised
        availability gets a row with outcome `refused` and no tokens."""

    async def balance(self, principal: Principal) -> tuple[str, int | None]:
        """The tenant's currency and its funds in billionths, None where it is not prepaid. Raises
        LedgerUnavailable."""

    @property
    def ready(self) -> bool:
        """False while usage cannot be made durable."""

    @property
    def limits(self) -> tuple[bool, str]:
        """Whether limits can be checked, and what is wrong with them; words may come with True, where it goes
        on with less than was configured."""
