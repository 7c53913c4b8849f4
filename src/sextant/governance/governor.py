"""Who may ask, and what became of it: the governor over one policy snapshot and the ledger.

Flow 1 (serve): the gateway calls `identify`, `admit`, then exactly one of `settle`, `settle_soon`, `refund`.
Holds live in memory: an admission that is open here is a place kept in the ledger's queue, so that whatever
was admitted can be settled. Prices do not exist yet, so every row costs nothing.
Neighbours: `door.py` (the protocol), `ledger_client.py` (where rows go).
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import msgspec

from sextant.base.errors import Forbidden, LedgerUnavailable, SextantError, Unauthenticated
from sextant.governance.door import Admission, Claim, Outcome, Principal
from sextant.governance.ledger_client import LedgerClient
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.usage import UsageRow
from sextant.telemetry.table import Registry

SECRET_CACHE_MAX = 4096
"""Secrets whose key is remembered, so that the hash is not taken again. Only secrets of known keys get in."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class _Holder(msgspec.Struct, frozen=True, gc=False):
    """A key of the policy, ready for use."""

    principal: Principal
    expires_ms: int
    tenant_enabled: bool


def _holders(policy: PolicySnapshot) -> Iterator[tuple[bytes, _Holder]]:
    """The usable keys of `policy` by digest. One without a tenant or with no digest is refused, not fatal:
    the policy may be there for the sake of others, to revoke a key for instance."""
    tenants = {tenant.id: tenant for tenant in policy.tenants}
    for key in policy.keys:
        tenant = tenants.get(key.tenant_id)
        if tenant is None or not _SHA256.fullmatch(key.sha256):
            what = "its digest is no SHA-256" if tenant else f"its tenant {key.tenant_id} is missing"
            _log.error("policy %d: key %s is refused, %s", policy.version, key.id, what)
            continue
        holder = _Holder(Principal(key.tenant_id, key.id), key.expires_ms, tenant.enabled)
        yield bytes.fromhex(key.sha256), holder


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
    ) -> None:
        self._ledger = ledger
        self._now_ms = now_ms
        self._open_by_tenant: dict[str, int] = {}
        self._open = 0
        self._refusals = registry["sextant_governance_refusals"]
        registry["sextant_governance_open_admissions"].set_function(lambda: self._open)
        self.swap_policy(policy)

    def swap_policy(self, policy: PolicySnapshot) -> None:
        """Takes `policy` from now on, whole: nothing remembered from the one before survives."""
        self._by_digest = dict(_holders(policy))
        self._by_key = {holder.principal.key_id: holder for holder in self._by_digest.values()}
        self._by_secret: dict[bytes, _Holder] = {}
        self.policy_version = policy.version

    def identify(self, secret: bytes) -> Principal:
        """The principal of an API key. Raises Unauthenticated (unknown, revoked or expired) or Forbidden (its
        tenant is switched off)."""
        holder = self._by_secret.get(secret) or self._look_up(secret)
        self._check(holder)
        return holder.principal

    def _look_up(self, secret: bytes) -> _Holder:
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

    def _check(self, holder: _Holder) -> None:
        if holder.expires_ms and holder.expires_ms <= self._now_ms():
            self._refuse(Unauthenticated(f"API key {holder.principal.key_id} has expired; make a new one"))
        if not holder.tenant_enabled:
            self._refuse(
                Forbidden(f"tenant {holder.principal.tenant_id} is switched off; ask its administrator")
            )

    def _refuse(self, error: SextantError) -> NoReturn:
        self._refusals.labels(error.code).inc()
        raise error

    async def admit(self, principal: Principal, claim: Claim) -> Admission:
        """Leave to run one request. The key is looked at again: the request may have queued since `identify`.
        Raises Unauthenticated, Forbidden, or LedgerUnavailable."""
        holder = self._by_key.get(principal.key_id)
        if holder is None:
            self._refuse(Unauthenticated(f"API key {principal.key_id} was revoked"))
        self._check(holder)
        if not self._ledger.room_for(self._open):
            self._refuse(
                LedgerUnavailable(
                    f"usage cannot be recorded now: {self._ledger.trouble}; try again shortly",
                    retry_after_s=1.0,
                )
            )
        tenant_id = principal.tenant_id
        self._open += 1
        self._open_by_tenant[tenant_id] = self._open_by_tenant.get(tenant_id, 0) + 1
        return Admission(principal, claim, self._now_ms())

    async def settle(self, admission: Admission, outcome: Outcome) -> None:
        """Returns when the usage row is durable; see `door.Governor`."""
        if self._close(admission):
            await self._ledger.submit(self._row(admission, outcome))

    def settle_soon(self, admission: Admission, outcome: Outcome) -> None:
        """The same without waiting. Never raises, since nobody is left to be told: what cannot be queued is
        logged."""
        if self._close(admission):
            try:
                self._ledger.submit_soon(self._row(admission, outcome))
            except SextantError as error:
                _log.error("no usage row for request %s: %s", admission.claim.request_id, error)

    def refund(self, admission: Admission) -> None:
        """Nothing was run: no row."""
        self._close(admission)

    def balance(self, principal: Principal) -> list[tuple[str, int]] | None:
        """None: no tenant is prepaid."""
        return None

    @property
    def ready(self) -> bool:
        return self._ledger.ready

    @property
    def open_admissions(self) -> dict[str, int]:
        """Admissions neither settled nor refunded, by tenant."""
        return dict(self._open_by_tenant)

    def _close(self, admission: Admission) -> bool:
        """Ends the hold; False when it has ended before."""
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

    def _row(self, admission: Admission, outcome: Outcome) -> UsageRow:
        claim, usage = admission.claim, outcome.usage
        return UsageRow(
            claim.request_id,
            admission.principal.tenant_id,
            "",
            admission.principal.key_id,
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
