"""What other parsers make of the same bytes, and how an input becomes pieces."""

from __future__ import annotations

import contextlib
import dataclasses

import h11
import httptools

Seen = tuple[str, bytes, tuple[tuple[bytes, bytes], ...], bytes]
"""Method, target, headers, body."""


def pieces_of(data: bytes) -> tuple[bytes, list[bytes]]:
    """The stream in an input, and the same stream cut as the input's first three bytes say."""
    cuts, stream = data[:3], data[3:]
    size = len(stream)
    places = sorted({cut * size // 256 for cut in cuts})
    pieces = [stream[start:stop] for start, stop in zip([0, *places], [*places, size], strict=True)]
    return stream, [piece for piece in pieces if piece]


def requests_by_h11(data: bytes) -> list[Seen]:
    """The requests that h11 accepts, in order."""
    found: list[Seen] = []
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    parser.receive_data(data)
    head: h11.Request | None = None
    body = b""
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError:
            return found
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            if head.method == b"CONNECT":
                return found
            found.append((head.method.decode(), bytes(head.target), fields_of(head), body))
            parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            parser.send(h11.EndOfMessage())
            if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
                return found
            parser.start_next_cycle()
        else:
            return found


def fields_of(head: h11.Request | h11.Response) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((bytes(name), bytes(value)) for name, value in head.headers)


class _Requests:
    def __init__(self) -> None:
        self.found: list[Seen] = []
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.frozen: tuple[tuple[bytes, bytes], ...] = ()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.frozen = tuple(self.fields)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.found.append((self.parser.get_method().decode(), self.target, self.frozen, self.body))


def requests_by_llhttp(data: bytes) -> list[Seen]:
    """The requests that llhttp accepts, in order."""
    requests = _Requests()
    with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        requests.parser.feed_data(data)
    return requests.found


@dataclasses.dataclass
class Answered:
    """An answer as a parser read it. `complete` is False when it is truncated or broken."""

    status: int = 0
    body: bytes = b""
    complete: bool = False
    left: bytes = b""


def answer_by_h11(data: bytes) -> Answered:
    """What h11 makes of an answer that ends with the connection."""
    found = Answered()
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    closed = False
    while True:
        try:
            event = parser.next_event()
            if event is h11.NEED_DATA and not closed:
                closed = True
                parser.receive_data(b"")
                continue
        except h11.RemoteProtocolError:
            return found
        if isinstance(event, h11.Response):
            found.status = event.status_code
        elif isinstance(event, h11.Data):
            found.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found.complete = True
            found.left = parser.trailing_data[0]
            return found
        elif not isinstance(event, h11.InformationalResponse):
            return found
