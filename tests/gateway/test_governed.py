"""The gateway with the real governor and a real ledger file: every end of a request is one durable row or a
refund, and the row is on disk before the client sees the end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from fake_engine import HELLO, Exchange, FakeEngine, chunk, whole
from gateway_stack import COMPLIANT, model

from ledger_under_test import serving, stored
from sextant.gateway.app import GatewayApp, build_handler
from sextant.governance.governor import LocalGovernor
from sextant.governance.ledger_client import LedgerClient
from sextant.spec.policy import KeyPolicy, TenantPolicy
from sextant.spec.snapshot import GatewayLimits, GatewaySettings, PolicySnapshot, RouteTable
from sextant.spec.usage import UsageRow
from sextant.telemetry.table import Registry
from sextant.transport.client import Pool
from sextant.transport.server import serve

KEY = "sk-governed"
POLICY = PolicySnapshot(
    1, (TenantPolicy("t1", "one"),), (KeyPolicy("k1", "t1", hashlib.sha256(KEY.encode()).hexdigest()),)
)
HI = {"model": "nano", "messages": [{"role": "user", "content": "hi"}]}


@contextlib.asynccontextmanager
async def governed(
    engine: FakeEngine, socket_path: Path
) -> AsyncIterator[tuple[GatewayApp, LocalGovernor, httpx.AsyncClient]]:
    registry, limits = Registry(), GatewayLimits()
    ledger = LedgerClient(str(socket_path), registry)
    await ledger.start()
    governor = LocalGovernor(POLICY, ledger, registry)
    pool = Pool(limits, registry)
    app = build_handler(GatewaySettings("", 0, "", "", "", access_log=False), governor, pool, registry)
    async with engine:
        app.swap_routes(RouteTable(1, (model([engine], COMPLIANT),)))
        server = await serve(app, host="127.0.0.1", port=0, limits=limits, registry=registry)
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}", headers={"authorization": f"Bearer {KEY}"}, timeout=20
        )
        try:
            yield app, governor, client
        finally:
            await client.aclose()
            await server.close(0.5)
            pool.close()
            app.close()
            await ledger.close()


def rows(db: Path) -> dict[str, dict[str, Any]]:
    return {
        key: dict(zip(UsageRow.__struct_fields__, values, strict=False)) for key, values in stored(db).items()
    }


async def until_settled(governor: LocalGovernor, db: Path, count: int) -> None:
    async with asyncio.timeout(5):
        while governor.open_admissions or len(stored(db)) < count:
            await asyncio.sleep(0.01)


async def test_the_row_is_on_disk_before_the_end_is_seen(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await (exchange.stream(HELLO) if exchange.body.get("stream") else exchange.whole(whole()))

    db, socket_path = tmp_path / "ledger.db", tmp_path / "ledger.sock"
    with serving(db, socket_path):
        async with governed(FakeEngine(script), socket_path) as (_, governor, client):
            response = await client.post("/v1/chat/completions", json=HI)
            row = rows(db)[response.headers["x-request-id"]]
            assert (row["outcome"], row["tenant_id"], row["key_id"], row["model"]) == (
                "ok",
                "t1",
                "k1",
                "nano",
            )
            assert (row["input_tokens"], row["output_tokens"], row["endpoint"]) == (11, 3, "chat.completions")
            async with client.stream("POST", "/chat/completions", json={**HI, "stream": True}) as stream:
                async for piece in stream.aiter_bytes():
                    if b"[DONE]" in piece:
                        assert rows(db)[stream.headers["x-request-id"]]["outcome"] == "ok"
            assert governor.open_admissions == {}
            assert len(stored(db)) == 2


async def test_every_other_end_is_one_row_or_a_refund(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        kind = exchange.body["messages"][0]["content"]
        if kind == "hang":
            await asyncio.Event().wait()
        await exchange.begin()
        await exchange.event(chunk("Hel"))
        if kind == "cut":
            exchange.cut()
        else:
            await asyncio.Event().wait()

    def body(kind: str) -> dict[str, Any]:
        return {**HI, "stream": True, "messages": [{"role": "user", "content": kind}]}

    db, socket_path = tmp_path / "ledger.db", tmp_path / "ledger.sock"
    with serving(db, socket_path):
        engine = FakeEngine(script)
        async with governed(engine, socket_path) as (app, governor, client):
            refused = await client.post("/v1/chat/completions", json={**HI, "temperature": 7})
            assert refused.status_code == 400
            cut = await client.post("/v1/chat/completions", json=body("cut"))
            assert '"error":' in cut.text
            async with client.stream("POST", "/v1/chat/completions", json=body("leave")) as left:
                await anext(left.aiter_bytes())
            hanging = asyncio.ensure_future(client.post("/v1/chat/completions", json=body("hang")))
            async with asyncio.timeout(5):
                while len(engine.exchanges) < 3:
                    await asyncio.sleep(0.005)
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
            await until_settled(governor, db, 3)
            found = rows(db)
            assert sorted(row["outcome"] for row in found.values()) == [
                "client_closed",
                "client_closed",
                "engine_error",
            ]
            assert found[cut.headers["x-request-id"]]["output_tokens"] == 1
            assert all(row["estimated"] for row in found.values())
            assert refused.headers["x-request-id"] not in found
            assert app.requests_in_progress == 0


async def test_without_a_ledger_nothing_is_served_and_readiness_says_so(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole(whole())

    db, socket_path = tmp_path / "ledger.db", tmp_path / "ledger.sock"
    async with contextlib.AsyncExitStack() as stack:
        with serving(db, socket_path):
            app, governor, client = await stack.enter_async_context(governed(FakeEngine(script), socket_path))
            assert (await client.post("/v1/chat/completions", json=HI)).status_code == 200
        async with asyncio.timeout(5):
            while governor.ready:
                await asyncio.sleep(0.005)
        ready = await client.get("/ready")
        assert (ready.status_code, json.loads(ready.text)["ledger"]) == (503, False)
        assert (await client.get("/health")).status_code == 200
        with serving(db, socket_path):
            async with asyncio.timeout(10):
                while not governor.ready:
                    await asyncio.sleep(0.01)
            assert (await client.post("/v1/chat/completions", json=HI)).status_code == 200
            assert len(stored(db)) == 2
            assert app.requests_in_progress == 0
