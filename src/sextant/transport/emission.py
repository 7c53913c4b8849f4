"""Writing heads: the only place where header bytes are put on a wire, for answers and for upstream requests.

No CR, LF or NUL passes in a name or a value, and no framing header comes from outside the transport.
"""

from __future__ import annotations

import http
import re
from email.utils import formatdate

from sextant.transport.exchange import Header, Headers
from sextant.transport.heads import METHODS, STATUS_MAX

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"/[\x21-\x7e]*+")
_FRAMING = frozenset(
    (b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"trailer", b"te")
)
_ANSWER_FRAMING = _FRAMING | {b"date"}
_REQUEST_FRAMING = _FRAMING | {b"host", b"expect"}

LINE_MEMO_ENTRIES = 1024
VALUE_MEMO_BYTES = 64
_EVER_NEW = frozenset(
    (b"x-request-id", b"request-id", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")
)
STATUS_MIN = 200
_REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}


class UnsafeHeader(ValueError):
    """A handler gave a header that may not be sent: a bug or an injection, never sent."""


class HeaderLines(dict[Header, bytes]):
    """Checked headers, to their lines after CR LF: most headers of most answers are the same few.

    Bounded by LINE_MEMO_ENTRIES and VALUE_MEMO_BYTES; values unlike each other are not kept, but their names'
    part of the line is, within the same bound.
    """

    def __init__(self, forbidden: frozenset[bytes]) -> None:
        super().__init__()
        self._forbidden = forbidden
        self._begins: dict[bytes, bytes] = {}

    def __missing__(self, header: Header) -> bytes:
        name, value = header
        begin = self._begins.get(name) or self._begin(name)
        if len(value.translate(None, b"\r\n\0")) != len(value):
            raise UnsafeHeader("a header value holds CR, LF or NUL")
        line = begin + value
        if name not in _EVER_NEW and len(value) <= VALUE_MEMO_BYTES:
            if len(self) >= LINE_MEMO_ENTRIES:
                self.clear()
            self[header] = line
        return line

    def _begin(self, name: bytes) -> bytes:
        if _TOKEN.fullmatch(name) is None:
            raise UnsafeHeader(f"illegal header name {name[:64]!r}")
        if name.lower() in self._forbidden:
            raise UnsafeHeader(f"header {name.decode()} belongs to the transport")
        if len(self._begins) >= LINE_MEMO_ENTRIES:
            self._begins.clear()
        begin = self._begins[name] = b"\r\n%b: " % name
        return begin


_answer_line = HeaderLines(_ANSWER_FRAMING).__getitem__
_request_line = HeaderLines(_REQUEST_FRAMING).__getitem__


def answer_fields(headers: Headers) -> bytes:
    """The header lines of an answer, each after its CR LF. Raises UnsafeHeader."""
    return b"".join(map(_answer_line, headers))


def request_fields(headers: Headers) -> bytes:
    """The header lines of an upstream request, each after its CR LF. Raises UnsafeHeader."""
    return b"".join(map(_request_line, headers))


def check_status(status: int) -> None:
    """Raises UnsafeHeader unless `status` may end an exchange (no 1xx)."""
    if not STATUS_MIN <= status <= STATUS_MAX:
        raise UnsafeHeader(f"status {status} is no final HTTP status")


def check_method(method: bytes) -> None:
    """Raises UnsafeHeader unless `method` is one that we send."""
    if method not in METHODS:
        raise UnsafeHeader(f"illegal request method {method[:64]!r}")


def check_target(target: bytes) -> None:
    """Raises UnsafeHeader unless `target` is an origin-form request target of visible ASCII."""
    if _TARGET.fullmatch(target) is None:
        raise UnsafeHeader(f"illegal request target {target[:64]!r}")


class StatusLines(dict[int, bytes]):
    """Status to status line and Date line, without a last CR LF; emptied when the second changes."""

    def __init__(self) -> None:
        super().__init__()
        self._date = b""

    def set_time(self, now_s: int) -> None:
        """The wall-clock second that Date shows from now on."""
        date = b"\r\ndate: " + formatdate(now_s, usegmt=True).encode()
        if date != self._date:
            self._date = date
            self.clear()

    def __missing__(self, status: int) -> bytes:
        check_status(status)
        line = self[status] = b"HTTP/1.1 %d %b%b" % (status, _REASONS.get(status, b"Unknown"), self._date)
        return line
