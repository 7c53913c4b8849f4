"""The most that a request can use, before an engine has read it: what limits and balances set aside for it.

Flow 1 (serve), between the dialect and admission. Pure. A token is at least one byte of the request, and no
text that an engine reads is longer than its context. Neighbour: `flow.py`.
"""

from __future__ import annotations

from sextant.gateway.dialect import Call
from sextant.governance.door import TEXT
from sextant.spec.policy import RequestKind

TEMPLATE_TOKENS = 256
"""What a chat template may add to each text."""
KINDS: dict[str, tuple[RequestKind, ...]] = {"embeddings": ("embeddings",), "rerank": ("rerank",)}
"""By endpoint; all others are text unless there are images or sounds in them."""


def kinds_of(endpoint: str, call: Call) -> tuple[RequestKind, ...]:
    """What the request asks for."""
    if call.media is None:
        return KINDS.get(endpoint, TEXT)
    return tuple(dict.fromkeys(part.kind for part in call.media.parts))


def most_input_tokens(call: Call, prompt_bytes: int, context_tokens: int) -> int:
    """`prompt_bytes` are those of the whole request, images and sounds left out."""
    inputs = call.inputs
    most = inputs * context_tokens
    if call.media is not None:
        return most
    return min(prompt_bytes + inputs * TEMPLATE_TOKENS + (inputs - 1) * call.repeated_bytes, most)


def most_output_tokens(call: Call, kinds: tuple[RequestKind, ...], context_tokens: int) -> int:
    """Of all answers together; embeddings and ranks have none."""
    if kinds[0] in KINDS:
        return 0
    each = call.max_output_tokens
    each = min(each, context_tokens) if each else context_tokens
    return call.inputs * call.answers * each
