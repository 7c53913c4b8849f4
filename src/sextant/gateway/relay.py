"""From the engine's answer to the client's: whole answers and streams, byte for byte or through the dialect.

Flow 1 (serve), the inner loop. A compliant engine's bytes are relayed as they are: each chunk is decoded only
to count it, to see its end and to notice garbage. Other engines' chunks are cleaned of their quirks and
written by the dialect. One engine chunk becomes one chunk to the client. The usage chunk is held back; the
caller sends it, and `[DONE]`, when the usage is durable. Whatever is not a complete, well-formed answer is
an UpstreamError. Neighbours: `flow.py` settles; `sse.py` cuts events; `counting.py` counts.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sextant.base.errors import UpstreamError
from sextant.gateway import sse
from sextant.gateway.counting import all_choices, read_usage, reported_reasoning, share_reasoning, wire_usage
from sextant.gateway.run import Run
from sextant.spec.snapshot import GatewayLimits, Quirks
from sextant.spec.usage import Usage
from sextant.spec.wire.answers import NONE, Chunk, EngineUsage, Whole
from sextant.transport.exchange import UpstreamResponse

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode_whole = msgspec.json.Decoder(Whole).decode
_decode_usage = msgspec.json.Decoder(EngineUsage).decode
_BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _garbage(what: str) -> UpstreamError:
    return UpstreamError(f"The engine sent {what}.", code="engine_garbage")


def clean(answer: dict[str, Any], quirks: Quirks) -> None:
    """Removes an engine's own additions and gives the reasoning text its published name, in place."""
    for name in quirks.strip_fields:
        answer.pop(name, None)
    if quirks.reasoning_field == "reasoning_content":
        return
    for choice in answer.get("choices", ()):
        part = choice.get("delta", choice.get("message"))
        if isinstance(part, dict) and quirks.reasoning_field in part:
            part["reasoning_content"] = part.pop(quirks.reasoning_field)


class WholeRelay:
    """Reads a whole answer and makes the client's."""

    def __init__(self, run: Run, limits: GatewayLimits) -> None:
        self._run = run
        self._limits = limits

    async def answer(self, response: UpstreamResponse) -> tuple[bytes, Usage]:
        """Body and usage. Raises UpstreamError when the engine's answer is none."""
        run = self._run
        assert run.route is not None
        assert run.call is not None
        body = await response.read(self._limits.upstream_answer_bytes)
        run.token_seen()
        quirks = run.route.served.quirks
        if quirks.compliant and getattr(run.dialect, "relays_raw", False):
            return self._raw(body, quirks)
        try:
            completion = _decode(body)
        except _BAD_JSON as error:
            raise _garbage("an answer that is not JSON") from error
        if not isinstance(completion, dict) or completion.get("error") is not None:
            raise _garbage("an answer that is no completion")
        if run.call.target in ("/chat/completions", "/completions") and not _has_choices(completion):
            raise _garbage("a completion without choices")
        clean(completion, quirks)
        usage = self._usage_of(completion, quirks)
        return run.dialect.answer(completion, usage), usage

    def _usage_of(self, completion: dict[str, Any], quirks: Quirks) -> Usage:
        """The engine's count; its reasoning share by bytes where the engine gives none, and all choices by
        bytes where it counts the first alone."""
        sizes = [_text_bytes(choice) for choice in completion.get("choices") or ()]
        reasoning_bytes = sum(reasoning for reasoning, _ in sizes)
        other_bytes = sum(other for _, other in sizes)
        engine = completion.get("usage")
        if not isinstance(engine, dict):
            tally = self._run.tally
            tally.chunks = (reasoning_bytes + other_bytes) // 4
            tally.reasoning_chunks = reasoning_bytes // 4
            return tally.usage(self._run.prompt_bytes)
        usage = read_usage(engine, quirks)
        if quirks.usage_of_one_choice and len(sizes) > 1:
            usage = all_choices(usage, sum(sizes[0]), reasoning_bytes + other_bytes, len(sizes))
        if reported_reasoning(engine) is None:
            usage = share_reasoning(usage, reasoning_bytes, other_bytes)
        return usage

    def _raw(self, body: bytes, quirks: Quirks) -> tuple[bytes, Usage]:
        """The engine's own bytes; only the usage and the model's name are spliced where they differ."""
        run = self._run
        try:
            answer = _decode_whole(body)
        except _BAD_JSON as error:
            raise _garbage("an answer that is no completion") from error
        if not answer.choices:
            raise _garbage("a completion without choices")
        assert run.call is not None
        if answer.model != run.call.model:
            body = renamed(body, answer.model, run.call.model)
        raw = answer.usage
        if raw == NONE:
            completion = _decode(body)
            usage = self._usage_of(completion, quirks)
            return run.dialect.answer(completion, usage), usage
        try:
            counted = _decode_usage(raw)
        except _BAD_JSON as error:
            raise _garbage("a usage that is none") from error
        output = counted.completion_tokens_details
        usage = read_engine_usage(counted)
        complete = output is not None and output.reasoning_tokens is not None
        if not complete:
            for choice in answer.choices:
                if choice.message is not None and choice.message.reasoning_content:
                    completion = _decode(body)
                    usage = self._usage_of(completion, quirks)
                    break
        if not complete or counted.prompt_cache_miss_tokens is None:
            body = spliced_usage(body, raw, usage)
        return body, usage


