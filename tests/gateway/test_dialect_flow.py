"""Responses, Messages, token counting and embeddings through the whole gateway, read by the clients
themselves, before an engine that also misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import openai
import pytest
from engine_answers import chunk, completion
from fake_engine import Exchange, FakeEngine
from fake_governor import SECRET
from gateway_stack import LLAMA, Stack, limits, stack
from openai.types.responses import Response, ResponseStreamEvent

from sextant.spec.snapshot import Capabilities
from strictness import members_by_type, read_events, read_strictly

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
HELLO = [
    chunk({"role": "assistant", "content": None}),
    chunk({"reasoning_content": "hm"}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo"}),
    chunk({}, "stop"),
    {**chunk({}), "choices": [], "usage": USAGE, "timings": {"prompt_n": 4}},
]
MESSAGE = [{"role": "user", "content": "Hi"}]


async def answer(exchange: Exchange) -> None:
    """llama.cpp's manners: an own field in every answer, no reasoning count."""
    if exchange.target.endswith("/input_tokens"):
        await exchange.whole({"object": "response.input_tokens", "input_tokens": 12})
    elif exchange.body.get("stream"):
        await exchange.stream(HELLO)
    else:
        whole = completion(reasoning="hm", text="Hello")
        await exchange.whole({**whole, "usage": USAGE, "timings": {"prompt_n": 4}})


async def break_off(exchange: Exchange) -> None:
    await exchange.begin()
    for event in HELLO[:3]:
        await exchange.event(event)
    exchange.reset()


async def refuse(exchange: Exchange) -> None:
    error = {"code": 400, "message": "the request exceeds the available context size", "type": "x"}
    await exchange.whole({"error": error}, 400)


async def fail(exchange: Exchange) -> None:
    await exchange.whole({"error": {"message": "boom"}}, 500)


Clients = tuple[Stack, openai.AsyncOpenAI, anthropic.AsyncAnthropic]


@pytest.fixture
async def clients(request: pytest.FixtureRequest) -> AsyncIterator[Clients]:
    script: Callable[..., Any] = getattr(request, "param", answer)
    async with (
        stack(FakeEngine(script), quirks=LLAMA) as s,
        openai.AsyncOpenAI(base_url=f"{s.url}/v1", api_key=SECRET, max_retries=0) as openai_client,
        anthropic.AsyncAnthropic(
            base_url=f"{s.url}/anthropic", api_key=SECRET, max_retries=0
        ) as anthropic_client,
    ):
        yield s, openai_client, anthropic_client


async def test_responses(clients: Clients) -> None:
    s, client, _ = clients
    response = await client.responses.create(model="nano", input="Hi")
    read_strictly(Response, response.model_dump_json(by_alias=True, exclude_unset=True))
    assert response.output_text == "Hello"
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (9, 4)
    async with client.responses.stream(model="nano", input="Hi") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == "Hello"
    assert [claim.endpoint for claim, _ in s.governor.rows] == ["responses", "responses"]
    assert [outcome.usage.cached_tokens for _, outcome in s.governor.rows] == [5, 5]


async def test_messages(clients: Clients) -> None:
    s, _, client = clients
    message = await client.messages.create(model="nano", max_tokens=9, messages=MESSAGE)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (4, 5)
    async with client.messages.stream(model="nano", max_tokens=9, messages=MESSAGE) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == "Hello"
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.usage.input_tokens == 4
    assert final.usage.output_tokens == 4
    assert final.stop_reason == "end_turn"
    assert [claim.endpoint for claim, _ in s.governor.rows] == ["messages", "messages"]


async def test_every_answer_of_messages_has_anthropics_request_id_header(clients: Clients) -> None:
    _, _, client = clients
    message = await client.messages.create(model="nano", max_tokens=9, messages=MESSAGE)
    assert message._request_id is not None
    assert message.id == message._request_id.replace("req_", "msg_")
    with pytest.raises(anthropic.NotFoundError) as caught:
        await client.messages.create(model="nobody", max_tokens=9, messages=MESSAGE)
    assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index]


async def test_token_counting_is_free_and_leaves_no_row(clients: Clients) -> None:
    s, _, client = clients
    counted = await client.messages.count_tokens(model="nano", messages=MESSAGE)
    assert counted.input_tokens == 12
    assert s.governor.rows == []
    assert s.governor.open == 0


