"""A compliant engine's answers are relayed as the bytes they came in; only what differs is spliced."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_engine import HELLO, USAGE, Exchange, FakeEngine, chunk, usage_chunk, whole
from gateway_stack import stack
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from strictness import read_events, read_strictly

DEEPSEEK_USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 4},
    "prompt_cache_hit_tokens": 16,
    "prompt_cache_miss_tokens": 4,
}


async def relayed(body: bytes, **fields: Any) -> tuple[bytes, Any]:
    """What becomes of an engine's whole answer, and the usage that was settled."""

    async def script(exchange: Exchange) -> None:
        await exchange.whole(body)

    async with stack(FakeEngine(script)) as s:
        response = await s.chat(**fields)
        assert response.status_code == 200, response.text
        ((_, outcome),) = s.governor.rows
        return response.content, outcome.usage


async def streamed(events: list[Any], **fields: Any) -> tuple[bytes, Any]:
    async def script(exchange: Exchange) -> None:
        await exchange.stream(events)

    async with stack(FakeEngine(script)) as s:
        response = await s.chat(stream=True, **fields)
        ((_, outcome),) = s.governor.rows
        return response.content, outcome.usage


async def test_a_complete_answer_is_untouched() -> None:
    odd = (
        b'{ "unknown":{"model":1}, ' + json.dumps(whole('é\u2028 \\ " 😀', usage=DEEPSEEK_USAGE)).encode()[1:]
    )
    body, usage = await relayed(odd)
    assert body == odd
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens) == (
        20,
        9,
        16,
        4,
    )


async def test_only_the_usage_changes_where_deepseek_s_fields_are_missing() -> None:
    engine = json.dumps(whole('a "usage":{"prompt_tokens":11} trap')).encode()
    body, _ = await relayed(engine)
    answer = json.loads(body)
    assert {**answer, "usage": USAGE} == json.loads(engine)
    assert answer["usage"]["prompt_cache_miss_tokens"] == 11
    read_strictly(ChatCompletion, body)


