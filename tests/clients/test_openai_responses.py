"""The `openai` client, unchanged, on the Responses API."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from stack import MODEL
from strictness import members_by_type, read_events, read_strictly

pytestmark = pytest.mark.slow

EVENT_TYPES = members_by_type(ResponseStreamEvent)
SUM = "What is 123 + 456?"
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_whole(openai_client: openai.OpenAI) -> None:
    raw = openai_client.responses.with_raw_response.create(model=MODEL, input=SUM, temperature=0)
    response = read_strictly(Response, raw.content)
    assert response.status == "completed"
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert "579" in response.output_text
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    assert response.id == raw.headers["x-request-id"].replace("req_", "resp_")


def test_stream(http: httpx.Client) -> None:
    body = {"model": MODEL, "input": SUM, "temperature": 0}
    answered = http.post("/v1/responses", json={**body, "stream": True})
    assert answered.headers["content-type"].startswith("text/event-stream")
    assert b"[DONE]" not in answered.content
    events = []
    for number, (name, data) in enumerate(read_events(answered.content)):
        assert name is not None
        event = read_strictly(EVENT_TYPES[name], data)
        assert event.type == name
        assert event.sequence_number == number
        events.append(event)
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    whole = Response.model_validate(http.post("/v1/responses", json=body).json())
    assert said == events[-1].response.output_text == whole.output_text
    assert whole.output[0].type == "reasoning"
    assert whole.output[0].content is not None
    assert thought == whole.output[0].content[0].text


def test_the_clients_own_stream(openai_client: openai.OpenAI) -> None:
    with openai_client.responses.stream(model=MODEL, input=SUM, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text
    assert "579" in final.output_text


@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_the_turn_with_their_result(openai_client: openai.OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "input": "What is the weather in Paris?",
        "tools": [TOOL],
        "tool_choice": "required",
        "temperature": 0,
    }
    if stream:
        with openai_client.responses.stream(**asked) as events:
            response: Any = events.get_final_response()
    else:
        response = openai_client.responses.create(**asked)
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert set(json.loads(call.arguments)) == {"city"}
    # the items go back as they came, as the client's documentation has it
    history: list[Any] = [{"role": "user", "content": asked["input"]}]
    history += [json.loads(item.model_dump_json(exclude={"parsed_arguments"})) for item in response.output]
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 21}'})
    after = openai_client.responses.create(model=MODEL, input=history, tools=[TOOL], temperature=0)
    assert after.status == "completed"
    assert after.output_text


def test_formats(openai_client: openai.OpenAI) -> None:
    asked = "Anna is 31 years old. Give JSON."
    plain = openai_client.responses.create(
        model=MODEL, input=asked, text={"format": {"type": "json_object"}}, temperature=0
    )
    assert isinstance(json.loads(plain.output_text), dict)
    parsed = openai_client.responses.parse(model=MODEL, input=asked, text_format=Person, temperature=0)
    assert isinstance(parsed.output_parsed, Person)


def test_effort_none_turns_thinking_off(openai_client: openai.OpenAI) -> None:
    response = openai_client.responses.create(
        model=MODEL, input=SUM, reasoning={"effort": "none"}, temperature=0
    )
    assert [item.type for item in response.output] == ["message"]


def test_the_limit_makes_it_incomplete(openai_client: openai.OpenAI) -> None:
    response = openai_client.responses.create(model=MODEL, input=SUM, max_output_tokens=3, temperature=0)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 3


def test_log_probabilities(openai_client: openai.OpenAI) -> None:
    raw = openai_client.responses.with_raw_response.create(
        model=MODEL,
        input=SUM,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        reasoning={"effort": "none"},
        temperature=0,
    )
    response = read_strictly(Response, raw.content)
    content = response.output[-1].content[0]
    assert "".join(entry.token for entry in content.logprobs) == content.text
    assert all(len(entry.top_logprobs) == 2 for entry in content.logprobs)


def test_a_conversation_is_sent_whole(openai_client: openai.OpenAI) -> None:
    first = openai_client.responses.create(model=MODEL, input=SUM, temperature=0)
    history: list[Any] = [{"role": "user", "content": SUM}]
    history += [json.loads(item.model_dump_json()) for item in first.output]
    history.append({"role": "user", "content": "What is 5 + 6?"})
    second = openai_client.responses.create(
        model=MODEL, input=history, instructions="Be brief.", temperature=0
    )
    assert "11" in second.output_text


@pytest.mark.parametrize(
    "wrong",
    [
        {"store": True},
        {"previous_response_id": "resp_x"},
        {"background": True},
        {"conversation": "conv_x"},
        {"tools": [{"type": "web_search"}]},
        {"temperature": 5},
        {"input": []},
        {"max_output_tokens": 0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_refused_by_name(openai_client: openai.OpenAI, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.responses.create(**{"model": MODEL, "input": SUM, **wrong})
    assert (caught.value.param or "").startswith(next(iter(wrong)))


async def test_the_async_client(openai_async: openai.AsyncOpenAI) -> None:
    stream = await openai_async.responses.create(model=MODEL, input=SUM, temperature=0, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "response.completed"
    assert "579" in events[-1].response.output_text


def test_what_codex_sends(http: httpx.Client) -> None:
    """The form of Codex's requests: items, developer message, encrypted reasoning asked for, cache key."""
    body = {
        "model": MODEL,
        "instructions": "You are Codex, a coding agent.",
        "input": [
            {
                "type": "message",
                "role": "developer",
                "content": [{"type": "input_text", "text": "<permissions>read-only</permissions>"}],
            },
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": SUM}]},
        ],
        "tools": [
            {
                "type": "function",
                "name": "shell",
                "description": "Runs a shell command.",
                "strict": False,
                "parameters": {
                    "type": "object",
                    "properties": {"command": {"type": "array", "items": {"type": "string"}}},
                    "required": ["command"],
                    "additionalProperties": False,
                },
            }
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53",
        "text": {"verbosity": "medium"},
        "client_metadata": {"x": "y"},
        "max_output_tokens": 200,
    }
    answered = http.post("/v1/responses", json=body)
    assert answered.status_code == 200, answered.text
    events = read_events(answered.content)
    for name, data in events:
        assert name is not None
        read_strictly(EVENT_TYPES[name], data)
    assert events[-1][0] in ("response.completed", "response.incomplete")
