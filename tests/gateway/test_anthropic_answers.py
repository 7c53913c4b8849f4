"""Messages answers and event streams, held to the published types, and equal to each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from engine_answers import MODEL, SEEING, USAGE, answers, call, chunk, chunks, completion
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.base import errors
from sextant.gateway.anthropic import CountTokensDialect, MessagesDialect
from sextant.spec.usage import Usage
from strictness import members_by_type, read_events, read_strictly

GOLDEN = Path(__file__).parent / "golden"
EVENT_TYPES = members_by_type(RawMessageStreamEvent)
REQUEST: dict[str, Any] = {
    "model": "sextant-nano",
    "max_tokens": 20,
    "messages": [{"role": "user", "content": "What is 2+2?"}],
}


def opened(fields: dict[str, Any] | None = None) -> MessagesDialect:
    dialect = MessagesDialect()
    dialect.request_id = "r1"
    dialect.parse({**REQUEST, **(fields or {})}, b"", MODEL)
    return dialect


def streamed(dialect: MessagesDialect, answer: list[dict[str, Any]], usage: Usage = USAGE) -> bytes:
    stream = dialect.begin("r1") + b"".join(dialect.chunk(chunk) for chunk in answer)
    return stream + dialect.finish(usage)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    events = []
    for name, data in read_events(stream):
        assert name is not None
        event = read_strictly(EVENT_TYPES[name], data)
        assert event.type == name
        events.append(json.loads(data))
    return events


def accumulated(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the events describe, by the rules of Anthropic's documentation."""
    assert events[0]["type"] == "message_start"
    message: dict[str, Any] = events[0]["message"]
    open_index = None
    partial = ""
    for event in events[1:]:
        if event["type"] == "content_block_start":
            assert open_index is None
            open_index = event["index"]
            assert open_index == len(message["content"])
            message["content"].append(event["content_block"])
            partial = ""
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_index
            block, delta = message["content"][open_index], event["delta"]
            if delta["type"] == "input_json_delta":
                partial += delta["partial_json"]
            else:
                name = delta["type"].removesuffix("_delta")
                block[name] += delta[name]
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_index
            if message["content"][open_index]["type"] == "tool_use":
                message["content"][open_index]["input"] = json.loads(partial) if partial else {}
            open_index = None
        elif event["type"] == "message_delta":
            message |= event["delta"]
            message["usage"] |= event["usage"]
    assert open_index is None
    assert events[-1]["type"] == "message_stop"
    return message


def test_a_whole_answer_has_every_field_but_diagnostics() -> None:
    whole = opened().answer(
        completion(reasoning="hm", text="4", calls=[call("c1", "add", '{"a": 2}')], finish="tool_calls"),
        USAGE,
    )
    message = read_strictly(Message, whole)
    assert set(Message.model_fields) - {"diagnostics"} == set(json.loads(whole))
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[0].signature
    assert message.content[2].input == {"a": 2}
    assert message.stop_reason == "tool_use"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (
        32,
        8,
        0,
    )
    assert usage.output_tokens == 20
    assert usage.output_tokens_details.thinking_tokens == 9


FULL = Usage(input_tokens=40, output_tokens=20)


@pytest.mark.parametrize(
    ("answer", "usage", "reason", "sequence"),
    [
        (completion(text="4"), USAGE, "end_turn", None),
        (completion(text="4", finish="length"), FULL, "max_tokens", None),
        (
            completion(text="4", finish="length"),
            Usage(output_tokens=5),
            "model_context_window_exceeded",
            None,
        ),
        (completion(text="4", finish="length"), Usage(output_tokens=5, estimated=True), "max_tokens", None),
        (completion(calls=[call("c", "add", "{}")], finish="tool_calls"), USAGE, "tool_use", None),
        (completion(calls=[call("c", "add", "{}")], finish="stop"), USAGE, "tool_use", None),
        (completion(text="4", finish="content_filter"), USAGE, "refusal", None),
        (completion(text="4", stop_reason="END"), USAGE, "stop_sequence", "END"),
        (completion(text="4", matched_stop="END"), USAGE, "stop_sequence", "END"),
        (completion(text="4", matched_stop=2), USAGE, "end_turn", None),
    ],
)
def test_stop_reasons(answer: dict[str, Any], usage: Usage, reason: str, sequence: str | None) -> None:
    message = json.loads(opened({"stop_sequences": ["END"]}).answer(answer, usage))
    read_strictly(Message, message)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}),
        ('{"a": 1}', {"a": 1}),
        ('{"a": ', {"INVALID_JSON": '{"a": '}),
        ("[1]", {"INVALID_JSON": "[1]"}),
    ],
)
def test_tool_input_is_always_an_object(arguments: str, given: dict[str, Any]) -> None:
    answer = completion(calls=[call("c", "add", arguments)], finish="tool_calls")
    assert json.loads(opened().answer(answer, USAGE))["content"][0]["input"] == given


def test_golden_stream() -> None:
    answer = chunks(["2+2", "=4"], ["The sum", " is 4"], [("call_1", "add", ['{"a":', "2}"])], "tool_calls")
    stream = streamed(opened(), answer)
    events_of(stream)
    assert stream.decode() == (GOLDEN / "messages_stream.txt").read_text()


