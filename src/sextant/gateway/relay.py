"""From the engine's answer to the client's: whole answers and streams, byte for byte or through the dialect.

Flow 1 (serve), the inner loop. A compliant engine's bytes are relayed as they are: each chunk is decoded only
to count it, to see its end and to notice garbage. Other engines' chunks are cleaned of their quirks and
written by the dialect. One engine chunk becomes one chunk to the client. The usage chunk is held back; the
caller sends it, and `[DONE]`, when the usage is durable. Whatever is not a complete, well-formed answer is
an UpstreamError. Neighbours: `flow.py` settles; `sse.py` cuts events; `counting.py` counts.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from sextant.base.errors import UpstreamError
from sextant.gateway import sse
from sextant.gateway.counting import (
    Tally,
    all_choices,
    by_bytes,
    read_usage,
    reported_reasoning,
    share_reasoning,
    wire_usage,
)
from sextant.gateway.dialect import Call
from sextant.gateway.router import ModelRoute
from sextant.gateway.run import Run
from sextant.spec.snapshot import GatewayLimits, Quirks
from sextant.spec.usage import Usage
from sextant.spec.wire.answers import Chunk, ChunkChoice, EngineUsage, RawUsage, Whole
from sextant.transport.exchange import UpstreamResponse

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode_whole = msgspec.json.Decoder(Whole).decode
_decode_raw_usage = msgspec.json.Decoder(RawUsage).decode
COMPLETION_TARGETS = ("/chat/completions", "/completions")
_BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _garbage(what: str) -> UpstreamError:
    return UpstreamError(f"The engine sent {what}.", code="engine_garbage")


def clean(answer: dict[str, Any], quirks: Quirks) -> None:
    """Removes an engine's own additions and gives the reasoning text its published name, in place."""
    for steps, name in _strippings(quirks.strip_fields):
        if steps:
            _strip(answer, steps, name)
        else:
            answer.pop(name, None)
    if quirks.reasoning_field == "reasoning_content":
        return
    for choice in answer.get("choices", ()):
        part = choice.get("delta", choice.get("message"))
        if isinstance(part, dict) and quirks.reasoning_field in part:
            part["reasoning_content"] = part.pop(quirks.reasoning_field)


