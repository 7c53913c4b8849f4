"""The concurrency gate: at most `concurrent_requests` engine calls, and a bounded queue before it.

Flow 1 (serve), between admit and route. First come, first served; a full queue or a wait over
`queue_timeout_s` is Overloaded (503). A place that is given up while its owner is cancelled goes to the next.
"""

from __future__ import annotations

import asyncio
from collections import deque

from sextant.base.errors import Overloaded
from sextant.spec.snapshot import GatewayLimits


class Gate:
    __slots__ = ("_limits", "_waiting", "active")

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.active = 0
        """Places taken."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def free(self) -> int:
        """Places left."""
        return self._limits.concurrent_requests - self.active

    def enter_now(self) -> bool:
        """Takes a place if one is free and nobody waits for it."""
        if self.active < self._limits.concurrent_requests and not self._waiting:
            self.active += 1
            return True
        return False

    async def enter(self) -> None:
        """Waits for a place. Raises Overloaded when the queue is full or the wait too long."""
        limits = self._limits
        if len(self._waiting) >= limits.queue_length:
            raise Overloaded(
                f"{limits.concurrent_requests} requests run, {limits.queue_length} wait; try again shortly.",
                code="queue_full",
                retry_after_s=1,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(limits.queue_timeout_s):
                await turn
        except BaseException as error:
            self._abandon(turn)
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    f"No place became free within {limits.queue_timeout_s:g} s; try again shortly.",
                    code="queue_timeout",
                    retry_after_s=5,
                ) from error
            raise

    def _abandon(self, turn: asyncio.Future[None]) -> None:
        """The waiter left. If its place had been given to it in the same moment, the next one gets it."""
        if turn.done() and not turn.cancelled():
            self.leave()
        elif turn in self._waiting:
            self._waiting.remove(turn)

    def leave(self) -> None:
        """Gives a place back; it passes to the first that waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.active -= 1