def _text_bytes(choice: dict[str, Any]) -> tuple[int, int]:
    """Bytes of reasoning, and of everything else that the model wrote, in one whole choice."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return 0, len(str(choice.get("text") or "").encode())
    calls = message.get("tool_calls")
    other = len(str(message.get("content") or "").encode()) + (len(_encode(calls)) if calls else 0)
    return len(str(message.get("reasoning_content") or "").encode()), other


def read_engine_usage(counted: EngineUsage) -> Usage:
    """A compliant engine's usage as ours."""
    cached = counted.prompt_cache_hit_tokens
    if cached is None:
        details = counted.prompt_tokens_details
        cached = 0 if details is None else details.cached_tokens or 0
    output = counted.completion_tokens_details
    reasoning = 0 if output is None else output.reasoning_tokens or 0
    input_tokens = max(counted.prompt_tokens, 0)
    output_tokens = max(counted.completion_tokens, 0)
    return Usage(
        input_tokens, output_tokens, min(max(cached, 0), input_tokens), min(max(reasoning, 0), output_tokens)
    )


def spliced_usage(body: bytes, raw: msgspec.Raw, usage: Usage) -> bytes:
    """`body` with its usage object replaced by the complete one."""
    old = bytes(raw)
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


def _has_choices(completion: dict[str, Any]) -> bool:
    choices = completion.get("choices")
    return isinstance(choices, list) and bool(choices) and all(isinstance(choice, dict) for choice in choices)


