"""Text completions, with fill-in-the-middle where the engine can.

Flow 1 (serve). `/completions` and `/v1/completions` as OpenAI publishes them, `/beta/completions` as DeepSeek
does (prompt and suffix). A suffix is refused where the model cannot use it, never ignored.
Neighbours: `openai.py` (answers), `chat.py`, `spec.wire.completions`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sextant.base.errors import BadRequest, Unprocessable
from sextant.gateway import failures, logprobs
from sextant.gateway.dialect import Call
from sextant.gateway.openai import OpenAIDialect, refuse_ignored, refuse_own_names
from sextant.spec.snapshot import Quirks, ServedModel
from sextant.spec.wire.completions import CompletionRequest


class CompletionsDialect(OpenAIDialect):
    endpoint = "completions"
    object_whole = "text_completion"
    object_chunk = "text_completion"
    id_prefix = "cmpl-"

    _top = 0
    _chat_logprobs = False

    def __init__(self) -> None:
        self._offsets: dict[int, int] = {}

    def parse(self, fields: dict[str, Any], body: bytes, model: ServedModel) -> Call:
        try:
            request = msgspec.convert(fields, CompletionRequest)
        except msgspec.ValidationError as error:
            raise failures.bad_value(error, fields) from None
        check(request, model)
        self.model = request.model
        options = request.stream_options
        self.include_usage = options is not None and options.include_usage is True
        refuse_ignored(fields, model.quirks)
        refuse_own_names(fields, model.quirks)
        self._top = request.logprobs or 0
        self._chat_logprobs = model.quirks.completions_logprobs == "chat"
        changes = engine_changes(request, fields, model.quirks)
        return Call(
            model=request.model,
            stream=request.stream is True,
            target="/completions",
            body=body if changes is None else None,
            fields=fields if changes is None else changes,
            max_output_tokens=request.max_tokens or 0,
            include_usage=self.include_usage,
            answers=max(request.n or 1, request.best_of or 1),
            inputs=_texts(request.prompt),
        )

    def complete_choice(self, choice: dict[str, Any]) -> None:
        index = choice.setdefault("index", 0)
        text = choice["text"] = choice.get("text") or ""
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(text)
        self._columns(choice, offset)
        choice.setdefault("finish_reason", None)

    def complete_whole_choice(self, choice: dict[str, Any]) -> None:
        choice["text"] = choice.get("text") or ""
        self._columns(choice, 0)
        if choice.get("finish_reason") is None:
            choice["finish_reason"] = "stop"

    def _columns(self, choice: dict[str, Any], offset: int) -> None:
        if self._chat_logprobs:
            choice["logprobs"] = logprobs.as_columns(choice.get("logprobs"), self._top, offset)
        else:
            choice.setdefault("logprobs", None)


def _texts(prompt: Any) -> int:
    """How many texts `prompt` is: one, unless it is a list of texts or of lists of token ids."""
    return len(prompt) if type(prompt) is list and prompt and type(prompt[0]) is not int else 1


def engine_changes(
    request: CompletionRequest, fields: dict[str, Any], quirks: Quirks
) -> dict[str, Any] | None:
    """The fields as this engine wants them, or None when they can go on as they are."""
    drops = {name for name in quirks.drop_params if name in fields}
    prompt = None
    if request.suffix and quirks.fim_prompt:
        # one replacement at a time would find a placeholder inside the caller's own text
        before, _, rest = quirks.fim_prompt.partition("{prefix}")
        between, _, after = rest.partition("{suffix}")
        prompt = f"{before}{request.prompt}{between}{request.suffix}{after}"
        drops.add("suffix")
    if prompt is None and not drops:
        return None
    changed = {name: value for name, value in fields.items() if name not in drops}
    if prompt is not None:
        changed["prompt"] = prompt
    return changed


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
    if request.suffix and type(request.prompt) is not str:
        raise BadRequest("With suffix, prompt is one string.", field="prompt")
    if model.quirks.usage_of_one_choice and type(request.prompt) is list and _several(request.prompt):
        raise Unprocessable("This model's engine takes one prompt at a time.", field="prompt")
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


def _several(prompts: list[Any]) -> bool:
    """Whether a list is more than one prompt: texts or token lists, not the ids of one."""
    return len(prompts) > 1 and type(prompts[0]) is not int
