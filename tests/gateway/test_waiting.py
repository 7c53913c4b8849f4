"""The keep-alive clock: one timer for all, running only while somebody waits, whatever one waiter does."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sextant.gateway.waiting import Waiting


class FakeWaiter:
    def __init__(self, *, fails: bool = False) -> None:
        self.wrote = False
        self.quiet_since_s = time.monotonic()
        self.fails = fails
        self.kept = 0
        self.first = asyncio.Event()

    def keep_alive(self) -> None:
        self.kept += 1
        self.first.set()
        if self.fails:
            raise RuntimeError("a broken waiter")


async def test_a_broken_waiter_does_not_end_the_others_keep_alives() -> None:
    caught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
    waiting, broken, sound = Waiting(0.1), FakeWaiter(fails=True), FakeWaiter()
    waiting.add(broken)
    waiting.add(sound)
    await asyncio.wait_for(broken.first.wait(), 5)
    await asyncio.wait_for(sound.first.wait(), 5)
    assert caught
    waiting.close()


async def test_who_writes_is_not_disturbed_and_the_clock_stops_with_the_last_waiter() -> None:
    waiting, busy, quiet = Waiting(0.1), FakeWaiter(), FakeWaiter()
    waiting.add(busy)
    waiting.add(quiet)
    async with asyncio.timeout(5):
        while not quiet.first.is_set():
            busy.wrote = True
            await asyncio.sleep(0.002)
    assert busy.kept == 0
    waiting.discard(busy)
    waiting.discard(quiet)
    assert len(waiting) == 0
    async with asyncio.timeout(5):
        while waiting._timer is not None:
            await asyncio.sleep(0.005)