def test_the_start_tells_the_prompts_tokens_where_the_engine_tells_them_early() -> None:
    quirks = msgspec.structs.replace(MODEL.quirks, early_usage={"return_progress": True})
    dialect = MessagesDialect()
    dialect.request_id = "r1"
    model = msgspec.structs.replace(MODEL, quirks=quirks)
    assert dialect.parse({**REQUEST, "stream": True}, b"", model).fields["return_progress"] is True
    progress = {**chunk({"content": None}), "prompt_progress": {"total": 40, "cache": 8, "processed": 40}}
    events = events_of(streamed(dialect, [progress, chunk({"content": "4"}), chunk({}, "stop")]))
    usage = events[0]["message"]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (32, 8)
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["cache_read_input_tokens"]) == (32, 8)
    assert "return_progress" not in MessagesDialect().parse(REQUEST, b"", model).fields


def test_a_continued_message_is_not_said_twice() -> None:
    quirks = msgspec.structs.replace(MODEL.quirks, repeats_prefix=True)
    begun = MessagesDialect()
    begun.request_id = "r1"
    asked = [*REQUEST["messages"], {"role": "assistant", "content": "The sum"}]
    begun.parse({**REQUEST, "messages": asked}, b"", msgspec.structs.replace(MODEL, quirks=quirks))
    message = json.loads(begun.answer(completion(text="The sum is 4"), USAGE))
    assert message["content"][0]["text"] == " is 4"
    other = json.loads(opened().answer(completion(text="The sum is 4"), USAGE))
    assert other["content"][0]["text"] == "The sum is 4"


def test_thinking_may_be_left_out_of_the_answer() -> None:
    dialect = opened({"thinking": {"type": "adaptive", "display": "omitted"}})
    events = events_of(streamed(dialect, chunks(["secret"], ["4"], [])))
    message = accumulated(events)
    assert message["content"][0] == {"type": "thinking", "thinking": "", "signature": "r1-0"}
    assert "secret" not in json.dumps(events)
    whole = opened({"thinking": {"type": "adaptive", "display": "omitted"}})
    assert json.loads(whole.answer(completion(reasoning="secret", text="4"), USAGE)) == message


def test_the_ping_is_an_event_that_clients_skip() -> None:
    assert MessagesDialect.keepalive == b'event: ping\ndata: {"type":"ping"}\n\n'


ERRORS: list[tuple[errors.SextantError, str]] = [
    (errors.BadRequest("x"), "invalid_request_error"),
    (errors.Unprocessable("x"), "invalid_request_error"),
    (errors.Unauthenticated("x"), "authentication_error"),
    (errors.InsufficientBalance("x"), "billing_error"),
    (errors.Forbidden("x"), "permission_error"),
    (errors.NotFound("x"), "not_found_error"),
    (errors.MethodNotAllowed("x"), "invalid_request_error"),
    (errors.RateLimited("x"), "rate_limit_error"),
    (errors.Overloaded("x"), "overloaded_error"),
    (errors.DeadlineExceeded("x"), "timeout_error"),
    (errors.UpstreamUnavailable("x"), "overloaded_error"),
    (errors.LedgerUnavailable("x"), "overloaded_error"),
    (errors.UpstreamError("x"), "api_error"),
    (errors.Misconfigured("x"), "api_error"),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=[type(case[0]).__name__ for case in ERRORS])
def test_errors_have_anthropics_shape(error: errors.SextantError, kind: str) -> None:
    dialect = MessagesDialect()
    dialect.request_id = "r1"
    body = {"type": "error", "error": {"type": kind, "message": "x"}, "request_id": "r1"}
    assert json.loads(dialect.failure(error)) == body
    read_strictly(ErrorResponse, dialect.failure(error))
    assert dialect.stream_error(error) == b"event: error\ndata: " + dialect.failure(error) + b"\n\n"


def test_a_body_too_large_has_the_documented_type() -> None:
    # documented (413), though the client's union of error types leaves it out
    body = json.loads(MessagesDialect().failure(errors.BodyTooLarge("x")))
    assert body["error"]["type"] == "request_too_large"


@pytest.mark.slow
@settings(max_examples=150)
@given(answers())
def test_any_cut_of_the_stream_gives_the_whole_answer(
    both: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    whole, stream = both
    message = accumulated(events_of(streamed(opened(), stream)))
    assert message == json.loads(opened().answer(whole, USAGE))


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=5))
def test_text_after_a_tool_call_is_a_block_of_its_own(text: str) -> None:
    dialect = opened()
    head = {"index": 0, **call("c1", "add", "{}")}
    answer = [chunk({"tool_calls": [head]}), chunk({"content": text}), chunk({}, "stop")]
    message = accumulated(events_of(streamed(dialect, answer)))
    assert [block["type"] for block in message["content"]] == ["tool_use", "text"]
    assert message["content"][1]["text"] == text


def test_tokens_are_counted_by_the_engine() -> None:
    dialect = CountTokensDialect()
    fields = {name: value for name, value in REQUEST.items() if name != "max_tokens"}
    call = dialect.parse({**fields, "system": "Be brief."}, b"", MODEL)
    assert call.target == "/chat/completions/input_tokens"
    assert call.stream is False
    assert call.fields["messages"][0] == {"role": "system", "content": "Be brief."}
    counted = dialect.answer({"input_tokens": 17, "object": "response.input_tokens"}, Usage())
    assert read_strictly(MessageTokensCount, counted).input_tokens == 17
    with pytest.raises(errors.UpstreamError):
        dialect.answer({"object": "x"}, Usage())


def test_an_engine_that_counts_no_tokens_is_named() -> None:
    with pytest.raises(errors.Unprocessable) as caught:
        CountTokensDialect().parse(REQUEST, b"", SEEING)
    assert "seer" in caught.value.message
