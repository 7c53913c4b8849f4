"""Responses requests: what reaches the engine, and what is refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from engine_answers import MODEL, SEEING

from sextant.base.errors import BadRequest, Unprocessable
from sextant.gateway.responses import ResponsesDialect
from sextant.spec.snapshot import Capabilities, ServedModel

TOOL = {"type": "function", "name": "add", "description": "Adds.", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "4"}


def sent(fields: dict[str, Any], model: ServedModel = MODEL) -> dict[str, Any]:
    """The chat request that the engine gets."""
    call = ResponsesDialect().parse({"model": "sextant-nano", "input": "Hi", **fields}, b"", model)
    assert call.body is None
    assert call.target == "/chat/completions"
    return call.fields


def messages(items: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sent({"input": items})["messages"]
    return found


def test_text_and_instructions_become_messages() -> None:
    assert sent({"instructions": "Be brief."}) == {
        "model": "sextant-nano",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    }


def test_a_stream_asks_for_usage() -> None:
    fields = sent({"stream": True})
    assert fields["stream"] is True
    assert fields["stream_options"] == {"include_usage": True}


def test_sampling_limits_and_unknown_fields_reach_the_engine() -> None:
    fields = sent({"temperature": 0, "top_p": 0.5, "max_output_tokens": 7, "seed": 3, "min_p": 0.1})
    assert fields["temperature"] == 0
    assert fields["top_p"] == 0.5
    assert fields["max_tokens"] == 7
    assert fields["seed"] == 3
    assert fields["min_p"] == 0.1


def test_fields_without_effect_stay_here() -> None:
    fields = sent(
        {
            "store": False,
            "background": False,
            "truncation": "disabled",
            "include": ["reasoning.encrypted_content"],
            "metadata": {"a": "b"},
            "user": "u",
            "prompt_cache_key": "k",
            "service_tier": "auto",
            "previous_response_id": None,
            "stream_options": {"include_obfuscation": False},
        }
    )
    assert set(fields) == {"model", "messages"}


def test_the_whole_turn_of_an_assistant_is_one_message() -> None:
    found = messages(
        [
            {"role": "user", "content": [{"type": "input_text", "text": "2+2?"}]},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "hm"}],
            },
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Let me add.", "annotations": []}],
            },
            CALL,
            {**CALL, "call_id": "c2"},
            OUTPUT,
            {**OUTPUT, "call_id": "c2", "output": [{"type": "input_text", "text": "5"}]},
        ]
    )
    function = {"name": "add", "arguments": "{}"}
    assert found == [
        {"role": "user", "content": "2+2?"},
        {
            "role": "assistant",
            "content": "Let me add.",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": function},
                {"id": "c2", "type": "function", "function": function},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "tool", "tool_call_id": "c2", "content": "5"},
    ]


def test_two_assistant_turns_stay_apart() -> None:
    found = messages([CALL, OUTPUT, {**CALL, "call_id": "c2"}, {**OUTPUT, "call_id": "c2"}])
    assert [message["role"] for message in found] == ["assistant", "tool", "assistant", "tool"]
    said = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert [message["content"] for message in messages(said)] == ["a", "b"]


def test_developer_speaks_as_user_as_at_deepseek() -> None:
    assert messages([{"role": "developer", "content": "x"}]) == [{"role": "user", "content": "x"}]


def test_reasoning_without_text_is_passed_over() -> None:
    item = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "zzz"}
    assert messages([item, {"role": "user", "content": "x"}]) == [{"role": "user", "content": "x"}]


def test_images_reach_a_model_that_sees() -> None:
    part = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
    given = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "What?"}, part]}]}
    assert sent(given, SEEING)["messages"][0]["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
    ]
    with pytest.raises(Unprocessable) as caught:
        sent(given)
    assert caught.value.field == "input[0].content[1]"


def test_tools_and_choice() -> None:
    fields = sent(
        {"tools": [TOOL, {"type": "function", "name": "now", "strict": True}], "tool_choice": "auto"}
    )
    assert fields["tools"] == [
        {
            "type": "function",
            "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}},
        },
        {
            "type": "function",
            "function": {"name": "now", "strict": True, "parameters": {"type": "object", "properties": {}}},
        },
    ]
    assert fields["tool_choice"] == "auto"
    named = sent({"tools": [TOOL], "tool_choice": {"type": "function", "name": "add"}})
    assert named["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]}
    fields = sent({"tools": [TOOL, {**TOOL, "name": "sub"}], "tool_choice": allowed})
    assert [tool["function"]["name"] for tool in fields["tools"]] == ["add"]
    assert fields["tool_choice"] == "required"


def test_tools_as_the_engine_wants_them() -> None:
    quirks = msgspec.structs.replace(MODEL.quirks, names_tool_choice=False, hides_tools_when_none=False)
    model = msgspec.structs.replace(MODEL, quirks=quirks)
    both = [TOOL, {**TOOL, "name": "sub"}]
    fields = sent({"tools": both, "tool_choice": {"type": "function", "name": "sub"}}, model)
    assert [tool["function"]["name"] for tool in fields["tools"]] == ["sub"]
    assert fields["tool_choice"] == "required"
    fields = sent({"tools": both, "tool_choice": "none"}, model)
    assert "tools" not in fields
    assert "tool_choice" not in fields


def test_a_parameter_that_the_engine_would_ignore_is_refused() -> None:
    model = msgspec.structs.replace(
        MODEL, quirks=msgspec.structs.replace(MODEL.quirks, ignored_params=("seed",))
    )
    with pytest.raises(Unprocessable) as caught:
        sent({"seed": 3}, model)
    assert caught.value.field == "seed"


def test_an_engine_s_own_name_does_not_go_round_the_limits() -> None:
    quirks = msgspec.structs.replace(MODEL.quirks, own_names={"n_predict": "max_tokens"})
    with pytest.raises(BadRequest) as caught:
        sent({"max_output_tokens": 2, "n_predict": 40}, msgspec.structs.replace(MODEL, quirks=quirks))
    assert caught.value.field == "n_predict"


def test_formats() -> None:
    assert "response_format" not in sent({"text": {"format": {"type": "text"}}})
    assert sent({"text": {"format": {"type": "json_object"}}})["response_format"] == {"type": "json_object"}
    form = {"type": "json_schema", "name": "sum", "schema": {"type": "object"}, "strict": True}
    assert sent({"text": {"format": form}})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "sum", "schema": {"type": "object"}, "strict": True},
    }


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        (None, {}),
        ({"summary": "auto"}, {}),
        ({"effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"effort": "low"}, {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low"}),
        (
            {"effort": "medium"},
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "high"},
        ),
        ({"effort": "ultra"}, {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "max"}),
    ],
)
def test_reasoning_effort_as_the_engine_wants_it(reasoning: Any, expected: dict[str, Any]) -> None:
    fields = sent({"reasoning": reasoning})
    assert {name: fields[name] for name in fields if name not in ("model", "messages")} == expected


def test_an_endpoint_without_quirks_gets_deepseeks_own_field() -> None:
    assert sent({"reasoning": {"effort": "none"}}, SEEING)["thinking"] == {"type": "disabled"}
    assert sent({"reasoning": {"effort": "max"}}, SEEING)["thinking"] == {"type": "enabled"}


def test_the_limit_goes_by_the_name_the_engine_knows() -> None:
    model = msgspec.structs.replace(
        MODEL,
        quirks=msgspec.structs.replace(
            MODEL.quirks, max_tokens_field="max_completion_tokens", drop_params=("top_p",)
        ),
    )
    fields = sent({"max_output_tokens": 5, "top_p": 1}, model)
    assert fields["max_completion_tokens"] == 5
    assert "max_tokens" not in fields
    assert "top_p" not in fields


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"store": True}, "store"),
    ({"store": "no"}, "store"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"truncation": "auto"}, "truncation"),
    ({"context_management": [{"type": "compaction"}]}, "context_management"),
    ({"moderation": {"model": "m"}}, "moderation"),
    ({"messages": []}, "messages"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"n": 2}, "n"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": ["Hi"]}, "input[0]"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
    ({"input": [{"id": "x"}]}, "input[0]"),
    ({"input": [{}]}, "input[0].type"),
    ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
    ({"input": [CALL]}, "input[0].call_id"),
    ({"input": [OUTPUT]}, "input[0].call_id"),
    ({"input": [CALL, CALL, OUTPUT]}, "input[1].call_id"),
    ({"input": [CALL, OUTPUT, OUTPUT]}, "input[2].call_id"),
    ({"input": [{**CALL, "name": ""}, OUTPUT]}, "input[0].name"),
    ({"temperature": 5}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": -5}, "max_output_tokens"),
    ({"max_output_tokens": 10**30}, "max_output_tokens"),
    ({"max_output_tokens": 1.5}, "max_output_tokens"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"include": ["everything"]}, "include[0]"),
    ({"stream": "yes"}, "stream"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"a" * 65: "b"}}, "metadata"),
    ({"metadata": {str(number): "b" for number in range(17)}}, "metadata"),
    ({"metadata": {"a": "b" * 513}}, "metadata.a"),
    ({"reasoning": {"effort": "heroic"}}, "reasoning.effort"),
    ({"reasoning": "high"}, "reasoning"),
    ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
    ({"text": {"format": {}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [TOOL, {"type": "custom", "name": "apply_patch"}]}, "tools[1].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": {}}, "tools"),
    ({"tool_choice": "maybe"}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "sub"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"instructions": ["x"]}, "instructions"),
    ({"user": "u" * 513}, "user"),
]


@pytest.mark.parametrize(("fields", "field"), REFUSED, ids=[str(case[0])[:60] for case in REFUSED])
def test_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        sent(fields)
    assert caught.value.field == field
    assert field.split(".")[0].split("[")[0] in caught.value.message
    assert caught.value.message.endswith(".")


def test_a_model_without_the_ability_says_so() -> None:
    model = msgspec.structs.replace(
        MODEL, capabilities=Capabilities(tools=False, json_schema=False, logprobs=False)
    )
    form = {"type": "json_schema", "name": "x", "schema": {}}
    for fields in ({"tools": [TOOL]}, {"text": {"format": form}}, {"top_logprobs": 2}):
        with pytest.raises(Unprocessable):
            sent(fields, model)


def test_an_error_message_never_repeats_a_prompt() -> None:
    secret = "my secret prompt " * 10
    with pytest.raises(BadRequest) as caught:
        sent({"input": [{"role": secret, "content": "x"}]})
    assert "secret" not in caught.value.message
