"""Limits, balances and tiers as the `openai` and `anthropic` clients meet them: the real gateway, governor
and ledger before a fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pictures
import pytest
from fake_engine import HELLO, Exchange, FakeEngine, whole
from gateway_stack import COMPLIANT, model

from governed_books import NANO_PER_TOKEN, Books, books, key, policy
from ledger_under_test import stored
from sextant.gateway.app import build_handler
from sextant.spec.policy import LimitRules, TenantPolicy, TierPolicy
from sextant.spec.snapshot import (
    Capabilities,
    GatewayLimits,
    GatewaySettings,
    PolicySnapshot,
    RouteTable,
    ServedModel,
)
from sextant.transport.client import Pool
from sextant.transport.server import serve

HI: list[Any] = [{"role": "user", "content": "hi"}]
SERVICE_S = 0.02
PREPAID = TenantPolicy("t", "T", billing="prepaid", plan="flat")


@dataclass
class Gateway:
    url: str
    books: Books
    http: httpx.AsyncClient

    def openai(self, name: str = "a", **more: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key=f"sk-{name}", base_url=f"{self.url}/v1", **more)

    def anthropic(self, name: str = "a", **more: Any) -> Any:
        import anthropic  # takes a second: only slow tests do

        return anthropic.AsyncAnthropic(api_key=f"sk-{name}", base_url=f"{self.url}/anthropic", **more)

    async def get(self, path: str, name: str = "a") -> httpx.Response:
        return await self.http.get(path, headers={"authorization": f"Bearer sk-{name}"})

    async def chat(self, name: str = "a", **fields: Any) -> httpx.Response:
        return await self.http.post(
            "/v1/chat/completions",
            json={"model": "nano", "messages": HI, "max_tokens": 50, **fields},
            headers={"authorization": f"Bearer sk-{name}"},
        )


def tenant(name: str) -> TenantPolicy:
    return TenantPolicy(name, name)


async def hello(exchange: Exchange) -> None:
    await (exchange.stream(HELLO) if exchange.body.get("stream") else exchange.whole(whole()))


@contextlib.asynccontextmanager
async def gateway(
    folder: Path, snapshot: PolicySnapshot, engine: FakeEngine | None = None, *models: ServedModel
) -> AsyncIterator[Gateway]:
    engine = engine or FakeEngine(hello)
    bounds = GatewayLimits()
    async with books(folder, snapshot) as setup, engine:
        pool = Pool(bounds, setup.registry)
        settings = GatewaySettings("", 0, "", "", "", access_log=False)
        app = build_handler(settings, setup.governor, pool, setup.registry)
        able = Capabilities(vision=True, embeddings=True)
        app.swap_routes(RouteTable(1, models or (model([engine], COMPLIANT, capabilities=able),)))
        server = await serve(app, host="127.0.0.1", port=0, limits=bounds, registry=setup.registry)
        url = f"http://127.0.0.1:{server.port}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=20) as http:
                yield Gateway(url, setup, http)
        finally:
            await server.close(0.5)
            pool.close()
            app.close()


def one(tenant: TenantPolicy | None = None, **limits: Any) -> PolicySnapshot:
    """Key `a` with `limits`."""
    return policy(key("a", "t", limits=LimitRules(**limits)), tenants=(tenant or TenantPolicy("t", "T"),))


async def test_openai_raises_rate_limit_error_with_the_headers_of_the_limit(tmp_path: Path) -> None:
    async with gateway(tmp_path, one(requests_per_s=0.1, tokens_per_min=5000)) as g:
        client = g.openai(max_retries=0)
        first = await client.chat.completions.with_raw_response.create(
            model="nano", messages=HI, max_tokens=50
        )
        told = {name: value for name, value in first.headers.items() if name.startswith("x-ratelimit")}
        tokens_left = int(told.pop("x-ratelimit-remaining-tokens"))
        assert 4500 < tokens_left < 4950
        assert told.pop("x-ratelimit-reset-tokens").endswith("s")
        assert told == {
            "x-ratelimit-limit-requests": "1",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "10s",
            "x-ratelimit-limit-tokens": "5000",
        }
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="nano", messages=HI, max_tokens=50)
        answer = caught.value.response
        assert (answer.status_code, caught.value.code, caught.value.type) == (
            429,
            "rate_limit_exceeded",
            "rate_limit_error",
        )
        assert answer.headers["retry-after"] == "10"
        assert 9000 < int(answer.headers["retry-after-ms"]) <= 10_000
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        await client.close()


async def test_openais_own_retry_waits_as_told_and_is_served(tmp_path: Path) -> None:
    async with gateway(tmp_path, one(requests_per_s=4.0, burst_requests=1)) as g:
        client = g.openai(max_retries=2)
        begun_s = time.monotonic()
        for _ in range(4):
            await client.chat.completions.create(model="nano", messages=HI, max_tokens=5)
        assert 0.7 < time.monotonic() - begun_s < 3
        await client.close()


async def test_a_quota_that_is_used_up_is_not_retried(tmp_path: Path) -> None:
    async with gateway(tmp_path, one(tokens_per_day=400)) as g:
        client = g.openai(max_retries=5)
        begun_s = time.monotonic()
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="nano", messages=HI, max_tokens=400)
        assert caught.value.code == "insufficient_quota"
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert time.monotonic() - begun_s < 2
        assert (await g.chat(max_tokens=5)).status_code == 200
        await client.close()


@pytest.mark.slow
async def test_an_empty_balance_is_402_in_each_dialect_and_a_top_up_is_seen(tmp_path: Path) -> None:
    import anthropic

    async with gateway(tmp_path, one(PREPAID)) as g:
        client, claude = g.openai(max_retries=0), g.anthropic(max_retries=0)
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="nano", messages=HI, max_tokens=50)
        assert caught.value.status_code == 402
        assert caught.value.message.count("Insufficient Balance")
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(model="nano", input="hi", max_output_tokens=50)
        assert caught.value.status_code == 402
        with pytest.raises(anthropic.APIStatusError) as refused:
            await claude.messages.create(model="nano", messages=HI, max_tokens=50)
        assert refused.value.status_code == 402
        body: Any = refused.value.body
        assert body["error"]["type"] == "billing_error"
        balance = (await g.get("/user/balance")).json()
        assert (balance["is_available"], balance["balance_infos"][0]["total_balance"]) == (False, "0.00")
        g.books.top_up("t", 10**9)
        await asyncio.sleep(1.0)  # the ledger is asked once a second for the sake of a refusal
        answer = await client.chat.completions.create(model="nano", messages=HI, max_tokens=50)
        assert answer.usage is not None
        used_nano = answer.usage.total_tokens * NANO_PER_TOKEN
        assert await g.books.governor.balance(g.books.who("a")) == ("CNY", 10**9 - used_nano)
        balance = (await g.get("/user/balance")).json()
        assert balance == {
            "is_available": True,
            "balance_infos": [
                {
                    "currency": "CNY",
                    "total_balance": "0.99",
                    "granted_balance": "0.00",
                    "topped_up_balance": "0.99",
                }
            ],
        }
        await client.close()
        await claude.close()


@pytest.mark.slow
async def test_anthropic_is_told_in_its_own_names(tmp_path: Path) -> None:
    import anthropic

    async with gateway(tmp_path, one(requests_per_s=0.1, tokens_per_min=50_000)) as g:
        client = g.anthropic(max_retries=0)
        first = await client.messages.with_raw_response.create(model="nano", messages=HI, max_tokens=9)
        assert first.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert first.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert first.headers["anthropic-ratelimit-tokens-limit"] == "50000"
        assert first.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        with pytest.raises(anthropic.RateLimitError) as caught:
            await client.messages.create(model="nano", messages=HI, max_tokens=9)
        assert caught.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert caught.value.response.headers["retry-after"] == "10"
        await client.close()


async def test_parallel_calls_never_exceed_the_concurrency_by_one(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await gate.wait()
        await exchange.whole(whole())

    engine = FakeEngine(held)
    async with gateway(tmp_path, one(concurrent_requests=5), engine) as g:
        calls = [asyncio.ensure_future(g.chat()) for _ in range(60)]
        async with asyncio.timeout(10):
            while sum(call.done() for call in calls) < 55 or engine.working < 5:
                await asyncio.sleep(0.005)
        assert len(engine.exchanges) == 5
        gate.set()
        answers = await asyncio.gather(*calls)
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 55
        assert (await g.chat()).status_code == 200
        assert g.books.governor.open_admissions == {}


async def test_every_end_of_a_request_gives_back_what_it_held(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        kind = exchange.body["messages"][0]["content"]
        if kind == "refuse":
            await exchange.whole({"error": {"message": "no"}}, status=400)
        elif kind == "cut":
            await exchange.begin()
            exchange.cut()
        elif kind == "hang":
            await exchange.gone()
        else:
            await hello(exchange)

    engine = FakeEngine(script)
    async with gateway(tmp_path, one(concurrent_requests=1), engine) as g:
        for kind, stream in (("refuse", False), ("cut", True), ("ok", True), ("ok", False)):
            answer = await g.chat(messages=[{"role": "user", "content": kind}], stream=stream)
            assert answer.status_code != 429, kind
        hanging = asyncio.ensure_future(g.chat(messages=[{"role": "user", "content": "hang"}]))
        async with asyncio.timeout(5):
            while not engine.working:
                await asyncio.sleep(0.005)
        assert (await g.chat()).status_code == 429
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        async with asyncio.timeout(5):
            while (await g.chat()).status_code == 429:
                await asyncio.sleep(0.01)
        assert (await g.chat(temperature=9)).status_code == 400
        assert (await g.chat()).status_code == 200


async def test_a_tier_allows_its_kinds_and_names_itself(tmp_path: Path) -> None:
    snapshot = policy(
        key("a", "t"),
        tenants=(TenantPolicy("t", "T", tier="free"),),
        tiers=(TierPolicy("free", LimitRules(requests_per_s=5)),),
    )
    async with gateway(tmp_path, snapshot) as g:
        image = pictures.data_url(pictures.png())
        parts = [{"type": "image_url", "image_url": {"url": image}}]
        refused = await g.chat(messages=[{"role": "user", "content": parts}])
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "tier_forbids")
        assert "the tier 'free' allows text, not image" in refused.json()["error"]["message"]
        embedded = await g.http.post(
            "/v1/embeddings", json={"model": "nano", "input": "x"}, headers={"authorization": "Bearer sk-a"}
        )
        assert (embedded.status_code, embedded.json()["error"]["type"]) == (403, "permission_error")
        assert (await g.chat()).status_code == 200


async def test_each_tenant_sees_its_own_models_and_is_served_by_its_pool(tmp_path: Path) -> None:
    snapshot = policy(
        key("a", "t"),
        key("b", "pro"),
        key("c", "ent", models=("nano", "tuned")),
        tenants=(
            TenantPolicy("t", "T"),
            TenantPolicy("pro", "P", tier="professional"),
            TenantPolicy("ent", "E", tier="enterprise"),
        ),
        tiers=(
            TierPolicy("professional", pool="professional"),
            TierPolicy("enterprise", own_models=True),
        ),
    )
    shared, dedicated = FakeEngine(hello), FakeEngine(hello)
    async with shared, dedicated:
        models = (
            model([shared], COMPLIANT),
            model([dedicated], COMPLIANT, pool="professional"),
            model([shared], COMPLIANT, id="tuned", aliases=(), tenants=("ent",)),
        )
        async with gateway(tmp_path, snapshot, FakeEngine(hello), *models) as g:
            assert (await g.chat("a")).status_code == 200
            assert (len(shared.exchanges), len(dedicated.exchanges)) == (1, 0)
            assert (await g.chat("b")).status_code == 200
            assert (len(shared.exchanges), len(dedicated.exchanges)) == (1, 1)
            names = {}
            for name in "abc":
                listed = (await g.get("/v1/models", name)).json()["data"]
                names[name] = [entry["id"] for entry in listed]
            aliases = ["deepseek-chat", "deepseek-reasoner"]
            assert names == {
                "a": ["nano", *aliases],
                "b": ["nano", *aliases],
                "c": ["nano", *aliases, "tuned"],
            }
            for name, status in (("a", 404), ("b", 404), ("c", 200)):
                assert (await g.chat(name, model="tuned")).status_code == status
                assert (await g.get("/v1/models/tuned", name)).status_code == status
                assert (await g.get("/anthropic/v1/models/tuned", name)).status_code == status
            hidden = (await g.chat("a", model="tuned")).json()["error"]["message"]
            assert "known models: deepseek-chat, deepseek-reasoner, nano." in hidden
            ready = json.loads((await g.http.get("/ready")).text)
            assert [entry.get("pool") for entry in ready["models"]] == [None, "professional", None]
            exposition = g.books.registry.exposition().decode()
            assert exposition.count('sextant_model_places{model="nano"}') == 1


async def test_a_key_is_kept_to_its_networks_on_every_path(tmp_path: Path) -> None:
    snapshot = policy(
        key("a", "t", networks=("10.0.0.0/8",)),
        key("b", "t", networks=("127.0.0.0/8",), endpoints=("embeddings",)),
        tenants=(TenantPolicy("t", "T"),),
    )
    async with gateway(tmp_path, snapshot) as g:
        for path in ("/v1/models", "/v1/models/nano", "/user/balance"):
            assert (await g.get(path, "a")).status_code == 403
            assert (await g.get(path, "b")).status_code == 200
        refused = await g.chat("a")
        assert "may not be used from 127.0.0.1" in refused.json()["error"]["message"]
        assert (await g.chat("b")).status_code == 403


async def test_a_tenant_that_floods_leaves_another_its_latency(tmp_path: Path) -> None:
    """Two places of 20 ms each, forty requests of one tenant at once; another asks one after the other."""

    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(SERVICE_S)
        await exchange.whole(whole())

    snapshot = policy(key("a", "noisy"), key("b", "quiet"), tenants=tuple(map(tenant, ("noisy", "quiet"))))
    engine = FakeEngine(slow)
    async with engine:
        busy = model([engine], COMPLIANT, concurrent_requests=2, queue_length=100)
        async with gateway(tmp_path, snapshot, FakeEngine(hello), busy) as g:
            flood = [asyncio.ensure_future(g.chat("a")) for _ in range(40)]
            await waiting(g, 38)
            overtaken = []
            for _ in range(3):
                before = sum(task.done() for task in flood)
                assert (await g.chat("b")).status_code == 200
                overtaken.append(sum(task.done() for task in flood) - before)
            assert max(overtaken) <= 8, "by arrival all 38 come first"
            assert {answer.status_code for answer in await asyncio.gather(*flood)} == {200}


async def test_a_full_queue_refuses_the_flood_and_not_the_newcomer(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await gate.wait()
        await exchange.whole(whole())

    snapshot = policy(key("a", "noisy"), key("b", "quiet"), tenants=tuple(map(tenant, ("noisy", "quiet"))))
    engine = FakeEngine(held)
    async with engine:
        busy = model([engine], COMPLIANT, concurrent_requests=1, queue_length=3)
        async with gateway(tmp_path, snapshot, FakeEngine(hello), busy) as g:
            flood = [asyncio.ensure_future(g.chat("a")) for _ in range(4)]
            await waiting(g, 3)
            newcomer = asyncio.ensure_future(g.chat("b"))
            done, flood_left = await asyncio.wait(flood, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            (displaced,) = done
            said = displaced.result()
            assert (said.status_code, said.json()["error"]["code"]) == (503, "queue_displaced")
            assert said.headers["retry-after"] == "1"
            gate.set()
            assert (await newcomer).status_code == 200
            assert [(await task).status_code for task in flood_left] == [200, 200, 200]


async def test_a_request_that_found_no_engine_counts_against_a_promise(tmp_path: Path) -> None:
    snapshot = policy(
        key("a", "t"),
        key("b", "u"),
        tenants=(TenantPolicy("t", "T", tier="enterprise"), tenant("u")),
        tiers=(TierPolicy("enterprise", sla_ppm=999_000),),
    )
    engine = FakeEngine(hello)
    async with engine:
        served = model([engine], COMPLIANT)
        gone = msgspec.structs.replace(served.upstreams[0], ready=False, reason="stopped")
        unready = msgspec.structs.replace(served, upstreams=(gone,))
        async with gateway(tmp_path, snapshot, FakeEngine(hello), unready) as g:
            answers = [await g.chat(name) for name in "ab"]
            assert [answer.status_code for answer in answers] == [503, 503]
            async with asyncio.timeout(5):
                while not stored(g.books.db_path):
                    await asyncio.sleep(0.005)
            ((request_id, row),) = stored(g.books.db_path).items()
            assert request_id == answers[0].headers["x-request-id"]
            assert (row[1], row[6]) == ("t", "refused")
            assert g.books.governor.open_admissions == {}


async def waiting(g: Gateway, count: int) -> None:
    """Until so many requests wait for a place."""
    async with asyncio.timeout(5):
        while b"sextant_gateway_queue_length %d.0" % count not in g.books.registry.exposition():
            await asyncio.sleep(0.002)