class StreamRelay:
    """Relays one stream. `finale` holds what may leave only when the usage is durable."""

    def __init__(self, run: Run, limits: GatewayLimits) -> None:
        assert run.route is not None
        assert run.call is not None
        self._run = run
        self._model = run.call.model
        self._splitter = sse.EventSplitter(limits.upstream_event_bytes)
        self._quirks = run.route.served.quirks
        self._raw = self._quirks.compliant and getattr(run.dialect, "relays_raw", False)
        self._open: set[int] = set()
        self._seen: set[int] = set()
        self._usage_event: bytes | None = None
        self._last_event: bytes | None = None
        self._ended = False

    async def run(self, response: UpstreamResponse) -> None:
        """Until the engine says that it is done. Raises UpstreamError when it stops before."""
        run = self._run
        begin = run.dialect.begin(run.request_id)
        responder = run.responder
        while not self._ended:
            data = await response.chunk()
            if data is None:
                break
            out = self._translate(self._splitter.feed(data))
            if out:
                if begin:
                    out, begin = begin + out, b""
                run.write(out)
                if responder.needs_drain():
                    await responder.drain()
        if self._open or not self._seen or (self._splitter.pending and not self._ended):
            raise UpstreamError("The engine's answer ended before it was complete.", code="engine_truncated")
        if begin:
            run.write(begin)

    def finale(self, usage: Usage) -> bytes:
        """The usage chunk, where asked for, and the end of the stream."""
        run = self._run
        assert run.call is not None
        if not self._raw or not run.call.include_usage:
            return run.dialect.finish(usage)
        if self._usage_event is not None:
            return self._usage_event + sse.DONE
        if self._last_event is not None:
            run.dialect.chunk(_decode(sse.data_of(self._last_event)))  # teaches it the id and the date
        return run.dialect.finish(usage)

    def _translate(self, events: list[bytes]) -> bytes:
        out = b""
        one = self._relay_event if self._raw else self._dialect_event
        for event in events:
            data = sse.data_of(event)
            if not data:
                continue
            if data == b"[DONE]":
                self._ended = True
                break
            out += one(event, data)
        return out

    def _relay_event(self, event: bytes, data: bytes) -> bytes:
        """An event of a compliant engine: looked at, and passed on as it came."""
        try:
            chunk = _decode_chunk(data)
        except _BAD_JSON as error:
            raise _garbage("an event that is no chunk") from error
        if chunk.error is not None:
            raise _engine_error(chunk.error)
        if chunk.model != self._model:
            event = renamed(event, chunk.model, self._model)
        if not chunk.choices:
            if chunk.usage != NONE:
                self._hold_usage(event, chunk.usage)
            return b""
        tally = self._run.tally
        for choice in chunk.choices:
            delta = choice.delta
            if delta is None:
                if choice.text:
                    tally.chunks += 1
                    self._run.token_seen()
            elif delta.content or delta.reasoning_content or delta.tool_calls:
                tally.chunks += 1
                if delta.reasoning_content:
                    tally.reasoning_chunks += 1
                self._run.token_seen()
            self._track(choice.index, choice.finish_reason is not None)
        if chunk.usage != NONE:
            self._hold_usage(None, chunk.usage)
        self._last_event = event
        return event

    def _hold_usage(self, event: bytes | None, raw: msgspec.Raw) -> None:
        """Keeps the usage, and the chunk that carries it completed to DeepSeek's form."""
        try:
            counted = _decode_usage(raw)
        except _BAD_JSON as error:
            raise _garbage("a usage that is none") from error
        output = counted.completion_tokens_details
        complete = output is not None and output.reasoning_tokens is not None
        self._run.tally.take(read_engine_usage(counted), complete)
        if event is not None:
            if not complete or counted.prompt_cache_miss_tokens is None:
                event = spliced_usage(event, raw, self._run.tally.usage(self._run.prompt_bytes))
            self._usage_event = event

    def _dialect_event(self, event: bytes, data: bytes) -> bytes:
        """An event of any other engine: decoded, cleaned, counted, written anew."""
        try:
            chunk = _decode(data)
        except _BAD_JSON as error:
            raise _garbage("an event that is not JSON") from error
        if not isinstance(chunk, dict):
            raise _garbage("an event that is no object")
        if chunk.get("error") is not None:
            raise _engine_error(chunk["error"])
        clean(chunk, self._quirks)
        usage = chunk.pop("usage", None)
        choices = chunk.get("choices")
        if isinstance(choices, list):
            self._count(choices)
        if isinstance(usage, dict):
            self._run.tally.report(usage, self._quirks)
        return self._run.dialect.chunk(chunk) if choices else b""

    def _count(self, choices: list[Any]) -> None:
        tally = self._run.tally
        for choice in choices:
            if not isinstance(choice, dict):
                raise _garbage("a choice that is no object")
            delta = choice.get("delta")
            if isinstance(delta, dict):
                reasoning = delta.get("reasoning_content")
                spoke = reasoning or delta.get("content") or delta.get("tool_calls")
                if reasoning:
                    tally.reasoning_chunks += 1
            else:
                spoke = choice.get("text")
            if spoke:
                tally.chunks += 1
                self._run.token_seen()
            self._track(choice.get("index", 0), choice.get("finish_reason") is not None)

    def _track(self, index: int, finished: bool) -> None:
        """Which choices have begun and not ended: a stream that ends before they do was cut off."""
        if finished:
            self._open.discard(index)
            self._seen.add(index)
        elif index not in self._seen:
            self._seen.add(index)
            self._open.add(index)


def _engine_error(error: Any) -> UpstreamError:
    """The engine's own error event, midway or instead of a first chunk."""
    message = error.get("message") if isinstance(error, dict) else error
    said = message if isinstance(message, str) and message else "it gave no reason"
    return UpstreamError(f"The engine failed: {said[:500]}", code="engine_error")
