"""Every string of an engine's request that may hold somebody's data, and a copy of the request with other
ones.

Part of flow 1 (serve), for `privacy.py`. All strings are visited but those that are the protocol's own: names
of models, roles, types, ids, the bytes of media. The arguments of a tool call are JSON in a string: they are
read, their strings, keys and long numbers visited, and written anew only when one changed; so are a schema's
defaults and examples, and what a template is given. What does not change is not copied, so that the images of
a request stay the objects that they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sextant.base.errors import BadRequest, Unprocessable

Visit = Callable[[str], str]
Change = Callable[[Any, Visit], Any]
LEAST_DIGITS = 7
"""Shorter JSON numbers in tool arguments identify nobody."""

_TOP = frozenset(
    {
        "model",
        "stream_options",
        "tool_choice",
        "reasoning_effort",
        "service_tier",
        "encoding_format",
        "thinking",
    }
)
_MESSAGE = frozenset({"role", "type", "id", "tool_call_id", "detail", "format", "data", "prefix"})
_SCHEMA = frozenset({"type", "name", "format", "pattern", "$ref", "$id", "$schema", "required", "strict"})
_SCHEMA_VALUES = frozenset({"default", "const", "enum", "examples", "example"})
"""What stands under these names of a schema is data."""
_CALL = _MESSAGE | {"name", "arguments"}
_TEMPLATE = frozenset({"chat_template_kwargs", "documents", "metadata"})
"""Fields that are data, which a template may write into the prompt."""
_NOTHING: frozenset[str] = frozenset()
_NO_TEXT = frozenset({int, float, bool, type(None)})
"""Types of values in which nothing is written."""
_OPAQUE = ("prompt", "input")
"""Fields that may hold token ids in place of text."""
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def rewrite(fields: dict[str, Any], visit: Visit) -> dict[str, Any]:
    """`fields` with each string replaced by what `visit` makes of it; the same object when none changed."""
    changed: dict[str, Any] = {}
    for name, value in fields.items():
        if type(value) in _NO_TEXT or name in _TOP:
            continue
        if name == "messages":
            new: Any = _each(value, _message, visit)
        elif name in _TEMPLATE:
            new = _data(value, visit)
        else:
            new = _walk(value, visit, _SCHEMA if name in ("tools", "response_format") else _NOTHING)
        if new is not value:
            changed[name] = new
    return {**fields, **changed} if changed else fields


def refuse_token_ids(fields: dict[str, Any]) -> None:
    """Raises Unprocessable for a prompt of token ids, which nobody can look through."""
    for name in _OPAQUE:
        given = fields.get(name)
        if isinstance(given, list) and any(type(item) is int or isinstance(item, list) for item in given):
            raise Unprocessable(
                f"{name} is token ids, which cannot be looked through for personal data; send text.",
                field=name,
                code="personal_data_unreadable",
            )


def _each(items: Any, change: Change, visit: Visit) -> Any:
    """`items` with each changed; the same list when none was."""
    if not isinstance(items, list):
        return items
    changed: list[Any] | None = None
    for place, item in enumerate(items):
        new = change(item, visit)
        if new is not item:
            if changed is None:
                changed = items.copy()
            changed[place] = new
    return items if changed is None else changed


def _message(message: Any, visit: Visit) -> Any:
    if not isinstance(message, dict):
        return message
    changed: dict[str, Any] = {}
    for name, value in message.items():
        if name in _MESSAGE:
            continue
        if isinstance(value, str):
            new: Any = _name(value, visit) if name == "name" else _text(value, visit)
        elif name == "tool_calls":
            new = _each(value, _tool_call, visit)
        else:
            new = _walk(value, visit, _MESSAGE)
        if new is not value:
            changed[name] = new
    return {**message, **changed} if changed else message


def _name(value: str, visit: Visit) -> str:
    """A participant's name, in which only letters, digits, `_` and `-` may stand."""
    new = visit(value)
    return value if new == value else new.replace("<", "").replace(">", "")


def _tool_call(call: Any, visit: Visit) -> Any:
    call = _walk(call, visit, _CALL)
    function = call.get("function") if isinstance(call, dict) else None
    given = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(given, str):
        return call
    new = json_text(given, visit)
    return call if new == given else {**call, "function": {**call["function"], "arguments": new}}


def json_text(text: str, visit: Visit) -> str:
    """JSON in a string, with what `visit` makes of its strings, keys and long numbers; what is no JSON is
    visited as text."""
    try:
        value = _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return visit(text)
    new = _data(value, visit)
    return text if new is value else _encode(new).decode()


def _data(value: Any, visit: Visit) -> Any:
    """JSON data of somebody's own making, in which every string counts."""
    if isinstance(value, str):
        return _text(value, visit)
    if isinstance(value, list):
        return _each(value, _data, visit)
    if isinstance(value, dict):
        pairs = [(_text(name, visit), _data(item, visit)) for name, item in value.items()]
        same = all(a is b and c is d for (a, c), (b, d) in zip(pairs, value.items(), strict=True))
        return value if same else dict(pairs)
    if isinstance(value, int | float) and not isinstance(value, bool):
        written = str(value)
        if len(written) >= LEAST_DIGITS:
            new = visit(written)
            return value if new == written else new
    return value


def _walk(value: Any, visit: Visit, kept: frozenset[str]) -> Any:
    """A value of the protocol; what stands under a name in `kept` is its own, but for an object: that is a
    schema's property of this name."""
    if isinstance(value, str):
        return _text(value, visit)
    if isinstance(value, list):
        return _each(value, lambda item, visit: _walk(item, visit, kept), visit)
    if not isinstance(value, dict):
        return value
    changed: dict[str, Any] = {}
    for name, item in value.items():
        if name in kept and not isinstance(item, dict):
            continue
        if kept is _SCHEMA and name in _SCHEMA_VALUES:
            new = _data(item, visit)
        elif kept is _MESSAGE and name == "url":
            new = _url(item, visit)
        else:
            new = _walk(item, visit, kept)
        if new is not item:
            changed[name] = new
    if changed and kept is _MESSAGE and _is_address(value.get("url")):
        raise _address_refused("beside")  # fetched into this object, not into a copy of it
    return {**value, **changed} if changed else value


def _url(value: Any, visit: Visit) -> Any:
    """An image's address: one with personal data in it cannot be masked and still lead there."""
    if _is_address(value) and visit(value) != value:
        raise _address_refused("in")
    return value


def _is_address(value: Any) -> bool:
    """Whether it says where an image is, and is not the image itself."""
    return isinstance(value, str) and value[:5].lower() != "data:"


def _address_refused(where: str) -> BadRequest:
    return BadRequest(
        f"The address of an image has personal data {where} it; send the image itself as a data URL.",
        field="messages",
        code="personal_data_blocked",
    )


def _text(value: str, visit: Visit) -> str:
    """Identity matters to the callers: the same object when nothing changed."""
    new = visit(value)
    return value if new == value else new
