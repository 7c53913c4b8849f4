"""The body that goes to the engine: the caller's own bytes wherever possible, spliced where one field
changes.

Flow 1 (serve), between the dialect and the pool. The body has passed `strictjson`, so no key occurs twice and
adding one at the end, or replacing the one that is there, is exact.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sextant.gateway.dialect import Call

_encode = msgspec.json.Encoder().encode
_ASK_USAGE = b',"stream_options":{"include_usage":true}}'


def engine_body(call: Call, upstream_model: str | None) -> bytes:
    """`call` for an engine that knows the model as `upstream_model` (None: by the name asked for). A stream
    always asks for the usage."""
    body = call.body
    fields = call.fields
    asks_usage = not call.stream or _asks_usage(fields)
    if body is not None and upstream_model is not None and upstream_model != call.model:
        body = _renamed(body, call.model, upstream_model)
    if body is not None and not asks_usage:
        body = None if "stream_options" in fields else body.rstrip()[:-1] + _ASK_USAGE
    if body is not None:
        return body
    changed = dict(fields)
    if upstream_model is not None:
        changed["model"] = upstream_model
    if not asks_usage:
        changed["stream_options"] = {**(fields.get("stream_options") or {}), "include_usage": True}
    return _encode(changed)


def _asks_usage(fields: dict[str, Any]) -> bool:
    options = fields.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _renamed(body: bytes, asked: str, wanted: str) -> bytes | None:
    """`body` with the model's name replaced in place; None when the one place cannot be told for sure."""
    if body.count(b'"model"') != 1:
        return None
    name = _encode(asked)
    for colon in (b'"model":', b'"model": '):
        if colon + name in body:
            return body.replace(colon + name, colon + _encode(wanted))
    return None
