"""The last head of a connection: most heads on it differ from the one before in nothing but their length.

A head whose bytes, but for the digits of its Content-Length, are those of the last one that was read strictly
(`heads.py`) says the same, and is not read again; llhttp (`opinion.py`) sees it all the same. One per
connection and direction, so what it holds lives no longer than the connection and serves nobody else.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from sextant.spec.snapshot import GatewayLimits
from sextant.transport.exchange import Header
from sextant.transport.heads import (
    LENGTH_DIGITS,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
)

_NAME = b"content-length"
_LINES = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_NOTHING = b"no head begins like this"

_Head = TypeVar("_Head", RequestHead, ResponseHead)


class LastHead(Generic[_Head]):
    """What stands before the digits of the length, what stands after them, and what the head said."""

    __slots__ = ("_after", "_before", "_head", "_place")

    def __init__(self) -> None:
        self._before = _NOTHING
        self._after = b""
        self._place = -1
        self._head: _Head

    def again(self, data: bytes, end: int) -> _Head | None:
        """The head in `data[:end]` when it is the last one over again, with its own length."""
        before = self._before
        if not data.startswith(before):
            return None
        start = len(before)
        if self._place < 0:
            return self._head if start == end else None
        stop = data.find(b"\r", start, end)
        digits = data[start:stop]
        if data[stop:end] != self._after or not digits.isdigit() or stop - start > LENGTH_DIGITS:
            return None
        return self._head.again_of(self._place, digits)

    def remember(self, head: _Head, data: bytes, end: int) -> None:
        """Takes note of a head just read, when its length, if any, is written in the common way."""
        place = _place_of(head.headers)
        start = stop = end
        if place >= 0:
            digits = head.headers[place][1]
            start = max(data.find(line, 0, end) + len(line) for line in _LINES)
            stop = start + len(digits)
            if data[start:stop] != digits or data[start - len(_LINES[0]) : start] not in _LINES:
                return
        self._before, self._after, self._place, self._head = data[:start], data[stop:end], place, head


class LastRequestHead(LastHead[RequestHead]):
    """Reads a connection's request heads."""

    __slots__ = ()

    def read(self, data: bytes, end: int, limits: GatewayLimits) -> RequestHead:
        """As `heads.parse_request_head`."""
        head = self.again(data, end)
        if head is None:
            head = parse_request_head(data, end, limits)
            self.remember(head, data, end)
        return head


class LastResponseHead(LastHead[ResponseHead]):
    """Reads an upstream connection's answer heads."""

    __slots__ = ()

    def read(self, data: bytes, end: int) -> ResponseHead:
        """As `heads.parse_response_head`."""
        head = self.again(data, end)
        if head is None:
            head = parse_response_head(data, end)
            self.remember(head, data, end)
        return head


def _place_of(headers: tuple[Header, ...]) -> int:
    """Which of the headers is the length; -1 when none is."""
    for place, (name, _) in enumerate(headers):
        if name == _NAME:
            return place
    return -1
