"""What the transport refuses by itself, as data: a name for metrics, an HTTP status, words for people.

Everything here ends the connection, because the place of the next request in the byte stream is then unknown
or not wanted. The bodies have OpenAI's error shape. Handlers never see these requests.
"""

from __future__ import annotations

import json

from sextant.base.ids import IdSource

_SERVER_ERRORS = 500
_ids = IdSource("req_")


def new_request_id() -> bytes:
    """For an answer that no handler gave: every answer has one."""
    return _ids.next().encode("ascii")


def own_headers() -> list[tuple[bytes, bytes]]:
    """The headers of an answer that no handler gave."""
    return [(b"content-type", b"application/json"), (b"x-request-id", new_request_id())]


class Refusal(Exception):
    """A request is refused before a handler sees it; `reason` is a key of `TABLE`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status, self.message = TABLE[reason]

    @property
    def body(self) -> bytes:
        """The JSON error body."""
        return error_body(self.status, self.reason, self.message)


def error_body(status: int, code: str, message: str) -> bytes:
    """An error in OpenAI's shape."""
    kind = "server_error" if status >= _SERVER_ERRORS else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error}).encode()


TABLE: dict[str, tuple[int, str]] = {
    "bad_request_line": (400, "The request line is malformed; expected `METHOD /path HTTP/1.1`."),
    "bad_target": (400, "The request target has an illegal form or character; percent-encode it."),
    "bad_header": (
        400,
        "A header line is malformed; expected a name, a colon, and a printable value.",
    ),
    "bad_line_end": (400, "Lines of a request head must end in CR LF."),
    "bad_host": (400, "The Host header is malformed."),
    "missing_host": (400, "HTTP/1.1 requests need exactly one Host header; none was sent."),
    "duplicate_header": (400, "A header that may appear once appears more than once."),
    "host_mismatch": (400, "The host in the request target differs from the Host header."),
    "bad_content_length": (400, "Content-Length must be one decimal number."),
    "conflicting_length": (400, "Content-Length and Transfer-Encoding must not both be sent."),
    "bad_chunk": (400, "The chunked request body is malformed."),
    "incomplete_request": (400, "The connection was closed for sending before the request was complete."),
    "half_closed": (400, "The connection was closed for sending while its answer was awaited; keep it open."),
    "parsers_disagree": (400, "The request is ambiguous and was refused."),
    "head_timeout": (408, "The request head was not complete in time."),
    "body_timeout": (408, "The request body was not complete in time."),
    "body_too_large": (413, "The request body is larger than this server accepts."),
    "target_too_long": (414, "The request target is longer than this server accepts."),
    "bad_expectation": (417, "The only expectation supported is `100-continue`."),
    "head_too_large": (431, "The request head is larger than this server accepts."),
    "too_many_headers": (431, "The request has more header lines than this server accepts."),
    "unknown_method": (501, "This server does not implement the request's method."),
    "unknown_transfer_encoding": (501, "The only transfer encoding supported is `chunked`."),
    "upgrade": (501, "Protocol upgrades are not supported; send the request without an Upgrade header."),
    "bodies_too_large": (503, "The server holds too many large request bodies; try again shortly."),
    "too_many_connections": (503, "Too many connections are open; try again shortly."),
    "unsupported_version": (505, "Only HTTP/1.1 and HTTP/1.0 are supported."),
}
