"""An engine that refuses, dies, hangs, truncates or sends garbage at any point: each gets the documented
answer, nothing hangs, nothing leaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest
from fake_engine import HELLO, Exchange, FakeEngine, chunk, usage_chunk, whole
from fake_governor import SECRET
from gateway_stack import COMPLIANT, LLAMA, Stack, limits, stack

from sextant.spec.snapshot import Quirks

Script = Callable[[Exchange], Awaitable[None]]
QUIRKS = pytest.mark.parametrize("quirks", [COMPLIANT, LLAMA], ids=["relayed", "rewritten"])


def assert_nothing_is_left(s: Stack) -> None:
    assert s.app.requests_in_progress == 0
    assert s.governor.open == 0
    assert b"sextant_gateway_requests_in_progress 0.0" in s.registry.exposition()
    assert all(engine.working == 0 for engine in s.engines)


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return error


async def refused(exchange: Exchange) -> None:
    exchange.reset()


async def closes_before_head(exchange: Exchange) -> None:
    exchange.cut()


async def half_a_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-len")
    exchange.cut()


async def garbage_head(exchange: Exchange) -> None:
    await exchange.send(b"\x16\x03\x01\x02\x00 not http\r\n\r\n")


async def truncated_body(exchange: Exchange) -> None:
    await exchange.send(
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + json.dumps(whole()).encode()[:99]
    )
    exchange.cut()


async def truncated_chunk(exchange: Exchange) -> None:
    await exchange.begin(kind="application/json")
    await exchange.send(b"ff\r\n{")
    exchange.cut()


async def reset_in_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    exchange.reset()


async def html(exchange: Exchange) -> None:
    await exchange.whole(b"<html>busy</html>")


async def not_utf8(exchange: Exchange) -> None:
    await exchange.whole(json.dumps(whole("X")).encode().replace(b'"X"', b'"\xff"'))


async def another_object(exchange: Exchange) -> None:
    await exchange.whole({"object": "list"})


async def no_choices(exchange: Exchange) -> None:
    await exchange.whole({**whole(), "choices": []})


async def choices_of_nothing(exchange: Exchange) -> None:
    await exchange.whole({**whole(), "choices": [None]})


async def an_error_with_200(exchange: Exchange) -> None:
    await exchange.whole({"error": {"message": "out of memory"}})


async def status_500(exchange: Exchange) -> None:
    await exchange.whole({"error": {"message": "secret stack trace"}}, 500)


async def status_204(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 204 X\r\n\r\n")


async def status_302(exchange: Exchange) -> None:
    await exchange.whole(b"", 302, "location: http://elsewhere/")


DEATHS = [
    refused,
    closes_before_head,
    half_a_head,
    garbage_head,
    truncated_body,
    truncated_chunk,
    reset_in_body,
    html,
    not_utf8,
    another_object,
    no_choices,
    choices_of_nothing,
    an_error_with_200,
    status_500,
    status_204,
    status_302,
]


@QUIRKS
@pytest.mark.parametrize("script", DEATHS, ids=lambda script: script.__name__)
async def test_a_dead_engine_is_a_clean_500(script: Script, quirks: Quirks) -> None:
    async with stack(FakeEngine(script), quirks=quirks) as s:
        response = await s.chat()
        assert response.status_code == 500, response.text
        error = error_of(response)
        assert error["type"] == "server_error"
        assert "secret" not in error["message"]
        await asyncio.sleep(0)
        assert_nothing_is_left(s)
        assert [outcome.result for _, outcome in s.governor.rows] in ([], ["engine_error"])
        assert all(outcome.usage.output_tokens == 0 for _, outcome in s.governor.rows)


async def test_nobody_listens() -> None:
    async with stack(FakeEngine()) as s:
        await s.engine.stop()
        response = await s.chat()
        assert response.status_code == 503
        assert error_of(response)["type"] == "service_unavailable_error"
        assert int(response.headers["retry-after"]) >= 1
        assert s.governor.rows == []
        assert len(s.governor.refunds) == 1
        assert_nothing_is_left(s)


@pytest.mark.parametrize(
    ("status", "body", "expected", "code", "kept"),
    [
        (400, {"error": {"message": "bad grammar", "code": "bad_grammar"}}, 400, "bad_grammar", True),
        (400, {"error": {"code": 400, "message": "no such role", "type": "invalid_request_error"}}, 400,
         "invalid_request_error", True),
        (400, {"error": {"code": 400, "type": "exceed_context_size_error",
                         "message": "request (9 tokens) exceeds the available context size"}}, 400,
         "context_length_exceeded", True),
        (400, {"object": "error", "message": "plain"}, 400, "invalid_request", True),
        (400, b"<html>", 400, "invalid_request", False),
        (413, {"error": "too long"}, 413, "body_too_large", True),
        (422, {"detail": "no such thing"}, 422, "unsupported", True),
        (501, {"error": {"message": "no such feature", "type": "not_supported_error"}}, 422,
         "not_supported_error", True),
        (401, {"error": {"message": "bad key sk-engine"}}, 500, "engine_credential", False),
        (403, {"error": {"message": "bad key sk-engine"}}, 500, "engine_credential", False),
        (404, {"error": {"message": "no such path"}}, 500, "engine_error", False),
        (429, {"error": {"message": "slow down"}}, 503, "engine_overloaded", False),
        (503, {"error": {"message": "Loading model"}}, 503, "engine_overloaded", False),
        (500, b"\xff", 500, "engine_error", False),
    ],
)  # fmt: skip
async def test_an_engine_s_refusal_is_mapped(
    status: int, body: Any, expected: int, code: str, kept: bool
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole(body, status, "retry-after: 7")

    async with stack(FakeEngine(script)) as s:
        for stream in (False, True):
            response = await s.chat(stream=stream)
            assert response.status_code == expected
            error = error_of(response)
            assert error["code"] == code
            said = body if isinstance(body, dict) else {}
            message = said.get("message") or said.get("detail") or said.get("error", "")
            message = message["message"] if isinstance(message, dict) else message
            assert (bool(message) and message in error["message"]) == kept
            assert (response.headers.get("retry-after") == "7") == (expected == 503)
        assert len(s.governor.refunds) == 2
        assert s.governor.rows == []
        assert_nothing_is_left(s)


async def hangs_before_head(exchange: Exchange) -> None:
    await asyncio.Event().wait()


async def hangs_in_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    await asyncio.Event().wait()


async def hangs_in_stream(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    await asyncio.Event().wait()


SOON = limits(upstream_first_byte_timeout_s=0.2, upstream_idle_timeout_s=0.2)


@pytest.mark.parametrize("script", [hangs_before_head, hangs_in_body], ids=lambda script: script.__name__)
async def test_a_hanging_engine_is_given_up_in_time(script: Script) -> None:
    async with stack(FakeEngine(script), limits=SOON) as s:
        response = await s.chat()
        assert response.status_code == 500
        assert error_of(response)["code"] == "engine_timeout"
        await asyncio.wait_for(s.engine.exchanges[0].gone(), 2)
        assert_nothing_is_left(s)


# streams that end badly after they began


async def resets_midway(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    exchange.reset()


async def cuts_midway(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    exchange.cut()


async def cuts_in_an_event(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    await exchange.piece(b'data: {"id":"x","cho')
    exchange.cut()


async def ends_without_a_finish(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    await exchange.finish()


async def ends_in_an_event(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    await exchange.event(chunk(finish="stop"))
    await exchange.piece(b'data: {"id"')
    await exchange.finish()


async def says_done_too_early(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    await exchange.event(b"[DONE]")
    await exchange.finish()


async def sends_an_error_event(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    await exchange.event({"error": {"message": "out of memory", "code": 500}})
    await exchange.event(b"[DONE]")
    await exchange.finish()


async def sends_html(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    await exchange.event(b"<html>")
    await asyncio.Event().wait()


async def sends_an_array(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    await exchange.event(b"[1]")
    await asyncio.Event().wait()


async def sends_an_endless_event(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(chunk("Hel"))
    while True:
        await exchange.piece(b"x" * 5000)


MIDWAY = [
    resets_midway,
    cuts_midway,
    cuts_in_an_event,
    ends_without_a_finish,
    ends_in_an_event,
    says_done_too_early,
    sends_an_error_event,
    sends_html,
    sends_an_array,
    sends_an_endless_event,
    hangs_in_stream,
]
STREAM_LIMITS = limits(upstream_idle_timeout_s=0.3, upstream_event_bytes=50_000)


@QUIRKS
@pytest.mark.parametrize("script", MIDWAY, ids=lambda script: script.__name__)
async def test_a_stream_that_breaks_ends_in_an_error_event(script: Script, quirks: Quirks) -> None:
    async with stack(FakeEngine(script), quirks=quirks, limits=STREAM_LIMITS) as s:
        response = await s.chat(stream=True)
        assert response.status_code == 200
        blocks = response.text.removesuffix("\n\n").split("\n\n")
        assert json.loads(blocks[0][6:])["choices"][0]["delta"]["content"] == "Hel"
        assert set(json.loads(blocks[-1][6:])["error"]) == {"message", "type", "param", "code"}
        assert "[DONE]" not in response.text
        ((_, outcome),) = s.governor.rows
        assert outcome.result == "engine_error"
        assert (outcome.usage.output_tokens, outcome.usage.estimated) == (1, True)
        await asyncio.wait_for(s.engine.idle.wait(), 2)
        assert_nothing_is_left(s)


async def test_broken_chunked_framing_midway_is_an_error_event() -> None:
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.event(chunk("Hel"))
        await arrived.wait()
        await exchange.send(b"zz\r\nhello\r\n")
        await asyncio.Event().wait()

    async with stack(FakeEngine(script)) as s, s.chat_stream() as response:
        pieces = response.aiter_bytes()
        assert b"Hel" in await anext(pieces)
        arrived.set()
        assert b'"error":' in b"".join([piece async for piece in pieces])
        await asyncio.wait_for(s.engine.exchanges[0].gone(), 2)
        assert [outcome.result for _, outcome in s.governor.rows] == ["engine_error"]


async def test_the_openai_client_raises_on_an_error_event() -> None:
    async with stack(FakeEngine(cuts_midway)) as s:
        client = openai.AsyncOpenAI(api_key=SECRET, base_url=s.url + "/v1", max_retries=0)
        stream = await client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
        await client.close()


@QUIRKS
async def test_an_error_before_the_first_event_keeps_its_status(quirks: Quirks) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.event({"error": {"message": "no slot"}})
        await exchange.finish()

    async with stack(FakeEngine(script), quirks=quirks) as s:
        response = await s.chat(stream=True)
        assert response.status_code == 500
        assert "no slot" in error_of(response)["message"]
        assert_nothing_is_left(s)


@QUIRKS
async def test_an_engine_cut_at_every_byte_never_looks_complete(quirks: Quirks) -> None:
    """Whatever prefix of its answer an engine manages to send, the client sees an error or all of it."""
    events = [*HELLO, b"[DONE]"]
    wire = b"".join(
        b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in events
    )
    stop = 0

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        if stop:
            await exchange.piece(wire[:stop])
        exchange.cut()

    async with stack(FakeEngine(script), quirks=quirks) as s:
        for stop in range(0, len(wire), 13):
            response = await s.chat(stream=True)
            complete = b"[DONE]\n\n" in wire[:stop]
            assert response.text.endswith("data: [DONE]\n\n") == complete, stop
            if not complete:
                assert '"error":' in response.text
        assert s.governor.open == 0
        assert s.app.requests_in_progress == 0


# more than one upstream


async def test_another_upstream_is_tried_before_the_first_byte() -> None:
    async def good(exchange: Exchange) -> None:
        await exchange.whole(whole())

    for bad in (refused, closes_before_head, garbage_head, status_500):
        async with stack(FakeEngine(bad), FakeEngine(good)) as s:
            for _ in range(8):
                assert (await s.chat()).status_code == 200
            assert [outcome.result for _, outcome in s.governor.rows] == ["ok"] * 8
            # the first failure puts it behind the other one
            assert len(s.engines[0].exchanges) <= 2
            assert_nothing_is_left(s)


async def test_no_other_upstream_is_tried_after_the_first_byte() -> None:
    async with stack(FakeEngine(cuts_midway), FakeEngine(cuts_midway)) as s:
        response = await s.chat(stream=True)
        assert '"error":' in response.text
        assert sum(len(engine.exchanges) for engine in s.engines) == 1


async def test_a_caller_s_mistake_is_not_tried_elsewhere() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole({"error": {"message": "bad"}}, 400)

    async with stack(FakeEngine(script), FakeEngine(script)) as s:
        assert (await s.chat()).status_code == 400
        assert sum(len(engine.exchanges) for engine in s.engines) == 1


async def test_all_upstreams_down_is_503_with_what_the_last_one_did() -> None:
    async with stack(FakeEngine(), FakeEngine()) as s:
        for engine in s.engines:
            await engine.stop()
        response = await s.chat(stream=True)
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert_nothing_is_left(s)


async def test_a_usage_that_never_comes_is_estimated_and_said_to_be() -> None:
    events = [chunk("Hel"), chunk("lo"), chunk(finish="length")]

    async def script(exchange: Exchange) -> None:
        await exchange.stream(events)

    async with stack(FakeEngine(script)) as s:
        response = await s.chat(stream=True, stream_options={"include_usage": True})
        final = json.loads(response.text.split("\n\n")[-3][6:])
        assert final["choices"] == []
        assert final["id"] == "chatcmpl-e1"
        assert final["usage"]["completion_tokens"] == 2
        ((_, outcome),) = s.governor.rows
        assert outcome.usage.estimated
        assert (outcome.result, outcome.usage.output_tokens) == ("ok", 2)


async def test_an_end_without_done_is_an_end_when_every_choice_is_finished() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for event in (chunk("Hello"), chunk(finish="stop"), usage_chunk()):
            await exchange.event(event)
        await exchange.finish()

    async with stack(FakeEngine(script)) as s:
        response = await s.chat(stream=True)
        assert response.text.endswith("data: [DONE]\n\n")
        ((_, outcome),) = s.governor.rows
        assert (outcome.result, outcome.usage.input_tokens) == ("ok", 11)
