"""Messages requests: what reaches the engine, what is ignored as documented, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from engine_answers import MODEL, SEEING

from sextant.base.errors import BadRequest, Unprocessable
from sextant.gateway.anthropic import MessagesDialect
from sextant.spec.snapshot import ServedModel

HELLO = [{"role": "user", "content": "Hi"}]
TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 2}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "4"}


def sent(fields: dict[str, Any], model: ServedModel = MODEL) -> dict[str, Any]:
    """The chat request that the engine gets."""
    call = MessagesDialect().parse(
        {"model": "sextant-nano", "max_tokens": 9, "messages": HELLO, **fields}, b"", model
    )
    assert call.body is None
    assert call.target == "/chat/completions"
    assert call.max_output_tokens == call.fields["max_tokens"]
    return call.fields


def test_the_least_request() -> None:
    assert sent({}) == {"model": "sextant-nano", "max_tokens": 9, "messages": HELLO}


def test_system_as_text_or_blocks() -> None:
    assert sent({"system": "Be brief."})["messages"][0] == {"role": "system", "content": "Be brief."}
    blocks = [
        {"type": "text", "text": "You are X.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief."},
    ]
    assert sent({"system": blocks})["messages"][0] == {"role": "system", "content": "You are X.\nBe brief."}
    later = [*HELLO, {"role": "system", "content": "Now in French."}]
    assert sent({"messages": later})["messages"][1] == {"role": "system", "content": "Now in French."}


def test_a_tool_turn() -> None:
    given = [
        {"role": "user", "content": [{"type": "text", "text": "2+2?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "Let me add."},
                USE,
                {**USE, "id": "t2", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                RESULT,
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no"}],
                },
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    assert sent({"messages": given})["messages"] == [
        {"role": "user", "content": "2+2?"},
        {
            "role": "assistant",
            "content": "Let me add.",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a":2}'}},
                {"id": "t2", "type": "function", "function": {"name": "add", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "4"},
        {"role": "tool", "tool_call_id": "t2", "content": "no"},
        {"role": "user", "content": "And now?"},
    ]


def test_tools_and_choice() -> None:
    fields = sent({"tools": [{**TOOL, "cache_control": {"type": "ephemeral"}, "strict": True}]})
    assert fields["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "add",
                "description": "Adds.",
                "strict": True,
                "parameters": {"type": "object"},
            },
        }
    ]
    assert "tool_choice" not in fields
    for choice, chat in (
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "add"}, {"type": "function", "function": {"name": "add"}}),
    ):
        fields = sent({"tools": [TOOL], "tool_choice": choice})
        assert fields["tool_choice"] == chat
        assert "parallel_tool_calls" not in fields
    fields = sent({"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}})
    assert fields["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"type": "disabled"}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"type": "adaptive", "display": "summarized"}, {}),
        ({"type": "between_tools"}, {}),
    ],
)
def test_thinking_as_the_engine_wants_it(thinking: dict[str, Any], expected: dict[str, Any]) -> None:
    fields = sent({"thinking": thinking})
    assert {
        name: fields[name] for name in fields if name not in ("model", "messages", "max_tokens")
    } == expected


def test_effort_and_format() -> None:
    fields = sent({"output_config": {"effort": "max"}})
    assert fields["reasoning_effort"] == "max"
    assert fields["chat_template_kwargs"] == {"enable_thinking": True}
    assert sent({"output_config": {"effort": "minimal"}})["reasoning_effort"] == "low"
    assert sent({"output_config": {"effort": "ultra"}})["reasoning_effort"] == "max"
    form = {"type": "json_schema", "schema": {"type": "object"}}
    expected = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert sent({"output_config": {"format": form}})["response_format"] == expected
    assert sent({"output_format": form})["response_format"] == expected


def test_sampling_stops_and_unknown_fields_reach_the_engine() -> None:
    fields = sent({"temperature": 1.5, "top_p": 0.5, "top_k": 4, "stop_sequences": ["END"], "seed": 3})
    assert fields["temperature"] == 1.5
    assert fields["top_p"] == 0.5
    assert fields["top_k"] == 4
    assert fields["stop"] == ["END"]
    assert fields["seed"] == 3


def test_ignored_as_deepseek_documents() -> None:
    fields = sent(
        {
            "container": "c",
            "mcp_servers": [],
            "service_tier": "auto",
            "metadata": {"user_id": "u"},
            "cache_control": {"type": "ephemeral"},
            "context_management": {"edits": []},
            "inference_geo": "eu",
        }
    )
    assert set(fields) == {"model", "max_tokens", "messages"}


def test_images_reach_a_model_that_sees() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]
    given = {"messages": [{"role": "user", "content": content}]}
    assert sent(given, SEEING)["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "text", "text": "What?"},
    ]
    with pytest.raises(Unprocessable) as caught:
        sent(given)
    assert caught.value.field == "messages[0].content[0]"


def said(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}]}


USED = {"role": "assistant", "content": [USE]}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (said({"type": "text"}), "messages[0].content[0].text"),
    (said({"type": "document", "source": {}}), "messages[0].content[0].type"),
    (said({"type": "search_result"}), "messages[0].content[0].type"),
    (said({"type": "redacted_thinking", "data": "x"}, role="assistant"), "messages[0].content[0].type"),
    (said({"type": "server_tool_use"}, role="assistant"), "messages[0].content[0].type"),
    (said({"type": "thinking"}, role="assistant"), "messages[0].content[0].thinking"),
    (said(RESULT), "messages[0].content[0].tool_use_id"),
    ({"messages": [USED]}, "messages[0].content[0].id"),
    ({"messages": [USED, *HELLO]}, "messages[0].content[0].id"),
    (said({**USE, "input": "x"}, role="assistant"), "messages[0].content[0].input"),
    (
        {"messages": [USED, {"role": "user", "content": [{**RESULT, "content": [{"type": "document"}]}]}]},
        "messages[1].content[0].content[0].type",
    ),
    ({"temperature": 3}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"stop_sequences": "END"}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
    ({"system": 5}, "system"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    ({"stream": 1}, "stream"),
    ({"thinking": {}}, "thinking.type"),
    ({"thinking": {"type": "deep"}}, "thinking.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
    ({"output_config": {"effort": "heroic"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"metadata": {"user_id": 5}}, "metadata.user_id"),
    ({"tools": [{"type": "web_search_20260318", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
    ({"tools": [{"name": "add"}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
    ({"stop": ["END"]}, "stop"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"n": 2}, "n"),
]


@pytest.mark.parametrize(("fields", "field"), REFUSED, ids=[str(case[0])[:60] for case in REFUSED])
def test_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        sent(fields)
    assert caught.value.field == field
    assert f"`{field}`" in caught.value.message
