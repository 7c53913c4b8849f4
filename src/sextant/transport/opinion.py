"""The second opinion: llhttp (through httptools) sees every byte that our own reading has accepted.

Our reading (`heads.py`, `chunks.py`) decides where a message ends; llhttp is fed exactly those bytes and must
report the end at the same byte. Where the two differ the connection is closed, so a byte sequence that could
be read in two ways is never served.
"""

from __future__ import annotations

import httptools


class Disagreement(Exception):
    """llhttp refuses bytes that we accepted, or sees the message end elsewhere."""


class _Ends:
    """Counts the messages that llhttp saw end."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def on_message_complete(self) -> None:
        self.count += 1


class SecondOpinion:
    """One per connection and direction."""

    __slots__ = ("_ends", "_feed", "_seen")

    def __init__(self, *, requests: bool) -> None:
        self._ends = _Ends()
        maker = httptools.HttpRequestParser if requests else httptools.HttpResponseParser
        self._feed = maker(self._ends).feed_data
        self._seen = 0

    def more(self, data: bytes | memoryview) -> None:
        """A part of a message that does not end in it. Raises Disagreement."""
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            raise Disagreement(str(error)) from None
        except httptools.HttpParserUpgrade:
            raise Disagreement("llhttp sees an upgrade") from None
        if self._ends.count != self._seen:
            raise Disagreement("llhttp sees the message end earlier")

    def last(self, data: bytes | memoryview) -> None:
        """The part that ends a message with its last byte. Raises Disagreement."""
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            raise Disagreement(str(error)) from None
        except httptools.HttpParserUpgrade:
            raise Disagreement("llhttp sees an upgrade") from None
        self._seen += 1
        if self._ends.count != self._seen:
            raise Disagreement("llhttp does not see the message end here")
