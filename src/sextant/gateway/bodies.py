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


_COUNTS_ONCE: dict[str, object] = {}


def engine_body(
    call: Call, upstream_model: str | None, running_usage: dict[str, object] = _COUNTS_ONCE
) -> bytes:
    """`call` for an engine that knows the model as `upstream_model` (None: by the name asked for). A stream
    always asks for the usage, and one of one answer for `running_usage` (`Quirks`)."""
    body = call.body
    fields = call.fields
    added = _asking(call, running_usage) if call.stream else None
    named = fields.get("model")  # in the body; `call.model` is what the answer says
    if body is not None and upstream_model is not None and upstream_model != named:
        body = _renamed(body, named, upstream_model)
    if body is not None and added:
        is_new = added.keys().isdisjoint(fields)
        body = body.rstrip()[:-1] + b"," + _encode(added)[1:] if is_new else None
    if body is not None:
        return body
    changed = dict(fields)
    if upstream_model is not None:
        changed["model"] = upstream_model
    if added:
        changed |= added
    return _encode(changed)


def _asking(call: Call, running_usage: dict[str, object]) -> dict[str, Any]:
    """The fields that a stream must have to be counted, as far as the caller has not given them so."""
    given = call.fields.get("stream_options") or {}
    wanted: dict[str, Any] = {"stream_options": {**given, "include_usage": True}}
    if running_usage and call.answers == call.inputs == 1:
        for name, value in running_usage.items():
            known = wanted.get(name)
            wanted[name] = {**known, **value} if known and isinstance(value, dict) else value
    return {name: value for name, value in wanted.items() if call.fields.get(name) != value}


def _renamed(body: bytes, asked: Any, wanted: str) -> bytes | None:
    """`body` with the model's name replaced in place; None when the one place cannot be told for sure."""
    if body.count(b'"model"') != 1:
        return None
    name = _encode(asked)
    for colon in (b'"model":', b'"model": '):
        if colon + name in body:
            return body.replace(colon + name, colon + _encode(wanted))
    return None
