"""One request under way: what `flow.py` and `relay.py` know of it, and its only ways to answer.

Flow 1 (serve). Everything that leaves for the client passes `reply`, `write` or `end` here, so that headers,
status and the keep-alive clock are right in one place.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sextant.gateway.counting import Tally
from sextant.gateway.dialect import Call, Dialect
from sextant.governance.door import Admission, Outcome
from sextant.spec.usage import Usage
from sextant.transport.exchange import Header, Responder

if TYPE_CHECKING:
    from sextant.gateway.meters import Count
    from sextant.gateway.router import ModelRoute

JSON: Header = (b"content-type", b"application/json")
EVENTS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
BLANK_LINE = b"\n"


class Run:
    """State of one request. `base_headers` are those of every answer to it, the request id among them."""

    __slots__ = (
        "admission",
        "asked",
        "base_headers",
        "call",
        "dialect",
        "engine_started_s",
        "first_token_s",
        "keepalives",
        "last_token_s",
        "metered",
        "prompt_bytes",
        "quiet_since_s",
        "request_id",
        "responder",
        "result",
        "route",
        "settled",
        "started_s",
        "status",
        "tally",
        "used",
        "wrote",
    )

    def __init__(
        self,
        request_id: str,
        dialect: Dialect,
        responder: Responder,
        base_headers: list[Header],
        keepalives: Count,
    ) -> None:
        self.request_id = request_id
        self.dialect = dialect
        self.responder = responder
        self.base_headers = base_headers
        self.keepalives = keepalives
        self.started_s = time.monotonic()
        self.quiet_since_s = self.started_s
        self.wrote = False
        self.admission: Admission | None = None
        self.call: Call | None = None
        self.route: ModelRoute | None = None
        self.tally = Tally()
        self.prompt_bytes = 0
        self.engine_started_s = 0.0
        self.first_token_s = 0.0
        self.last_token_s = 0.0
        self.asked = False
        """An engine has begun to work on it."""
        self.settled = False
        self.used: Usage | None = None
        """What it was settled with."""
        self.metered = True
        self.result = "refused"
        self.status = 0

    @property
    def streams(self) -> bool:
        return self.call is not None and self.call.stream

    def reply(self, status: int, headers: list[Header], body: bytes) -> None:
        """A whole answer; after a keep-alive the status is committed and only the body follows."""
        self.wrote = True
        if self.responder.started:
            self.responder.end(body)
        else:
            self.status = status
            self.responder.reply(status, [JSON, *self.base_headers, *headers], body)

    def write(self, data: bytes) -> None:
        """One piece of a stream; the first one sends the head."""
        self.wrote = True
        if not self.responder.started:
            self._start()
        self.responder.write(data)

    def end(self, data: bytes) -> None:
        self.wrote = True
        if not self.responder.started:
            self._start()
        self.responder.end(data)

    def keep_alive(self) -> None:
        """Called when nothing has been written for a while. Commits status 200."""
        if self.call is None or (self.responder.started and self.responder.needs_drain()):
            return
        if not self.responder.started:
            self._start()
        self.responder.write(self.dialect.keepalive if self.streams else BLANK_LINE)
        self.keepalives.value += 1

    def _start(self) -> None:
        self.status = 200
        head = EVENTS if self.streams else (JSON,)
        self.responder.start(200, [*head, *self.base_headers])

    def token_seen(self) -> None:
        """A chunk with text has come from the engine."""
        now_s = time.monotonic()
        if not self.first_token_s:
            self.first_token_s = now_s
        self.last_token_s = now_s

    def outcome(self, result: str, usage: Usage | None = None) -> Outcome:
        """How it ended, as governance wants it."""
        now_s = time.monotonic()
        ttft_ms = int((self.first_token_s - self.started_s) * 1000) if self.first_token_s else -1
        self.used = usage if usage is not None else self.tally.usage(self.prompt_bytes)
        return Outcome(
            self.used,
            result,
            int((now_s - self.started_s) * 1000),
            ttft_ms,
        )
