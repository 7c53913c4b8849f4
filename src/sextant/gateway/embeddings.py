"""The embeddings dialect: POST /v1/embeddings, as floats or base64.

Part of flow 1 (serve), where the model's engine embeds (`Capabilities.embeddings`); refused elsewhere. The
engine is always asked for floats; base64 (what the `openai` client asks for by default) is little-endian
float32, as OpenAI publishes it.
"""

from __future__ import annotations

import base64
import struct
from typing import Annotated, Any

import msgspec

from sextant.base.errors import BadRequest, SextantError, Unprocessable, UpstreamError
from sextant.gateway import failures, sse
from sextant.gateway.dialect import Call
from sextant.gateway.request_fields import Fields, shown
from sextant.spec.snapshot import ServedModel
from sextant.spec.usage import Usage

_encode = msgspec.json.Encoder().encode
TARGET = "/embeddings"
Number = Annotated[float, msgspec.Meta(ge=-3.4e38, le=3.4e38)]
"""What a float32 can hold."""
MAX_INPUTS = 2048
"""OpenAI's bound on inputs in one request."""


class Entry(msgspec.Struct, gc=False):
    """One embedding as an engine gives it."""

    embedding: list[Number]
    index: int | None = None


class EmbeddingsDialect:
    """One embeddings request."""

    endpoint = "embeddings"
    keepalive = sse.KEEPALIVE

    def __init__(self) -> None:
        self.request_id = ""
        self._model = ""
        self._base64 = False
        self._dimensions: int | None = None
        self._inputs = 0

    def parse(self, fields: dict[str, Any], body: bytes, model: ServedModel) -> Call:
        """Raises BadRequest naming the field, or Unprocessable where the model does not embed."""
        if not model.capabilities.embeddings:
            raise Unprocessable(
                f"model `{model.id}` does not make embeddings; ask for a model that does.",
                field="model",
                code="unsupported",
            )
        request = Fields(fields)
        self._model = request.text("model") or model.id
        self._base64 = request.choice("encoding_format", ("float", "base64")) == "base64"
        self._dimensions = request.integer("dimensions", 1)
        request.text("user")
        if fields.get("stream"):
            request.wrong("stream", "left out: embeddings are not streamed")
        self._inputs = _count_inputs(request)
        sent = {**fields, "encoding_format": "float"}
        for name in model.quirks.drop_params:
            sent.pop(name, None)
        return Call(
            model=self._model, stream=False, target=TARGET, body=None, fields=sent, inputs=self._inputs
        )

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
        try:
            entries = msgspec.convert(completion.get("data"), list[Entry])
        except msgspec.ValidationError as error:  # also llama.cpp without pooling: one vector per token
            raise UpstreamError(
                f"The engine's embeddings are none: {error}.", code="engine_garbage"
            ) from None
        data = [
            {"object": "embedding", "index": index, "embedding": self._encoded(vector)}
            for index, vector in enumerate(self._in_order(entries))
        ]
        tokens = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens}
        return _encode({"object": "list", "data": data, "model": self._model, "usage": tokens})

    def failure(self, error: SextantError) -> bytes:
        return failures.openai_body(error)

    def _in_order(self, entries: list[Entry]) -> list[list[float]]:
        """One vector for each input, in the inputs' order. Raises UpstreamError."""
        vectors = {
            place if entry.index is None else entry.index: entry.embedding
            for place, entry in enumerate(entries)
        }
        if len(entries) != self._inputs or sorted(vectors) != list(range(self._inputs)):
            raise UpstreamError(
                f"The engine's answer has {len(entries)} embeddings that are not one for each of "
                f"{self._inputs} inputs.",
                code="engine_garbage",
            )
        lengths = {len(vector) for vector in vectors.values()}
        if self._dimensions is not None and lengths != {self._dimensions}:
            raise UpstreamError(
                f"The engine gave embeddings of {max(lengths)} dimensions, not of the {self._dimensions} "
                "asked for; leave `dimensions` out.",
                code="dimensions_ignored",
            )
        return [vectors[index] for index in range(self._inputs)]

    def _encoded(self, vector: list[float]) -> list[float] | str:
        if not self._base64:
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _count_inputs(request: Fields) -> int:
    """How many inputs there are: a string, token ids, or an array of either; nothing empty."""
    given = request.get("input")
    if given is None:
        request.missing("input", "a string, an array of strings, or token ids")
    if isinstance(given, str) and given:
        return 1
    if not isinstance(given, list) or not given:
        request.wrong("input", "a non-empty string or a non-empty array")
    if _are_tokens(given):
        return 1
    if len(given) > MAX_INPUTS:
        request.wrong("input", f"at most {MAX_INPUTS} inputs")
    for index, item in enumerate(given):
        if not (isinstance(item, str) and item) and not (isinstance(item, list) and _are_tokens(item)):
            field = f"input[{index}]"
            raise BadRequest(
                f"`{field}` is {shown(item)}; it must be a non-empty string or an array of token ids.",
                field=field,
                code="invalid_value",
            )
    return len(given)


def _are_tokens(items: list[Any]) -> bool:
    return bool(items) and all(type(item) is int and item >= 0 for item in items)
