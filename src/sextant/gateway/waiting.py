"""Keep-alive for requests that wait: one timer for all of them, not one per request.

Flow 1 (serve), beside it: a stream that has been silent for `keepalive_after_s` gets a comment (or the
dialect's own ping), a whole answer a blank line. The first of them commits status 200.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

TICKS_PER_INTERVAL = 20
"""A keep-alive is late by at most one twentieth of the interval."""


class Waiter(Protocol):
    wrote: bool
    """Set by every write, cleared here."""
    quiet_since_s: float

    def keep_alive(self) -> None: ...


Kept = TypeVar("Kept", bound=Waiter)


class Waiting(Generic[Kept]):
    """The requests under way, looked over at a fixed pace while there are any."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._waiters: set[Kept] = set()
        self.discard = self._waiters.discard
        """Forgets a waiter."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._waiters)

    def add(self, waiter: Kept) -> None:
        self._waiters.add(waiter)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._after_s / TICKS_PER_INTERVAL, self._look, loop)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        # first the next look: a waiter that fails must not end the keep-alives of all others
        self._timer = loop.call_later(self._after_s / TICKS_PER_INTERVAL, self._look, loop)
        now_s = time.monotonic()
        if not self._waiters:
            self.close()
        for waiter in tuple(self._waiters):
            if waiter.wrote:
                waiter.wrote = False
                waiter.quiet_since_s = now_s
            elif now_s - waiter.quiet_since_s >= self._after_s:
                waiter.quiet_since_s = now_s
                waiter.keep_alive()
