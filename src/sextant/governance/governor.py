"""Who may ask, how much, and what became of it: the governor over one policy snapshot, limits and the ledger.

Flow 1 (serve): the gateway calls `identify`, `admit`, then exactly one of `settle`, `settle_soon`, `refund`,
`unserved`. An admission that is open here is a place kept in the ledger's queue, so that whatever was
admitted can be settled; what it may use and cost is set aside by the limiter until its row is durable and the
standing that counts it was taken. Neighbours: `door.py` (the protocol), `holders.py` (keys), `limits/`,
`pricing.py` (money), `ledger_client.py` (where rows go and standings come from).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from sextant.base.errors import Forbidden, LedgerUnavailable, LimitsUnavailable, SextantError, Unauthenticated
from sextant.governance.door import TEXT, Admission, Claim, Outcome, Principal
from sextant.governance.holders import Holder, holders, price_book
from sextant.governance.ledger_client import LedgerClient
from sextant.governance.limits.limiter import Ask, Hold, Limiter, Refused, Unknown
from sextant.governance.limits.memory import MemoryLimiter
from sextant.governance.standings import Books
from sextant.governance.wording import limit_error
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.usage import UsageRow
from sextant.telemetry.table import Registry

SECRET_CACHE_MAX = 4096
"""Secrets whose key is remembered, so that the hash is not taken again. Only secrets of known keys get in."""
BOOK_ATTEMPTS = 3
"""Times a request is tried while standings that it needs come from the ledger."""
_BY_BOOKS = frozenset(("tokens_per_day", "spend_nano_per_month", "funds"))

_log = logging.getLogger(__name__)


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class LocalGovernor:
    """Governance of one gateway worker; implements `door.Governor`. Belongs to one event loop."""

    def __init__(
        self,
        policy: PolicySnapshot,
        ledger: LedgerClient,
        registry: Registry,
        now_ms: Callable[[], int] = _wall_clock_ms,
        *,
        limiter: Limiter | None = None,
    ) -> None:
        """`limiter` keeps the limits; none given: in this process's memory."""
        self._ledger = ledger
        self._limiter: Limiter = MemoryLimiter() if limiter is None else limiter
        self._books = Books(ledger, self._limiter.take)
        self._now_ms = now_ms
        self._open_by_tenant: dict[str, int] = {}
        self._open = 0
        self._refusals = registry["sextant_governance_refusals"]
        self._limited = registry["sextant_governance_limited"]
        registry["sextant_governance_open_admissions"].set_function(lambda: self._open)
        registry["sextant_governance_limits_degraded"].set_function(lambda: float(bool(self.limits[1])))
        self.swap_policy(policy)

    def swap_policy(self, policy: PolicySnapshot) -> None:
        """Takes `policy` from now on, whole: nothing remembered from the one before survives but what is open
        and used of each limit."""
        policy, self._prices = price_book(policy)
        self._by_digest = dict(holders(policy))
        self._by_key: dict[str, Holder] = {}
        for holder in self._by_digest.values():
            # a key under rotation is there twice: whoever was identified by either secret may go on
            other = self._by_key.get(holder.principal.key_id)
            if other is None or (other.expires_ms and not 0 < holder.expires_ms <= other.expires_ms):
                self._by_key[holder.principal.key_id] = holder
        self._by_secret: dict[bytes, Holder] = {}
        self.policy_version = self._ledger.policy_version = policy.version

    def identify(self, secret: bytes, peer: str = "") -> Principal:
        """The principal of an API key. Raises Unauthenticated (unknown, revoked or expired) or Forbidden (its
        tenant or project is switched off, or it may not be used from `peer`)."""
        holder = self._by_secret.get(secret) or self._look_up(secret)
        if holder.expires_ms or holder.switched_off:
            self._check(holder)
        if holder.networks and not holder.allows_peer(peer):
            self._refuse(
                Forbidden(
                    f"API key {holder.principal.key_id} may not be used from {peer}; ask who made it to add "
                    "the network"
                )
            )
        return holder.principal

    def _look_up(self, secret: bytes) -> Holder:
        """Both tables are searched by a hash of the secret (this one cryptographic, the cache's keyed per
        process), so the time taken tells nothing about how much of a guess was right."""
        holder = self._by_digest.get(hashlib.sha256(secret).digest())
        if holder is None:
            self._refuse(
                Unauthenticated(
                    "no such API key; make one with `sextant key create`, or check that it was not revoked"
                )
            )
        if len(self._by_secret) >= SECRET_CACHE_MAX:
            del self._by_secret[next(iter(self._by_secret))]
        self._by_secret[secret] = holder
        return holder

    def _check(self, holder: Holder) -> None:
        if holder.expires_ms and holder.expires_ms <= self._now_ms():
            self._refuse(Unauthenticated(f"API key {holder.principal.key_id} has expired; make a new one"))
        if holder.switched_off:
            self._refuse(Forbidden(f"{holder.switched_off} is switched off; ask its administrator"))

    def _refuse(self, error: SextantError) -> NoReturn:
        self._refusals.labels(error.code).inc()
        raise error

    async def admit(self, principal: Principal, claim: Claim) -> Admission:
        """Leave to run one request. The key is looked at again: the policy may have changed since `identify`.
        Raises as `door.Governor` says."""
        holder = self._by_key.get(principal.key_id)
        if holder is None:
            self._refuse(Unauthenticated(f"API key {principal.key_id} was revoked"))
        if holder.expires_ms or holder.switched_off:
            self._check(holder)
        now_ms = self._now_ms()
        if claim.kinds is not TEXT or not holder.plain:
            self._check_claim(holder, claim)
        if not self._ledger.room_for(self._open):
            self._refuse(
                LedgerUnavailable(
                    f"usage cannot be recorded now: {self._ledger.trouble}; try again shortly",
                    retry_after_s=1.0,
                )
            )
        tenant_id = principal.tenant_id
        # counted before the limiter is asked: it may answer late, and the place in the queue must be kept
        self._open += 1
        self._open_by_tenant[tenant_id] = self._open_by_tenant.get(tenant_id, 0) + 1
        admission = Admission(principal, claim, now_ms)
        if holder.rules:
            try:
                ask = self._ask(holder, claim, now_ms)
                admission.hold = self._limiter.admit_now(ask) or await self._reserve(holder, ask, now_ms)
            except BaseException:
                self._close(admission)
                raise
        return admission

    def _check_claim(self, holder: Holder, claim: Claim) -> None:
        """Raises Forbidden for an endpoint, a model or a kind of request that is not the key's."""
        if holder.endpoints and claim.endpoint not in holder.endpoints:
            allowed = ", ".join(sorted(holder.endpoints))
            self._refuse(Forbidden(f"this API key may be used for {allowed} only, not for {claim.endpoint}"))
        models = holder.principal.reach.models
        if models is not None and claim.model not in models:
            self._refuse(Forbidden(f"this API key may not use the model {claim.model!r}"))
        for kind in claim.kinds:
            if kind not in holder.kinds:
                tier = holder.tier
                self._refuse(
                    Forbidden(
                        f"the tier {tier.id!r} allows {', '.join(tier.kinds) or 'nothing'}, not {kind}; ask "
                        "the administrator for another tier",
                        code="tier_forbids",
                    )
                )

    async def _reserve(self, holder: Holder, ask: Ask, now_ms: int) -> Hold:
        """What the request may use and cost, set aside in all its scopes. Raises RateLimited,
        InsufficientBalance, LedgerUnavailable or LimitsUnavailable."""
        tenant_id = holder.tenant.id
        refreshed = False
        for _ in range(BOOK_ATTEMPTS):
            found = await self._limiter.admit(ask)
            if isinstance(found, Hold):
                return found
            if isinstance(found, Unknown):
                await self._books.fetch(found.scopes)
                # what the ledger says now of funds that were to expire is true, whatever the clocks say
                ask = _trusting(ask)
                continue
            if found.limit not in _BY_BOOKS or refreshed or not await self._books.refresh(tenant_id, ask):
                self._refuse_limit(found, holder, now_ms)
            refreshed = True
        return self._refuse(
            LimitsUnavailable("limits cannot be checked now; try again shortly", retry_after_s=1.0)
        )

    def _ask(self, holder: Holder, claim: Claim, now_ms: int) -> Ask:
        """What the request wants at most. Raises Forbidden where it has no price."""
        tokens = nano = day = month = 0
        tenant_id = holder.principal.tenant_id
        if claim.metered:
            tokens = claim.input_tokens + claim.output_tokens
            if 0 < claim.context_tokens < tokens:
                tokens = claim.context_tokens
            if holder.charged:
                nano = self._most_nano(holder, claim, now_ms)
        if holder.needs_books:
            day, month = self._prices.day_and_month(tenant_id, now_ms)
        return Ask(claim.request_id, holder.rules, tokens, nano, day, month, now_ms)

    def _most_nano(self, holder: Holder, claim: Claim, now_ms: int) -> int:
        tenant = holder.tenant
        found = self._prices.most_nano(
            tenant.id, claim.model, claim.input_tokens, claim.output_tokens, now_ms
        )
        if found is None:
            self._refuse(
                Forbidden(
                    f"the price plan {tenant.plan!r} has no price for the model {claim.model!r}; ask the "
                    "administrator for one",
                    code="no_price",
                )
            )
        return found

    def _refuse_limit(self, refused: Refused, holder: Holder, now_ms: int) -> NoReturn:
        tenant = holder.tenant
        self._limited.labels(refused.limit, refused.scope.partition(":")[0]).inc()
        currency = self._prices.currency(tenant.id)
        self._refuse(limit_error(refused, currency, tenant.time_zone, now_ms))

    async def settle(self, admission: Admission, outcome: Outcome) -> None:
        """Returns when the usage row is durable; see `door.Governor`."""
        if self._close(admission):
            row = _row(admission, outcome)
            try:
                durable = self._ledger.submit(row, self._ends(admission, row))
            except SextantError:
                self._give_back(admission)
                raise
            await durable

    def settle_soon(self, admission: Admission, outcome: Outcome) -> None:
        """The same without waiting. Never raises, since nobody is left to be told: what cannot be queued is
        logged."""
        if self._close(admission):
            row = _row(admission, outcome)
            try:
                self._ledger.submit_soon(row, self._ends(admission, row))
            except SextantError as error:
                self._give_back(admission)
                _log.error("no usage row for request %s: %s", admission.claim.request_id, error)

    def _ends(self, admission: Admission, row: UsageRow) -> Callable[[], None] | None:
        """What ends the hold when the row is durable: by then the limiter has the standing that counts it."""
        if admission.hold is None:
            return None
        return partial(self._limiter.settle, admission.hold, row.input_tokens + row.output_tokens)

    def refund(self, admission: Admission) -> None:
        """Nothing was run: no row."""
        if self._close(admission):
            self._give_back(admission)

    def unserved(self, admission: Admission, outcome: Outcome) -> None:
        """Nothing was run, and that was not the caller's doing: a refund, and a row that says so where the
        tenant was promised availability."""
        holder = self._by_key.get(admission.principal.key_id)
        promised = holder is not None and holder.tier.sla_ppm > 0
        if promised and self._ledger.room_for(self._open - 1):
            self.settle_soon(admission, outcome)
        else:
            self.refund(admission)

    def _give_back(self, admission: Admission) -> None:
        if admission.hold is not None:
            self._limiter.refund(admission.hold)

    async def balance(self, principal: Principal) -> tuple[str, int | None]:
        """See `door.Governor`: what the books say now. Raises Unauthenticated or LedgerUnavailable."""
        holder = self._by_key.get(principal.key_id)
        if holder is None:
            self._refuse(Unauthenticated(f"API key {principal.key_id} was revoked"))
        currency = self._prices.currency(principal.tenant_id)
        if holder.tenant.billing != "prepaid":
            return currency, None
        (standing,) = await self._books.fetch((f"tenant:{principal.tenant_id}",))
        return currency, standing.funds_nano

    @property
    def ready(self) -> bool:
        return self._ledger.ready

    @property
    def limits(self) -> tuple[bool, str]:
        """See `door.Governor`."""
        trouble = self._limiter.trouble
        return not trouble, trouble or self._limiter.degraded

    @property
    def open_admissions(self) -> dict[str, int]:
        """Admissions neither settled nor refunded, by tenant."""
        return dict(self._open_by_tenant)

    def _close(self, admission: Admission) -> bool:
        """Ends the place in the ledger's queue; False when it has ended before."""
        if admission.closed:
            return False
        admission.closed = True
        self._open -= 1
        tenant_id = admission.principal.tenant_id
        left = self._open_by_tenant[tenant_id] - 1
        if left:
            self._open_by_tenant[tenant_id] = left
        else:
            del self._open_by_tenant[tenant_id]
        return True


def _trusting(ask: Ask) -> Ask:
    return Ask(ask.request_id, ask.rules, ask.tokens, ask.nano, ask.day, ask.month)


def _row(admission: Admission, outcome: Outcome) -> UsageRow:
    claim, usage, principal = admission.claim, outcome.usage, admission.principal
    return UsageRow(
        claim.request_id,
        principal.tenant_id,
        principal.project_id,
        principal.key_id,
        claim.model,
        claim.endpoint,
        outcome.result,
        admission.started_ms,
        outcome.duration_ms,
        outcome.ttft_ms,
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        usage.estimated,
    )
