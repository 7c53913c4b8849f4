"""Values put back into an engine's answer, whole or in chunks, before anything else reads it.

Part of flow 1 (serve): `relay.py` passes every chunk and every whole answer of a masked request through here,
in the engine's own OpenAI protocol, so that all dialects write restored text. Of each text at most the
beginning of one token is kept back; it leaves with the next piece, or when the text ends: another part begins
or the choice has finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sextant.privacy.restore import Restorer, Tokens, may_begin_tokens

_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
"""Where a message or a delta has text, in the order in which it is written."""
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Unmasking:
    """Of one request. `json`: the answer's text is JSON, as the caller asked for."""

    __slots__ = ("_choices", "_holds", "_json", "_tokens")

    def __init__(self, values: Mapping[str, str], *, json: bool = False) -> None:
        self._tokens = Tokens(values)
        self._json = json
        self._choices: dict[int, _Choice] = {}
        self._holds = False
        """Whether any text of any choice keeps something back."""

    def whole(self, body: bytes) -> bytes:
        """A whole answer with its values; one without tokens or that cannot be read comes back as it is."""
        if not may_begin_tokens(body):
            return body
        answer = _read(body)
        for choice in _dicts(answer, "choices"):
            self._restore_texts(choice, ("text",))
            message = choice.get("message")
            if isinstance(message, dict):
                self._restore_texts(message, _TEXTS)
                for call in _dicts(message, "tool_calls"):
                    function = call.get("function")
                    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
                        function["arguments"] = self._tokens.restore(function["arguments"], json=True)
        return body if answer is None else _encode(answer)

    def event(self, data: bytes) -> bytes:
        """One chunk of a stream, which has been found to be one, with its values; the same object where
        there is nothing to put back."""
        if not self._holds and not may_begin_tokens(data):
            return data
        chunk = _read(data)
        for choice in _dicts(chunk, "choices"):
            number = choice.get("index", 0)
            state = self._choices.get(number)
            if state is None:
                state = self._choices[number] = _Choice(self._tokens, self._json)
            state.take(choice)
        self._holds = any(state.holds for state in self._choices.values())
        return data if chunk is None else _encode(chunk)

    def _restore_texts(self, part: dict[str, Any], names: tuple[str, ...]) -> None:
        for name in names:
            if isinstance(part.get(name), str):
                part[name] = self._tokens.restore(part[name], json=self._json)


class _Choice:
    """One choice of a stream: what each of its texts keeps back."""

    __slots__ = ("_json", "_texts", "_tokens", "_tools")

    def __init__(self, tokens: Tokens, json: bool) -> None:
        self._tokens = tokens
        self._json = json
        self._texts: dict[str, Restorer] = {}
        self._tools: dict[int, Restorer] = {}

    @property
    def holds(self) -> bool:
        return any(kept.holds for kept in (*self._texts.values(), *self._tools.values()))

    def take(self, choice: dict[str, Any]) -> None:
        """Restores one chunk of this choice, in place."""
        ends = choice.get("finish_reason") is not None
        if "text" in choice:
            self._take_texts(choice, ("text",), {"text"}, ends)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            if not ends or not self.holds or "text" in choice:
                return
            delta = choice["delta"] = {}
        speaks = {name for name in (*_TEXTS, "tool_calls") if delta.get(name)}
        self._take_texts(delta, _TEXTS, speaks, ends)
        self._take_tools(delta, speaks, ends)

    def _take_texts(self, part: dict[str, Any], names: tuple[str, ...], speaks: set[str], ends: bool) -> None:
        for name in names:
            restorer = self._texts.get(name)
            given = part.get(name)
            if isinstance(given, str) and given:
                if restorer is None:
                    restorer = self._texts[name] = Restorer(self._tokens, json=self._json)
                part[name] = restorer.feed(given)
            if restorer is not None and restorer.holds and (ends or speaks - {name}):
                part[name] = (part.get(name) or "") + restorer.flush()

    def _take_tools(self, delta: dict[str, Any], speaks: set[str], ends: bool) -> None:
        calls = []
        for place, call in enumerate(_dicts(delta, "tool_calls")):
            given = call.get("index")
            number = given if isinstance(given, int) else place
            calls += self._others(number)
            calls.append(call)
            function = call.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
                continue
            restorer = self._tools.get(number)
            if restorer is None:
                restorer = self._tools[number] = Restorer(self._tokens, json=True)
            function["arguments"] = restorer.feed(function["arguments"])
        if ends or speaks - {"tool_calls"}:
            calls += self._others(None)
        if calls:
            delta["tool_calls"] = calls

    def _others(self, number: int | None) -> list[dict[str, Any]]:
        """What the tool calls but `number` keep back, as pieces of them: another has begun."""
        return [
            {"index": other, "function": {"arguments": restorer.flush()}}
            for other, restorer in self._tools.items()
            if other != number and restorer.holds
        ]


def _read(body: bytes) -> Any:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _dicts(holder: Any, name: str) -> list[dict[str, Any]]:
    """The objects in a list of `holder`, whatever an engine sent instead."""
    items = holder.get(name) if isinstance(holder, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
