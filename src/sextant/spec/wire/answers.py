"""What an engine answers, as far as the gateway looks at it: enough to count, to see the end and to notice
garbage. An answer of a compliant engine is relayed as the bytes it came in; only these fields are decoded.

Flow 1 (serve): `gateway.relay` decodes every chunk and every whole answer into one of these.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Struct

Natural = Annotated[int, msgspec.Meta(ge=0)]
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class InputDetails(Struct, gc=False):
    cached_tokens: Natural | None = None


class OutputDetails(Struct, gc=False):
    reasoning_tokens: Natural | None = None


class EngineUsage(Struct, gc=False):
    """`usage` as engines report it."""

    prompt_tokens: Natural
    completion_tokens: Natural
    prompt_cache_hit_tokens: Natural | None = None
    prompt_cache_miss_tokens: Natural | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None


class RawUsage(Struct, gc=False):
    """An answer's usage as the bytes it came in."""

    usage: msgspec.Raw


class Alternative(Struct, gc=False):
    token: str
    logprob: float
    bytes: list[Byte] | None = None


class TokenLogprob(Alternative, gc=False):
    top_logprobs: list[Alternative] | None = None


class Logprobs(Struct, gc=False):
    """In the form of chat; text completions may have columns instead."""

    content: list[TokenLogprob] | None = None


class Delta(Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """What some engines call it."""
    tool_calls: list[dict[str, Any]] | None = None


class ChunkChoice(Struct, gc=False):
    """`delta` of a chat chunk, `text` of a completions chunk."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Chunk(Struct, gc=False):
    """One streamed chunk; `error` is what engines send instead when they fail midway."""

    model: str = ""
    choices: list[ChunkChoice] = []
    usage: EngineUsage | None = None
    error: Any = None


class Message(Struct, gc=False):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class WholeChoice(Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    message: Message | None = None
    text: str | None = None
    logprobs: Logprobs | None = None


class Whole(Struct, gc=False):
    """A whole chat or text completion."""

    choices: list[WholeChoice]
    id: str = ""
    model: str = ""
    usage: EngineUsage | None = None
