"""What one API surface adds to the serving flow: reading its requests and writing its answers.

The flow (`flow.py`) authenticates, decodes JSON, asks the dialect for a `Call`, admits, routes, streams from
the engine (always the OpenAI chat or completions protocol) and settles; the dialect only translates. Chat and
completions are near-identity; Responses and Anthropic Messages translate. One dialect object serves one
request, so it may keep state between chunks.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from sextant.base.errors import SextantError
from sextant.gateway.media import Media
from sextant.spec.snapshot import ServedModel
from sextant.spec.usage import Usage


class Call(msgspec.Struct):
    """An OpenAI-protocol request for the engine, made by a dialect.

    `body` is the raw JSON to forward when nothing needs to change, otherwise `fields` is the changed object
    and `body` is None. `target` is the engine's path under its API root (`/chat/completions`).
    """

    model: str
    stream: bool
    target: str
    body: bytes | None
    fields: dict[str, Any]
    max_output_tokens: int = 0
    include_usage: bool = False
    answers: int = 1
    """Choices that the engine is asked for."""
    inputs: int = 1
    """Texts in it that the engine reads each by itself."""
    repeated_bytes: int = 0
    """Of what is read anew with each of the `inputs`."""
    media: Media | None = None
    """The images and sounds in it; None where there are none."""


class Dialect(Protocol):
    """Translates one request. All bytes are ready for the wire."""

    endpoint: str
    """Name for metrics and the ledger: `chat.completions`, `completions`, `responses`, `messages`, …"""

    request_id: str
    """Set by the flow right after construction, before any other call: answers and error bodies carry it."""

    def parse(self, fields: dict[str, Any], body: bytes, model: ServedModel) -> Call:
        """Checks the request and makes the engine's. Raises BadRequest or Unprocessable naming the field."""

    def begin(self, request_id: str) -> bytes:
        """Events before the engine's first chunk (may be empty)."""

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """One engine chunk (decoded, quirks already removed) as events; empty when it says nothing."""

    def finish(self, usage: Usage) -> bytes:
        """The last events, held back until the usage is durable."""

    def stream_error(self, error: SextantError) -> bytes:
        """An error after the stream has begun; ends the stream without a clean stop."""

    def answer(self, completion: dict[str, Any], usage: Usage) -> bytes:
        """The whole body of a non-streaming answer."""

    def failure(self, error: SextantError) -> bytes:
        """The body of an error answer; the status is mapped in `failures.py`."""

    keepalive: bytes
    """Sent in a waiting stream (an SSE comment, or Anthropic's ping event)."""
