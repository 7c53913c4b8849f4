"""A text completion request as OpenAI and DeepSeek (fill-in-the-middle) publish it.

Flow 1 (serve): `gateway.completions` converts the decoded body to it. Fields that are not listed pass
through. Source: platform.openai.com/docs/api-reference/completions,
api-docs.deepseek.com/api/create-completion (2026-11).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from sextant.spec.wire.chat import OutputLimit, Penalty, Probability, Seed, Stop, StreamOptions, Temperature

MAX_LOGPROBS = 20
TokenId = Annotated[int, Meta(ge=0)]
Tokens = Annotated[list[TokenId], Meta(min_length=1)]
Texts = Annotated[list[str | Tokens | TokenId], Meta(min_length=1)]


class CompletionRequest(Struct, gc=False):
    model: str
    prompt: str | Texts
    """A text, several, token ids, or several of those."""
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: OutputLimit | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    stop: Stop = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    seed: Seed | None = None
    user: str | None = None