async def test_errors_have_the_form_that_each_client_reads(clients: Clients) -> None:
    s, openai_client, anthropic_client = clients
    with pytest.raises(openai.NotFoundError):
        await openai_client.responses.create(model="nobody", input="Hi")
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_client.responses.create(model="nano", input="Hi", store=True)
    assert caught.value.param == "store"
    with pytest.raises(openai.AuthenticationError):
        await openai_client.with_options(api_key="sk-wrong").responses.create(model="nano", input="Hi")
    with pytest.raises(anthropic.AuthenticationError) as denied:
        await anthropic_client.with_options(api_key="sk-wrong").messages.create(
            model="nano", max_tokens=9, messages=MESSAGE
        )
    assert denied.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError) as wrong:
        await anthropic_client.messages.create(model="nano", max_tokens=0, messages=MESSAGE)
    assert "max_tokens" in wrong.value.message
    assert s.governor.rows == []
    assert s.governor.open == 0


@pytest.mark.parametrize("clients", [break_off], indirect=True)
async def test_an_engine_lost_midway_is_an_error_to_both_clients(clients: Clients) -> None:
    s, openai_client, anthropic_client = clients
    answered = await openai_client.responses.create(model="nano", input="Hi", stream=True)
    events = [event async for event in answered]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert events[-1].response.error.code == "server_error"
    with pytest.raises(anthropic.APIStatusError) as caught:
        async with anthropic_client.messages.stream(model="nano", max_tokens=9, messages=MESSAGE) as stream:
            async for _ in stream:
                pass
    assert caught.value.body["error"]["type"] == "api_error"  # type: ignore[index]
    assert [outcome.result for _, outcome in s.governor.rows] == ["engine_error", "engine_error"]


@pytest.mark.parametrize("clients", [refuse], indirect=True)
async def test_an_input_over_the_context_is_the_callers_error(clients: Clients) -> None:
    _, openai_client, anthropic_client = clients
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_client.responses.create(model="nano", input="Hi")
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "input"
    with pytest.raises(anthropic.BadRequestError):
        await anthropic_client.messages.create(model="nano", max_tokens=9, messages=MESSAGE)


@pytest.mark.parametrize("clients", [fail], indirect=True)
async def test_a_failing_engine_is_the_servers_error(clients: Clients) -> None:
    _, openai_client, anthropic_client = clients
    with pytest.raises(openai.InternalServerError):
        await openai_client.responses.create(model="nano", input="Hi", stream=True)
    with pytest.raises(anthropic.InternalServerError):
        await anthropic_client.messages.create(model="nano", max_tokens=9, messages=MESSAGE, stream=True)


async def test_signs_of_life_are_of_the_dialects_own_kind() -> None:
    gate = asyncio.Event()

    async def answer_late(exchange: Exchange) -> None:
        await gate.wait()
        await answer(exchange)

    async with stack(FakeEngine(answer_late), quirks=LLAMA, limits=limits(keepalive_after_s=0.05)) as s:
        body = {"model": "nano", "max_tokens": 9, "messages": MESSAGE, "stream": True}
        async with s.client.stream("POST", "/v1/messages", json=body) as response:
            pieces = response.aiter_bytes()
            first = await anext(pieces)
            gate.set()
            rest = b"".join([piece async for piece in pieces])
        assert first.startswith(b'event: ping\ndata: {"type":"ping"}\n\n')
        assert b"event: message_stop" in rest
        gate.clear()
        body = {"model": "nano", "input": "Hi", "stream": True}
        async with s.client.stream("POST", "/v1/responses", json=body) as response:
            pieces = response.aiter_bytes()
            first = await anext(pieces)
            gate.set()
            rest = b"".join([piece async for piece in pieces])
        assert first.startswith(b": keep-alive\n\n")
        kinds = members_by_type(ResponseStreamEvent)
        for name, data in read_events(first.removeprefix(b": keep-alive\n\n") + rest):
            assert name is not None
            read_strictly(kinds[name], data)


async def embed(exchange: Exchange) -> None:
    assert exchange.target.endswith("/embeddings")
    vectors = [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}]
    await exchange.whole(
        {"object": "list", "data": vectors, "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    )


async def test_embeddings_for_the_openai_client() -> None:
    able = Capabilities(embeddings=True)
    async with (
        stack(FakeEngine(embed), quirks=LLAMA, capabilities=able) as s,
        openai.AsyncOpenAI(base_url=f"{s.url}/v1", api_key=SECRET, max_retries=0) as client,
    ):
        # the client asks for base64 unless told otherwise
        answered = await client.embeddings.create(model="nano", input="Hi")
        assert answered.data[0].embedding == [0.5, -1.0]
        assert answered.usage.prompt_tokens == 2
        plain = await client.embeddings.create(model="nano", input="Hi", encoding_format="float")
        assert plain.data[0].embedding == [0.5, -1.0]
        assert json.loads(s.engine.exchanges[0].raw)["encoding_format"] == "float"
        ((claim, outcome), _) = s.governor.rows
        assert (claim.endpoint, outcome.usage.input_tokens) == ("embeddings", 2)
