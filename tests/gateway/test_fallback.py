"""Falling back to the centre: when, for whom, with what masked, and metered once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_engine import Exchange, FakeEngine, whole
from fake_governor import SECRET
from gateway_stack import Stack, model, stack
from test_privacy import echo, said, said_whole, told

from sextant.spec.policy import PrivacyPolicy
from sextant.spec.snapshot import Fallback, RouteTable

PHONE = "call 138-0013-8000 now"


def table(running: Stack, fallback: Fallback, *, version: int, ready: bool = True, **more: Any) -> RouteTable:
    """`nano` here, `nano-centre` there; `ready` is what the supervisor says of the engine here."""
    here, centre = running.engines
    local = model([here], fallback=fallback, **more)
    upstream = msgspec.structs.replace(local.upstreams[0], ready=ready, reason="" if ready else "it hung")
    remote = model([centre], id="nano-centre", aliases=(), clears_personal_data=False)
    away = msgspec.structs.replace(remote.upstreams[0], id="c0")
    return RouteTable(
        version,
        (
            msgspec.structs.replace(local, upstreams=(upstream,)),
            msgspec.structs.replace(remote, upstreams=(away,)),
        ),
    )


@pytest.fixture
async def box() -> AsyncIterator[Stack]:
    async with stack(FakeEngine(echo), FakeEngine(echo)) as running:
        yield running


def key_file(folder: Path) -> str:
    """A reference to the key that the gateway takes."""
    file = folder / "key"
    file.write_text(SECRET)
    file.chmod(0o600)
    return f"file:{file}"


def ask(text: str = PHONE) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


async def test_while_the_engine_is_well_nothing_leaves(box: Stack) -> None:
    box.app.swap_routes(table(box, Fallback("nano-centre"), version=2))
    answer = await box.chat(messages=ask())
    assert said_whole(answer) == PHONE and "x-sextant-fallback" not in answer.headers
    assert box.engines[1].exchanges == []
    assert "x-sextant-stands-in" not in box.engine.exchanges[0].headers


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_is_not_ready_is_stood_in_for_and_metered_once(box: Stack, stream: bool) -> None:
    box.app.swap_routes(table(box, Fallback("nano-centre"), version=2, ready=False))
    if stream:
        async with box.chat_stream(messages=ask()) as answer:
            text = said((await answer.aread()).decode())
    else:
        answer = await box.chat(messages=ask())
        text = said_whole(answer)
        assert answer.json()["model"] == "nano"
    assert text == PHONE and answer.headers["x-sextant-fallback"] == "nano-centre"
    assert box.engines[0].exchanges == []
    [exchange] = box.engines[1].exchanges
    assert exchange.headers["x-sextant-stands-in"] == "1"
    assert exchange.body["model"] == "nano"  # as the centre calls it
    assert "138-0013-8000" not in told(exchange) and "<PHONE" in told(exchange)
    [(claim, outcome)] = box.governor.rows
    assert (claim.model, outcome.result) == ("nano-centre", "ok")
    assert box.governor.open == 0
    assert b'sextant_gateway_fallbacks_total{instead="nano-centre",model="nano"} 1.0' in (
        box.registry.exposition()
    )


async def test_an_engine_that_cannot_be_reached_is_stood_in_for(box: Stack) -> None:
    box.app.swap_routes(table(box, Fallback("nano-centre"), version=2))
    await box.engines[0].stop()
    answer = await box.chat(messages=ask("hello"))
    assert said_whole(answer) == "hello" and box.governor.open == 0
    assert [claim.model for claim, _ in box.governor.rows] == ["nano-centre"]


async def test_an_engine_that_answers_garbage_before_anything_was_said_is_stood_in_for(box: Stack) -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    box.engines[0].script = reset
    box.app.swap_routes(table(box, Fallback("nano-centre"), version=2))
    assert said_whole(await box.chat(messages=ask("hello"))) == "hello"
    assert [claim.model for claim, _ in box.governor.rows] == ["nano-centre"] and box.governor.open == 0


async def test_an_answer_that_has_begun_is_never_begun_again_elsewhere(box: Stack) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.event({"choices": [{"index": 0, "delta": {"content": "he"}}]})
        exchange.reset()

    box.engines[0].script = half
    box.app.swap_routes(table(box, Fallback("nano-centre"), version=2))
    async with box.chat_stream(messages=ask("hello")) as answer:
        text = (await answer.aread()).decode()
    assert "error" in text and box.engines[1].exchanges == []
    assert [outcome.result for _, outcome in box.governor.rows] == ["engine_error"]


async def test_a_tenant_that_stays_gets_the_error(box: Stack) -> None:
    fallback = Fallback("nano-centre", stays=("tenant",))
    box.app.swap_routes(table(box, fallback, version=2, ready=False))
    answer = await box.chat(messages=ask())
    assert answer.status_code == 503 and box.engines[1].exchanges == []


@pytest.mark.parametrize(("action", "status"), [("block", 400), ("route", 503)], ids=["block", "only here"])
async def test_a_tenants_own_policy_stands_over_the_documents(box: Stack, action: Any, status: int) -> None:
    box.governor.privacy = PrivacyPolicy(otherwise=action)
    box.app.swap_routes(table(box, Fallback("nano-centre"), version=2, ready=False))
    answer = await box.chat(messages=ask())
    assert answer.status_code == status and box.engines[1].exchanges == []
    assert box.governor.open == 0 and box.governor.rows == []


@pytest.mark.parametrize(
    "own",
    [
        PrivacyPolicy(otherwise="allow", actions={"CN_ID": "block"}),
        PrivacyPolicy(otherwise="mask", actions={"PHONE": "allow"}),
        PrivacyPolicy(otherwise="allow", patterns={"TICKET": "T-[0-9]{4}"}),
    ],
    ids=["other types only", "allowed by name", "patterns only"],
)
async def test_what_a_policy_lets_through_here_is_masked_on_the_way(box: Stack, own: PrivacyPolicy) -> None:
    box.governor.privacy = own
    box.app.swap_routes(table(box, Fallback("nano-centre"), version=2))
    assert said_whole(await box.chat(messages=ask())) == PHONE
    assert "138-0013-8000" in told(box.engines[0].exchanges[0])
    box.app.swap_routes(table(box, Fallback("nano-centre"), version=3, ready=False))
    for _ in range(2):
        assert said_whole(await box.chat(messages=ask(f"{PHONE} T-1234"))) == f"{PHONE} T-1234"
    for exchange in box.engines[1].exchanges:
        assert "138-0013-8000" not in told(exchange) and "<PHONE" in told(exchange)
        assert ("T-1234" in told(exchange)) is not bool(own.patterns)
    box.app.swap_routes(table(box, Fallback("nano-centre", masks=False), version=4, ready=False))
    await box.chat(messages=ask())
    assert "138-0013-8000" in told(box.engines[1].exchanges[-1])


async def test_as_policy_sends_what_no_policy_forbids(box: Stack) -> None:
    box.app.swap_routes(table(box, Fallback("nano-centre", masks=False), version=2, ready=False))
    await box.chat(messages=ask())
    assert "138-0013-8000" in told(box.engines[1].exchanges[0])


async def test_two_gateways_that_stand_in_for_each_other_ask_no_further(box: Stack, tmp_path: Path) -> None:
    """The request that comes back has been stood in for once, and ends there."""
    routes = table(box, Fallback("nano-centre"), version=2, ready=False)
    local, remote = routes.models
    (away,) = remote.upstreams
    back = msgspec.structs.replace(away, base_url=f"{box.url}/v1", api_key_ref=key_file(tmp_path))
    remote = msgspec.structs.replace(remote, upstreams=(back,))
    box.app.swap_routes(RouteTable(3, (local, remote)))
    answer = await box.chat(messages=ask("hello"))
    assert answer.status_code == 503
    assert b'sextant_gateway_fallbacks_total{instead="nano-centre",model="nano"} 1.0' in (
        box.registry.exposition()
    )
    assert box.governor.open == 0


async def test_both_away_is_an_error_that_names_the_reason(box: Stack) -> None:
    routes = table(box, Fallback("nano-centre"), version=2, ready=False)
    local, remote = routes.models
    away = msgspec.structs.replace(remote.upstreams[0], ready=False, reason="no answer")
    remote = msgspec.structs.replace(remote, upstreams=(away,))
    box.app.swap_routes(RouteTable(3, (local, remote)))
    answer = await box.chat(messages=ask())
    assert answer.status_code == 503 and "nano" in answer.text


@pytest.mark.parametrize(("when_full", "status"), [(True, 200), (False, 503)])
async def test_a_full_queue_falls_back_only_where_it_may(box: Stack, when_full: bool, status: int) -> None:
    held = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await held.wait()
        await exchange.whole(whole("slow"))

    box.engines[0].script = slow
    fallback = Fallback("nano-centre", when_full=when_full)
    box.app.swap_routes(table(box, fallback, version=2, concurrent_requests=1, queue_length=1))
    waiting = [asyncio.ensure_future(box.chat(messages=ask("hello"))) for _ in range(2)]
    while box.app._flow.gates.waiting < 1:
        await asyncio.sleep(0.005)
    third = await box.chat(messages=ask("third"))
    assert third.status_code == status
    assert len(box.engines[1].exchanges) == (1 if when_full else 0)
    held.set()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
