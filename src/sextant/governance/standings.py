"""Asking the ledger what the books say, once for all who wait for the same.

Flow 1 (serve), off the hot path: standings come by themselves with every acknowledgement; they are asked for
at the first sight of a scope, and before a refusal for lack of funds or budget, so that a top-up counts at
once.
Neighbours: `governor.py` asks, `ledger_client.py` carries.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from sextant.base.errors import LedgerUnavailable
from sextant.governance.ledger_client import LedgerClient
from sextant.governance.limits.limiter import Ask
from sextant.spec.policy import Standing

REFRESH_INTERVAL_S = 0.1
"""Between two questions for the sake of refusals of one tenant: a top-up counts after so long at most."""
TENANTS_REMEMBERED = 4096
"""Tenants whose last question is remembered."""
_log = logging.getLogger(__name__)


class Books:
    """The standings as the governor wants them. `take` gets every one that comes."""

    def __init__(
        self,
        ledger: LedgerClient,
        take: Callable[[Sequence[Standing]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._take = take
        self._clock = clock
        self._asked_s: dict[str, float] = {}
        self._asking: dict[tuple[str, ...], asyncio.Task[list[Standing]]] = {}
        ledger.on_standings = take

    async def fetch(self, scopes: tuple[str, ...]) -> list[Standing]:
        """The standings of `scopes`, in their order, taken too. Raises LedgerUnavailable."""
        task = self._asking.get(scopes)
        if task is None:
            task = asyncio.ensure_future(self._fetch(scopes))
            self._asking[scopes] = task
            task.add_done_callback(lambda done: self._done(scopes, done))
        return await asyncio.shield(task)

    async def refresh(self, tenant_id: str, ask: Ask) -> bool:
        """Asks anew for all scopes of `ask` unless that was done just now for this tenant, or the ledger is
        away; whether it did."""
        now_s = self._clock()
        if now_s - self._asked_s.get(tenant_id, -REFRESH_INTERVAL_S) < REFRESH_INTERVAL_S:
            return False
        if len(self._asked_s) >= TENANTS_REMEMBERED:
            self._asked_s.clear()
        self._asked_s[tenant_id] = now_s
        try:
            await self.fetch(tuple(rules.scope for rules in ask.rules if rules.needs_books))
        except LedgerUnavailable as error:
            _log.warning("refusing tenant %s by what was known last: %s", tenant_id, error.message)
            return False
        return True

    async def _fetch(self, scopes: tuple[str, ...]) -> list[Standing]:
        found = await self._ledger.standings(scopes)
        self._take(found)
        return found

    def _done(self, scopes: tuple[str, ...], task: asyncio.Task[list[Standing]]) -> None:
        del self._asking[scopes]
        if not task.cancelled():
            task.exception()  # looked at: all who waited may have left
