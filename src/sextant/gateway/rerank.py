"""The rerank dialect: POST /v1/rerank, documents ordered by how well they answer a query.

Part of flow 1 (serve), where the model's engine ranks (`Capabilities.rerank`); refused elsewhere. The request
is the one that Cohere and Jina publish and that vLLM, SGLang and llama.cpp read (2026-11); the engine always
gets plain strings and never sends documents back. Their answers differ: vLLM and llama.cpp write `results`
with `relevance_score`, SGLang a bare array with `score`, some count `total_tokens` alone. The caller gets one
shape: sorted, cut to `top_n`, each index once.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

from sextant.base.errors import BadRequest, SextantError, Unprocessable, UpstreamError
from sextant.gateway import failures, sse
from sextant.gateway.dialect import Call
from sextant.gateway.request_fields import Fields, shown
from sextant.spec.snapshot import ServedModel
from sextant.spec.usage import Usage

_encode = msgspec.json.Encoder().encode
TARGET = "/rerank"
MAX_DOCUMENTS = 2048
"""As many as inputs of an embeddings request."""


class Entry(msgspec.Struct, gc=False):
    """One document's place as an engine gives it."""

    index: Annotated[int, msgspec.Meta(ge=0)]
    relevance_score: float | None = None
    score: float | None = None
    """What SGLang calls it."""

    @property
    def value(self) -> float:
        found = self.score if self.relevance_score is None else self.relevance_score
        return math.nan if found is None else found


class RerankDialect:
    """One rerank request."""

    endpoint = "rerank"
    keepalive = sse.KEEPALIVE

    def __init__(self) -> None:
        self.request_id = ""
        self._model = ""
        self._documents: list[str] = []
        self._most = 0
        self._shows_documents = False

    def parse(self, fields: dict[str, Any], body: bytes, model: ServedModel) -> Call:
        """Raises BadRequest naming the field, or Unprocessable where the model does not rank."""
        if not model.capabilities.rerank:
            raise Unprocessable(
                f"model `{model.id}` does not rank documents; ask for a model that does.",
                field="model",
                code="unsupported",
            )
        request = Fields(fields)
        self._model = request.text("model") or model.id
        query = request.text("query", required="what the documents are ranked by") or ""
        self._documents = _documents(request)
        top_n = request.integer("top_n", 1)
        self._most = min(top_n or len(self._documents), len(self._documents))
        self._shows_documents = bool(request.boolean("return_documents", False))
        if fields.get("stream"):
            request.wrong("stream", "left out: a ranking is not streamed")
        sent = {name: value for name, value in fields.items() if name not in model.quirks.drop_params}
        sent.pop("return_documents", None)
        sent["documents"] = self._documents
        return Call(
            model=self._model,
            stream=False,
            target=TARGET,
            body=None,
            fields=sent,
            inputs=len(self._documents),
            repeated_bytes=len(query.encode()),
        )

    def received(self, answer: Any) -> Any:
        """An engine's whole answer with the names that the others use; the flow counts from it."""
        if isinstance(answer, list):
            metas = [item.get("meta_info") for item in answer if isinstance(item, dict)]
            counts = [meta.get("prompt_tokens") for meta in metas if isinstance(meta, dict)]
            known = [count for count in counts if type(count) is int]
            answer = {"results": answer}
            if known and len(known) == len(counts):
                answer["usage"] = {"prompt_tokens": sum(known)}
        if not isinstance(answer, dict):
            return answer
        usage = answer.get("usage")
        if isinstance(usage, dict) and usage.get("prompt_tokens") is None:
            answer = {**answer, "usage": {**usage, "prompt_tokens": usage.get("total_tokens")}}
        return answer

    def begin(self, request_id: str) -> bytes:
        self.request_id = request_id
        return b""

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        return b""

    def finish(self, usage: Usage) -> bytes:
        return b""

    def stream_error(self, error: SextantError) -> bytes:
        return self.failure(error)

    def answer(self, completion: dict[str, Any], usage: Usage) -> bytes:
        ranked = self._ranked(completion.get("results"))
        results = [
            {
                "index": entry.index,
                "relevance_score": entry.value,
                **({"document": {"text": self._documents[entry.index]}} if self._shows_documents else {}),
            }
            for entry in ranked
        ]
        tokens = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens}
        head = {"id": f"rerank-{self.request_id}", "object": "list", "model": self._model}
        return _encode({**head, "results": results, "usage": tokens})

    def failure(self, error: SextantError) -> bytes:
        return failures.openai_body(error)

    def _ranked(self, given: Any) -> list[Entry]:
        """The engine's ranking, best first. Raises UpstreamError unless it is one of these documents."""
        try:
            entries = msgspec.convert(given, list[Entry])
        except msgspec.ValidationError as error:
            raise UpstreamError(f"The engine's ranking is none: {error}.", code="engine_garbage") from None
        indices = {entry.index for entry in entries}
        wrong = len(indices) != len(entries) or any(index >= len(self._documents) for index in indices)
        if wrong or len(entries) < self._most or not all(math.isfinite(entry.value) for entry in entries):
            raise UpstreamError(
                f"The engine's ranking has {len(entries)} entries that do not rank {self._most} of "
                f"{len(self._documents)} documents once each.",
                code="engine_garbage",
            )
        return sorted(entries, key=lambda entry: -entry.value)[: self._most]


def _documents(request: Fields) -> list[str]:
    """The texts: strings, or objects that hold one under `text`."""
    given = request.get("documents")
    if given is None:
        request.missing("documents", "an array of texts")
    if not isinstance(given, list) or not given:
        request.wrong("documents", "a non-empty array of texts", code="invalid_type")
    if len(given) > MAX_DOCUMENTS:
        request.wrong("documents", f"at most {MAX_DOCUMENTS} texts")
    return [_text(f"documents[{place}]", item) for place, item in enumerate(given)]


def _text(field: str, item: Any) -> str:
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str) or not text:
        raise BadRequest(
            f'`{field}` is {shown(item)}; it must be a non-empty string or {{"text": "…"}}.',
            field=field,
            code="invalid_value",
        )
    return text
