"""What chat completions refuse, with the field named, and what they pass on to the engine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sextant.base.errors import BadRequest, Unprocessable
from sextant.engines import embedded
from sextant.gateway.bodies import engine_body
from sextant.gateway.chat import ChatDialect
from sextant.gateway.dialect import Call
from sextant.gateway.failures import status_of
from sextant.spec.snapshot import Capabilities, Quirks, ServedModel

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
LLAMA = Quirks(reasoning_off={"chat_template_kwargs": {"enable_thinking": False}})


PLAIN = Quirks()


def model(quirks: Quirks = PLAIN, **able: Any) -> ServedModel:
    return ServedModel(id="nano", engine="x", upstreams=(), quirks=quirks, capabilities=Capabilities(**able))


def parse(served: ServedModel | None = None, **fields: Any) -> Call:
    fields = {"model": "nano", "messages": [USER], **fields}
    fields = {name: value for name, value in fields.items() if value is not ...}
    return ChatDialect().parse(fields, msgspec.json.encode(fields), served or model())


def sent(call: Call, upstream_model: str | None = None) -> dict[str, Any]:
    return msgspec.json.decode(engine_body(call, upstream_model))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": ...}, "model"),
    ({"model": 5}, "model"),
    ({"messages": ...}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [USER, {"role": "robot", "content": "x"}]}, "messages[1].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]},
        "messages[0].tool_calls[0].function",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "assistant", "content": "a", "prefix": True}, USER]}, "messages[0].prefix"),
    ({"temperature": 5}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_p": -1}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": "10"}, "max_tokens"),
    ({"max_tokens": 2**32 + 1}, "max_tokens"),  # an engine's 32 bits would make 1 of it
    ({"max_completion_tokens": 10**30}, "max_completion_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a", 5]}, "stop[1]"),
    ({"stop": ""}, "stop"),  # would end the answer before its first character
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"frequency_penalty": 2.1}, "frequency_penalty"),
    ({"presence_penalty": -2.1}, "presence_penalty"),
    ({"logit_bias": {"5": 101}}, "logit_bias[...]"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"seed": -(2**63) - 1}, "seed"),
    ({"tools": [TOOL] * 129}, "tools"),
    ({"tools": [{"type": "code", "function": {"name": "x"}}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    (
        {"tools": [{"type": "function", "function": {"name": "x", "parameters": 5}}]},
        "tools[0].function.parameters",
    ),
    ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tool_choice.function.name",
    ),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
    ({"thinking": {"type": "maybe"}}, "thinking.type"),
    ({"thinking": "enabled"}, "thinking"),
    ({"reasoning_effort": "enormous"}, "reasoning_effort"),
]


@pytest.mark.parametrize(("fields", "field"), WRONG, ids=lambda value: str(value)[:60])
def test_a_wrong_value_is_400_and_names_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    assert caught.value.field == field
    assert status_of(caught.value) == 400
    assert field.split("[")[0].split(".")[0] in caught.value.message


UNABLE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"tools": [TOOL]}, {"tools": False}, "tools"),
    ({"logprobs": True}, {"logprobs": False}, "logprobs"),
    ({"response_format": {"type": "json_object"}}, {"json_schema": False}, "response_format.type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        {},
        "messages[0].content[0].type",
    ),
    ({"store": True}, {}, "store"),
    ({"modalities": ["text", "audio"]}, {}, "modalities"),
    ({"functions": [{"name": "x"}]}, {}, "functions"),
    ({"function_call": "auto"}, {}, "functions"),
]


@pytest.mark.parametrize(("fields", "able", "field"), UNABLE, ids=lambda value: str(value)[:60])
def test_what_the_model_cannot_do_is_422_never_ignored(
    fields: dict[str, Any], able: dict[str, Any], field: str
) -> None:
    with pytest.raises(Unprocessable) as caught:
        parse(model(**able), **fields)
    assert caught.value.field == field
    assert status_of(caught.value) == 422


def test_the_prompt_is_never_in_a_message() -> None:
    with pytest.raises(BadRequest) as caught:
        parse(messages=[{"role": "user", "content": [{"type": "text", "text": {"secret": "prompt"}}]}])
    assert "prompt" not in caught.value.message


RIGHT: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 2},
    {"top_p": 1},
    {"n": 2},
    {"max_tokens": 1},
    {"max_tokens": 2**31 - 1, "seed": 2**63 - 1},
    {"stop": "x"},
    {"stop": ["x"] * 16},
    {"logprobs": True, "top_logprobs": 20},
    {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
    {"tools": None, "tool_choice": "none", "stop": None, "stream_options": None, "top_logprobs": None},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    {"messages": [USER, {"role": "assistant", "content": "```", "prefix": True}]},
    {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "found"},
        ]
    },
    {"thinking": {"type": "enabled"}, "reasoning_effort": "max"},
    {"top_k": 40, "min_p": 0.1, "foo": {"bar": [1]}, "user_id": "u1", "seed": -3},
]  # fmt: skip


@pytest.mark.parametrize("fields", RIGHT, ids=lambda value: str(value)[:60])
def test_a_right_request_goes_on_as_its_own_bytes(fields: dict[str, Any]) -> None:
    given = {"model": "nano", "messages": [USER], **fields}
    body = b" " + msgspec.json.encode(given)
    call = ChatDialect().parse(given, body, model())
    assert engine_body(call, "nano") == body
    assert engine_body(call, None) == body


def test_a_stream_always_asks_for_the_usage() -> None:
    assert sent(parse(stream=True))["stream_options"] == {"include_usage": True}
    assert sent(parse(stream=True, stream_options=None))["stream_options"] == {"include_usage": True}
    assert sent(parse(stream=True, stream_options={"include_usage": False, "x": 1}))["stream_options"] == {
        "include_usage": True,
        "x": 1,
    }
    asked = parse(stream=True, stream_options={"include_usage": True})
    assert asked.include_usage
    assert engine_body(asked, None) is asked.body


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"deepseek-chat","messages":[{"role":"user","content":"\\"model\\":\\"deepseek-chat\\""}]}',
        b'{"messages": [{"role": "user", "content": "hi"}], "model": "deepseek-chat"}',
        b'{"messages":[{"role":"user","content":"hi"}],"model"  :  "deepseek-chat"}',
        b'{"messages":[{"role":"user","content":"hi"}],"model":"deepseek-\\u0063hat"}',
        b'{"metadata":{"model":"deepseek-chat"},"messages":[{"role":"user","content":"hi"}],"model":"deepseek-chat"}',
    ],
)
def test_the_model_is_renamed_for_the_engine_and_nothing_else_changes(raw: bytes) -> None:
    fields = msgspec.json.decode(raw)
    call = ChatDialect().parse(fields, raw, model())
    assert sent(call, "nano-7") == {**fields, "model": "nano-7"}


def test_an_unknown_field_survives_every_rewriting() -> None:
    call = parse(
        model(LLAMA),
        model="deepseek-chat",
        stream=True,
        messages=[{"role": "developer", "content": "be kind", "extra": 1}, USER],
        top_k=7,
        max_completion_tokens=9,
        chat_template_kwargs={"mine": 1},
    )
    body = sent(call, "nano")
    assert body == {
        "model": "nano",
        "stream": True,
        "messages": [{"role": "system", "content": "be kind", "extra": 1}, USER],
        "top_k": 7,
        "max_tokens": 9,
        "chat_template_kwargs": {"enable_thinking": False, "mine": 1},
        "stream_options": {"include_usage": True},
    }
    assert call.max_output_tokens == 9


@pytest.mark.parametrize("wants", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("newer", "older", "most"), [(1, 4000, 1), (4000, 1, 4000), (None, 7, 7), (7, None, 7)]
)
def test_of_two_output_limits_the_engine_gets_the_one_that_is_set_aside(
    wants: str, newer: int | None, older: int | None, most: int
) -> None:
    call = parse(model(Quirks(max_tokens_field=wants)), max_completion_tokens=newer, max_tokens=older)
    body = sent(call)
    assert call.max_output_tokens == most
    assert {name: body[name] for name in body if name.startswith("max_")} == {wants: most}


@pytest.mark.parametrize(
    ("fields", "off"),
    [
        ({}, False),
        ({"model": "deepseek-reasoner"}, False),
        ({"model": "deepseek-chat"}, True),
        ({"model": "deepseek-chat", "thinking": {"type": "enabled"}}, False),
        ({"thinking": {"type": "disabled"}}, True),
        ({"reasoning_effort": "none"}, True),
        ({"reasoning_effort": "high"}, False),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "max"}, True),
    ],
)
def test_thinking_is_turned_off_in_the_engine_s_own_words(fields: dict[str, Any], off: bool) -> None:
    body = sent(parse(model(LLAMA), **fields))
    assert body.get("chat_template_kwargs") == ({"enable_thinking": False} if off else None)


def test_thinking_is_turned_on_where_an_engine_does_not_think_unasked() -> None:
    quirks = Quirks(reasoning_on={"chat_template_kwargs": {"thinking": True}})
    assert sent(parse(model(quirks), model="deepseek-reasoner"))["chat_template_kwargs"] == {"thinking": True}
    assert "chat_template_kwargs" not in sent(parse(model(quirks), thinking={"type": "disabled"}))


def test_parameters_that_an_engine_refuses_are_dropped_by_name() -> None:
    quirks = Quirks(drop_params=("user_id", "logit_bias"))
    body = sent(parse(model(quirks), user_id="u", logit_bias={}, user="x"))
    assert "user_id" not in body
    assert "logit_bias" not in body
    assert body["user"] == "x"


@pytest.mark.parametrize("name", ["n_predict", "n_cmpl"])
def test_an_engine_s_own_name_does_not_go_round_the_limits(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(model(embedded.QUIRKS), max_tokens=2, **{name: 40})
    assert caught.value.field == name
    assert sent(parse(max_tokens=2, **{name: 40}))[name] == 40, (
        "an engine without such a name gets it as it is"
    )