@functools.lru_cache(maxsize=64)
def _strippings(fields: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Each field as the steps that lead to it and its own name."""
    paths = [field.split(".") for field in fields]
    return tuple((tuple(path[:-1]), path[-1]) for path in paths)


def _strip(node: dict[str, Any], steps: tuple[str, ...], name: str) -> None:
    """Removes `name` where `steps` lead, through every item of a list; a step that is not there ends it."""
    inner = node.get(steps[0])
    for item in inner if isinstance(inner, list) else (inner,):
        if isinstance(item, dict):
            if len(steps) > 1:
                _strip(item, steps[1:], name)
            else:
                item.pop(name, None)


def whole_answer(run: Run, call: Call, quirks: Quirks, body: bytes) -> tuple[bytes, Usage]:
    """The client's body and the usage, from an engine's whole answer. Raises UpstreamError when it is
    none."""
    if run.unmasking is not None:
        body = run.unmasking.whole(body)
    if quirks.compliant and getattr(run.dialect, "relays_raw", False):
        return _relayed(run, call, quirks, body)
    try:
        if call.target in COMPLETION_TARGETS and not _decode_whole(body).choices:
            raise _garbage("a completion without choices")
        completion = _decode(body)
    except _BAD_JSON as error:
        raise _garbage("an answer that is no completion") from error
    received = getattr(run.dialect, "received", None)
    if received is not None:
        completion = received(completion)
    if not isinstance(completion, dict) or completion.get("error") is not None:
        raise _garbage("an answer that is no completion")
    clean(completion, quirks)
    usage = whole_usage(completion, quirks, run.prompt_bytes)
    return run.dialect.answer(completion, usage), usage


def _relayed(run: Run, call: Call, quirks: Quirks, body: bytes) -> tuple[bytes, Usage]:
    """The engine's own bytes; only the usage and the model's name are spliced where they differ."""
    try:
        answer = _decode_whole(body)
    except _BAD_JSON as error:
        raise _garbage("an answer that is no completion") from error
    if not answer.choices:
        raise _garbage("a completion without choices")
    if answer.model != call.model:
        body = renamed(body, answer.model, call.model)
    counted = answer.usage
    thought = any(c.message is not None and c.message.reasoning_content for c in answer.choices)
    if counted is None or (thought and not _counts_reasoning(counted)):
        completion = _decode(body)
        usage = whole_usage(completion, quirks, run.prompt_bytes)
        if counted is None:
            return run.dialect.answer(completion, usage), usage
        return spliced_usage(body, usage), usage
    usage = read_engine_usage(counted)
    if counted.prompt_cache_miss_tokens is None:
        body = spliced_usage(body, usage)
    return body, usage


def whole_usage(completion: dict[str, Any], quirks: Quirks, prompt_bytes: int) -> Usage:
    """The engine's count; its reasoning share by bytes where the engine gives none, and all choices by bytes
    where it counts the first alone."""
    sizes = [_text_bytes(choice) for choice in completion.get("choices") or ()]
    reasoning_bytes = sum(reasoning for reasoning, _ in sizes)
    other_bytes = sum(other for _, other in sizes)
    engine = completion.get("usage")
    if not isinstance(engine, dict):
        return by_bytes(prompt_bytes, reasoning_bytes, other_bytes)
    usage = read_usage(engine, quirks)
    if quirks.usage_of_one_choice and len(sizes) > 1:
        usage = all_choices(usage, sum(sizes[0]), reasoning_bytes + other_bytes, len(sizes))
    if reported_reasoning(engine) is None:
        usage = share_reasoning(usage, reasoning_bytes, other_bytes)
    return usage


def _text_bytes(choice: dict[str, Any]) -> tuple[int, int]:
    """Bytes of reasoning, and of everything else that the model wrote, in one whole choice."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return 0, len(str(choice.get("text") or "").encode())
    other = len(str(message.get("content") or "").encode())
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            other += len(f"{function.get('name') or ''}{function.get('arguments') or ''}".encode())
    return len(str(message.get("reasoning_content") or "").encode()), other


def _counts_reasoning(counted: EngineUsage) -> bool:
    details = counted.completion_tokens_details
    return details is not None and details.reasoning_tokens is not None


def read_engine_usage(counted: EngineUsage) -> Usage:
    """A compliant engine's usage as ours; a part never exceeds its whole."""
    cached = counted.prompt_cache_hit_tokens
    if cached is None:
        given = counted.prompt_tokens_details
        cached = 0 if given is None else given.cached_tokens or 0
    details = counted.completion_tokens_details
    reasoning = 0 if details is None else details.reasoning_tokens or 0
    inputs, outputs = counted.prompt_tokens, counted.completion_tokens
    return Usage(
        inputs,
        outputs,
        cached if cached <= inputs else inputs,
        reasoning if reasoning <= outputs else outputs,
    )


def spliced_usage(body: bytes, usage: Usage) -> bytes:
    """`body` with its usage object replaced by the complete one."""
    old = bytes(_decode_raw_usage(body).usage)
    place = body.rfind(old)
    return body[:place] + _encode(wire_usage(usage, _decode(old))) + body[place + len(old) :]


def renamed(body: bytes, engine_name: str, asked: str) -> bytes:
    """`body` with the engine's name for the model replaced by the one asked for. A quoted `"model":` cannot
    occur inside a JSON string, where quotes are escaped."""
    name = _encode(engine_name)
    for colon in (b'"model":', b'"model": '):
        if colon + name in body:
            return body.replace(colon + name, colon + _encode(asked), 1)
    return body


class StreamRelay:
    """Relays one stream. `finale` holds what may leave only when the usage is durable."""

    def __init__(self, run: Run, call: Call, route: ModelRoute, limits: GatewayLimits) -> None:
        self.tally = run.tally = Tally()
        self._run = run
        self._call = call
        self._model = call.model
        self._splitter = sse.EventSplitter(limits.upstream_event_bytes)
        self._quirks = route.served.quirks
        self._raw = self._quirks.compliant and getattr(run.dialect, "relays_raw", False)
        self._open: set[int] = set()
        self._seen: set[int] = set()
        self._usage_event: bytes | None = None
        self._last_event: bytes | None = None
        self._ended = False
        self._begin = b""

    async def run(self, response: UpstreamResponse) -> None:
        """Until the engine says that it is done. Raises UpstreamError when it stops before."""
        run = self._run
        self._begin = run.dialect.begin(run.request_id)
        while not self._ended and await response.each(self._take):
            await run.responder.drain()
        if self._open or not self._seen or (self._splitter.pending and not self._ended):
            raise UpstreamError("The engine's answer ended before it was complete.", code="engine_truncated")
        if self._begin:
            run.write(self._begin)

    def _take(self, data: bytes) -> bool:
        """Passes on what one piece of the engine's answer says; whether the next one must wait, because the
        client reads too slowly or the answer has ended."""
        only = self._splitter.only(data)
        out = self._translate(data, only) if only else self._several(data)
        if self._begin:
            out = self._opened(out)
        if out and self._run.write(out):
            return True
        return self._ended

    def _several(self, data: bytes) -> bytes:
        """What becomes of a piece that is not just one event."""
        out = b""
        for event in self._splitter.feed(data):
            out += self._translate(event, sse.data_of(event))
            if self._ended:
                break
        return out

    def _opened(self, out: bytes) -> bytes:
        """`out` behind what opens the dialect's stream."""
        if out:
            out, self._begin = self._begin + out, b""
        return out

    def finale(self, usage: Usage) -> bytes:
        """The usage chunk, where asked for, and the end of the stream."""
        dialect = self._run.dialect
        if not self._raw or not self._call.include_usage:
            return dialect.finish(usage)
        if self._usage_event is not None:
            return self._usage_event + sse.DONE
        if self._last_event is not None:
            dialect.chunk(_decode(sse.data_of(self._last_event)))  # teaches it the id and the date
        return dialect.finish(usage)

    def _translate(self, event: bytes, data: bytes) -> bytes:
        """What becomes of one of the engine's events: nothing, or bytes for the client."""
        if not data:
            return b""
        if data == b"[DONE]":
            self._ended = True
            return b""
        try:
            chunk = _decode_chunk(data)
        except _BAD_JSON as error:
            raise _garbage("an event that is no chunk") from error
        if chunk.error is not None:
            raise _engine_error(chunk.error)
        choices = chunk.choices
        if choices:
            self._count(choices)
        if self._run.unmasking is not None:
            restored = self._run.unmasking.event(data)
            if restored is not data:
                data, event = restored, sse.event(restored)
        if not self._raw:
            return self._dialect_event(data)
        if chunk.model != self._model:
            event = renamed(event, chunk.model, self._model)
        if chunk.usage is not None:
            self._hold_usage(None if choices else event, chunk.usage)
        if not choices:
            return b""
        self._last_event = event
        return event

    def _dialect_event(self, data: bytes) -> bytes:
        """An event of any other engine: cleaned, and written anew by the dialect."""
        chunk = _decode(data)
        if "timings_per_token" in self._quirks.running_usage:
            self.tally.take_timings(chunk.get("timings"))
        clean(chunk, self._quirks)
        usage = chunk.pop("usage", None)
        if usage is not None:
            self.tally.report(usage, self._quirks)
        return self._run.dialect.chunk(chunk) if chunk.get("choices") else b""

    def _count(self, choices: list[ChunkChoice]) -> None:
        """Counts text, and keeps which choices have begun and not ended: a stream that ends before they do
        was cut off."""
        tally, seen = self.tally, self._seen
        spoke: object
        for choice in choices:
            delta = choice.delta
            if delta is None:
                spoke = choice.text
            elif delta.reasoning_content or delta.reasoning:
                tally.reasoning_chunks += 1
                spoke = True
            else:
                spoke = delta.content or delta.tool_calls
            if spoke:
                tally.chunks += 1
                self._run.token_seen()
            index = choice.index
            if index not in seen:
                seen.add(index)
                self._open.add(index)
            if choice.finish_reason is not None:
                self._open.discard(index)

    def _hold_usage(self, event: bytes | None, counted: EngineUsage) -> None:
        """Keeps the usage, and the chunk that carries it completed to DeepSeek's form."""
        tally = self.tally
        tally.take(read_engine_usage(counted), _counts_reasoning(counted))
        if event is not None:
            share_missing = tally.reasoning_chunks and not tally.counts_reasoning
            if share_missing or counted.prompt_cache_miss_tokens is None:
                event = sse.event(spliced_usage(sse.data_of(event), tally.usage(self._run.prompt_bytes)))
            self._usage_event = event


def _engine_error(error: Any) -> UpstreamError:
    """The engine's own error event, midway or instead of a first chunk."""
    message = error.get("message") if isinstance(error, dict) else error
    said = message if isinstance(message, str) and message else "it gave no reason"
    return UpstreamError(f"The engine failed: {said[:500]}", code="engine_error")
