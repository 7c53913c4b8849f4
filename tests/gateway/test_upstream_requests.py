"""Who still needs a replica: what the supervisor asks before it stops one that no table names any longer."""

from __future__ import annotations

import asyncio

import httpx
from fake_engine import Exchange, FakeEngine, whole
from gateway_stack import Stack, limits, model, stack
from test_stream_rules import until

from sextant.spec.snapshot import RouteTable


async def hang(exchange: Exchange) -> None:
    await exchange.gone()


async def hello(exchange: Exchange) -> None:
    await exchange.whole(whole())


async def page(s: Stack) -> list[str]:
    async with httpx.AsyncClient(base_url=s.url) as client:
        return (await client.get("/metrics")).text.splitlines()


async def test_requests_of_a_former_table_count_until_they_end_those_that_wait_too() -> None:
    async with stack(FakeEngine(hang), FakeEngine(hello), limits=limits(concurrent_requests=1)) as s:
        s.app.swap_routes(RouteTable(7, (model([s.engines[0]], id="old", aliases=("it",)),)))
        asked = [asyncio.ensure_future(s.chat(model="it")) for _ in range(3)]
        await until(lambda: s.engines[0].working == 1 and s.app._flow.gates.waiting == 2)
        s.app.swap_routes(RouteTable(8, (model([s.engines[1]], id="new", aliases=("it",)),)))
        lines = await page(s)
        assert 'sextant_gateway_snapshot_version{snapshot="routes"} 8.0' in lines
        assert 'sextant_gateway_upstream_requests{model="old",upstream="u0"} 3.0' in lines
        for one in asked:
            one.cancel()
        await until(lambda: len(s.app._flow.waiting) == 0)
        assert not any(line.startswith("sextant_gateway_upstream_requests{") for line in await page(s))
