"""What an engine's chat answer is made of, in order: reasoning, text and tool calls.

Part of flow 1 (serve), between the engine's OpenAI chunks and the translating dialects (`responses.py`,
`anthropic.py`). A stream and a whole completion go through the same `Assembly`, so that both give the same
parts whatever the chunk borders were.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from sextant.base.errors import UpstreamError

Kind = Literal["reasoning", "text", "tool"]


class Part(msgspec.Struct):
    """One part of an answer. For a tool call, `text` holds its arguments (JSON as the model wrote it)."""

    index: int
    kind: Kind
    text: str = ""
    call_id: str = ""
    name: str = ""
    logprobs: list[dict[str, Any]] = []


class Piece(msgspec.Struct, gc=False):
    """A bit of a part, as one chunk brings it. `tool` is the engine's index of the tool call."""

    kind: Kind
    text: str
    tool: int = -1
    call_id: str = ""
    name: str = ""
    logprobs: list[dict[str, Any]] = []


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

    def steps(self, choice: dict[str, Any], body: dict[str, Any]) -> Iterator[Step]:
        """Feeds one choice whose `delta` or `message` is `body`. Raises UpstreamError on nonsense."""
        for piece in _pieces(choice, body):
            yield self._feed(piece)
        reason = choice.get("finish_reason")
        if reason:
            self.finish_reason = reason
            for name in ("stop_reason", "matched_stop"):  # vLLM's and SGLang's word for it
                if isinstance(choice.get(name), str):
                    self.matched_stop = choice[name]

    def _feed(self, piece: Piece) -> Step:
        current = self.parts[-1] if self.parts else None
        if current is not None and self._continues(current, piece):
            current.text += piece.text
            current.logprobs.extend(piece.logprobs)
            return Step(None, current, False, piece)
        if piece.kind == "tool":
            if not piece.name:
                raise UpstreamError("The engine sent a tool call without a name, or mixed up two tool calls.")
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


def chunk_choice(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """The first choice of a chunk or completion, or None (the usage chunk has none)."""
    choices: list[dict[str, Any]] = chunk.get("choices") or []
    return next((choice for choice in choices if choice.get("index", 0) == 0), None)


def read_completion(completion: dict[str, Any], prefix: str = "") -> Assembly:
    """The parts of a whole answer, without the caller's own `prefix` where the engine repeats it.

    Raises UpstreamError when it holds none of what an answer needs.
    """
    choice = chunk_choice(completion)
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        raise UpstreamError("The engine's answer has no message.")
    if prefix and isinstance(message.get("content"), str):
        message["content"] = message["content"].removeprefix(prefix)
    assembly = Assembly()
    for _ in assembly.steps(choice, message):
        pass
    for part in assembly.parts:
        if part.kind == "text":
            part.logprobs = _aligned(part.text, part.logprobs)
    return assembly


def _pieces(choice: dict[str, Any], body: dict[str, Any]) -> Iterator[Piece]:
    reasoning = body.get("reasoning_content")
    if reasoning:
        yield Piece("reasoning", reasoning)
    text = body.get("content") or body.get("refusal")
    if text:
        logprobs = (choice.get("logprobs") or {}).get("content") or []
        yield Piece("text", text, logprobs=logprobs)
    for position, call in enumerate(body.get("tool_calls") or ()):
        function = call.get("function") or {}
        yield Piece(
            "tool",
            function.get("arguments") or "",
            call.get("index", position),
            call.get("id") or "",
            function.get("name") or "",
        )


def _aligned(text: str, logprobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that spell `text`: an engine's whole answer lists the reasoning's tokens before them."""
    wanted = len(text.encode())
    for start in range(len(logprobs) - 1, -1, -1):
        entry = logprobs[start]
        wanted -= len(entry.get("bytes") or str(entry.get("token", "")).encode())
        if wanted <= 0:
            return logprobs[start:] if wanted == 0 else logprobs
    return logprobs
