"""What an engine's chat answer is made of, in order: reasoning, text and tool calls.

Part of flow 1 (serve), between the engine's OpenAI chunks and the translating dialects (`responses.py`,
`anthropic.py`). A stream and a whole completion go through the same `Assembly`, so that both give the same
parts whatever the chunk borders were. What does not have the published types is the engine's fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from sextant.base.errors import UpstreamError

Kind = Literal["reasoning", "text", "tool"]


class Alternative(msgspec.Struct, gc=False):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None


class Logprob(Alternative, gc=False):
    """One token of the text with its log probability; minus infinity comes as null."""

    top_logprobs: list[Alternative] | None = None


class Logprobs(msgspec.Struct, gc=False):
    content: list[Logprob] | None = None


class CalledFunction(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: CalledFunction | None = None


class Said(msgspec.Struct, gc=False):
    """A `delta` or a `message`."""

    reasoning_content: str | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: Said | None = None
    message: Said | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    stop_reason: Any = None
    """vLLM's word for the stop sequence that matched."""
    matched_stop: Any = None
    """SGLang's."""


class Part(msgspec.Struct):
    """One part of an answer. For a tool call, `text` holds its arguments (JSON as the model wrote it)."""

    index: int
    kind: Kind
    text: str = ""
    call_id: str = ""
    name: str = ""
    logprobs: list[Logprob] = []


class Piece(msgspec.Struct, gc=False):
    """A bit of a part, as one chunk brings it. `tool` is the engine's index of the tool call."""

    kind: Kind
    text: str
    tool: int = -1
    call_id: str = ""
    name: str = ""
    logprobs: list[Logprob] = []


class Step(msgspec.Struct, gc=False):
    """What one piece does: `closed` ended before it, `part` takes it, `opened` when the part is new."""

    closed: Part | None
    part: Part
    opened: bool
    piece: Piece


class Assembly:
    """The parts of one answer, built piece by piece; one part is open at a time."""

    __slots__ = ("_tool", "finish_reason", "matched_stop", "parts")

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.finish_reason: str | None = None
        self.matched_stop: str | None = None
        self._tool = -1

    @property
    def has_tool_call(self) -> bool:
        return any(part.kind == "tool" for part in self.parts)

    def chunk(self, chunk: dict[str, Any]) -> Iterator[Step]:
        """Feeds one chunk of a stream. Raises UpstreamError when it is none."""
        choice = _first_choice(chunk)
        if choice is not None:
            yield from self._steps(choice, choice.delta)

    def whole(self, completion: dict[str, Any], prefix: str = "") -> None:
        """Takes a whole answer, without the caller's own `prefix` where the engine repeats it.

        Raises UpstreamError when it holds none of what an answer needs.
        """
        choice = _first_choice(completion)
        if choice is None or choice.message is None:
            raise UpstreamError("The engine's answer has no message.", code="engine_garbage")
        if prefix and choice.message.content is not None:
            choice.message.content = choice.message.content.removeprefix(prefix)
        for _ in self._steps(choice, choice.message):
            pass
        for part in self.parts:
            if part.kind == "text":
                part.logprobs = _aligned(part.text, part.logprobs)

    def _steps(self, choice: Choice, said: Said | None) -> Iterator[Step]:
        if said is not None:
            for piece in _pieces(choice, said):
                yield self._feed(piece)
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
            for matched in (choice.stop_reason, choice.matched_stop):
                if isinstance(matched, str):
                    self.matched_stop = matched

    def _feed(self, piece: Piece) -> Step:
        current = self.parts[-1] if self.parts else None
        if current is not None and self._continues(current, piece):
            current.text += piece.text
            current.logprobs.extend(piece.logprobs)
            return Step(None, current, False, piece)
        if piece.kind == "tool":
            if not piece.name:
                raise UpstreamError(
                    "The engine sent a tool call without a name, or mixed up two tool calls.",
                    code="engine_garbage",
                )
            self._tool = piece.tool
        index = len(self.parts)
        part = Part(index, piece.kind, piece.text, piece.call_id, piece.name, list(piece.logprobs))
        self.parts.append(part)
        return Step(current, part, True, piece)

    def _continues(self, current: Part, piece: Piece) -> bool:
        if current.kind != piece.kind:
            return False
        if piece.kind != "tool":
            return True
        return piece.tool == self._tool and piece.call_id in ("", current.call_id)


def _first_choice(answer: dict[str, Any]) -> Choice | None:
    """The first choice of a chunk or completion, or None (the usage chunk has none)."""
    try:
        choices = msgspec.convert(answer.get("choices") or [], list[Choice])
    except msgspec.ValidationError as error:
        raise UpstreamError(f"The engine's answer is none: {error}.", code="engine_garbage") from None
    return next((choice for choice in choices if choice.index == 0), None)


def _pieces(choice: Choice, said: Said) -> Iterator[Piece]:
    if said.reasoning_content:
        yield Piece("reasoning", said.reasoning_content)
    text = said.content or said.refusal
    if text:
        logprobs = choice.logprobs.content if choice.logprobs is not None else None
        yield Piece("text", text, logprobs=logprobs or [])
    for position, call in enumerate(said.tool_calls or ()):
        function = call.function or CalledFunction()
        yield Piece(
            "tool",
            function.arguments or "",
            position if call.index is None else call.index,
            call.id or "",
            function.name or "",
        )


def _aligned(text: str, logprobs: list[Logprob]) -> list[Logprob]:
    """The entries that spell `text`: an engine's whole answer lists the reasoning's tokens before them."""
    wanted = len(text.encode())
    for start in range(len(logprobs) - 1, -1, -1):
        entry = logprobs[start]
        wanted -= len(entry.bytes or entry.token.encode())
        if wanted <= 0:
            return logprobs[start:] if wanted == 0 else logprobs
    return logprobs
