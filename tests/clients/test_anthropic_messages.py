"""The `anthropic` client, unchanged, on the Messages API."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import pydantic
import pytest
from anthropic.types import Message, RawMessageStreamEvent

from stack import MODEL, RunningStack
from strictness import members_by_type, read_events, read_strictly

pytestmark = pytest.mark.slow

EVENT_TYPES = members_by_type(RawMessageStreamEvent)
SUM: list[Any] = [{"role": "user", "content": "What is 123 + 456?"}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL: Any = {
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
EXACT: dict[str, Any] = {"temperature": 0}
"""The client no longer has sampling parameters of its own, so they go in the extra body."""


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_whole(anthropic_client: anthropic.Anthropic) -> None:
    raw = anthropic_client.messages.with_raw_response.create(
        model=MODEL, max_tokens=200, messages=SUM, extra_body=EXACT
    )
    message = read_strictly(Message, raw.http_response.content)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert "579" in message.content[1].text
    assert message.content[0].signature
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 0
    assert message.usage.output_tokens > 0
    assert message.id == raw.headers["request-id"].replace("req_", "msg_")


@pytest.mark.parametrize("path", ["/v1/messages", "/anthropic/v1/messages"])
def test_stream(http: httpx.Client, path: str) -> None:
    body = {"model": MODEL, "max_tokens": 200, "messages": SUM, "temperature": 0, "stream": True}
    events = []
    for name, data in read_events(http.post(path, json=body).content):
        assert name is not None
        event = read_strictly(EVENT_TYPES[name], data)
        assert event.type == name
        events.append(event)
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2
    assert events[-2].delta.stop_reason == "end_turn"
    assert events[-2].usage.output_tokens > 0


def test_the_clients_own_stream(anthropic_client: anthropic.Anthropic) -> None:
    whole = anthropic_client.messages.create(model=MODEL, max_tokens=200, messages=SUM, extra_body=EXACT)
    with anthropic_client.messages.stream(
        model=MODEL, max_tokens=200, messages=SUM, extra_body=EXACT
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[1].type == "text"
    assert text == whole.content[1].text
    assert final.content[0].type == whole.content[0].type == "thinking"
    assert final.content[0].thinking == whole.content[0].thinking
    assert final.usage.output_tokens == whole.usage.output_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_the_turn_with_their_result(anthropic_client: anthropic.Anthropic, stream: bool) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 200,
        "messages": WEATHER,
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
        "extra_body": EXACT,
    }
    if stream:
        with anthropic_client.messages.stream(**asked) as events:
            message: Any = events.get_final_message()
    else:
        message = anthropic_client.messages.create(**asked)
    assert message.stop_reason == "tool_use"
    (use,) = [block for block in message.content if block.type == "tool_use"]
    assert use.name == "get_weather"
    assert set(use.input) == {"city"}
    result = {"type": "tool_result", "tool_use_id": use.id, "content": '{"temperature": 21}'}
    after = anthropic_client.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=[*WEATHER, message.to_param(), {"role": "user", "content": [result]}],
        tools=[TOOL],
        extra_body=EXACT,
    )
    assert after.stop_reason == "end_turn"
    assert any(block.type == "text" and block.text for block in after.content)


def test_thinking(anthropic_client: anthropic.Anthropic) -> None:
    off = anthropic_client.messages.create(
        model=MODEL, max_tokens=200, messages=SUM, thinking={"type": "disabled"}, extra_body=EXACT
    )
    assert [block.type for block in off.content] == ["text"]
    on = anthropic_client.messages.create(
        model=MODEL,
        max_tokens=2000,
        messages=SUM,
        thinking={"type": "enabled", "budget_tokens": 1024},
        extra_body=EXACT,
    )
    assert [block.type for block in on.content] == ["thinking", "text"]
    quiet = anthropic_client.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=SUM,
        thinking={"type": "adaptive", "display": "omitted"},
        extra_body=EXACT,
    )
    assert quiet.content[0].type == "thinking"
    assert quiet.content[0].thinking == ""


def test_limits(anthropic_client: anthropic.Anthropic) -> None:
    cut = anthropic_client.messages.create(model=MODEL, max_tokens=3, messages=SUM, extra_body=EXACT)
    assert cut.stop_reason == "max_tokens"
    assert cut.usage.output_tokens == 3


def test_structured_output(anthropic_client: anthropic.Anthropic) -> None:
    parsed = anthropic_client.messages.parse(
        model=MODEL,
        max_tokens=200,
        messages=[{"role": "user", "content": "Anna is 31 years old. Give JSON."}],
        output_format=Person,
        extra_body=EXACT,
    )
    assert isinstance(parsed.parsed_output, Person)


def test_counting_tokens(anthropic_client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": SUM, "system": "Be brief.", "tools": [TOOL]}
    counted = anthropic_client.messages.count_tokens(**asked)
    message = anthropic_client.messages.create(max_tokens=2, **asked)
    assert message.usage.cache_read_input_tokens is not None
    assert counted.input_tokens == message.usage.input_tokens + message.usage.cache_read_input_tokens


def test_errors_are_the_clients_own(anthropic_client: anthropic.Anthropic) -> None:
    create = anthropic_client.messages.create
    with pytest.raises(anthropic.AuthenticationError) as denied:
        anthropic_client.with_options(api_key="sk-wrong").messages.create(
            model=MODEL, max_tokens=5, messages=SUM
        )
    assert denied.value.request_id
    with pytest.raises(anthropic.NotFoundError):
        create(model="no-such-model", max_tokens=5, messages=SUM)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        create(model=MODEL, max_tokens=-1, messages=SUM)
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        create(model=MODEL, max_tokens=5, messages=[])
    with pytest.raises(anthropic.BadRequestError, match="web_search"):
        create(
            model=MODEL,
            max_tokens=5,
            messages=SUM,
            tools=[{"type": "web_search_20260318", "name": "web_search"}],
        )
    image: Any = {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}}
    with pytest.raises(anthropic.UnprocessableEntityError, match="reads only text"):
        create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": [image]}])


async def test_the_async_client(anthropic_async: anthropic.AsyncAnthropic) -> None:
    async with anthropic_async.messages.stream(
        model=MODEL, max_tokens=200, messages=SUM, extra_body=EXACT
    ) as stream:
        text = "".join([piece async for piece in stream.text_stream])
    assert "579" in text


def test_the_bare_root_and_the_bearer_header_work_too(stack: RunningStack) -> None:
    with anthropic.Anthropic(base_url=stack.url, auth_token=stack.key, max_retries=0) as client:
        message = client.messages.create(model=MODEL, max_tokens=5, messages=SUM)
    assert message.role == "assistant"


def test_what_claude_code_sends(http: httpx.Client) -> None:
    """The form of Claude Code's requests: system blocks with cache marks, many beta fields, tool history."""
    mark = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": MODEL,
        "max_tokens": 300,
        "stream": True,
        "temperature": 1,
        "metadata": {"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s"})},
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.9.0; cch=00000;"},
            {"type": "text", "text": "You are Claude Code, a CLI.", **mark},
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>Be careful.</system-reminder>"},
                    {"type": "text", "text": "List the files.", **mark},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "I shall list them.", "signature": "x-0"},
                    {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "content": [{"type": "text", "text": "a.py\nb.py"}],
                        "is_error": False,
                        **mark,
                    }
                ],
            },
        ],
        "tools": [
            {
                "name": "Bash",
                "description": "Runs a command.",
                "input_schema": {
                    "$schema": "https://json-schema.org/draft/2020-12/schema",
                    "type": "object",
                    "properties": {"command": {"type": "string"}, "timeout": {"type": "number"}},
                    "required": ["command"],
                    "additionalProperties": False,
                },
                "eager_input_streaming": True,
            }
        ],
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
    }
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
    }
    answered = http.post("/anthropic/v1/messages?beta=true", json=body, headers=headers)
    assert answered.status_code == 200, answered.text
    events = read_events(answered.content)
    for name, data in events:
        assert name is not None
        read_strictly(EVENT_TYPES[name], data)
    assert events[-1][0] == "message_stop"
