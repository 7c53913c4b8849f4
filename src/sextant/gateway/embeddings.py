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
        request.integer("dimensions", 1)
        request.text("user")
        if fields.get("stream"):
            request.wrong("stream", "left out: embeddings are not streamed")
        _check_input(request)
        sent = {**fields, "encoding_format": "float"}
        for name in model.quirks.drop_params:
            sent.pop(name, None)
        return Call(model=self._model, stream=False, target=TARGET, body=None, fields=sent)

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
        if not entries:
            raise UpstreamError("The engine's answer has no embeddings.", code="engine_garbage")
        data = [
            {
                "object": "embedding",
                "index": position if entry.index is None else entry.index,
                "embedding": self._encoded(entry.embedding),
            }
            for position, entry in enumerate(entries)
        ]
        tokens = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens}
        return _encode({"object": "list", "data": data, "model": self._model, "usage": tokens})

    def failure(self, error: SextantError) -> bytes:
        return failures.openai_body(error)

    def _encoded(self, vector: list[float]) -> list[float] | str:
        if not self._base64:
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _check_input(request: Fields) -> None:
    """A string, token ids, or an array of either; nothing empty."""
    given = request.get("input")
    if given is None:
        request.missing("input", "a string, an array of strings, or token ids")
    if isinstance(given, str) and given:
        return
    if not isinstance(given, list) or not given:
        request.wrong("input", "a non-empty string or a non-empty array")
    if _are_tokens(given):
        return
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


def _are_tokens(items: list[Any]) -> bool:
    return bool(items) and all(type(item) is int and item >= 0 for item in items)
