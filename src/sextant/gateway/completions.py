"""Text completions, with fill-in-the-middle where the engine can.

Flow 1 (serve). `/completions` and `/v1/completions` as OpenAI publishes them, `/beta/completions` as DeepSeek
does (prompt and suffix). A suffix is refused where the model cannot use it, never ignored.
Neighbours: `openai.py` (answers), `chat.py`, `spec.wire.completions`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sextant.base.errors import BadRequest, Unprocessable
from sextant.gateway import failures
from sextant.gateway.dialect import Call
from sextant.gateway.openai import OpenAIDialect
from sextant.spec.snapshot import ServedModel
from sextant.spec.wire.completions import CompletionRequest


class CompletionsDialect(OpenAIDialect):
    endpoint = "completions"
    object_whole = "text_completion"
    object_chunk = "text_completion"
    id_prefix = "cmpl-"

    def parse(self, fields: dict[str, Any], body: bytes, model: ServedModel) -> Call:
        try:
            request = msgspec.convert(fields, CompletionRequest)
        except msgspec.ValidationError as error:
            raise failures.bad_value(error, fields) from None
        check(request, model)
        self.model = request.model
        options = request.stream_options
        self.include_usage = options is not None and options.include_usage is True
        drops = [name for name in model.quirks.drop_params if name in fields]
        return Call(
            model=request.model,
            stream=request.stream is True,
            target="/completions",
            body=None if drops else body,
            fields={name: value for name, value in fields.items() if name not in drops} if drops else fields,
            max_output_tokens=request.max_tokens or 0,
            include_usage=self.include_usage,
        )

    def complete_choice(self, choice: dict[str, Any]) -> None:
        choice.setdefault("index", 0)
        choice.setdefault("text", "")
        choice.setdefault("logprobs", None)
        choice.setdefault("finish_reason", None)

    def complete_whole_choice(self, choice: dict[str, Any]) -> None:
        choice.setdefault("text", "")
        choice.setdefault("logprobs", None)
        if choice.get("finish_reason") is None:
            choice["finish_reason"] = "stop"


def check(request: CompletionRequest, model: ServedModel) -> None:
    """Raises BadRequest or Unprocessable."""
    if not model.capabilities.completions:
        raise Unprocessable(f"The model {model.id!r} does chat only; use /chat/completions.", field="model")
    if request.suffix and not model.capabilities.fim:
        raise Unprocessable(
            f"The model {model.id!r} cannot fill in the middle (it was not trained with a suffix); "
            "leave suffix out.",
            field="suffix",
            code="fim_unsupported",
        )
    if request.suffix and request.echo:
        raise BadRequest("echo and suffix cannot be used together.", field="echo")
    if request.prompt == "" and not request.suffix:
        raise BadRequest("prompt is empty.", field="prompt")
    if request.stream_options is not None and request.stream is not True:
        raise BadRequest("stream_options is only allowed when stream is true.", field="stream_options")
    if request.logprobs and not model.capabilities.logprobs:
        raise Unprocessable("This model's engine gives no log-probabilities.", field="logprobs")
    if request.best_of is not None and request.best_of < (request.n or 1):
        raise BadRequest("best_of is smaller than n.", field="best_of")
    if request.best_of is not None and request.best_of > 1 and request.stream:
        raise BadRequest("best_of above 1 cannot be streamed.", field="best_of")
