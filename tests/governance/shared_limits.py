"""What tests of the limits in Redis share: started limiters, asks, a proxy that loses answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from sextant.governance.limits.limiter import Ask, Hold, Refused, ScopeRules, Unknown
from sextant.governance.shared.limiter import SharedLimiter
from sextant.spec.policy import Standing
from sextant.spec.stores import SharedLimits
from sextant.telemetry.table import Registry

LEASE_S = 0.5
"""Short, so that what a dead gateway held is free again while a test waits."""
NEVER_US = 10**12
"""An interval so long that a rate gives nothing back during a test."""
KEY = "{sextant:sextant}:"
DAY, MONTH = 20261122, 202611
_numbers = itertools.count()


@contextlib.asynccontextmanager
async def limiter(
    url: str, worker: str = "host:worker-1", *, warm: bool = True, **changes: Any
) -> AsyncIterator[SharedLimiter]:
    """A started limiter; `warm`: past the time for which a Redis that knows nobody admits nobody."""
    made = SharedLimiter(SharedLimits(url, worker, **{"lease_s": LEASE_S, **changes}), Registry())
    await made.start()
    try:
        if made._is_warming() and warm:
            await _end_wait(url)
            await until(lambda: not made.trouble)
        yield made
    finally:
        await made.close()


async def _end_wait(url: str) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(f"HSET {KEY}meta until 0\r\n".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


def ask(*rules: ScopeRules, tokens: int = 10, nano: int = 0, request_id: str = "") -> Ask:
    return Ask(request_id or f"req_{next(_numbers)}", rules, tokens, nano, DAY, MONTH, 1)


async def admitted(of: SharedLimiter, wanted: Ask) -> Hold:
    found = await of.admit(wanted)
    assert isinstance(found, Hold), found
    return found


async def refused(of: SharedLimiter, wanted: Ask) -> Refused:
    found = await of.admit(wanted)
    assert isinstance(found, Refused), found
    return found


async def unknown(of: SharedLimiter, wanted: Ask) -> Unknown:
    found = await of.admit(wanted)
    assert isinstance(found, Unknown), found
    return found


def standing(scope: str, version: int = 1, **values: int) -> Standing:
    plain = {"day": DAY, "day_tokens": 0, "month": MONTH, "month_tokens": 0, "month_nano": 0, **values}
    return Standing(scope, version, **plain)


class Proxy:
    """Stands before Redis; may swallow answers while requests go through, or hold requests back."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.swallow = False
        self.held: list[bytes] | None = None
        self.passed_on = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Resets all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers += [writer, up_writer]
        for coroutine in (self._up(reader, up_writer), self._down(up_reader, writer)):
            task = asyncio.ensure_future(coroutine)
            self._tasks.add(task)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.held is not None:
                    self.held.append(data)
                    continue
                writer.write(data)
            writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.swallow:
                    self.passed_on.set()
                    continue
                writer.write(data)
            writer.close()
