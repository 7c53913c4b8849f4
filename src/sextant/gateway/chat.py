"""Chat completions: what OpenAI and DeepSeek publish, checked before an engine sees it.

Flow 1 (serve). Near-identity: the request goes on as the bytes it came in unless the engine's quirks,
thinking or a role demand a change. Types and ranges are in `spec.wire.chat`; what one field means for
another is here. Neighbours: `openai.py` (answers), `flow.py`, `completions.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sextant.base.errors import BadRequest, Unprocessable
from sextant.gateway import failures, logprobs
from sextant.gateway.dialect import Call
from sextant.gateway.media import Media, Part
from sextant.gateway.openai import OpenAIDialect, refuse_ignored, refuse_own_names
from sextant.spec.snapshot import Quirks, ServedModel
from sextant.spec.wire import chat as wire

ALIAS_THINKS = {"deepseek-chat": False, "deepseek-reasoner": True}
"""The two older names stand for the modes of one model (api-docs.deepseek.com, 2026-04)."""

_convert = msgspec.convert


class ChatDialect(OpenAIDialect):
    endpoint = "chat.completions"
    object_whole = "chat.completion"
    object_chunk = "chat.completion.chunk"
    id_prefix = "chatcmpl-"

    _top = 0
    _prefix = ""
    _begun: frozenset[int] = frozenset()

    def parse(self, fields: dict[str, Any], body: bytes, model: ServedModel) -> Call:
        try:
            request = _convert(fields, wire.ChatRequest)
        except msgspec.ValidationError as error:
            raise failures.bad_value(error, fields) from None
        media = read_media(request.messages, fields, model) if check(request, model) else None
        self.model = request.model
        options = request.stream_options
        if options is not None and options.include_usage is True:
            self.include_usage = True
        quirks = model.quirks
        if quirks.ignored_params:
            refuse_ignored(fields, quirks)
        if quirks.own_names:
            refuse_own_names(fields, quirks)
        if not quirks.compliant:
            self._top = request.top_logprobs or 0
            last = request.messages[-1]
            if quirks.repeats_prefix and type(last) is wire.AssistantMessage and type(last.content) is str:
                self._prefix = last.content
        changes = engine_changes(request, fields, quirks)
        return Call(
            request.model,
            request.stream is True,
            "/chat/completions",
            body if changes is None else None,
            fields if changes is None else changes,
            _most_asked(request) or 0,
            self.include_usage,
            request.n or 1,
            media=media,
        )

    def complete_choice(self, choice: dict[str, Any]) -> None:
        index = choice.setdefault("index", 0)
        delta = choice["delta"] = choice.get("delta") or {}
        if index not in self._begun:
            self._begun |= {index}
            delta.setdefault("role", "assistant")
            if not delta.get("tool_calls") and "reasoning_content" not in delta:
                delta["content"] = delta.get("content") or ""
        choice["logprobs"] = logprobs.of_delta(choice.get("logprobs"), delta, self._top)
        choice.setdefault("finish_reason", None)

    def complete_whole_choice(self, choice: dict[str, Any]) -> None:
        message = choice["message"] = choice.get("message") or {}
        message["role"] = message.get("role") or "assistant"
        message.setdefault("content", None)
        message.setdefault("refusal", None)
        content = message["content"]
        if self._prefix and isinstance(content, str):
            message["content"] = content.removeprefix(self._prefix)
        choice["logprobs"] = logprobs.of_message(choice.get("logprobs"), message, self._top)
        choice.setdefault("finish_reason", "stop")


def check(request: wire.ChatRequest, model: ServedModel) -> bool:
    """What one field means for another, and what this model cannot do; whether a message has parts. Raises
    BadRequest or Unprocessable."""
    if request.stream_options is not None and request.stream is not True:
        raise BadRequest("stream_options is only allowed when stream is true.", field="stream_options")
    if request.top_logprobs is not None and request.logprobs is not True:
        raise BadRequest("top_logprobs needs logprobs to be true.", field="top_logprobs")
    if request.logprobs and not model.capabilities.logprobs:
        raise Unprocessable("This model's engine gives no log-probabilities.", field="logprobs")
    if request.tools or request.tool_choice is not None:
        _check_tools(request, model)
    if request.response_format is not None:
        _check_format(request.response_format, model)
    if request.store or request.modalities or request.audio or request.functions or request.function_call:
        _refuse_foreign(request)
    return _check_messages(request.messages)


def _refuse_foreign(request: wire.ChatRequest) -> None:
    """What OpenAI has and this server does not: refused, not ignored."""
    if request.store:
        raise Unprocessable("This server does not store completions; leave store out.", field="store")
    if request.audio is not None or (request.modalities and "audio" in request.modalities):
        raise Unprocessable("This server gives no audio output; leave it out.", field="modalities")
    if request.functions or request.function_call:
        raise Unprocessable(
            "functions and function_call were replaced by tools and tool_choice.", field="functions"
        )


def _check_tools(request: wire.ChatRequest, model: ServedModel) -> None:
    choice = request.tool_choice
    names = [tool.function.name for tool in request.tools or ()]
    if names and not model.capabilities.tools:
        raise Unprocessable("This model does not call tools.", field="tools")
    if isinstance(choice, wire.NamedTool):
        if choice.function.name not in names:
            raise BadRequest(
                f"tool_choice names the tool {choice.function.name!r}, which is not in tools.",
                field="tool_choice.function.name",
            )
    elif choice == "required" and not names:
        raise BadRequest("tool_choice is only allowed when tools are given.", field="tool_choice")


def _check_format(wanted: wire.ResponseFormat, model: ServedModel) -> None:
    if wanted.type == "json_schema" and wanted.json_schema is None:
        raise BadRequest("response_format.json_schema is missing.", field="response_format.json_schema")
    if wanted.type != "text" and not model.capabilities.json_schema:
        raise Unprocessable("This model's engine cannot force JSON.", field="response_format.type")


def _check_messages(messages: list[wire.Message]) -> bool:
    last = len(messages) - 1
    parts = False
    for number, message in enumerate(messages):
        if type(message.content) is list:
            parts = True
        if type(message) is wire.AssistantMessage:
            if message.content is None and not message.tool_calls and message.refusal is None:
                raise BadRequest(
                    f"messages[{number}] is an assistant message with neither content nor tool_calls.",
                    field=f"messages[{number}].content",
                )
            if message.prefix and number != last:
                raise BadRequest(
                    f"messages[{number}].prefix is only allowed in the last message.",
                    field=f"messages[{number}].prefix",
                )
    return parts


def read_media(messages: list[wire.Message], fields: dict[str, Any], model: ServedModel) -> Media | None:
    """The images and sounds of the messages, where they stand in `fields`. Raises BadRequest, or
    Unprocessable for what this model does not read."""
    found: list[Part] = []
    for number, message in enumerate(messages):
        if type(message.content) is not list:
            continue
        for place, part in enumerate(message.content):
            where = f"messages[{number}].content[{place}]"
            if type(part) is wire.ImagePart:
                _require(model, model.capabilities.vision, "images", message, where)
                given = fields["messages"][number]["content"][place]["image_url"]
                found.append(Part("image", f"{where}.image_url.url", given))
            elif type(part) is wire.AudioPart:
                _require(model, model.capabilities.audio, "sound", message, where)
                given = fields["messages"][number]["content"][place]["input_audio"]
                found.append(Part("audio", f"{where}.input_audio.data", given, part.input_audio.format))
            elif type(part) is wire.FilePart:
                _require(model, False, "files", message, where)
    return Media(found) if found else None


def _require(model: ServedModel, able: bool, what: str, message: wire.Message, where: str) -> None:
    capable = model.capabilities
    if not able:
        reads = f"no {what}" if capable.vision or capable.audio else "text only"
        raise Unprocessable(f"This model reads {reads}.", field=f"{where}.type")
    if type(message) is not wire.UserMessage and type(message) is not wire.ToolMessage:
        raise BadRequest(
            f"{where} stands where only text does; put {what} into a message of the user.",
            field=f"{where}.type",
        )


def engine_changes(
    request: wire.ChatRequest, fields: dict[str, Any], quirks: Quirks
) -> dict[str, Any] | None:
    """The fields as this engine wants them, or None when they can go on as they are."""
    extra = _thinking(request, quirks)
    wants = quirks.max_tokens_field
    other = "max_completion_tokens" if wants == "max_tokens" else "max_tokens"
    renames = other in fields
    developer = wire.DeveloperMessage in map(type, request.messages)
    drops = [name for name in quirks.drop_params if name in fields] if quirks.drop_params else []
    choice = request.tool_choice
    named = False
    if choice is not None:
        if choice == "none" and request.tools and not quirks.hides_tools_when_none:
            drops += ["tools", "tool_choice"]
        named = type(choice) is wire.NamedTool and not quirks.names_tool_choice
    few = request.logprobs is True and not quirks.compliant and not request.top_logprobs
    if not (extra or renames or developer or drops or few or named):
        return None
    changed = {name: value for name, value in fields.items() if name not in drops}
    if renames:
        del changed[other]
        changed[wants] = _most_asked(request)  # of two limits the one that admission has counted with
    if few:  # none given would mean the engine's default, and zero none at all; the answer is cut
        changed["top_logprobs"] = 1
    if developer:
        changed["messages"] = [
            {**message, "role": "system"} if message["role"] == "developer" else message
            for message in changed["messages"]
        ]
    if named:  # the engine would read it as `auto`
        assert type(choice) is wire.NamedTool
        wanted = choice.function.name
        changed["tools"] = [tool for tool in changed["tools"] if tool["function"]["name"] == wanted]
        changed["tool_choice"] = "required"
    return _merged(changed, extra)


def _most_asked(request: wire.ChatRequest) -> int | None:
    """The most tokens to answer with; the newer of the two names counts."""
    return request.max_completion_tokens or request.max_tokens


def _thinking(request: wire.ChatRequest, quirks: Quirks) -> dict[str, object]:
    """What turns thinking on or off in this engine, when the caller said so."""
    if request.thinking is not None:
        thinks: bool | None = request.thinking.type == "enabled"
    elif request.reasoning_effort is not None:
        thinks = request.reasoning_effort != "none"
    else:
        thinks = ALIAS_THINKS.get(request.model)
    if thinks is None:
        return {}
    return quirks.reasoning_on if thinks else quirks.reasoning_off


def _merged(fields: dict[str, Any], extra: dict[str, object]) -> dict[str, Any]:
    """`fields` with `extra` added; objects are merged, and what the caller said himself wins."""
    for name, value in extra.items():
        given = fields.get(name)
        if isinstance(value, dict) and isinstance(given, dict):
            fields = {**fields, name: {**value, **given}}
        elif given is None:
            fields = {**fields, name: value}
    return fields
