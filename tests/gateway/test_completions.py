"""Text completions: what is refused, fill-in-the-middle, and answers in the client's strict types."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import openai
import pytest
from fake_engine import USAGE, Exchange, FakeEngine
from fake_governor import SECRET
from gateway_stack import COMPLIANT, LLAMA, stack
from openai.types import Completion

from sextant.spec.snapshot import Capabilities, Quirks
from strictness import read_events, read_strictly


def text(content: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "cmpl-e1",
        "object": "text_completion",
        "created": 1763763000,
        "model": "nano",
        "system_fingerprint": "fp_e",
        "choices": [{"index": 0, "text": content, "logprobs": None, "finish_reason": finish}],
        **more,
    }


async def answer(exchange: Exchange) -> None:
    if exchange.body.get("stream"):
        usage = text("", usage=USAGE) | {"choices": []}
        await exchange.stream([text("Hel"), text("lo"), text("", "stop"), usage])
    else:
        await exchange.whole(text("Hello", "stop", usage=USAGE))


@pytest.mark.parametrize("path", ["/completions", "/v1/completions", "/beta/completions"])
@pytest.mark.parametrize("quirks", [COMPLIANT, LLAMA], ids=["relayed", "rewritten"])
async def test_answers(path: str, quirks: Quirks) -> None:
    async with stack(FakeEngine(answer), quirks=quirks) as s:
        response = await s.client.post(path, json={"model": "nano", "prompt": "Say"})
        assert response.status_code == 200, response.text
        read_strictly(Completion, response.content)
        assert s.engine.exchanges[0].target == "/v1/completions"
        response = await s.client.post(
            path,
            json={
                "model": "nano",
                "prompt": "Say",
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        )
        events = [data for _, data in read_events(response.content)]
        assert events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
        assert "".join(c["text"] for chunk in chunks for c in chunk["choices"]) == "Hello"
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == 3
        assert [outcome.usage.output_tokens for _, outcome in s.governor.rows] == [3, 3]
        assert {claim.endpoint for claim, _ in s.governor.rows} == {"completions"}


async def test_the_openai_client() -> None:
    async with stack(FakeEngine(answer)) as s:
        client = openai.AsyncOpenAI(api_key=SECRET, base_url=s.url + "/beta", max_retries=0)
        got = await client.completions.create(model="nano", prompt="Say", max_tokens=5)
        assert got.choices[0].text == "Hello"
        stream = await client.completions.create(model="nano", prompt="Say", stream=True)
        assert "".join([c.choices[0].text async for c in stream]) == "Hello"
        await client.close()


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"prompt": ...}, 400, "prompt"),
    ({"prompt": ""}, 400, "prompt"),
    ({"prompt": []}, 400, "prompt"),
    ({"prompt": 5}, 400, "prompt"),
    ({"prompt": [[]]}, 400, "prompt[0]"),
    ({"prompt": [-1]}, 400, "prompt[0]"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": 2**32 + 1}, 400, "max_tokens"),
    ({"stop": ""}, 400, "stop"),
    ({"seed": 2**63}, 400, "seed"),
    ({"temperature": 3}, 400, "temperature"),
    ({"top_p": 2}, 400, "top_p"),
    ({"logprobs": 21}, 400, "logprobs"),
    ({"logprobs": True}, 400, "logprobs"),
    ({"stop": ["x"] * 17}, 400, "stop"),
    ({"best_of": 1, "n": 2}, 400, "best_of"),
    ({"best_of": 2, "stream": True}, 400, "best_of"),
    ({"stream_options": {}}, 400, "stream_options"),
    ({"suffix": "x"}, 422, "suffix"),
]


@pytest.mark.parametrize(("fields", "status", "field"), WRONG, ids=lambda value: str(value)[:40])
async def test_wrong_values(fields: dict[str, Any], status: int, field: str) -> None:
    async with stack(FakeEngine(answer)) as s:
        body = {"model": "nano", "prompt": "Say", **fields}
        body = {name: value for name, value in body.items() if value is not ...}
        response = await s.client.post("/v1/completions", json=body)
        assert response.status_code == status, response.text
        assert response.json()["error"]["param"] == field
        assert s.engine.exchanges == []


async def test_fill_in_the_middle_goes_to_an_engine_that_knows_suffix() -> None:
    able = Capabilities(fim=True)
    async with stack(FakeEngine(answer), capabilities=able) as s:
        body = {"model": "nano", "prompt": "def f(", "suffix": "return 1"}
        assert (await s.client.post("/beta/completions", json=body)).status_code == 200
        assert s.engine.exchanges[0].body == body
        for bad, field in (({"echo": True}, "echo"), ({"prompt": ["a"]}, "prompt")):
            response = await s.client.post("/beta/completions", json={**body, **bad})
            assert response.json()["error"]["param"] == field


async def test_fill_in_the_middle_is_spelled_out_for_an_engine_that_does_not() -> None:
    quirks = msgspec.structs.replace(LLAMA, fim_prompt="<pre>{prefix}<suf>{suffix}<mid>")
    async with stack(FakeEngine(answer), quirks=quirks, capabilities=Capabilities(fim=True)) as s:
        body = {"model": "nano", "prompt": "a{suffix}b", "suffix": "c{prefix}d", "top_k": 3}
        assert (await s.client.post("/beta/completions", json=body)).status_code == 200
        assert s.engine.exchanges[0].body == {
            "model": "nano",
            "prompt": "<pre>a{suffix}b<suf>c{prefix}d<mid>",
            "top_k": 3,
        }
        refused = await s.client.post(
            "/v1/completions", json={"model": "nano", "prompt": "a", "n_predict": 9}
        )
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n_predict")


async def test_a_model_that_only_chats() -> None:
    async with stack(FakeEngine(answer), capabilities=Capabilities(completions=False)) as s:
        response = await s.client.post("/v1/completions", json={"model": "nano", "prompt": "x"})
        assert response.status_code == 422
