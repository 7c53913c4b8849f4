# ruff: noqa: E501
"""Where fuzzing begins: the streams of the tests, and words worth putting in."""

from __future__ import annotations

import transport_corpus
import transport_smuggling

_CUTS = b"\x00\x40\x90"

_ANSWERS = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
    b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
)

_WORDS = (
    "\\x0d\\x0a", "\\x0a", "\\x0d", "\\x0d\\x0a\\x0d\\x0a", "\\x00", "\\x0b", "HTTP/1.1", "HTTP/1.0", "GET ", "POST ",
    "Host: localhost\\x0d\\x0a", "Content-Length: ", "Content-Length: 5\\x0d\\x0a",
    "Transfer-Encoding: chunked\\x0d\\x0a", "chunked", "0\\x0d\\x0a\\x0d\\x0a", "5\\x0d\\x0ahello\\x0d\\x0a",
    "Connection: close\\x0d\\x0a", "Connection: keep-alive\\x0d\\x0a", "Expect: 100-continue\\x0d\\x0a",
    "Upgrade: h2c\\x0d\\x0a", "HTTP/1.1 200 OK\\x0d\\x0a", "HTTP/1.1 100 Continue\\x0d\\x0a\\x0d\\x0a",
    "HTTP/1.1 204 No Content\\x0d\\x0a", "identity", "gzip, ", ";a=b", "http://localhost", " ", "\\x09", ":", "-", "+",
)  # fmt: skip

DICTIONARY = "".join(f'"{word}"\n' for word in _WORDS)


def seeds(target: str) -> list[bytes]:
    """First inputs: how to cut, then the stream."""
    if target == "upstream":
        return [_CUTS + stream for stream in _ANSWERS]
    entries = transport_corpus.ACCEPTED + transport_corpus.REFUSED + transport_corpus.UNFINISHED
    streams = [entry.data for entry in entries] + [payload.data for payload in transport_smuggling.PAYLOADS]
    streams += [entry.data * 2 for entry in transport_corpus.ACCEPTED]
    return [_CUTS + stream for stream in streams if len(stream) < 2000]