async def test_what_else_the_engine_counts_is_kept() -> None:
    counted = {**USAGE, "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 1}, "cost": 7}
    body, usage = await relayed(json.dumps(whole(usage=counted)).encode())
    answer = json.loads(body)["usage"]
    assert answer["prompt_tokens_details"] == {"cached_tokens": 3, "audio_tokens": 1}
    assert (answer["prompt_cache_hit_tokens"], answer["prompt_cache_miss_tokens"]) == (3, 8)
    assert answer["cost"] == 7
    assert usage.cached_tokens == 3


async def test_a_usage_that_contradicts_itself_is_bounded() -> None:
    counted = {
        **DEEPSEEK_USAGE,
        "prompt_cache_hit_tokens": 99,
        "completion_tokens_details": {"reasoning_tokens": 99},
    }
    _, usage = await relayed(json.dumps(whole(usage=counted)).encode())
    assert (usage.cached_tokens, usage.reasoning_tokens) == (20, 9)


@pytest.mark.parametrize(
    "usage", [{**USAGE, "prompt_tokens": -1}, {**USAGE, "completion_tokens": "3"}, [1], "x"]
)
async def test_a_usage_that_is_none_is_garbage(usage: Any) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole(whole(usage=usage))

    async with stack(FakeEngine(script)) as s:
        response = await s.chat()
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "engine_garbage"


@pytest.mark.parametrize("usage", [None, ...])
async def test_a_missing_usage_is_estimated(usage: Any) -> None:
    engine = whole("x" * 40)
    engine["usage"] = usage
    if usage is ...:
        del engine["usage"]
    body, settled = await relayed(json.dumps(engine).encode())
    assert settled.estimated
    assert settled.output_tokens == 10
    assert json.loads(body)["usage"]["completion_tokens"] == 10


async def test_the_share_of_reasoning_beside_a_tool_call_is_of_what_the_model_wrote() -> None:
    """Its name and arguments; not the id and the braces, which are no tokens of the model."""
    function = {"name": "look", "arguments": '{"a":1}'}
    engine = whole(
        "",
        reasoning_content="x" * 11,
        tool_calls=[{"id": "call_" + "0" * 32, "type": "function", "function": function}],
        usage={**USAGE, "completion_tokens": 22},
    )
    body, usage = await relayed(json.dumps(engine).encode())
    assert usage.reasoning_tokens == 11
    assert json.loads(body)["usage"]["completion_tokens_details"]["reasoning_tokens"] == 11


async def test_an_engine_that_thinks_and_does_not_count_it() -> None:
    engine = whole("y" * 30, reasoning_content="x" * 10, usage={**USAGE, "completion_tokens": 8})
    body, usage = await relayed(json.dumps(engine).encode())
    details = json.loads(body)["usage"]["completion_tokens_details"]
    assert details == {"reasoning_tokens": 2, "reasoning_tokens_estimated": True}
    assert (usage.reasoning_tokens, usage.reasoning_estimated, usage.estimated) == (2, True, False)
    thought = [
        chunk(delta={"reasoning_content": "hm"}),
        chunk("a"),
        chunk("b"),
        chunk("c"),
        chunk(finish="stop"),
    ]
    answer, usage = await streamed(
        [*thought, usage_chunk(**{**USAGE, "completion_tokens": 8})], stream_options={"include_usage": True}
    )
    details = json.loads(read_events(answer)[-2][1])["usage"]["completion_tokens_details"]
    assert details == {"reasoning_tokens": 2, "reasoning_tokens_estimated": True}
    assert usage.reasoning_tokens == 2


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
async def test_the_engine_s_name_for_the_model_is_replaced_in_place(separators: tuple[str, str]) -> None:
    engine = json.dumps(
        {**whole('say "model":"nano"', usage=DEEPSEEK_USAGE), "model": "x/y"}, separators=separators
    )
    body, _ = await relayed(engine.encode())
    assert body.decode() == engine.replace('"x/y"', '"nano"')


async def test_stream_events_are_the_engine_s_own_bytes() -> None:
    events = [*HELLO[:-1], usage_chunk(**DEEPSEEK_USAGE)]
    wire = [json.dumps(event, separators=(",", ":")) for event in events]
    body, usage = await streamed(events)
    assert body.decode() == "".join(f"data: {event}\n\n" for event in [*wire[:-1], "[DONE]"])
    body, _ = await streamed(events, stream_options={"include_usage": True})
    assert body.decode() == "".join(f"data: {event}\n\n" for event in [*wire, "[DONE]"])
    assert usage.cached_tokens == 16
    for _, data in read_events(body)[:-1]:
        read_strictly(ChatCompletionChunk, data)


async def test_usage_on_the_last_choice_is_counted_and_passed_on() -> None:
    """DeepSeek's own endpoint did this before it knew stream_options."""
    events = [chunk("Hi"), chunk("", finish="stop", usage=DEEPSEEK_USAGE)]
    body, usage = await streamed(events)
    assert len(read_events(body)) == 3
    assert (usage.output_tokens, usage.estimated) == (9, False)
    body, _ = await streamed(events, stream_options={"include_usage": True})
    final = json.loads(read_events(body)[-2][1])
    assert (final["choices"], final["usage"]["completion_tokens"]) == ([], 9)


async def test_continuous_usage_counts_the_last() -> None:
    events = [
        chunk("a", usage={**USAGE, "completion_tokens": 1}),
        chunk("b", usage={**USAGE, "completion_tokens": 2}),
        chunk(finish="stop"),
        usage_chunk(**{**USAGE, "completion_tokens": 3}),
    ]
    _, usage = await streamed(events)
    assert usage.output_tokens == 3


async def test_comments_and_foreign_events_of_the_engine_are_not_passed_on() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(b": ping\n\nevent: hello\n\n")
        for event in HELLO:
            await exchange.event(event)
        await exchange.event(b"[DONE]")
        await exchange.event(chunk("after the end"))
        await exchange.finish()

    async with stack(FakeEngine(script)) as s:
        response = await s.chat(stream=True)
        assert "ping" not in response.text
        assert "hello" not in response.text
        assert response.text.endswith("data: [DONE]\n\n")
        assert "after" not in response.text


async def test_connections_to_the_engine_are_used_again() -> None:
    async def script(exchange: Exchange) -> None:
        await (exchange.stream(HELLO) if exchange.body.get("stream") else exchange.whole(whole()))

    async with stack(FakeEngine(script)) as s:
        for number in range(20):
            assert (await s.chat(stream=number % 2 == 0)).status_code == 200
        assert len(s.engine.closed) <= 3
