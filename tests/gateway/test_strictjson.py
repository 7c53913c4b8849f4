"""Strict JSON: everything that two parsers could read differently is refused, everything else passes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextant.base.errors import BadRequest
from sextant.gateway.strictjson import decode

DEPTH = 8


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"a":1,}', "invalid_json"),
        (b'{"a":1} x', "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":-Infinity}', "invalid_json"),
        (b'{"a":1e999}', "invalid_json"),
        (b'{"a":01}', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b'{"a":"\x01"}', "invalid_json"),
        (b'{"a":"\\ud800"}', "invalid_json"),
        (b'{"a":"\\udc00\\ud800"}', "invalid_json"),
        (b"[1]", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b"null", "invalid_json"),
        (b"7", "invalid_json"),
        (b'{"a":"\xff"}', "invalid_utf8"),
        (b'{"\xff":1}', "invalid_utf8"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8"),
        (b'{"a":"\xc0\x80"}', "invalid_utf8"),
        (b'{"a":1,"a":2}', "duplicate_key"),
        (b'{"a":{"b":1,"c":2,"b":3}}', "duplicate_key"),
        (b'{"a":1,"\\u0061":2}', "duplicate_key"),
        (b'{"a" : 1, "a"\n:2, "t":"x:y"}', "duplicate_key"),
        (b'{"a":1,"a":2,"t":"\\u003a"}', "duplicate_key"),
        (b'{"a":1,"a":2,"t":"\\u003A"}', "duplicate_key"),
        (b'{"a":1,"a":2,"t":"\\\\u003a"}', "duplicate_key"),
        (b'{"a":{"b":1},"a":{"b":1},"t":":::"}', "duplicate_key"),
        (b'[{"a":1}]', "invalid_json"),
        (b'{"a":' + b"[" * DEPTH + b"]" * DEPTH + b"}", "json_too_deep"),
        (b'{"a":' * DEPTH + b"{}" + b"}" * DEPTH, "json_too_deep"),
        (b"[" * 200_000, "json_too_deep"),
        (b'{"a":' * 100_000, "json_too_deep"),
    ],
)
def test_refused(body: bytes, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(body, DEPTH)
    assert caught.value.code == code


def test_a_duplicate_key_is_named() -> None:
    with pytest.raises(BadRequest) as caught:
        decode(b'{"model":"x","messages":[{"role":"user","role":"system"}]}', 64)
    assert caught.value.field == "role"


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b' {"a" : {"b":[1, 2.5, true, null, "x"]}} \r\n',
        b'{"a":"\\u003a:\\u003A \\\\u003a \\" \\\\"}',
        '{"smile":"： :) \\" : ", "k:k":":"}'.encode(),
        b'{"a":[{"k":1},{"k":1}],"k":1}',
        b'{"a":123456789012345678901234567890,"b":-0.0,"c":1E5}',
        b'{"a":' + b"[" * (DEPTH - 1) + b"]" * (DEPTH - 1) + b"}",
        b'{"a":"[[[[[[[[[[[[[[{{{{{{{{{{{"}',
        b'{"a":"\\ud83d\\ude00"}',
    ],
)
def test_accepted(body: bytes) -> None:
    assert decode(body, DEPTH) == json.loads(body)


text = st.text(alphabet=st.sampled_from([*'ab:"\\u03A {}[],\n', "é", "：", "😀"]), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | text,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(text, inner), max_size=4),
    max_leaves=12,
)


def write(value: Any, escape_colons: bool, spaced: bool) -> str:
    """JSON text in which an object (a list of pairs) may have equal keys."""
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        colon = " : " if spaced else ":"
        pairs = (
            f"{write(k, escape_colons, spaced)}{colon}{write(v, escape_colons, spaced)}" for k, v in value
        )
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(item, escape_colons, spaced) for item in value) + "]"
    written = json.dumps(value, ensure_ascii=spaced)
    return written.replace(":", "\\u003a") if escape_colons and isinstance(value, str) else written


def has_duplicates(value: Any) -> bool:
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        keys = [key for key, _ in value]
        return len(set(keys)) != len(keys) or any(has_duplicates(item) for _, item in value)
    return isinstance(value, list) and any(has_duplicates(item) for item in value)


@given(st.lists(st.tuples(text, values), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_duplicate_keys_are_found_wherever_they_are(pairs: Any, escape_colons: bool, spaced: bool) -> None:
    body = write(pairs, escape_colons, spaced).encode()
    if has_duplicates(pairs):
        with pytest.raises(BadRequest) as caught:
            decode(body, 64)
        assert caught.value.code == "duplicate_key"
    else:
        assert decode(body, 64) == json.loads(body)
