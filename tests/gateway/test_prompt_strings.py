"""Which strings of a request are looked at for personal data: all that a model may read."""

from __future__ import annotations

from typing import Any

import pytest

from sextant.base.errors import BadRequest
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


def image(**said: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": said}]}]}


def test_an_image_that_is_to_be_fetched_stays_the_object_it_is_fetched_into() -> None:
    """A copy would keep the address, which the engine would then fetch itself, past all checks."""
    fields = image(url="https://example.com/a.png", alt=MAIL)
    with pytest.raises(BadRequest, match="beside it") as caught:
        rewrite(fields, masked)
    assert MAIL not in caught.value.message
    assert rewrite(image(url="data:image/png;base64,AA", alt=MAIL), masked) == image(
        url="data:image/png;base64,AA", alt="<EMAIL_1>"
    )
    clean = fields["messages"][0]["content"][0]["image_url"] = {
        "url": "https://example.com/a.png",
        "alt": "x",
    }
    mailed = fields["messages"][0]["content"] + [{"type": "text", "text": MAIL}]
    fields["messages"][0]["content"] = mailed
    assert rewrite(fields, masked)["messages"][0]["content"][0]["image_url"] is clean
