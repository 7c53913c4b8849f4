"""The most that a request can use: never less than what an engine may count."""

from __future__ import annotations

from typing import Any

import pytest

from sextant.gateway.chat import ChatDialect
from sextant.gateway.completions import CompletionsDialect
from sextant.gateway.dialect import Call
from sextant.gateway.embeddings import EmbeddingsDialect
from sextant.gateway.holds import TEMPLATE_TOKENS, kinds_of, most_input_tokens, most_output_tokens
from sextant.gateway.media import Media, Part
from sextant.gateway.rerank import RerankDialect
from sextant.spec.snapshot import Capabilities, ServedModel

MODEL = ServedModel(
    id="m",
    engine="x",
    upstreams=(),
    context_tokens=4096,
    capabilities=Capabilities(embeddings=True, rerank=True),
)
HI = [{"role": "user", "content": "hi"}]


def call(dialect: Any, **fields: Any) -> Call:
    found = dialect.parse({"model": "m", **fields}, b"{}", MODEL)
    assert isinstance(found, Call)
    return found


@pytest.mark.parametrize(
    ("found", "endpoint", "most"),
    [
        (call(ChatDialect(), messages=HI, max_tokens=50), "chat.completions", (1000 + 256, 50)),
        (call(ChatDialect(), messages=HI), "chat.completions", (1000 + 256, 4096)),
        (call(ChatDialect(), messages=HI, max_tokens=50, n=3), "chat.completions", (1256, 150)),
        (call(ChatDialect(), messages=HI, max_tokens=10**6), "chat.completions", (1256, 4096)),
        (call(CompletionsDialect(), prompt="x", max_tokens=9), "completions", (1256, 9)),
        (call(CompletionsDialect(), prompt=["x", "y"], max_tokens=9, n=2), "completions", (1512, 36)),
        (call(CompletionsDialect(), prompt=["x", "y"], max_tokens=9, best_of=5), "completions", (1512, 90)),
        (call(CompletionsDialect(), prompt=[1, 2, 3], max_tokens=9), "completions", (1256, 9)),
        (call(CompletionsDialect(), prompt=[[1], [2]], max_tokens=9), "completions", (1512, 18)),
        (call(EmbeddingsDialect(), input=["x", "y", "z"]), "embeddings", (1000 + 3 * 256, 0)),
        (call(RerankDialect(), query="q" * 100, documents=["x", "y", "z"]), "rerank", (1968, 0)),
    ],
)
def test_by_bytes_texts_and_answers(found: Call, endpoint: str, most: tuple[int, int]) -> None:
    kinds = kinds_of(endpoint, found)
    assert most_input_tokens(found, 1000, 4096) == most[0]
    assert most_output_tokens(found, kinds, 4096) == most[1]


def test_no_text_is_longer_than_the_context() -> None:
    assert most_input_tokens(call(ChatDialect(), messages=HI), 10**6, 4096) == 4096
    assert most_input_tokens(call(EmbeddingsDialect(), input=["x", "y"]), 10**6, 4096) == 8192
    assert most_input_tokens(call(ChatDialect(), messages=HI), 3, 4096) == 3 + TEMPLATE_TOKENS


def test_images_and_sounds_may_take_the_whole_context() -> None:
    parts = [Part("image", "f", {}), Part("audio", "f", {}), Part("image", "f", {})]
    found = call(ChatDialect(), messages=HI)
    found.media = Media(parts)
    assert kinds_of("chat.completions", found) == ("image", "audio")
    assert most_input_tokens(found, 10, 4096) == 4096


def test_kinds_by_endpoint() -> None:
    plain = call(ChatDialect(), messages=HI)
    assert [kinds_of(name, plain) for name in ("responses", "messages", "embeddings", "rerank")] == [
        ("text",),
        ("text",),
        ("embeddings",),
        ("rerank",),
    ]
