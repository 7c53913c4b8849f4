"""Engines' recorded answers through the gateway with their quirks: every published field, in the clients'
strict types, and nothing that is the engine's own.

The recordings are `tests/engines/recorded/ENGINE/*.http`; the first line of each says where it comes from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_engine import Exchange, FakeEngine
from gateway_stack import Stack, stack
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sextant.engines.adapters import ADAPTERS
from strictness import read_events, read_strictly

RECORDED = Path(__file__).parents[1] / "engines" / "recorded"
ENGINES = ("vllm", "sglang", "llamacpp", "triton", "trtllm", "nim", "mindie")
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
ASK: dict[str, dict[str, Any]] = {"logprobs": {"logprobs": True, "top_logprobs": 2}}


class Recorded:
    """One recording: status, content type and body."""

    def __init__(self, engine: str, name: str) -> None:
        head, _, self.body = (RECORDED / engine / f"{name}.http").read_bytes().partition(b"\n\n")
        self.origin, *fields = head.decode().removeprefix("# ").split("\n# ")
        given = dict(field.split(":", 1) for field in fields)
        self.status = int(given["status"])
        self.kind = given["content-type"].strip()

    def engine(self) -> FakeEngine:
        """An engine that answers everything so."""

        async def script(exchange: Exchange) -> None:
            if not self.kind.startswith("text/event-stream"):
                await exchange.whole(self.body, self.status)
                return
            await exchange.begin()
            for event in self.body.split(b"\n\n")[:-1]:
                await exchange.piece(event + b"\n\n")
            await exchange.finish()

        return FakeEngine(script)


def recordings(*names: str) -> list[tuple[str, str]]:
    """(engine, name) for each of these that there is."""
    return [(e, n) for e in ENGINES for n in names if (RECORDED / e / f"{n}.http").exists()]


async def ask(engine: str, name: str) -> tuple[bytes, Any]:
    """The gateway's answer to the request that this recording answers, and what was metered."""
    adapter = ADAPTERS[engine]
    fields: dict[str, Any] = {"model": "nano", **ASK.get(name.removesuffix("_stream"), {})}
    if name.startswith("tools"):
        fields["tools"] = [TOOL]
    if name.endswith("_stream"):
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    text = name.startswith("text")
    fields |= {"prompt": "1+1="} if text else {"messages": [{"role": "user", "content": "x"}]}
    async with stack(Recorded(engine, name).engine(), quirks=adapter.quirks) as s:
        path = "/v1/completions" if text else "/v1/chat/completions"
        response = await s.client.post(path, json=fields)
        assert response.status_code == 200, response.text
        ((_, outcome),) = s.governor.rows
    return response.content, outcome.usage


def recorded_usage(engine: str, name: str) -> dict[str, Any]:
    """The engine's own count in a recording."""
    found = Recorded(engine, name)
    if not found.kind.startswith("text/event-stream"):
        return json.loads(found.body)["usage"]
    events = [json.loads(data) for _, data in read_events(found.body)[:-1]]
    return next(event["usage"] for event in reversed(events) if event.get("usage"))


@pytest.mark.parametrize(
    ("engine", "name"), recordings("chat", "reasoning", "tools", "logprobs"), ids=lambda value: value
)
async def test_whole_answers(engine: str, name: str) -> None:
    answer, usage = await ask(engine, name)
    read = read_strictly(ChatCompletion, answer)
    message = json.loads(answer)["choices"][0]["message"]
    assert read.model == "nano"
    counted = recorded_usage(engine, name)
    assert (usage.input_tokens, usage.output_tokens) == (
        counted["prompt_tokens"],
        counted["completion_tokens"],
    )
    assert not usage.estimated
    if name == "reasoning":
        assert message["reasoning_content"]
        assert 0 < usage.reasoning_tokens < usage.output_tokens
    if name == "tools":
        (call,) = message["tool_calls"]
        assert json.loads(call["function"]["arguments"])
        assert read.choices[0].finish_reason == "tool_calls"
    else:
        assert message["content"]
    if name == "logprobs":
        entries = json.loads(answer)["choices"][0]["logprobs"]["content"]
        assert entries
        assert all(len(entry["top_logprobs"]) == 2 for entry in entries)


