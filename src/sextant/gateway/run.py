"""One request under way: what `flow.py` and `relay.py` know of it, and its only ways to answer.

Flow 1 (serve). Everything that leaves for the client passes `reply`, `write` or `end` here, so that headers,
status and the keep-alive clock are right in one place. A struct, because one is made for each request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from sextant.gateway.dialect import Call, Dialect
from sextant.governance.door import Admission, Outcome
from sextant.spec.usage import Usage
from sextant.transport.exchange import Header, Responder

if TYPE_CHECKING:
    from sextant.gateway.counting import Tally
    from sextant.gateway.observe import Observer, Series
    from sextant.gateway.router import ModelRoute
    from sextant.gateway.unmasking import Unmasking

JSON: Header = (b"content-type", b"application/json")
EVENTS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
BLANK_LINE = b"\n"
_monotonic = time.monotonic


class Surface:
    """One API surface: what makes its dialects, and its counters by model. Bound once, at start."""

    __slots__ = ("anthropic", "endpoint", "id_header", "make", "metered", "observer", "series")

    def __init__(self, make: Callable[[], Dialect], observer: Observer, *, metered: bool = True) -> None:
        """What is not `metered` runs no model: it is admitted like the others and leaves no usage row."""
        self.make = make
        self.metered = metered
        self.observer = observer
        self.endpoint = make().endpoint
        self.id_header: bytes | None = getattr(make(), "id_header", None)
        self.anthropic = self.id_header is not None
        """Whether limits are told in Anthropic's headers."""
        self.series: dict[str, Series] = {}


class Run(msgspec.Struct, eq=False):
    """State of one request. `headers` are those of every answer to it, the request id among them."""

    surface: Surface
    request_id: str
    dialect: Dialect
    responder: Responder
    headers: list[Header]
    started_s: float
    quiet_since_s: float
    wrote: bool = False
    told_at: int = 0
    """Where the headers of the gateway's own places begin among `headers`."""
    admission: Admission | None = None
    call: Call | None = None
    route: ModelRoute | None = None
    tally: Tally | None = None
    """Of a stream."""
    unmasking: Unmasking | None = None
    """Puts back what was masked in the request; None where nothing was."""
    prompt_bytes: int = 0
    engine_started_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    asked: bool = False
    """An engine has begun to work on it."""
    stood_in: bool = False
    """Another model answers than the one asked for, since that one cannot."""
    settled: bool = False
    used: Usage | None = None
    """What it was settled with."""
    result: str = "refused"
    status: int = 0

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
            self.responder.reply(status, [JSON, *self.headers, *headers], body)

    def write(self, data: bytes) -> bool:
        """One piece of a stream; the first one sends the head. True: `drain` before the next."""
        self.wrote = True
        if not self.status:
            self._start()
        return self.responder.write(data)

    def end(self, data: bytes) -> None:
        self.wrote = True
        if not self.status:
            self._start()
        self.responder.end(data)

    def keep_alive(self) -> None:
        """Called when nothing has been written for a while. Commits status 200."""
        if self.call is None or (self.responder.started and self.responder.needs_drain()):
            return
        if not self.status:
            self._start()
        self.responder.write(self.dialect.keepalive if self.streams else BLANK_LINE)
        self.surface.observer.keepalives.value += 1

    def _start(self) -> None:
        self.status = 200
        head = EVENTS if self.streams else (JSON,)
        self.responder.start(200, [*head, *self.headers])

    def token_seen(self) -> None:
        """A chunk with text has come from the engine."""
        now_s = _monotonic()
        if not self.first_token_s:
            self.first_token_s = now_s
        self.last_token_s = now_s

    def outcome(self, result: str, usage: Usage) -> Outcome:
        """How it ended, as governance wants it."""
        self.used = usage
        self.result = result
        started_s, first_s = self.started_s, self.first_token_s
        ttft_ms = int((first_s - started_s) * 1000) if first_s else -1
        return Outcome(usage, result, int((_monotonic() - started_s) * 1000), ttft_ms)
