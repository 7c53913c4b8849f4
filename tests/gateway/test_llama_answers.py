"""What llama.cpp really answered (`golden/llama_*.in.txt`, recorded from the pinned release with the bundled
model), and what the gateway makes of it: every published field, nothing else, in strict types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_engine import Exchange, FakeEngine
from gateway_stack import LLAMA, Stack, stack
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from strictness import read_events, read_strictly

GOLDEN = Path(__file__).parent / "golden"
ASKED: dict[str, dict[str, Any]] = {
    "chat_stream": {"logprobs": True, "top_logprobs": 2},
    "chat_whole": {"logprobs": True, "top_logprobs": 2},
    "choices_stream": {"n": 2},
    "choices_whole": {"n": 2},
    "tools_stream": {},
    "text_stream": {"prompt": "1+1=", "logprobs": 2},
    "text_whole": {"prompt": "1+1=", "logprobs": 2},
    "prefix_whole": {
        "messages": [
            {"role": "user", "content": "Reverse the word: stone"},
            {"role": "assistant", "content": "eno", "prefix": True},
        ]
    },
}


async def ask(s: Stack, case: str) -> bytes:
    """The gateway's answer to the request of `case`."""
    fields = {"model": "nano", **ASKED[case]}
    if case.endswith("stream"):
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    text = case.startswith("text")
    if not text:
        fields.setdefault("messages", [{"role": "user", "content": "x"}])
    response = await s.client.post("/v1/completions" if text else "/v1/chat/completions", json=fields)
    assert response.status_code == 200, response.text
    return response.content


def engine_of(case: str) -> FakeEngine:
    recorded = (GOLDEN / f"llama_{case}.in.txt").read_bytes()

    async def script(exchange: Exchange) -> None:
        if case.endswith("whole"):
            await exchange.whole(recorded)
            return
        await exchange.begin()
        for event in recorded.removesuffix(b"\n").split(b"\n\n"):
            if event:
                await exchange.piece(event + b"\n\n")
        await exchange.finish()

    return FakeEngine(script)


