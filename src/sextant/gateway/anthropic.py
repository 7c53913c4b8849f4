"""The Anthropic Messages dialect: POST /v1/messages and /anthropic/v1/messages, and token counting.

Part of flow 1 (serve). `anthropic_request.py` reads the request; here an engine's chat answer becomes content
blocks, as Anthropic's events or as one message. Shapes follow the published types of the `anthropic` client.
`input_tokens` excludes tokens read from the cache, as Anthropic counts.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sextant.base import errors
from sextant.gateway import sse
from sextant.gateway.answer_parts import Assembly, Part, Step
from sextant.gateway.anthropic_request import Ask, read_request
from sextant.gateway.dialect import Call
from sextant.gateway.translation import engine_call, repeated_prefix
from sextant.spec.snapshot import ServedModel
from sextant.spec.usage import Usage

_encode = msgspec.json.Encoder().encode
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}

INVALID_JSON = "INVALID_JSON"
"""The key that hands on tool input that is no JSON object, as Anthropic's documentation advises."""

_ERROR_TYPES: tuple[tuple[type[errors.SextantError], str], ...] = (
    (errors.BodyTooLarge, "request_too_large"),
    (errors.BadRequest, "invalid_request_error"),
    (errors.Unauthenticated, "authentication_error"),
    (errors.InsufficientBalance, "billing_error"),
    (errors.Forbidden, "permission_error"),
    (errors.NotFound, "not_found_error"),
    (errors.MethodNotAllowed, "invalid_request_error"),
    (errors.RateLimited, "rate_limit_error"),
    (errors.DeadlineExceeded, "timeout_error"),
    (errors.Overloaded, "overloaded_error"),
    (errors.UpstreamUnavailable, "overloaded_error"),
    (errors.LedgerUnavailable, "overloaded_error"),
    (errors.LimitsUnavailable, "overloaded_error"),
    (errors.SextantError, "api_error"),
)


class MessagesDialect:
    """One Messages request."""

    endpoint = "messages"
    id_header = b"request-id"
    """Anthropic's name for the request id header, beside ours."""
    keepalive = sse.event(b'{"type":"ping"}', b"ping")

    def __init__(self) -> None:
        self.request_id = ""
        self._model = ""
        self._prefix = ""
        self._begun = False
        self._prompt = Usage()
        """What is known of the prompt's tokens before the first output."""
        self._ask: Ask | None = None
        self._assembly = Assembly()

    def parse(self, fields: dict[str, Any], body: bytes, model: ServedModel) -> Call:
        """Checks the request and makes the engine's. Raises BadRequest or Unprocessable naming the field."""
        self._ask = read_request(fields, model)
        self._model = self._ask.turn.model
        self._prefix = repeated_prefix(self._ask.turn, model)
        if self._ask.turn.stream:
            self._ask.turn.extra |= model.quirks.early_usage
        return engine_call(self._ask.turn, model)

    def begin(self, request_id: str) -> bytes:
        self.request_id = request_id
        return (
            b""  # message_start waits for the first output: till then the engine may tell the prompt's tokens
        )

    def _start(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return _event("message_start", message=self._message([], None, None, self._prompt))

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        progress = chunk.get("prompt_progress")
        if isinstance(progress, dict):
            self._prompt = _prompt_usage(progress)
        events = b"".join(self._step(step) for step in self._assembly.chunk(chunk))
        return self._start() + events if events else b""

    def finish(self, usage: Usage) -> bytes:
        closed = self._start()
        if self._assembly.parts:
            closed += self._close(self._assembly.parts[-1])
        reason, sequence = self._stop(usage)
        delta = {
            "stop_reason": reason,
            "stop_sequence": sequence,
            "stop_details": _stop_details(reason),
            "container": None,
        }
        counts = {"server_tool_use": None, **_counts(usage)}
        return closed + _event("message_delta", delta=delta, usage=counts) + _event("message_stop")

    def stream_error(self, error: errors.SextantError) -> bytes:
        return sse.event(self.failure(error), b"error")

    def answer(self, completion: dict[str, Any], usage: Usage) -> bytes:
        self._assembly.whole(completion, self._prefix)
        content = [self._block(part) for part in self._assembly.parts]
        reason, sequence = self._stop(usage)
        return _encode(self._message(content, reason, sequence, usage))

    def failure(self, error: errors.SextantError) -> bytes:
        return failure(error, self.request_id)

    def _step(self, step: Step) -> bytes:
        events = b""
        part = step.part
        if step.opened:
            if step.closed is not None:
                events += self._close(step.closed)
            events += _event("content_block_start", index=part.index, content_block=self._opening(part))
        if not step.piece.text:
            return events
        if part.kind == "tool":
            delta = {"type": "input_json_delta", "partial_json": step.piece.text}
        elif part.kind == "text":
            delta = {"type": "text_delta", "text": step.piece.text}
        elif self._shows_thinking:
            delta = {"type": "thinking_delta", "thinking": step.piece.text}
        else:
            return events
        return events + _event("content_block_delta", index=part.index, delta=delta)

    def _close(self, part: Part) -> bytes:
        stop = _event("content_block_stop", index=part.index)
        if part.kind != "reasoning":
            return stop
        delta = {"type": "signature_delta", "signature": self._signature(part)}
        return _event("content_block_delta", index=part.index, delta=delta) + stop

    @property
    def _serial(self) -> str:
        """The request id without its prefix: every id in the answer is made of it."""
        return self.request_id.removeprefix("req_")

    @property
    def _shows_thinking(self) -> bool:
        return self._ask is None or self._ask.show_thinking

    def _signature(self, part: Part) -> str:
        """Required by the types and sent back by clients; it says where the thinking came from."""
        return f"{self._serial}-{part.index}"

    def _opening(self, part: Part) -> dict[str, Any]:
        block = self._block(Part(part.index, part.kind, "", part.call_id, part.name))
        if part.kind == "reasoning":
            block["signature"] = ""
        return block

    def _block(self, part: Part) -> dict[str, Any]:
        if part.kind == "text":
            return {"type": "text", "text": part.text, "citations": None}
        if part.kind == "reasoning":
            thinking = part.text if self._shows_thinking else ""
            return {"type": "thinking", "thinking": thinking, "signature": self._signature(part)}
        call_id = part.call_id or f"toolu_{self._serial}_{part.index}"
        return {
            "type": "tool_use",
            "id": call_id,
            "name": part.name,
            "input": _tool_input(part.text),
            "caller": {"type": "direct"},
        }

    def _stop(self, usage: Usage) -> tuple[str, str | None]:
        """(stop_reason, stop_sequence). Which sequence matched is known only where the engine tells."""
        reason = self._assembly.finish_reason or "stop"
        if reason == "length" and self._ask is not None:
            limit = self._ask.turn.max_output_tokens or 0
            if not usage.estimated and usage.output_tokens < limit:
                return "model_context_window_exceeded", None
        if reason == "stop" and self._assembly.has_tool_call:
            return "tool_use", None
        stops = self._ask.turn.extra.get("stop", ()) if self._ask is not None else ()
        if reason == "stop" and self._assembly.matched_stop in stops:
            return "stop_sequence", self._assembly.matched_stop
        return _STOP_REASONS.get(reason, "end_turn"), None

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, sequence: str | None, usage: Usage
    ) -> dict[str, Any]:
        return {
            "id": f"msg_{self._serial}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "stop_details": _stop_details(reason),
            "container": None,
            "usage": {
                **_counts(usage),
                "cache_creation": None,
                "inference_geo": None,
                "server_tool_use": None,
                "service_tier": "standard",
            },
        }


