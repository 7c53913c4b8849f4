"""Chat completions end to end: the real transport, a compliant engine, strict client types."""

from __future__ import annotations

import json
from typing import Any

import openai
from fake_engine import HELLO, Exchange, FakeEngine, whole
from fake_governor import SECRET
from gateway_stack import stack
from openai.types.chat import ChatCompletion, ChatCompletionChunk


async def answer_hello(exchange: Exchange) -> None:
    if exchange.body.get("stream"):
        await exchange.stream(HELLO)
    else:
        await exchange.whole(whole())


def events_of(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_whole_answer() -> None:
    async with stack(FakeEngine(answer_hello)) as s:
        response = await s.chat()
        assert response.status_code == 200, response.text
        answer = response.json()
        ChatCompletion.model_validate(answer, strict=True)
        assert answer["choices"][0]["message"] == {
            "role": "assistant",
            "content": "Hello there",
            "refusal": None,
        }
        assert answer["usage"] == {
            "prompt_tokens": 11,
            "completion_tokens": 3,
            "total_tokens": 14,
            "prompt_cache_hit_tokens": 0,
            "prompt_cache_miss_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        assert response.headers["x-request-id"].startswith("req_")
        ((claim, outcome),) = s.governor.rows
        assert claim.request_id == response.headers["x-request-id"]
        assert (outcome.result, outcome.usage.input_tokens, outcome.usage.output_tokens) == ("ok", 11, 3)
        assert s.governor.open == 0


async def test_stream_without_usage_asked() -> None:
    async with stack(FakeEngine(answer_hello)) as s:
        response = await s.chat(stream=True)
        events = events_of(response.text)
        assert events[-1] == "[DONE]"
        assert [e["choices"][0]["delta"].get("content") for e in events[:-1]] == ["", "Hel", "lo", None]
        for event in events[:-1]:
            ChatCompletionChunk.model_validate(event, strict=True)
            assert event["choices"]
        assert s.engine.exchanges[0].body["stream_options"] == {"include_usage": True}
        ((_, outcome),) = s.governor.rows
        assert (outcome.usage.input_tokens, outcome.usage.output_tokens, outcome.usage.estimated) == (
            11,
            3,
            False,
        )


async def test_stream_with_usage_asked() -> None:
    async with stack(FakeEngine(answer_hello)) as s:
        events = events_of((await s.chat(stream=True, stream_options={"include_usage": True})).text)
        assert events[-1] == "[DONE]"
        final = events[-2]
        ChatCompletionChunk.model_validate(final, strict=True)
        assert final["choices"] == []
        assert final["usage"]["prompt_cache_miss_tokens"] == 11
        assert sum(1 for e in events[:-1] if e["usage"]) == 1


async def test_the_openai_client_works_unchanged() -> None:
    async with stack(FakeEngine(answer_hello)) as s:
        client = openai.AsyncOpenAI(api_key=SECRET, base_url=s.url + "/v1", max_retries=0)
        answer = await client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.choices[0].message.content == "Hello there"
        stream = await client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
        assert text == "Hello"
        await client.close()
