"""The last head of a connection: most heads on it differ from the one before in nothing but their length.

A head whose bytes, but for the digits of its Content-Length, are those of the last one that was read strictly
(`heads.py`) says the same, and is not read again; llhttp (`opinion.py`) sees it all the same. One per
connection and direction, so what it holds lives no longer than the connection and serves nobody else.
"""

from __future__ import annotations

from sextant.spec.snapshot import GatewayLimits
from sextant.transport.exchange import Header
from sextant.transport.heads import (
    LENGTH_DIGITS,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
)

_NAMES = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_NAME = b"content-length"


def _digits_of(data: bytes, end: int) -> tuple[int, int]:
    """Where the value of the first Content-Length line stands in a head; `(end, end)` when there is none."""
    for name in _NAMES:
        start = data.find(name, 0, end)
        if start >= 0:
            start += len(name)
            return start, data.find(b"\r", start, end)
    return end, end


def _place_of(headers: list[Header], digits: bytes) -> int:
    """Where the length stands among the headers: -1 for no length, -2 when it is not written as `digits`."""
    for place, (name, value) in enumerate(headers):
        if name == _NAME:
            return place if value == digits else -2
    return -2 if digits else -1


class LastRequestHead:
    """Reads a connection's request heads."""

    __slots__ = ("_head", "_place", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._place = -1
        self._head: RequestHead

    def read(self, data: bytes, end: int, limits: GatewayLimits) -> RequestHead:
        """As `heads.parse_request_head`."""
        start, stop = _digits_of(data, end)
        digits = data[start:stop]
        rest = data[:start] + data[stop:end]
        if rest == self._rest and (
            self._place < 0 or (0 < len(digits) <= LENGTH_DIGITS and digits.isdigit())
        ):
            return self._head.again(self._place, digits)
        head = parse_request_head(data, end, limits)
        place = _place_of(head.headers, digits)
        if place >= -1:
            self._rest, self._place, self._head = rest, place, head
        return head


class LastResponseHead:
    """Reads an upstream connection's answer heads."""

    __slots__ = ("_head", "_place", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._place = -1
        self._head: ResponseHead

    def read(self, data: bytes, end: int) -> ResponseHead:
        """As `heads.parse_response_head`."""
        start, stop = _digits_of(data, end)
        digits = data[start:stop]
        rest = data[:start] + data[stop:end]
        if rest == self._rest and (
            self._place < 0 or (0 < len(digits) <= LENGTH_DIGITS and digits.isdigit())
        ):
            return self._head.again(self._place, digits)
        head = parse_response_head(data, end)
        place = _place_of(head.headers, digits)
        if place >= -1:
            self._rest, self._place, self._head = rest, place, head
        return head
