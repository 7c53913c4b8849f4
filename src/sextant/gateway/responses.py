"""The OpenAI Responses dialect: POST /v1/responses, as a stream of typed events or as one object.

Part of flow 1 (serve). `responses_request.py` reads the request; here an engine's chat answer becomes output
items. The events are those that DeepSeek documents (api-docs.deepseek.com/guides/responses_api, 2026-11):
reasoning comes as `reasoning_text`, and the stream ends with response.completed, .incomplete or .failed,
without `[DONE]`. Shapes follow the published types of the `openai` client.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import msgspec

from sextant.base.errors import BadRequest, RateLimited, SextantError
from sextant.gateway import failures, sse
from sextant.gateway.answer_parts import Alternative, Assembly, Logprob, Part, Step
from sextant.gateway.dialect import Call
from sextant.gateway.responses_request import Ask, read_request
from sextant.gateway.translation import engine_call, repeated_prefix
from sextant.spec.snapshot import ServedModel
from sextant.spec.usage import Usage

_encode = msgspec.json.Encoder().encode

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_UNLIKELY = -9999.0
"""What OpenAI writes where a log probability is minus infinity, which JSON cannot say."""
_ITEM_PREFIX = {"reasoning": "rs", "text": "msg", "tool": "fc"}


class ResponsesDialect:
    """One Responses request. `clock` gives Unix seconds."""

    endpoint = "responses"
    keepalive = sse.KEEPALIVE

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.request_id = ""
        self._clock = clock
        self._created_s = 0
        self._model = ""
        self._prefix = ""
        self._ask: Ask | None = None
        self._assembly = Assembly()
        self._sequence = 0

    def parse(self, fields: dict[str, Any], body: bytes, model: ServedModel) -> Call:
        """Checks the request and makes the engine's. Raises BadRequest or Unprocessable naming the field."""
        self._created_s = int(self._clock())
        self._ask = read_request(fields, model)
        self._model = self._ask.turn.model
        self._prefix = repeated_prefix(self._ask.turn, model)
        return engine_call(self._ask.turn, model)

    def begin(self, request_id: str) -> bytes:
        self.request_id = request_id
        return self._event("response.created", response=self._response("in_progress")) + self._event(
            "response.in_progress", response=self._response("in_progress")
        )

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        return b"".join(self._step(step) for step in self._assembly.chunk(chunk))

    def finish(self, usage: Usage) -> bytes:
        status = self._status()
        events = [self._close(self._assembly.parts[-1], status)] if self._assembly.parts else []
        empty = self._empty_message(status)
        if empty is not None:
            self._assembly.parts.append(empty)
            events += [self._open(empty), self._close(empty, status)]
        events.append(self._event(f"response.{status}", response=self._response(status, usage)))
        return b"".join(events)

    def stream_error(self, error: SextantError) -> bytes:
        begun = self.begin(self.request_id) if self._sequence == 0 else b""
        response = self._response("failed")
        response["error"] = {"code": _failure_code(error), "message": error.message}
        return begun + self._event("response.failed", response=response)

    def answer(self, completion: dict[str, Any], usage: Usage) -> bytes:
        self._assembly.whole(completion, self._prefix)
        status = self._status()
        empty = self._empty_message(status)
        if empty is not None:
            self._assembly.parts.append(empty)
        return _encode(self._response(status, usage))

    def failure(self, error: SextantError) -> bytes:
        if error.field == "messages" and self._ask is not None:
            error = copy.copy(error)
            error.field = "input"  # where the engine's messages came from
        return failures.openai_body(error)

    def _event(self, kind: str, **values: Any) -> bytes:
        data = _encode({"type": kind, "sequence_number": self._sequence, **values})
        self._sequence += 1
        return sse.event(data, kind.encode())

    def _step(self, step: Step) -> bytes:
        events = b""
        if step.opened:
            if step.closed is not None:
                events += self._close(step.closed, "completed")
            events += self._open(step.part)
        if not step.piece.text:
            return events
        place = self._place(step.part)
        if step.part.kind == "tool":
            kind = "response.function_call_arguments.delta"
            return events + self._event(kind, **place, delta=step.piece.text)
        if step.part.kind == "reasoning":
            kind = "response.reasoning_text.delta"
            return events + self._event(kind, **place, content_index=0, delta=step.piece.text)
        return events + self._event(
            "response.output_text.delta",
            **place,
            content_index=0,
            delta=step.piece.text,
            logprobs=[_brief(entry) for entry in self._logprobs(step.piece.logprobs)],
        )

    def _open(self, part: Part) -> bytes:
        item = self._item(part, "in_progress")
        if part.kind == "tool":
            item["arguments"] = ""
            return self._event("response.output_item.added", output_index=part.index, item=item)
        item["content"] = []
        empty = _content(part.kind, "", [])
        return self._event("response.output_item.added", output_index=part.index, item=item) + self._event(
            "response.content_part.added", **self._place(part), content_index=0, part=empty
        )

    def _close(self, part: Part, status: str) -> bytes:
        place = self._place(part)
        item = self._item(part, "completed" if status == "completed" else "incomplete")
        if part.kind == "tool":
            events = self._event("response.function_call_arguments.done", **place, arguments=part.text)
        elif part.kind == "reasoning":
            events = self._event("response.reasoning_text.done", **place, content_index=0, text=part.text)
        else:
            logprobs = [_brief(entry) for entry in self._logprobs(part.logprobs)]
            events = self._event(
                "response.output_text.done", **place, content_index=0, text=part.text, logprobs=logprobs
            )
        if part.kind != "tool":
            content = item["content"][0]
            events += self._event("response.content_part.done", **place, content_index=0, part=content)
        return events + self._event("response.output_item.done", output_index=part.index, item=item)

    @property
    def _serial(self) -> str:
        """The request id without its prefix: every id in the answer is made of it."""
        return self.request_id.removeprefix("req_")

    def _place(self, part: Part) -> dict[str, Any]:
        return {"item_id": self._item_id(part), "output_index": part.index}

    def _item_id(self, part: Part) -> str:
        return f"{_ITEM_PREFIX[part.kind]}_{self._serial}_{part.index}"

    def _item(self, part: Part, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self._item_id(part), "type": "", "status": status}
        if part.kind == "tool":
            call_id = part.call_id or f"call_{self._serial}_{part.index}"
            return item | {
                "type": "function_call",
                "call_id": call_id,
                "name": part.name,
                "arguments": part.text,
            }
        content = [_content(part.kind, part.text, self._logprobs(part.logprobs))]
        if part.kind == "reasoning":
            return item | {"type": "reasoning", "summary": [], "content": content, "encrypted_content": None}
        return item | {"type": "message", "role": "assistant", "content": content}

    def _logprobs(self, entries: list[Logprob]) -> list[dict[str, Any]]:
        """Chat's log probabilities in the Responses form; none unless the caller asked for them."""
        if self._ask is None or not self._ask.logprobs:
            return []
        top = self._ask.echo["top_logprobs"]
        return [
            _logprob(entry)
            | {"top_logprobs": [_logprob(other) for other in (entry.top_logprobs or ())[:top]]}
            for entry in entries
        ]

    def _status(self) -> str:
        return "incomplete" if self._assembly.finish_reason in _INCOMPLETE else "completed"

    def _empty_message(self, status: str) -> Part | None:
        """A completed answer always has a message or a tool call: clients look for one."""
        parts = self._assembly.parts
        if status != "completed" or any(part.kind != "reasoning" for part in parts):
            return None
        return Part(len(parts), "text")

    def _response(self, status: str, usage: Usage | None = None) -> dict[str, Any]:
        echo = self._ask.echo if self._ask is not None else {}
        finished = status in ("completed", "incomplete")
        reason = _INCOMPLETE.get(self._assembly.finish_reason or "") if status == "incomplete" else None
        return {
            "id": f"resp_{self._serial}",
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "background": False,
            "completed_at": int(self._clock()) if status == "completed" else None,
            "conversation": None,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self._model,
            "output": self._output(status),
            "previous_response_id": None,
            "prompt": None,
            "service_tier": "default",
            "store": False,
            "truncation": "disabled",
            "usage": _usage(usage) if finished and usage is not None else None,
            **echo,
        }

    def _output(self, status: str) -> list[dict[str, Any]]:
        """The items so far; the one that was cut off is marked incomplete."""
        parts = self._assembly.parts
        if status == "in_progress":
            return []
        last = len(parts) - 1
        return [
            self._item(part, "incomplete" if part.index == last and status != "completed" else "completed")
            for part in parts
        ]


def _content(kind: str, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _logprob(entry: Alternative) -> dict[str, Any]:
    return {
        "token": entry.token,
        "bytes": list(entry.token.encode()) if entry.bytes is None else entry.bytes,
        "logprob": _UNLIKELY if entry.logprob is None else entry.logprob,
    }


def _brief(entry: dict[str, Any]) -> dict[str, Any]:
    """The form that text events carry: without `bytes`."""
    return {
        "token": entry["token"],
        "logprob": entry["logprob"],
        "top_logprobs": [{"token": top["token"], "logprob": top["logprob"]} for top in entry["top_logprobs"]],
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _failure_code(error: SextantError) -> str:
    """The nearest of the codes that the published `response.error` allows."""
    if isinstance(error, RateLimited):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, BadRequest) else "server_error"
