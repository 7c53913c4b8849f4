"""Responses answers and event streams, held to the published types, and equal to each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_answers import MODEL, USAGE, answers, call, chunk, chunks, completion
from hypothesis import given, settings
from openai.types.responses import Response, ResponseStreamEvent

from sextant.base.errors import BadRequest, RateLimited, UpstreamError
from sextant.gateway.responses import ResponsesDialect
from sextant.spec.usage import Usage
from strictness import members_by_type, read_events, read_strictly

GOLDEN = Path(__file__).parent / "golden"
REQUEST = {"model": "sextant-nano", "input": "What is 2+2?"}
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": None}

EVENT_TYPES = members_by_type(ResponseStreamEvent)

NOT_OFFERED = {
    "access_programs", "image", "input_transformations", "moderation", "prompt_cache_diagnostics",
    "prompt_cache_options", "tool_usage",
}  # fmt: skip
"""Response fields of capabilities that this server does not have; all others are always present."""


def opened(fields: dict[str, Any] | None = None) -> ResponsesDialect:
    dialect = ResponsesDialect(clock=lambda: 1_790_000_000.5)
    dialect.request_id = "r1"
    dialect.parse({**REQUEST, **(fields or {})}, b"", MODEL)
    return dialect


def streamed(dialect: ResponsesDialect, answer: list[dict[str, Any]], usage: Usage = USAGE) -> bytes:
    stream = dialect.begin("r1") + b"".join(dialect.chunk(chunk) for chunk in answer)
    return stream + dialect.finish(usage)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """The events, each checked: strict type, name equal to its type, sequence numbers without a gap."""
    events = []
    for number, (name, data) in enumerate(read_events(stream)):
        assert name is not None
        event = read_strictly(EVENT_TYPES[name], data)
        assert event.sequence_number == number
        events.append(json.loads(data))
    return events


def test_a_whole_answer_has_every_field_of_the_published_type() -> None:
    whole = opened().answer(completion(reasoning="2 and 2", text="4"), USAGE)
    response = read_strictly(Response, whole)
    assert set(Response.model_fields) - NOT_OFFERED <= set(json.loads(whole))
    assert response.status == "completed"
    assert response.output_text == "4"
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].content[0].text == "2 and 2"
    assert response.usage.model_dump() == {
        "input_tokens": 40,
        "input_tokens_details": {
            "cached_tokens": 8,
            "cache_write_tokens": 0,
            "cache_write_tokens_details": None,
        },
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 9},
        "total_tokens": 60,
    }
    assert json.loads(whole)["store"] is False
    assert response.error is None
    assert response.incomplete_details is None


def test_the_answer_repeats_what_was_asked() -> None:
    asked = {
        "instructions": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 100,
        "metadata": {"run": "7"},
        "tools": [TOOL],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "user": "u1",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "max_tool_calls": 3,
    }
    response = json.loads(opened(asked).answer(completion(text="{}"), USAGE))
    read_strictly(Response, response)
    for name, value in asked.items():
        if name == "tools":
            assert response["tools"] == [{**TOOL, "description": None}]
        else:
            assert response[name] == value, name


def test_a_length_stop_is_incomplete_and_marks_the_item_that_was_cut() -> None:
    answer = json.loads(opened().answer(completion(reasoning="so", text="4 is", finish="length"), USAGE))
    read_strictly(Response, answer)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["completed_at"] is None
    assert [item["status"] for item in answer["output"]] == ["completed", "incomplete"]


def test_a_content_filter_stop_is_incomplete() -> None:
    answer = json.loads(opened().answer(completion(text="4", finish="content_filter"), USAGE))
    assert answer["incomplete_details"] == {"reason": "content_filter"}


def test_an_empty_answer_still_has_a_message() -> None:
    whole = json.loads(opened().answer(completion(), USAGE))
    events = events_of(streamed(opened(), chunks([], [], [])))
    assert [item["type"] for item in whole["output"]] == ["message"]
    assert whole["output"][0]["content"][0]["text"] == ""
    assert events[-1]["response"] == whole


def test_reasoning_cut_by_the_limit_gives_no_empty_message() -> None:
    whole = json.loads(opened().answer(completion(reasoning="hm", finish="length"), USAGE))
    assert [item["type"] for item in whole["output"]] == ["reasoning"]


def test_log_probabilities_only_on_request_and_in_the_responses_form() -> None:
    entry = {
        "token": "4",
        "bytes": [52],
        "logprob": -0.1,
        "top_logprobs": [{"token": "5", "bytes": [53], "logprob": -2.0}],
    }
    thought = {"token": "hm", "bytes": [104, 109], "logprob": -0.2, "top_logprobs": []}
    answer = completion(reasoning="hm", text="4", logprobs={"content": [thought, entry]})
    silent = json.loads(opened().answer(answer, USAGE))
    assert silent["output"][1]["content"][0]["logprobs"] == []
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    spoken = json.loads(opened(asked).answer(answer, USAGE))
    read_strictly(Response, spoken)
    assert spoken["output"][1]["content"][0]["logprobs"] == [entry]
    assert spoken["top_logprobs"] == 1
    stream = [
        chunk({"reasoning_content": "hm"}, logprobs={"content": [thought]}),
        chunk({"content": "4"}, logprobs={"content": [entry]}),
        chunk({}, "stop"),
    ]
    events = events_of(streamed(opened(asked), stream))
    delta = next(event for event in events if event["type"] == "response.output_text.delta")
    assert delta["logprobs"] == [
        {"token": "4", "logprob": -0.1, "top_logprobs": [{"token": "5", "logprob": -2.0}]}
    ]
    assert events[-1]["response"] == spoken


def test_golden_stream() -> None:
    answer = chunks(["2+2", "=4"], ["The sum", " is 4"], [("call_1", "add", ['{"a":', "2}"])], "tool_calls")
    stream = streamed(opened({"tools": [TOOL], "instructions": "Be brief."}), answer)
    events_of(stream)
    assert stream.decode() == (GOLDEN / "responses_stream.txt").read_text()
    assert b"[DONE]" not in stream


def test_event_order_of_reasoning_text_and_two_calls() -> None:
    answer = chunks(["a"], ["b"], [("c1", "add", ["{}"]), ("c2", "add", ["{}"])], "tool_calls")
    kinds = [event["type"].removeprefix("response.") for event in events_of(streamed(opened(), answer))]
    part = ["output_item.added", "content_part.added"]
    ended = ["content_part.done", "output_item.done"]
    function = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert kinds == [
        "created",
        "in_progress",
        *part,
        "reasoning_text.delta",
        "reasoning_text.done",
        *ended,
        *part,
        "output_text.delta",
        "output_text.done",
        *ended,
        *function,
        *function,
        "completed",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UpstreamError("The engine was lost."), "server_error"),
        (RateLimited("Too many."), "rate_limit_exceeded"),
        (BadRequest("Too long."), "invalid_prompt"),
    ],
)
def test_an_error_in_the_stream_ends_it_as_failed(error: Any, code: str) -> None:
    dialect = opened()
    stream = dialect.begin("r1") + dialect.chunk(chunk({"content": "4"})) + dialect.stream_error(error)
    last = events_of(stream)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": code, "message": error.message}
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert last["response"]["usage"] is None


def test_an_error_before_the_first_event_still_begins_the_stream() -> None:
    kinds = [event["type"] for event in events_of(opened().stream_error(UpstreamError("Lost.")))]
    assert kinds == ["response.created", "response.in_progress", "response.failed"]


def test_ids_are_made_of_the_request_id() -> None:
    dialect = opened()
    dialect.request_id = "req_01x"
    answer = json.loads(dialect.answer(completion(text="4", calls=[call("", "add", "{}")]), USAGE))
    assert answer["id"] == "resp_01x"
    assert [item["id"] for item in answer["output"]] == ["msg_01x_0", "fc_01x_1"]
    assert answer["output"][1]["call_id"] == "call_01x_1"


def test_mixed_up_tool_calls_are_an_engine_error() -> None:
    dialect = opened()
    dialect.begin("r1")
    dialect.chunk(chunk({"tool_calls": [{"index": 0, **call("c1", "add", "{")}]}))
    dialect.chunk(chunk({"tool_calls": [{"index": 1, **call("c2", "add", "{")}]}))
    with pytest.raises(UpstreamError):
        dialect.chunk(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}))


def test_an_answer_without_a_message_is_an_engine_error() -> None:
    with pytest.raises(UpstreamError):
        opened().answer({"choices": []}, USAGE)


@pytest.mark.slow
@settings(max_examples=150)
@given(answers())
def test_any_cut_of_the_stream_gives_the_whole_answer(
    both: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    whole, stream = both
    events = events_of(streamed(opened(), stream))
    final = events[-1]["response"]
    assert final == json.loads(opened().answer(whole, USAGE))
    heard: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            heard[event["item_id"]] = heard.get(event["item_id"], "") + event["delta"]
    for item in final["output"]:
        said = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert heard.get(item["id"], "") == said
