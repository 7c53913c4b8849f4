"""One real token of an engine, asked of it directly: the last look before requests are sent there.

An engine may be healthy and serve nothing: a model that it cannot decode, a key that it does not take. Costs
one token, which for an endpoint elsewhere is one that is paid.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from sextant.app.members import bearer
from sextant.app.pages import exchange
from sextant.app.probe import Peer, ProbeFailed
from sextant.base.errors import Misconfigured
from sextant.spec.snapshot import ServedModel, Upstream

FIRST_TOKEN_TIMEOUT_S = 60.0
SAID_CHARS_MAX = 200
_QUESTION = "Which is larger, 7 or 9?"


async def first_token(
    model: ServedModel,
    upstream: Upstream,
    timeout_s: float = FIRST_TOKEN_TIMEOUT_S,
    *,
    peer: Peer | None = None,
) -> None:
    """Returns once `upstream` has made one token of `model`, or whatever the model makes. Raises ProbeFailed
    with what it said instead."""
    path, body = _asked(model, upstream.upstream_model or model.id)
    try:
        headers = bearer(upstream.api_key_ref)()
        async with asyncio.timeout(timeout_s):
            url, asked = f"{upstream.base_url}{path}", msgspec.json.encode(body)
            status, said = await exchange(url, headers, body=asked, what="the answer", peer=peer)
    except TimeoutError:
        raise ProbeFailed(f"no token within {timeout_s:g} s") from None
    except (OSError, EOFError, ValueError) as error:
        raise ProbeFailed(f"no token: {error or type(error).__name__}") from None
    except Misconfigured as error:
        raise ProbeFailed(f"it cannot be asked: {error.message}") from None
    if status != 200:
        text = " ".join(said.decode("utf-8", "replace").split())
        raise ProbeFailed(f"a request for one token was answered {status}: {text[:SAID_CHARS_MAX]}")
    if not _made_something(said):
        raise ProbeFailed("a request for one token was answered without one")


def _asked(model: ServedModel, name: str) -> tuple[str, dict[str, Any]]:
    able = model.capabilities
    if able.chat:
        message = {"role": "user", "content": _QUESTION}
        return "/chat/completions", {"model": name, "messages": [message], model.quirks.max_tokens_field: 1}
    if able.completions:
        return "/completions", {"model": name, "prompt": _QUESTION, model.quirks.max_tokens_field: 1}
    if able.embeddings:
        return "/embeddings", {"model": name, "input": _QUESTION}
    return "/rerank", {"model": name, "query": _QUESTION, "documents": [_QUESTION]}


def _made_something(said: bytes) -> bool:
    try:
        answer = msgspec.json.decode(said, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return False
    return any(answer.get(name) for name in ("choices", "data", "results"))
