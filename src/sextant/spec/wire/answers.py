"""What an engine answers, as far as the gateway looks at it: enough to count, to see the end and to notice
garbage. An answer of a compliant engine is relayed as the bytes it came in; only these fields are decoded.

Flow 1 (serve): `gateway.relay` decodes every chunk and every whole answer into one of these.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Struct

Natural = Annotated[int, msgspec.Meta(ge=0)]


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


class Delta(Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class ChunkChoice(Struct, gc=False):
    """`delta` of a chat chunk, `text` of a completions chunk."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Chunk(Struct, gc=False):
    """One streamed chunk; `error` is what engines send instead when they fail midway."""

    model: str = ""
    choices: list[ChunkChoice] = []
    usage: EngineUsage | None = None
    error: Any = None


class Message(Struct, gc=False):
    role: str
    content: Any = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class WholeChoice(Struct, gc=False):
    finish_reason: str | None
    message: Message | None = None
    text: str | None = None


class Whole(Struct, gc=False):
    """A whole chat or text completion."""

    id: str
    model: str
    choices: list[WholeChoice]
    usage: EngineUsage | None = None
