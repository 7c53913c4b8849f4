"""The gateway on the real transport, before fake engines and a fake governor."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
from fake_engine import FakeEngine
from fake_governor import SECRET, FakeGovernor

from sextant.engines import embedded
from sextant.gateway.app import GatewayApp, build_handler
from sextant.spec.snapshot import (
    Capabilities,
    GatewayLimits,
    GatewaySettings,
    Quirks,
    RouteTable,
    ServedModel,
    Upstream,
)
from sextant.telemetry.table import Registry
from sextant.transport.client import Pool
from sextant.transport.server import Server, serve

COMPLIANT = Quirks(compliant=True)
LLAMA = embedded.QUIRKS


@dataclass
class Stack:
    app: GatewayApp
    engines: list[FakeEngine]
    governor: FakeGovernor
    server: Server
    pool: Pool
    client: httpx.AsyncClient
    registry: Registry
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def engine(self) -> FakeEngine:
        return self.engines[0]

    async def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": "nano", "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    def chat_stream(self, **fields: Any) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        body = {"model": "nano", "messages": [{"role": "user", "content": "hi"}], "stream": True, **fields}
        return self.client.stream("POST", "/v1/chat/completions", json=body)


def model(engines: list[FakeEngine], quirks: Quirks = COMPLIANT, **more: Any) -> ServedModel:
    more = {"id": "nano", "aliases": ("deepseek-chat", "deepseek-reasoner"), **more}
    upstream_model = more.pop("upstream_model", "nano")
    return ServedModel(
        engine="fake",
        upstreams=tuple(
            Upstream(id=f"u{number}", base_url=engine.base_url, upstream_model=upstream_model)
            for number, engine in enumerate(engines)
        ),
        quirks=quirks,
        capabilities=more.pop("capabilities", Capabilities()),
        **more,
    )


@contextlib.asynccontextmanager
async def stack(
    *engines: FakeEngine, quirks: Quirks = COMPLIANT, limits: GatewayLimits | None = None, **more: Any
) -> AsyncIterator[Stack]:
    """Starts the engines, the gateway before them, and a client with the right key."""
    limits = limits or GatewayLimits()
    registry = Registry()
    origins = more.pop("cors_origins", ())
    access_log = more.pop("access_log", False)
    settings = GatewaySettings(
        "127.0.0.1", 0, "", "", "", cors_origins=origins, limits=limits, access_log=access_log
    )
    governor = FakeGovernor()
    async with contextlib.AsyncExitStack() as opened:
        for engine in engines:
            await opened.enter_async_context(engine)
        pool = Pool(limits, registry)
        app = build_handler(settings, governor, pool, registry)
        app.swap_routes(RouteTable(1, (model(list(engines), quirks, **more),)))
        server = await serve(app, host="127.0.0.1", port=0, limits=limits, registry=registry)
        client = await opened.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{server.port}",
                headers={"authorization": f"Bearer {SECRET}"},
                timeout=20,
            )
        )
        try:
            yield Stack(app, list(engines), governor, server, pool, client, registry)
        finally:
            await client.aclose()
            await server.close(0.5)
            pool.close()
            app.close()


def limits(**values: Any) -> GatewayLimits:
    return msgspec.structs.replace(GatewayLimits(), **values)
