"""Which strings of a request are looked at for personal data: all that a model may read."""

from __future__ import annotations

from typing import Any

import pytest

from sextant.gateway.prompt_strings import rewrite

MAIL = "bob@corp.example"
PHONE = 13800138000


def masked(text: str) -> str:
    return text.replace(MAIL, "<EMAIL_1>").replace(str(PHONE), "<PHONE_1>")


def tool(properties: dict[str, Any]) -> dict[str, Any]:
    """A request with a tool that takes these."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}


def called(**said: Any) -> dict[str, Any]:
    """A request in which a tool was called so."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}} | said
    return {"messages": [{"role": "assistant", "tool_calls": [call]}]}


@pytest.mark.parametrize("name", ["name", "type", "format", "pattern", "required", "strict", "$id", "to"])
def test_a_tools_parameter_is_looked_at_whatever_it_is_called(name: str) -> None:
    fields = tool({name: {"type": "string", "description": f"as {MAIL}"}})
    assert rewrite(fields, masked) == tool({name: {"type": "string", "description": "as <EMAIL_1>"}})
    assert rewrite(fields, str) is fields


@pytest.mark.parametrize("name", ["default", "const", "enum", "examples"])
def test_values_in_a_schema_are_data(name: str) -> None:
    given = [{"name": MAIL, "phone": PHONE, MAIL: 7}]
    kept = [{"name": "<EMAIL_1>", "phone": "<PHONE_1>", "<EMAIL_1>": 7}]
    assert rewrite(tool({"to": {name: given}}), masked) == tool({"to": {name: kept}})


def test_what_a_schema_says_of_itself_stays() -> None:
    fields = tool({"to": {"type": ["string", MAIL], "pattern": MAIL, "$ref": MAIL}})
    assert rewrite(fields, masked) is fields


def test_a_tool_call_is_looked_at_beside_its_arguments() -> None:
    given = called(custom={"name": "f", "input": MAIL}, extra=[MAIL])
    assert rewrite(given, masked) == called(custom={"name": "f", "input": "<EMAIL_1>"}, extra=["<EMAIL_1>"])
    escaped = called(function={"name": "f", "arguments": '{"to":"bob\\u0040corp.example"}'})
    assert rewrite(escaped, masked) == called(function={"name": "f", "arguments": '{"to":"<EMAIL_1>"}'})
    assert rewrite(given, str) is given


@pytest.mark.parametrize("field", ["chat_template_kwargs", "documents", "metadata"])
def test_what_a_template_is_given_is_data(field: str) -> None:
    fields = {field: {MAIL: {"phone": PHONE}}}
    assert rewrite(fields, masked) == {field: {"<EMAIL_1>": {"phone": "<PHONE_1>"}}}