class CountTokensDialect:
    """POST …/messages/count_tokens: the engine counts the translated request with its own tokenizer."""

    endpoint = "messages.count_tokens"
    id_header = MessagesDialect.id_header
    keepalive = MessagesDialect.keepalive

    def __init__(self) -> None:
        self.request_id = ""

    def parse(self, fields: dict[str, Any], body: bytes, model: ServedModel) -> Call:
        """Raises Unprocessable where the engine has no tokenizer to ask."""
        ask = read_request(fields, model, counting=True)
        path = model.quirks.count_tokens_path
        if not path:
            raise errors.Unprocessable(
                f"the engine of model `{model.id}` counts no tokens; send the message and read its `usage`.",
                field="model",
                code="unsupported",
            )
        ask.turn.stream = False
        call = engine_call(ask.turn, model)
        call.target = path
        return call

    def begin(self, request_id: str) -> bytes:
        self.request_id = request_id
        return b""

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        return b""

    def finish(self, usage: Usage) -> bytes:
        return b""

    def stream_error(self, error: errors.SextantError) -> bytes:
        return sse.event(self.failure(error), b"error")

    def answer(self, completion: dict[str, Any], usage: Usage) -> bytes:
        count = completion.get("input_tokens")
        if not isinstance(count, int):
            raise errors.UpstreamError("The engine's token count is no number.")
        return _encode({"input_tokens": count})

    def failure(self, error: errors.SextantError) -> bytes:
        return failure(error, self.request_id)


def failure(error: errors.SextantError, request_id: str) -> bytes:
    """An error in Anthropic's shape."""
    kind = next(name for type_, name in _ERROR_TYPES if isinstance(error, type_))
    message = {"type": kind, "message": error.message}
    return _encode({"type": "error", "error": message, "request_id": request_id})


def _event(kind: str, **values: Any) -> bytes:
    return sse.event(_encode({"type": kind, **values}), kind.encode())


def _counts(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _prompt_usage(progress: dict[str, Any]) -> Usage:
    """llama.cpp's progress through the prompt."""
    total, cached = progress.get("total"), progress.get("cache")
    if type(total) is not int or type(cached) is not int:
        return Usage()
    return Usage(input_tokens=max(total, 0), cached_tokens=min(max(cached, 0), max(total, 0)))


def _stop_details(reason: str | None) -> dict[str, Any] | None:
    return {"type": "refusal", "category": None, "explanation": None} if reason == "refusal" else None


def _tool_input(arguments: str) -> dict[str, Any]:
    if not arguments:
        return {}
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = None
    return value if isinstance(value, dict) else {INVALID_JSON: arguments}
