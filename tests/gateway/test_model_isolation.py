"""Several models behind one gateway: what happens to one does not happen to the others."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import msgspec
from fake_engine import Exchange, FakeEngine, whole
from gateway_stack import Stack, limits, model, stack
from test_stream_rules import until

from sextant.spec.snapshot import RouteTable, Upstream

WELL_S = 1.0
"""Far above what an answer of a healthy fake engine takes, far below any timeout."""


async def hang(exchange: Exchange) -> None:
    await exchange.gone()


async def hello(exchange: Exchange) -> None:
    await exchange.whole(whole())


def serve_two(s: Stack, version: int = 2, **stuck: Any) -> None:
    """The first engine as `stuck`, the second as `well`."""
    first = model([s.engines[0]], id="stuck", aliases=(), **stuck)
    second = model([s.engines[1]], id="well", aliases=("other-name",))
    second = msgspec.structs.replace(
        second, upstreams=(msgspec.structs.replace(second.upstreams[0], id="w0"),)
    )
    s.app.swap_routes(RouteTable(version, (first, second)))


async def ask(s: Stack, name: str) -> tuple[httpx.Response, float]:
    started_s = time.monotonic()
    response = await s.chat(model=name)
    return response, time.monotonic() - started_s


async def test_a_hanging_model_fills_its_own_queue_and_the_other_answers_as_ever() -> None:
    bounds = limits(concurrent_requests=8, queue_length=8)
    async with stack(FakeEngine(hang), FakeEngine(hello), limits=bounds) as s:
        serve_two(s)
        hanging = [asyncio.ensure_future(s.chat(model="stuck")) for _ in range(8)]
        await until(lambda: s.engines[0].working == 4 and _gate(s, "stuck").waiting == 4)
        refused, _ = await ask(s, "stuck")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["retry-after"] == "1"
        for _ in range(20):
            response, took_s = await ask(s, "well")
            assert response.status_code == 200
            assert took_s < WELL_S
            assert response.headers["x-ratelimit-limit-requests"] == "4"
            assert response.headers["x-ratelimit-remaining-requests"] == "4"
        ready = (await s.client.get("/ready")).json()
        assert [(m["id"], m["running"], m["waiting"], m["places"]) for m in ready["models"]] == [
            ("stuck", 4, 4, 4),
            ("well", 0, 0, 4),
        ]
        exposition = s.registry.exposition().decode()
        assert 'sextant_model_requests_in_progress{model="stuck"} 4.0' in exposition
        assert 'sextant_model_queue_length{model="stuck"} 4.0' in exposition
        assert 'sextant_model_places{model="well"} 4.0' in exposition
        assert "sextant_gateway_queue_length 4.0" in exposition
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        await until(lambda: _gate(s, "stuck").active == 0 and s.app.requests_in_progress == 0)
        assert s.governor.open == 0


async def test_places_of_a_model_are_those_of_its_row() -> None:
    async with stack(FakeEngine(hang), FakeEngine(hello)) as s:
        serve_two(s, concurrent_requests=1, queue_length=1)
        tasks = [asyncio.ensure_future(s.chat(model="stuck")) for _ in range(2)]
        await until(lambda: _gate(s, "stuck").waiting == 1)
        assert (await s.chat(model="stuck")).status_code == 503
        assert (await s.chat(model="other-name")).status_code == 200
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_readiness_is_of_any_model_and_says_which_is_not() -> None:
    async with stack(FakeEngine(hang), FakeEngine(hello)) as s:
        serve_two(s)
        table = s.app.routes
        dead = msgspec.structs.replace(
            table.models[0],
            upstreams=(
                msgspec.structs.replace(
                    table.models[0].upstreams[0], ready=False, reason="killed by SIGKILL: x"
                ),
            ),
        )
        s.app.swap_routes(RouteTable(3, (dead, table.models[1])))
        ready = await s.client.get("/ready")
        assert ready.status_code == 200
        said = ready.json()
        assert (said["ready"], said["degraded"]) == (True, True)
        told = "it ended and is started again"
        assert said["models"][0]["upstreams"] == [{"id": "u0", "ready": False, "reason": told}]
        one = await s.client.get("/ready", params={"model": "stuck"})
        assert (one.status_code, one.json()["ready"], one.json()["degraded"]) == (503, False, False)
        assert (await s.client.get("/ready?model=other-name")).status_code == 200
        assert (await s.client.get("/ready?model=nobody")).status_code == 404
        assert (await s.client.get("/ready?" + "&".join(f"a{n}=1" for n in range(40)))).status_code == 400


async def test_who_waits_goes_to_the_engine_that_was_started_anew() -> None:
    async with stack(FakeEngine(hang), FakeEngine(hello)) as s:
        serve_two(s, concurrent_requests=1)
        first = asyncio.ensure_future(s.chat(model="stuck"))
        await until(lambda: s.engines[0].working == 1)
        second = asyncio.ensure_future(s.chat(model="stuck"))
        await until(lambda: _gate(s, "stuck").waiting == 1)
        stuck, well = s.app.routes.models
        moved = Upstream(id="u0", base_url=s.engines[1].base_url, upstream_model="nano")
        s.app.swap_routes(RouteTable(3, (msgspec.structs.replace(stuck, upstreams=(moved,)), well)))
        await s.engines[0].stop()
        assert (await first).status_code == 500
        assert (await second).status_code == 200


async def test_nobody_queues_for_a_model_without_a_ready_engine() -> None:
    async with stack(FakeEngine(hang), FakeEngine(hello)) as s:
        serve_two(s, concurrent_requests=1)
        first = asyncio.ensure_future(s.chat(model="stuck"))
        await until(lambda: s.engines[0].working == 1)
        stuck, well = s.app.routes.models
        gone = msgspec.structs.replace(stuck.upstreams[0], ready=False, reason="it hung: no answer")
        s.app.swap_routes(RouteTable(3, (msgspec.structs.replace(stuck, upstreams=(gone,)), well)))
        response, took_s = await ask(s, "stuck")
        assert response.status_code == 503
        assert "it hung" in response.json()["error"]["message"]
        assert took_s < WELL_S
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_a_refused_request_leaves_no_series_of_a_nameless_model() -> None:
    async with stack(FakeEngine(hello)) as s:
        assert (await s.chat(model="nobody")).status_code == 404
        response = await s.client.post("/v1/chat/completions", content=b"{")
        assert response.status_code == 400
        assert response.headers["x-ratelimit-remaining-requests"] == "2048"
        wrong = await s.client.post("/v1/chat/completions", headers={"authorization": "Bearer no"}, json={})
        assert wrong.status_code == 401
        assert "x-ratelimit-limit-requests" not in wrong.headers  # how busy we are is no stranger's business
        exposition = s.registry.exposition().decode()
        assert 'model=""' not in exposition
        assert 'sextant_gateway_requests_total{endpoint="chat.completions",status="404"} 1.0' in exposition


def _gate(s: Stack, name: str) -> Any:
    return next(route.gate for route in s.app._flow.index.routes if route.served.id == name)