@pytest.mark.parametrize(
    ("engine", "name"),
    recordings("chat_stream", "reasoning_stream", "tools_stream"),
    ids=lambda value: value,
)
async def test_streams(engine: str, name: str) -> None:
    answer, usage = await ask(engine, name)
    events = [data for _, data in read_events(answer)]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    for chunk in chunks:
        read_strictly(ChatCompletionChunk, chunk)
    counted = recorded_usage(engine, name)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == counted["completion_tokens"] == usage.output_tokens
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas[0]["role"] == "assistant"
    assert all("reasoning" not in delta for delta in deltas)
    if name == "reasoning_stream":
        assert "".join(delta.get("reasoning_content") or "" for delta in deltas)
        assert 0 < usage.reasoning_tokens < usage.output_tokens
    if name == "tools_stream":
        parts = [part for delta in deltas for part in delta.get("tool_calls") or ()]
        assert parts[0]["function"]["name"] == "get_weather"
        assert json.loads("".join(part["function"].get("arguments") or "" for part in parts))
        assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    else:
        assert "".join(delta.get("content") or "" for delta in deltas)
        assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize(("engine", "name"), recordings("text"), ids=lambda value: value)
async def test_text_completions(engine: str, name: str) -> None:
    answer, usage = await ask(engine, name)
    read = read_strictly(Completion, answer)
    assert read.choices[0].text
    assert usage.output_tokens == recorded_usage(engine, name)["completion_tokens"]


@pytest.mark.parametrize(
    ("engine", "name"),
    recordings("error_400", "error_401", "error_404", "error_503", "health_503", "error_too_long"),
    ids=lambda value: value,
)
async def test_errors_become_the_gateways_own(engine: str, name: str) -> None:
    recorded = Recorded(engine, name)
    async with stack(recorded.engine(), quirks=ADAPTERS[engine].quirks) as s:
        response = await s.chat()
        assert not s.governor.rows
    error = response.json()["error"]
    assert {"message", "type", "param", "code"} == set(error)
    expected = {400: 400, 401: 500, 404: 500, 503: 503}
    assert response.status_code == expected[recorded.status]
    if name == "error_400":  # the engine's reason reaches the caller
        assert len(error["message"]) > 20
        assert "no reason" not in error["message"]
    if name == "error_too_long":
        assert error["code"] == "context_length_exceeded"
    if recorded.status == 503:
        assert int(response.headers["retry-after"]) >= 0


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_engine_is_let_go_when_the_client_leaves(engine: str) -> None:
    recorded = Recorded(engine, "chat_stream")

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for event in recorded.body.split(b"\n\n")[:2]:
            await exchange.piece(event + b"\n\n")
        await exchange.gone()

    async with stack(FakeEngine(script), quirks=ADAPTERS[engine].quirks) as s:
        await leave_after_first_byte(s)
        await s.engine.idle.wait()
        assert s.engine.working == 0


async def leave_after_first_byte(s: Stack) -> None:
    async with s.chat_stream() as response:
        async for _ in response.aiter_bytes():
            return


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_turns_thinking_off_is_sent(engine: str) -> None:
    quirks = ADAPTERS[engine].quirks
    async with stack(Recorded(engine, "chat").engine(), quirks=quirks) as s:
        assert (await s.chat(thinking={"type": "disabled"})).status_code == 200
        sent = s.engine.exchanges[0].body
    assert sent.items() >= quirks.reasoning_off.items()
    assert all(name not in sent for name in quirks.drop_params)


def test_every_recording_says_where_it_comes_from() -> None:
    for file in RECORDED.glob("*/*.http"):
        origin = Recorded(file.parent.name, file.stem).origin
        assert origin.startswith(
            ("recorded from ", "composed after ", "written by ", "vLLM's own answer ")
        ), file
        assert origin.endswith("2026-11-22"), file
