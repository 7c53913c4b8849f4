"""The `openai` client, unchanged, on chat completions and what stands beside them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pydantic
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from stack import MODEL, RunningStack
from strictness import read_events, read_strictly

pytestmark = pytest.mark.slow

SUM: list[Any] = [{"role": "user", "content": "What is 123 + 456?"}]
GET_WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
FORM: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        },
    },
}


class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str
    age: int


def test_chat(openai_client: openai.OpenAI) -> None:
    raw = openai_client.chat.completions.with_raw_response.create(model=MODEL, messages=SUM, temperature=0)
    answer = read_strictly(ChatCompletion, raw.content)
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert "579" in choice.message.content
    assert choice.message.reasoning_content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    assert raw.headers["x-request-id"].startswith("req_")


def test_chat_stream(http: httpx.Client) -> None:
    body = {"model": MODEL, "messages": SUM, "temperature": 0, "stream": True}
    with_usage = {**body, "stream_options": {"include_usage": True}}
    plain = read_events(http.post("/v1/chat/completions", json=body).content)
    told = read_events(http.post("/v1/chat/completions", json=with_usage).content)
    for events in (plain, told):
        assert events[-1] == (None, "[DONE]")
        chunks = [read_strictly(ChatCompletionChunk, data) for _, data in events[:-1]]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert "579" in text
        assert len({chunk.id for chunk in chunks}) == 1
    final = json.loads(told[-2][1])
    assert final["choices"] == []
    assert final["usage"]["completion_tokens"] > 0
    assert all(json.loads(data)["usage"] is None for _, data in told[:-2])
    assert all(json.loads(data)["choices"] for _, data in plain[:-1])


def test_the_stream_says_what_the_whole_answer_says(openai_client: openai.OpenAI) -> None:
    whole = openai_client.chat.completions.create(model=MODEL, messages=SUM, temperature=0)
    with openai_client.chat.completions.stream(model=MODEL, messages=SUM, temperature=0) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.content == whole.choices[0].message.content
    assert streamed.choices[0].finish_reason == whole.choices[0].finish_reason


def test_thinking_can_be_turned_off(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model=MODEL, messages=SUM, temperature=0, extra_body={"thinking": {"type": "disabled"}}
    )
    assert not (answer.choices[0].message.model_extra or {}).get("reasoning_content")
    assert answer.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_the_turn_with_their_result(openai_client: openai.OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": WEATHER,
        "tools": [GET_WEATHER],
        "tool_choice": "required",
        "temperature": 0,
    }
    if stream:
        with openai_client.chat.completions.stream(**asked) as events:
            answer: ChatCompletion = events.get_final_completion()
    else:
        answer = openai_client.chat.completions.create(**asked)
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    call = calls[0]
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    turn = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
        ],
    }
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'}
    after = openai_client.chat.completions.create(
        model=MODEL, messages=[*WEATHER, turn, result], tools=[GET_WEATHER], temperature=0
    )
    assert after.choices[0].finish_reason == "stop"
    assert after.choices[0].message.content


def test_a_tool_chosen_by_name_is_the_one_called(openai_client: openai.OpenAI) -> None:
    other: Any = {"type": "function", "function": {**GET_WEATHER["function"], "name": "get_time"}}
    answer = openai_client.chat.completions.create(
        model=MODEL,
        messages=WEATHER,
        tools=[GET_WEATHER, other],
        tool_choice={"type": "function", "function": {"name": "get_time"}},
        temperature=0,
        max_tokens=300,
    )
    names = [
        call.function.name for call in answer.choices[0].message.tool_calls or () if call.type == "function"
    ]
    assert set(names) == {"get_time"}


def test_json_mode(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Give name Anna and age 31 as JSON."}],
        response_format={"type": "json_object"},
        temperature=0,
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


def test_json_schema_and_the_clients_own_parsing(openai_client: openai.OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "Anna is 31 years old. Give JSON."}]
    answer = openai_client.chat.completions.create(
        model=MODEL, messages=asked, response_format=FORM, temperature=0
    )
    Person.model_validate_json(answer.choices[0].message.content or "")
    parsed = openai_client.chat.completions.parse(
        model=MODEL, messages=asked, response_format=Person, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, Person)


def test_limits_and_stops(openai_client: openai.OpenAI) -> None:
    cut = openai_client.chat.completions.create(model=MODEL, messages=SUM, max_tokens=3, temperature=0)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 3
    newer = openai_client.chat.completions.create(
        model=MODEL, messages=SUM, max_completion_tokens=2, temperature=0
    )
    assert newer.usage is not None
    assert newer.usage.completion_tokens == 2


def test_two_choices(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(model=MODEL, messages=SUM, n=2, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_log_probabilities(openai_client: openai.OpenAI) -> None:
    raw = openai_client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=SUM,
        logprobs=True,
        top_logprobs=2,
        temperature=0,
        extra_body={"thinking": {"type": "disabled"}},
    )
    answer = read_strictly(ChatCompletion, raw.content)
    entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == answer.choices[0].message.content
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in entries)


def test_text_completions(openai_client: openai.OpenAI) -> None:
    raw = openai_client.completions.with_raw_response.create(
        model=MODEL, prompt="One two", max_tokens=4, temperature=0
    )
    answer = read_strictly(Completion, raw.content)
    assert answer.choices[0].text
    assert 1 <= answer.usage.completion_tokens <= 4


def test_models(openai_client: openai.OpenAI, http: httpx.Client) -> None:
    assert MODEL in [model.id for model in openai_client.models.list()]
    assert openai_client.models.retrieve(MODEL).id == MODEL
    for entry in http.get("/models").json()["data"]:
        read_strictly(Model, entry)


def test_errors_are_the_clients_own(openai_client: openai.OpenAI, stack: RunningStack) -> None:
    create = openai_client.chat.completions.create
    with pytest.raises(openai.AuthenticationError):
        openai_client.with_options(api_key="sk-wrong").chat.completions.create(model=MODEL, messages=SUM)
    with pytest.raises(openai.NotFoundError):
        create(model="no-such-model", messages=SUM)
    for wrong, field in (
        ({"temperature": 5}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]"),
    ):
        with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)) as caught:
            create(**{"model": MODEL, "messages": SUM, **wrong})  # type: ignore[call-overload]
        assert field in str(caught.value)
    with pytest.raises(openai.UnprocessableEntityError):
        openai_client.embeddings.create(model=MODEL, input="x")
    with pytest.raises(openai.BadRequestError) as long:
        create(model=MODEL, messages=[{"role": "user", "content": "1 2 3 " * 20_000}])
    assert long.value.code == "context_length_exceeded"


async def test_many_at_once(openai_async: openai.AsyncOpenAI) -> None:
    async def ask(first: int, second: int) -> tuple[str, int]:
        answer = await openai_async.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"What is {first} + {second}?"}],
            temperature=0,
        )
        return answer.choices[0].message.content or "", first + second

    answers = await asyncio.gather(*(ask(100 + step, 200 + step) for step in range(8)))
    for text, total in answers:
        assert str(total) in text


async def test_an_abandoned_stream_leaves_room_for_the_next(openai_async: openai.AsyncOpenAI) -> None:
    for _ in range(12):
        stream = await openai_async.chat.completions.create(model=MODEL, messages=SUM, stream=True)
        await anext(aiter(stream))
        await stream.close()
    answer = await openai_async.chat.completions.create(model=MODEL, messages=SUM, temperature=0)
    assert "579" in (answer.choices[0].message.content or "")
