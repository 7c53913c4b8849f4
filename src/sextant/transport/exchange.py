"""The exchange between a transport and a handler: what a handler sees of a request and how it answers.

A handler knows no transport: the HTTP/1.1 server (`server.py`) and the ASGI twin (`asgi.py`) both call it.
Header names are lower-case bytes on the way in; values carry no CR, LF or NUL in either direction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

Header = tuple[bytes, bytes]
Headers = Sequence[Header]


class Request:
    """One complete request; `body` has been read whole, within `GatewayLimits.body_bytes`.

    `path` is the raw path without the query (ASCII, still percent-encoded); `peer` the client's address;
    `peer_certificate` its DER certificate when TLS client authentication is on.
    """

    __slots__ = ("_fields", "body", "headers", "method", "path", "peer", "peer_certificate", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: Headers,
        body: bytes,
        peer: str = "",
        peer_certificate: bytes | None = None,
        fields: dict[bytes, bytes] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.peer = peer
        self.peer_certificate = peer_certificate
        self._fields = dict(reversed(headers)) if fields is None else fields

    def header(self, name: bytes) -> bytes | None:
        """The first value of `name` (lower-case), or None."""
        return self._fields.get(name)


class ClientGone(Exception):
    """The client left; whatever is still written goes nowhere."""


class Responder(Protocol):
    """Answers one request. Call `reply` once, or `start`, any number of `write`/`drain`, then `end`.

    Framing (`content-length`, `transfer-encoding`, `connection`, `date`) is the transport's; the handler
    gives the other headers. When the client leaves before the answer has ended, the handler's task is
    cancelled. A handler that returns or raises after `start` without `end` cuts the connection, so that the
    client sees a truncated answer, never a clean end. A header with CR, LF or NUL, or one of the framing
    headers, raises UnsafeHeader (`emission.py`). Once the handler has returned, calls do nothing.
    """

    started: bool

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer in one write."""

    def start(self, status: int, headers: Headers) -> None:
        """Begins an answer of unknown length (chunked for HTTP/1.1, close-delimited for HTTP/1.0)."""

    def write(self, data: bytes) -> bool:
        """One chunk; leaves at once (TCP_NODELAY). Never blocks: true says what `needs_drain` says, `drain`
        then."""

    async def drain(self) -> None:
        """Returns at once unless the client reads slower than we write; raises ClientGone when it left."""

    def end(self, data: bytes = b"") -> None:
        """The last chunk and the end of the answer, in one write."""

    def needs_drain(self) -> bool:
        """True when the client's unsent bytes are over `GatewayLimits.write_buffer_bytes`."""


Handler = Callable[[Request, Responder], Awaitable[None]]
"""Called once per request. The requests of one connection are answered in one task, one after the other, so
they share a context: a handler that uses context variables sets them anew each time."""


class UpstreamResponse(Protocol):
    """An answer from upstream whose head has arrived. Always `close` it (idempotent, never blocks)."""

    status: int
    headers: Headers

    async def read(self, limit_bytes: int) -> bytes:
        """The rest of the body. Raises UpstreamError when truncated or over the limit."""

    async def chunk(self) -> bytes | None:
        """The next piece off the wire (at most one chunk of a chunked answer); None at a clean end.

        Raises UpstreamError when truncated, reset or silent for longer than `upstream_idle_timeout_s`.
        Reading pauses while more than READ_AHEAD_BYTES (`upstream.py`) wait. Cancelling it cuts.
        """

    async def each(self, take: Callable[[bytes], bool]) -> bool:
        """Calls `take` with each piece in the very turn of the loop that read it.

        False at the clean end; True as soon as `take` returns true, and reading then waits for the next call.
        Raises as `chunk` does, and whatever `take` raised.
        """

    def close(self) -> None:
        """Pools the connection when the answer was read to its clean end; otherwise closes it at once."""


class UpstreamPool(Protocol):
    """Client side. One pool per gateway worker; connections are kept per origin."""

    async def send(
        self, base_url: str, method: bytes, target: bytes, headers: Headers, body: bytes
    ) -> UpstreamResponse:
        """Sends one request and returns when the answer's head is there (1xx skipped).

        `base_url` is scheme, host and port (`http://127.0.0.1:4001`, a path in it is ignored); after a `#`
        comes the id of who must answer there, whatever the host is called. `target` is the full request
        target. Framing headers and Host are added here (UnsafeHeader when given); headers that come as a
        tuple, the same from call to call, are checked and composed once. A stale pooled connection is retried
        once on a fresh one, only if no answer byte had arrived. Cancelling the call closes the connection.
        Raises UpstreamUnavailable (cannot connect) or UpstreamError.
        """

    def close(self) -> None: ...
