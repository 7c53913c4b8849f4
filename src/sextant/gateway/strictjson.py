"""Strict JSON for request bodies: what two parsers could read differently is refused.

Flow 1 (serve), first step after the key. Refused with 400: malformed JSON, a body that is not an object,
invalid UTF-8, duplicate keys, nesting deeper than `GatewayLimits.json_depth`, NaN and infinities, lone
surrogates. Neighbours: `flow.py` calls `decode`; the dialects get the dict.

Duplicate keys are found without a second parser: msgspec keeps the last of two equal keys, so a body with one
has more colons than its own re-encoding. Every colon outside a string belongs to one key, and every colon
inside a kept string is written once again; only an escaped colon (a backslash and u003a) can shift the count,
so those are added. Only when the counts differ is the body parsed by the slow parser that names the key.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from sextant.base.errors import BadRequest

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode(body: bytes, depth_limit: int) -> dict[str, Any]:
    """The body as a dict. Raises BadRequest saying what is wrong and where."""
    try:
        fields = _decode(body)
    except UnicodeDecodeError as error:
        raise BadRequest(
            "The body is not valid UTF-8; send JSON encoded as UTF-8.", code="invalid_utf8"
        ) from error
    except RecursionError as error:
        raise _too_deep(depth_limit) from error
    except msgspec.DecodeError as error:
        raise BadRequest(_malformed(body, str(error)), code="invalid_json") from error
    if type(fields) is not dict:
        raise BadRequest(
            f'The body is a JSON {_kind(fields)}; expected an object such as {{"model": …}}.',
            code="invalid_json",
        )
    if body.count(b"{") + body.count(b"[") > depth_limit and _deeper_than(fields, depth_limit):
        raise _too_deep(depth_limit)
    colons = body.count(b":")
    if b"\\" in body:
        colons += body.count(b"\\u003a") + body.count(b"\\u003A")
    if colons != _encode(fields).count(b":"):
        _refuse_duplicate_keys(body)
    return fields


def _malformed(body: bytes, reason: str) -> str:
    if not body:
        return "The body is empty; expected a JSON object."
    return f"The body is not valid JSON: {reason.removeprefix('JSON is malformed: ')}."


def _kind(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _too_deep(depth_limit: int) -> BadRequest:
    return BadRequest(f"The body is nested deeper than {depth_limit} levels.", code="json_too_deep")


def _deeper_than(value: object, limit: int) -> bool:
    """Whether objects and arrays nest deeper than `limit`; level by level, so no recursion."""
    level: list[object] = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)  # type: ignore[attr-defined]
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _refuse_duplicate_keys(body: bytes) -> None:
    """Raises BadRequest naming the first key that occurs twice in one object; returns if there is none."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise BadRequest(
                        f"The key {key[:64]!r} occurs twice in one object; parsers disagree which counts.",
                        field=key[:64],
                        code="duplicate_key",
                    )
                seen.add(key)
        return found

    json.loads(body, object_pairs_hook=unique)
