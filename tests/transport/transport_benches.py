"""Benches: a pool before a scripted upstream, plain and over TLS, and scripts for it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import transport_kit as kit
from transport_upstreams import Call, Script, ScriptedUpstream

from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport.client import Pool

JSON = ((b"content-type", b"application/json"),)
SECRET = b"ANOTHER TENANT'S ANSWER"


class Bench:
    """A scripted upstream and a pool before it."""

    def __init__(self, upstream: ScriptedUpstream, pool: Pool, registry: Registry) -> None:
        self.upstream = upstream
        self.pool = pool
        self.registry = registry

    async def ask(self, target: bytes = b"/x", body: bytes = b"{}", method: bytes = b"POST") -> bytes:
        """One request, its whole answer."""
        async with asyncio.timeout(kit.PATIENCE_S):
            found = await self.pool.send(self.upstream.url, method, target, JSON, body)
            try:
                return await found.read(1 << 26)
            finally:
                found.close()

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.prometheus.get_sample_value(name, labels) or 0.0


class Benches:
    """Makes benches of one kind (plain or TLS) and ends them."""

    def __init__(self, kind: str, certificate: kit.Certificate) -> None:
        self.kind = kind
        self._certificate = certificate
        self._stack = contextlib.AsyncExitStack()

    async def start(self, script: Script, limits: GatewayLimits = GatewayLimits()) -> Bench:  # noqa: B008
        tls = self.kind == "tls"
        upstream = ScriptedUpstream(script)
        await self._stack.enter_async_context(upstream.running(self.server_context()))
        registry = Registry()
        pool = Pool(limits, registry, ssl_context=self._certificate.client_context() if tls else None)
        self._stack.callback(pool.close)
        return Bench(upstream, pool, registry)

    def server_context(self) -> ssl.SSLContext | None:
        """What an upstream of this kind listens with."""
        return self._certificate.server_context() if self.kind == "tls" else None

    async def close(self) -> None:
        await self._stack.aclose()


@pytest_asyncio.fixture(params=["plain", "tls"])
async def benches(request: pytest.FixtureRequest, certificate: kit.Certificate) -> AsyncIterator[Benches]:
    found = Benches(request.param, certificate)
    yield found
    await found.close()


@pytest_asyncio.fixture
async def plain_benches(certificate: kit.Certificate) -> AsyncIterator[Benches]:
    found = Benches("plain", certificate)
    yield found
    await found.close()


def always(*pieces: bytes, hang_up: bool = False) -> Script:
    """Answers every request with the same bytes."""

    async def script(call: Call) -> None:
        await call.send(*pieces)
        if hang_up:
            call.hang_up()

    return script


def first_then(first: Script, later: Script) -> Script:
    """One script for the first request, another for all others."""

    async def script(call: Call) -> None:
        await (first if len(call.upstream.calls) == 1 else later)(call)

    return script
