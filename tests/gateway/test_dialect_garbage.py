"""Anything but a valid request is refused, anything but a valid answer is the engine's fault: no input
whatever ends in an exception that nobody expects."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pictures
import pytest
from engine_answers import MODEL, SEEING, USAGE, answers, call, chunk, completion
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.base.errors import BadRequest, UpstreamError
from sextant.gateway.anthropic import CountTokensDialect, MessagesDialect
from sextant.gateway.chat import ChatDialect
from sextant.gateway.embeddings import EmbeddingsDialect
from sextant.gateway.media import check
from sextant.gateway.rerank import RerankDialect
from sextant.gateway.responses import ResponsesDialect
from sextant.spec.snapshot import GatewayLimits

pytestmark = pytest.mark.slow  # searches: as long as a hundred other tests of the gateway

RESPONSES: dict[str, Any] = {
    "model": "sextant-nano",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "2+2?"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "h"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Adding."}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "4"}]},
        {"role": "developer", "content": [{"type": "input_image", "image_url": "u", "detail": "low"}]},
    ],
    "tools": [{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "metadata": {"a": "b"},
    "temperature": 0.5,
    "top_p": 0.5,
    "top_logprobs": 2,
    "max_output_tokens": 5,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "truncation": "disabled",
    "service_tier": "auto",
    "user": "u",
}
MESSAGES: dict[str, Any] = {
    "model": "sextant-nano",
    "max_tokens": 9,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "2+2?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "Adding."},
                {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 2}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "4"}]},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
            ],
        },
    ],
    "tools": [{"name": "add", "description": "d", "input_schema": {"type": "object"}, "strict": False}],
    "tool_choice": {"type": "tool", "name": "add", "disable_parallel_tool_use": True},
    "thinking": {"type": "adaptive", "display": "omitted"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    "metadata": {"user_id": "u"},
    "stop_sequences": ["END"],
    "temperature": 1,
    "top_k": 3,
    "stream": True,
}
EMBEDDINGS: dict[str, Any] = {
    "model": "seer",
    "input": ["a", "b"],
    "dimensions": 4,
    "encoding_format": "float",
}

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, as the keys that lead there."""
    found = [path] if path else []
    if isinstance(value, dict):
        for name, item in value.items():
            found += places(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += places(item, (*path, index))
    return found


def damaged(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """`value` with what stands at `path` replaced."""
    value = copy.deepcopy(value)
    place = value
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = other
    return value


RERANK: dict[str, Any] = {
    "model": "seer",
    "query": "which one?",
    "documents": ["a", {"text": "b"}],
    "top_n": 1,
    "return_documents": True,
}
SHOWN: dict[str, Any] = {
    "model": "seer",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": pictures.data_url(pictures.png())}},
                {"type": "image_url", "image_url": {"url": "https://images.test/a.png", "detail": "low"}},
                {
                    "type": "input_audio",
                    "input_audio": {"data": pictures.text(pictures.wav()), "format": "wav"},
                },
            ],
        }
    ],
}
REQUESTS: list[tuple[Callable[[], Any], dict[str, Any]]] = [
    (ResponsesDialect, RESPONSES),
    (MessagesDialect, MESSAGES),
    (CountTokensDialect, MESSAGES),
    (EmbeddingsDialect, EMBEDDINGS),
    (RerankDialect, RERANK),
]


@pytest.mark.parametrize(("make", "request_"), REQUESTS, ids=[case[0].__name__ for case in REQUESTS])
@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_request_is_served_or_refused(
    make: Callable[[], Any], request_: dict[str, Any], data: st.DataObject
) -> None:
    model = msgspec.structs.replace(SEEING, quirks=MODEL.quirks)
    make().parse(request_, b"", model)  # whole, it is served
    path = data.draw(st.sampled_from(places(request_)))
    fields = damaged(request_, path, data.draw(VALUES))
    try:
        sent = make().parse(fields, b"", model)
    except BadRequest as error:
        assert error.field
        assert error.message
    else:
        json.dumps(sent.fields)


@settings(max_examples=150)
@given(st.data())
def test_damaged_images_and_sounds_are_taken_or_refused(data: st.DataObject) -> None:
    bounds = GatewayLimits(media_hosts=("images.test",))
    fields = damaged(SHOWN, data.draw(st.sampled_from(places(SHOWN))), data.draw(VALUES))
    try:
        sent = ChatDialect().parse(fields, b"", SEEING)
        if sent.media is not None:
            check(sent.media, SEEING, bounds)
    except BadRequest as error:
        assert error.field
        assert error.message
    else:
        assert json.dumps(sent.fields)


WHOLE = completion(
    reasoning="hm",
    text="4",
    calls=[call("c1", "add", "{}")],
    logprobs={"content": [{"token": "4", "bytes": [52], "logprob": -0.1, "top_logprobs": []}]},
)
CHUNK = chunk(
    {
        "reasoning_content": "hm",
        "content": "4",
        "tool_calls": [{"index": 0, **call("c1", "add", "{}")}],
    },
    "stop",
    logprobs={"content": [{"token": "4", "bytes": [52], "logprob": -0.1, "top_logprobs": []}]},
)


def opened(make: Callable[[], Any]) -> Any:
    dialect = make()
    dialect.request_id = "r1"
    request = next(fields for kind, fields in REQUESTS if kind is make)
    dialect.parse(request, b"", msgspec.structs.replace(SEEING, quirks=MODEL.quirks))
    return dialect


@pytest.mark.parametrize("make", [ResponsesDialect, MessagesDialect])
@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_answer_is_relayed_or_the_engines_fault(
    make: Callable[[], Any], data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(places(WHOLE)))
    try:
        json.loads(opened(make).answer(damaged(WHOLE, path, data.draw(VALUES)), USAGE))
    except UpstreamError as error:
        assert error.message
    path = data.draw(st.sampled_from(places(CHUNK)))
    dialect = opened(make)
    dialect.begin("r1")
    try:
        dialect.chunk(damaged(CHUNK, path, data.draw(VALUES)))
        dialect.finish(USAGE)
    except UpstreamError as error:
        assert dialect.stream_error(error)


VECTORS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}],
    "usage": {"prompt_tokens": 2},
}


@settings(max_examples=100)
@given(st.data(), st.sampled_from(["float", "base64"]))
def test_damaged_embeddings_are_relayed_or_the_engines_fault(data: st.DataObject, form: str) -> None:
    dialect = EmbeddingsDialect()
    dialect.parse({**EMBEDDINGS, "encoding_format": form}, b"", SEEING)
    path = data.draw(st.sampled_from(places(VECTORS)))
    try:
        json.loads(dialect.answer(damaged(VECTORS, path, data.draw(VALUES)), USAGE))
    except UpstreamError as error:
        assert error.message


@settings(max_examples=60)
@given(answers(), st.integers(0, 6))
def test_an_error_may_come_at_any_chunk(both: Any, at: int) -> None:
    for make in (ResponsesDialect, MessagesDialect):
        dialect = opened(make)
        dialect.begin("r1")
        for piece in both[1][:at]:
            dialect.chunk(piece)
        ended = dialect.stream_error(UpstreamError("Lost."))
        assert ended.endswith(b"\n\n")
        assert b"Lost." in ended
