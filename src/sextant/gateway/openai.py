"""What chat and text completions share as dialects: OpenAI's chunks, usage chunk, errors and `[DONE]`.

Flow 1 (serve). For a compliant engine the flow relays the engine's own bytes and asks the dialect only for
the last events; for the others every chunk comes here as a dict and is completed: each field that the
published schema requires, null where it says null. Neighbours: `chat.py` and `completions.py` derive from
it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

import msgspec

from sextant.base.errors import BadRequest, SextantError, Unprocessable
from sextant.gateway import failures, sse
from sextant.gateway.counting import wire_usage
from sextant.spec.snapshot import Quirks
from sextant.spec.usage import Usage

_encode = msgspec.json.Encoder().encode


class OpenAIDialect(ABC):
    """Base of the two; one object serves one request."""

    endpoint: str
    object_whole: str
    object_chunk: str
    id_prefix: str
    keepalive = sse.KEEPALIVE
    relays_raw = True
    """The flow may relay a compliant engine's bytes without asking `chunk` and `answer`."""

    # one object per request: what most requests leave alone is not set on it
    request_id = ""
    model = ""
    include_usage = False
    _head: dict[str, Any] | None = None

    def begin(self, request_id: str) -> bytes:
        return b""

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """The chunk with its required fields."""
        head = self._head
        if head is None:
            head = self.take_head(chunk)
        chunk.update(head)
        for choice in chunk.get("choices", ()):
            self.complete_choice(choice)
        if self.include_usage:
            chunk["usage"] = None
        return b"data: " + _encode(chunk) + b"\n\n"

    def take_head(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Remembers id, created, model and fingerprint: they are the same in all chunks of an answer."""
        self._head = self._head_of(chunk, self.object_chunk)
        return self._head

    def _head_of(self, answer: dict[str, Any], kind: str) -> dict[str, Any]:
        given_id = answer.get("id")
        if isinstance(given_id, str) and given_id:
            given_id = self.id_prefix + given_id.removeprefix("chatcmpl-").removeprefix("cmpl-")
        else:
            given_id = self.id_prefix + self.request_id
        created_s = answer.get("created")
        return {
            "id": given_id,
            "object": kind,
            "created": created_s if type(created_s) is int else int(time.time()),
            "model": self.model,
            "system_fingerprint": answer.get("system_fingerprint") or "fp_sextant",
        }

    @abstractmethod
    def complete_choice(self, choice: dict[str, Any]) -> None:
        """Fills one streamed choice in place."""

    @abstractmethod
    def complete_whole_choice(self, choice: dict[str, Any]) -> None:
        """Fills one choice of a whole answer in place."""

    def finish(self, usage: Usage) -> bytes:
        if not self.include_usage:
            return sse.DONE
        head = self._head if self._head is not None else self.take_head({})
        return b"data: " + _encode({**head, "choices": [], "usage": wire_usage(usage)}) + b"\n\n" + sse.DONE

    def stream_error(self, error: SextantError) -> bytes:
        return b"data: " + failures.openai_body(error) + b"\n\n"

    def answer(self, completion: dict[str, Any], usage: Usage) -> bytes:
        answer = {**completion, **self._head_of(completion, self.object_whole)}
        for index, choice in enumerate(answer["choices"]):
            choice.setdefault("index", index)
            self.complete_whole_choice(choice)
        engine = completion.get("usage")
        answer["usage"] = wire_usage(usage, engine if isinstance(engine, dict) else None)
        return _encode(answer)

    def failure(self, error: SextantError) -> bytes:
        return failures.openai_body(error)


_NEUTRAL = {"best_of": 1}
"""Values that ask for nothing."""


def refuse_own_names(fields: dict[str, Any], quirks: Quirks) -> None:
    """Raises BadRequest for the engine's own name of a published parameter: it would go round our checks."""
    for name, published in quirks.own_names.items():
        if fields.get(name) is not None:
            raise BadRequest(
                f"{name} is this engine's own name for {published}; use this API's field for it.",
                field=name,
                code="unknown_parameter",
            )


def refuse_ignored(fields: dict[str, Any], quirks: Quirks) -> None:
    """Raises Unprocessable for a parameter that would change the answer and that the engine would ignore."""
    for name in quirks.ignored_params:
        if fields.get(name) and fields[name] != _NEUTRAL.get(name):
            raise Unprocessable(f"This model's engine does not know {name}; leave it out.", field=name)