@pytest.mark.parametrize("case", ASKED)
async def test_golden_answers_in_the_clients_strict_types(case: str) -> None:
    async with stack(engine_of(case), quirks=LLAMA) as s:
        answer = await ask(s, case)
    assert answer == (GOLDEN / f"llama_{case}.out.txt").read_bytes()
    text = case.startswith("text")
    if case.endswith("whole"):
        whole = read_strictly(Completion if text else ChatCompletion, answer)
        assert whole.model == "nano"
        for choice in json.loads(answer)["choices"]:
            assert {"index", "finish_reason", "logprobs"} <= set(choice)
            assert text or {"role", "content", "refusal"} <= set(choice["message"])
        return
    events = [data for _, data in read_events(answer)]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    for chunk in chunks:
        if text:  # the published type of a text chunk is the whole completion's, without a finish reason
            chunk = {**chunk, "choices": [{**c, "finish_reason": "stop"} for c in chunk["choices"]]}
        read_strictly(Completion if text else ChatCompletionChunk, chunk)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert [chunk["usage"] is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["choices"] == []
    for chunk in chunks[:-1]:
        for choice in chunk["choices"]:
            assert {"index", "finish_reason", "logprobs"} <= set(choice)


async def test_the_first_delta_of_each_choice_has_the_role() -> None:
    async with stack(engine_of("choices_stream"), quirks=LLAMA) as s:
        answer = await ask(s, "choices_stream")
    chunks = [json.loads(data) for _, data in read_events(answer)[:-2]]
    deltas = [chunk["choices"][0] for chunk in chunks]
    for index in (0, 1):
        mine = [choice["delta"] for choice in deltas if choice["index"] == index]
        assert mine[0] == {"role": "assistant", "content": ""}
        assert all("role" not in delta for delta in mine[1:])


async def test_every_choice_is_counted_although_the_engine_counts_one_at_a_time() -> None:
    async with stack(engine_of("choices_stream"), quirks=LLAMA) as s:
        answer = await ask(s, "choices_stream")
        ((_, outcome),) = s.governor.rows
    recorded = (GOLDEN / "llama_choices_stream.in.txt").read_text()
    counts = [json.loads(line[6:])["usage"] for line in recorded.splitlines() if '"usage"' in line]
    total = sum(count["completion_tokens"] for count in counts)
    assert len(counts) == 2
    usage = json.loads(read_events(answer)[-2][1])["usage"]
    assert (usage["completion_tokens"], usage["prompt_tokens"]) == (total, counts[0]["prompt_tokens"])
    assert (outcome.usage.output_tokens, outcome.usage.estimated) == (total, False)
    async with stack(engine_of("choices_whole"), quirks=LLAMA) as s:
        await ask(s, "choices_whole")
        ((_, outcome),) = s.governor.rows
    first = json.loads((GOLDEN / "llama_choices_whole.in.txt").read_text())["usage"]["completion_tokens"]
    assert outcome.usage.output_tokens > first
    assert outcome.usage.estimated


async def test_reasoning_tokens_are_a_share_of_an_exact_total_and_said_to_be() -> None:
    for case in ("chat_stream", "chat_whole"):
        async with stack(engine_of(case), quirks=LLAMA) as s:
            answer = await ask(s, case)
            ((_, outcome),) = s.governor.rows
        body = answer if case == "chat_whole" else read_events(answer)[-2][1].encode()
        usage = json.loads(body)["usage"]
        details = usage["completion_tokens_details"]
        assert 0 < details["reasoning_tokens"] < usage["completion_tokens"]
        assert details["reasoning_tokens_estimated"] is True
        assert outcome.usage.reasoning_tokens == details["reasoning_tokens"]
        assert (outcome.usage.output_tokens, outcome.usage.estimated) == (usage["completion_tokens"], False)


async def test_logprobs_stand_beside_the_text_that_they_belong_to() -> None:
    async with stack(engine_of("chat_whole"), quirks=LLAMA) as s:
        choice = json.loads(await ask(s, "chat_whole"))["choices"][0]
    for part, text in (("content", "content"), ("reasoning_content", "reasoning_content")):
        entries = choice["logprobs"][part]
        assert "".join(entry["token"] for entry in entries) == choice["message"][text]
        assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
    async with stack(engine_of("chat_stream"), quirks=LLAMA) as s:
        events = read_events(await ask(s, "chat_stream"))
    for data in [json.loads(data) for _, data in events[:-2]]:
        delta, found = data["choices"][0]["delta"], data["choices"][0]["logprobs"]
        if delta.get("content"):
            assert "".join(entry["token"] for entry in found["content"]) == delta["content"]
        elif delta.get("reasoning_content"):
            assert found["content"] is None
            assert "".join(e["token"] for e in found["reasoning_content"]) == delta["reasoning_content"]
        else:
            assert found is None


async def test_logprobs_of_text_completions_are_columns() -> None:
    async with stack(engine_of("text_stream"), quirks=LLAMA) as s:
        events = read_events(await ask(s, "text_stream"))
    offset = 0
    for data in [json.loads(data) for _, data in events[:-2]]:
        choice = data["choices"][0]
        if choice["text"]:
            assert choice["logprobs"]["tokens"] == [choice["text"]]
            assert choice["logprobs"]["text_offset"] == [offset]
            assert len(choice["logprobs"]["top_logprobs"][0]) == 2
        offset += len(choice["text"])


async def test_no_alternatives_are_given_unasked() -> None:
    async with stack(engine_of("chat_whole"), quirks=LLAMA) as s:
        response = await s.chat(logprobs=True)
        assert s.engine.exchanges[0].body["top_logprobs"] == 1
    entries = response.json()["choices"][0]["logprobs"]["content"]
    assert entries
    assert all(entry["top_logprobs"] == [] for entry in entries)


async def test_a_prefix_is_not_repeated() -> None:
    async with stack(engine_of("prefix_whole"), quirks=LLAMA) as s:
        assert json.loads(await ask(s, "prefix_whole"))["choices"][0]["message"]["content"] == "s"


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"echo": True}, "echo"), ({"best_of": 2}, "best_of"), ({"prompt": ["a", "b"]}, "prompt")],
)
async def test_what_llama_ignores_is_refused(fields: dict[str, Any], field: str) -> None:
    async with stack(engine_of("text_whole"), quirks=LLAMA) as s:
        body = {"model": "nano", "prompt": "a", **fields}
        response = await s.client.post("/v1/completions", json=body)
        assert response.status_code == 422
        assert response.json()["error"]["param"] == field
        body = {"model": "nano", "prompt": ["a"], "echo": False, "best_of": 1}
        assert (await s.client.post("/v1/completions", json=body)).status_code == 200


async def test_tools_are_left_out_where_the_engine_shows_them_although_told_not_to() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    async with stack(engine_of("chat_whole"), quirks=LLAMA) as s:
        await s.chat(tools=[tool], tool_choice="none")
        await s.chat(tools=[tool], tool_choice="auto")
        assert "tools" not in s.engine.exchanges[0].body
        assert s.engine.exchanges[1].body["tools"] == [tool]
