"""A real governor before a real ledger that rates by the same policy, and the ways to top it up."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from sextant.app.ledger_process import PolicyRates
from sextant.governance.door import Admission, Claim, Outcome, Principal
from sextant.governance.governor import LocalGovernor
from sextant.governance.ledger_client import LedgerClient
from sextant.spec.policy import KeyPolicy, Price, PricePlan, ProjectPolicy, TenantPolicy, TierPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.transfer import CASH, Transfer, prepaid_account
from sextant.spec.usage import Usage
from sextant.store.ledger import LedgerServer, _listen
from sextant.store.ledger_file import LedgerFile
from sextant.store.ledger_posting import LedgerPosting
from sextant.telemetry.table import Registry

NOW_MS = 1_795_000_000_000
NANO_PER_TOKEN = 1000
_PER_MTOK = NANO_PER_TOKEN * 1_000_000
PLAN = PricePlan("flat", "CNY", (Price("nano", *(_PER_MTOK,) * 4),))


class Clock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


def key(name: str, tenant: str, **more: Any) -> KeyPolicy:
    """The key whose secret is `sk-NAME`."""
    return KeyPolicy(name, tenant, hashlib.sha256(f"sk-{name}".encode()).hexdigest(), **more)


def policy(
    *keys: KeyPolicy,
    tenants: tuple[TenantPolicy, ...],
    tiers: tuple[TierPolicy, ...] = (),
    projects: tuple[ProjectPolicy, ...] = (),
) -> PolicySnapshot:
    return PolicySnapshot(1, tenants, keys, projects, tiers, (PLAN,))


class Books(msgspec.Struct):
    """A governor, its ledger, and what they use."""

    governor: LocalGovernor
    ledger: LedgerClient
    posting: LedgerPosting
    registry: Registry
    clock: Clock
    db_path: Path
    count: int = 0

    def who(self, name: str) -> Principal:
        return self.governor.identify(f"sk-{name}".encode())

    async def admit(self, name: str, tokens: int = 100, **more: Any) -> Admission:
        """A request of key `name` that may use `tokens`, half of them output."""
        self.count += 1
        half = tokens // 2
        wanted = Claim(f"req_{self.count}", "nano", "chat.completions", tokens - half, half, **more)
        return await self.governor.admit(self.who(name), wanted)

    async def run(self, name: str, tokens: int = 100, used: int | None = None) -> None:
        """Admits, and settles with `used` tokens."""
        admission = await self.admit(name, tokens)
        await self.governor.settle(admission, outcome(tokens if used is None else used))

    def top_up(self, tenant: str, nano: int) -> None:
        self.count += 1
        self.posting.post(
            [
                Transfer(
                    f"top_{self.count}", "top-up", CASH, prepaid_account(tenant), nano, "CNY", self.clock.ms
                )
            ]
        )


def outcome(tokens: int, result: str = "ok") -> Outcome:
    return Outcome(Usage(tokens - tokens // 2, tokens // 2), result, duration_ms=5)


@contextlib.contextmanager
def rating_ledger(folder: Path, rated_by: PolicySnapshot) -> Iterator[Path]:
    """A ledger in a thread that rates by `rated_by`; its socket."""
    rates = PolicyRates(rated_by)
    file = LedgerFile(folder / "ledger.db")
    listener = _listen(folder / "ledger.sock")
    server = LedgerServer(file, listener, lambda _version: rates)
    thread = threading.Thread(target=server.serve, name="ledger")
    thread.start()
    try:
        yield folder / "ledger.sock"
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
        server.close()
        listener.close()
        file.close()


@contextlib.asynccontextmanager
async def books(folder: Path, snapshot: PolicySnapshot) -> AsyncIterator[Books]:
    registry, clock = Registry(), Clock()
    with rating_ledger(folder, snapshot) as socket_path:
        ledger = LedgerClient(str(socket_path), registry)
        await ledger.start()
        governor = LocalGovernor(snapshot, ledger, registry, clock)
        try:
            yield Books(governor, ledger, LedgerPosting(socket_path), registry, clock, folder / "ledger.db")
        finally:
            await ledger.close()
