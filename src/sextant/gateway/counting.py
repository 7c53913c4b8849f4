"""Counting tokens: the engine's `usage` as ours, ours as DeepSeek's, and honest estimates where one is
missing.

Flow 1 (serve), beside the relay. What the engine reports is exact and wins. Two things may have to be
estimated:
- a whole usage, when the client left or the engine died first (`Usage.estimated`): output tokens are the text
  chunks seen (an engine sends one to a few tokens a chunk), input tokens the prompt bytes over four;
- the share of reasoning, when the engine does not report it (llama.cpp): the output total stays exact and is
  divided as the streamed chunks are, or, in a whole answer, as the UTF-8 bytes of reasoning and the rest.
  Such an answer says so: `completion_tokens_details.reasoning_tokens_estimated` is true.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sextant.spec.snapshot import Quirks
from sextant.spec.usage import Usage

BYTES_PER_TOKEN = 4
"""Of English text, by the tokenizers in use; CJK text (3 bytes a character) comes out close as well."""


class Tally:
    """What has been seen of one answer so far, and the engine's own count once it arrives."""

    __slots__ = ("chunks", "counts_reasoning", "reasoning_chunks", "reported", "running")

    def __init__(self) -> None:
        self.chunks = 0
        """Chunks with text, reasoning or tool-call arguments."""
        self.reasoning_chunks = 0
        self.reported: Usage | None = None
        """The engine's own count."""
        self.running: Usage | None = None
        """Its count so far, of an engine that tells it in another way than at the end."""
        self.counts_reasoning = True

    def report(self, usage: dict[str, Any], quirks: Quirks) -> None:
        """Takes over the engine's usage. An engine that counts one choice alone reports once per choice."""
        found = read_usage(usage, quirks)
        former = self.reported
        if quirks.usage_of_one_choice and former is not None:
            found = msgspec.structs.replace(found, output_tokens=found.output_tokens + former.output_tokens)
        self.take(found, reported_reasoning(usage) is not None)

    def take(self, usage: Usage, counts_reasoning: bool) -> None:
        """A parsed usage of the engine."""
        self.reported = usage
        self.counts_reasoning = counts_reasoning

    def take_timings(self, timings: object) -> None:
        """llama.cpp's count of one answer so far: tokens of the prompt from its cache, and others."""
        if isinstance(timings, dict):
            counts = [timings.get(name) for name in ("cache_n", "prompt_n", "predicted_n")]
            if all(type(count) is int and count >= 0 for count in counts):
                cached, fresh, output = (_count(count) for count in counts)
                self.running = Usage(cached + fresh, output, cached)

    def usage(self, prompt_bytes: int) -> Usage:
        """The engine's count, the share of reasoning added where it gives none; or an estimate."""
        if self.reported is not None and (self.counts_reasoning or not self.reasoning_chunks):
            return self.reported
        counted = self.reported or self.running
        if counted is not None:
            return share_reasoning(counted, self.reasoning_chunks, self.chunks - self.reasoning_chunks)
        return Usage(
            input_tokens=prompt_bytes // BYTES_PER_TOKEN,
            output_tokens=self.chunks,
            reasoning_tokens=self.reasoning_chunks,
            estimated=True,
        )


def read_usage(usage: dict[str, Any], quirks: Quirks) -> Usage:
    """An engine's usage object; absent and wrong parts count as zero, parts never exceed their whole."""
    input_tokens = _count(usage.get("prompt_tokens"))
    output_tokens = _count(usage.get("completion_tokens"))
    cached: Any = usage
    for step in quirks.cached_tokens_path:
        cached = cached.get(step) if isinstance(cached, dict) else None
    if cached is None:
        cached = usage.get("prompt_cache_hit_tokens")
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=min(_count(cached), input_tokens),
        reasoning_tokens=min(reported_reasoning(usage) or 0, output_tokens),
    )


def reported_reasoning(usage: dict[str, Any]) -> int | None:
    """The engine's own count of reasoning tokens, None where it gives none. Zero says nothing: vLLM counts
    none where the prompt itself opens the thinking, as R1's does."""
    details = usage.get("completion_tokens_details")
    value = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return _count(value) or None


def _count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def wire_usage(usage: Usage, engine: dict[str, Any] | None = None) -> dict[str, Any]:
    """`usage` as OpenAI and DeepSeek both spell it. What else the engine reported is kept."""
    answer: dict[str, Any] = dict(engine) if engine else {}
    input_details = answer.get("prompt_tokens_details")
    output_details = answer.get("completion_tokens_details")
    answer["prompt_tokens"] = usage.input_tokens
    answer["completion_tokens"] = usage.output_tokens
    answer["total_tokens"] = usage.input_tokens + usage.output_tokens
    answer["prompt_cache_hit_tokens"] = usage.cached_tokens
    answer["prompt_cache_miss_tokens"] = usage.input_tokens - usage.cached_tokens
    answer["prompt_tokens_details"] = {
        **(input_details if isinstance(input_details, dict) else {}),
        "cached_tokens": usage.cached_tokens,
    }
    answer["completion_tokens_details"] = {
        **(output_details if isinstance(output_details, dict) else {}),
        "reasoning_tokens": usage.reasoning_tokens,
    }
    if usage.reasoning_estimated:
        answer["completion_tokens_details"]["reasoning_tokens_estimated"] = True
    return answer


def share_reasoning(usage: Usage, reasoning: int, rest: int) -> Usage:
    """The same total, its reasoning share as `reasoning` is to `rest` (chunks, or bytes of text)."""
    if reasoning <= 0:
        return usage
    share = round(usage.output_tokens * reasoning / (reasoning + max(rest, 0)))
    return msgspec.structs.replace(usage, reasoning_tokens=share, reasoning_estimated=True)


def all_choices(first: Usage, first_bytes: int, all_bytes: int, choices: int) -> Usage:
    """The usage of all choices from that of the first, by the bytes of their texts; an estimate."""
    factor = all_bytes / first_bytes if first_bytes else choices
    return msgspec.structs.replace(first, output_tokens=round(first.output_tokens * factor), estimated=True)


def by_bytes(prompt_bytes: int, reasoning_bytes: int, other_bytes: int) -> Usage:
    """The usage of a whole answer whose engine gave none; an estimate."""
    return Usage(
        input_tokens=prompt_bytes // BYTES_PER_TOKEN,
        output_tokens=(reasoning_bytes + other_bytes) // BYTES_PER_TOKEN,
        reasoning_tokens=reasoning_bytes // BYTES_PER_TOKEN,
        estimated=True,
    )
