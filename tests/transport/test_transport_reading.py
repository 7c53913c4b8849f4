"""Reading requests, held against two other parsers: httptools (llhttp) and h11.

Rules: a request that either of them refuses reaches no handler; one that does has the same method, target,
headers, body and place in the stream as both say; and how the bytes were split changes nothing. Where we
refuse more than both, the corpus entry says so by its status.
"""

from __future__ import annotations

import random
import urllib.parse
from collections.abc import AsyncIterator

import h11
import httptools
import pytest
import pytest_asyncio
import transport_corpus as corpus
from transport_corpus import Entry
from transport_memory import MemoryServer, Reading, Seen

from sextant.spec.snapshot import GatewayLimits

ALL = corpus.ACCEPTED + corpus.REFUSED + corpus.UNFINISHED

ACCEPTED_THOUGH_REFUSED: dict[str, tuple[str, str]] = {}
"""Corpus entries of which we serve more than a reference parser does: name to (parser, reason). None."""


@pytest_asyncio.fixture
async def server() -> AsyncIterator[MemoryServer]:
    found = MemoryServer()
    yield found
    await found.close()


def seen_target(target: str) -> str:
    """The target as our handler sees it: an absolute form without its origin, an empty query dropped."""
    if target.lower().startswith(("http://", "https://")):
        parts = urllib.parse.urlsplit(target)
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    return target.removesuffix("?")


def read_with_h11(data: bytes) -> Reading:
    """What h11 makes of `data`."""
    reading = Reading()
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=256 * 1024)
    parser.receive_data(data)
    head: h11.Request | None = None
    body = b""
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError:
            reading.refused = 400
            return reading
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            if head.method == b"CONNECT":
                reading.refused = 400
                return reading
            fields = tuple((bytes(name), bytes(value)) for name, value in head.headers)
            target = seen_target(head.target.decode("ascii"))
            reading.requests.append((head.method.decode("ascii"), target, fields, body))
            parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            parser.send(h11.EndOfMessage())
            if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
                return reading
            parser.start_next_cycle()
        else:
            reading.waiting = head is not None
            return reading


class _Callbacks:
    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.frozen: tuple[tuple[bytes, bytes], ...] = ()
        self.body = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.frozen = tuple(self.fields)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        target = seen_target(self.target.decode("latin-1"))
        self.requests.append((self.parser.get_method().decode(), target, self.frozen, self.body))


def read_with_httptools(data: bytes) -> Reading:
    """What llhttp makes of `data`."""
    callbacks = _Callbacks()
    try:
        callbacks.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return Reading(callbacks.requests, 400)
    return Reading(callbacks.requests)


def check_against(entry_name: str, ours: Reading, theirs: Reading, parser: str) -> None:
    """Our requests are the first ones of theirs, byte for byte."""
    if entry_name in ACCEPTED_THOUGH_REFUSED and ACCEPTED_THOUGH_REFUSED[entry_name][0] == parser:
        return
    ours_plain, theirs_plain = plain(ours), plain(theirs)
    assert ours_plain == theirs_plain[: len(ours_plain)], (entry_name, parser)


def plain(reading: Reading) -> list[Seen]:
    """The requests, with the coding's name in small letters (h11 gives it so)."""
    return [
        (method, target, tuple((n, v.lower() if n == b"transfer-encoding" else v) for n, v in fields), body)
        for method, target, fields, body in reading.requests
    ]


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
async def test_corpus_verdict(server: MemoryServer, entry: Entry) -> None:
    ours = await server.read([entry.data])
    assert (len(ours.requests), ours.refused) == (entry.requests, entry.refused)
    assert ours.waiting == (entry in corpus.UNFINISHED)


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
async def test_what_either_parser_refuses_reaches_no_handler(server: MemoryServer, entry: Entry) -> None:
    ours = await server.read([entry.data])
    check_against(entry.name, ours, read_with_h11(entry.data), "h11")
    check_against(entry.name, ours, read_with_httptools(entry.data), "httptools")


@pytest.mark.parametrize("entry", corpus.ACCEPTED, ids=lambda entry: entry.name)
async def test_what_we_accept_both_parsers_accept(entry: Entry) -> None:
    assert read_with_h11(entry.data).refused is None
    assert len(read_with_httptools(entry.data).requests) == entry.requests


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
async def test_every_split_reads_the_same(server: MemoryServer, entry: Entry) -> None:
    whole = await server.read([entry.data])
    positions = range(1, len(entry.data))
    if len(entry.data) > 2000:
        positions = range(1, len(entry.data), 997)
    for position in positions:
        split = await server.read([entry.data[:position], entry.data[position:]])
        assert (split.requests, split.refused) == (whole.requests, whole.refused), position
    if len(entry.data) <= 2000:
        single = await server.read([entry.data[at : at + 1] for at in range(len(entry.data))])
        assert (single.requests, single.refused) == (whole.requests, whole.refused)


TOKENS = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b",", b";", b"0", b"5", b"+", b"-", b"_", b"x", b"#",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"chunked", b"0\r\n\r\n",
    b"\r\n\r\n", b"HTTP/1.0", b"\xff", b"GET /b HTTP/1.1\r\nHost: localhost\r\n\r\n", b"?",
    b"Connection: close\r\n",
)  # fmt: skip


def mutate(chance: random.Random, data: bytes) -> bytes:
    """A stream near `data`: bytes dropped, doubled, replaced, tokens put in."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            data = data[:at] + chance.choice(TOKENS) + data[at:]
        elif kind == 1:
            data = data[:at] + data[at + chance.randint(1, 4) :]
        elif kind == 2:
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        elif kind == 3:
            data = data[:at] + data[at:] * 2
        else:
            stop = at + chance.randint(1, 20)
            data = data[:at] + chance.choice(TOKENS) + data[stop:]
    return data or b"x"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
async def test_mutations_of_the_corpus(server: MemoryServer, seed: int) -> None:
    chance = random.Random(seed)
    pool = [entry.data for entry in corpus.ACCEPTED * 3 + ALL if len(entry.data) < 2000]
    served = 0
    for _ in range(1500):
        data = mutate(chance, chance.choice(pool))
        ours = await server.read([data])
        served += len(ours.requests)
        check_against(repr(data), ours, read_with_h11(data), "h11")
        check_against(repr(data), ours, read_with_httptools(data), "httptools")
        at = chance.randrange(len(data))
        split = await server.read([data[:at], data[at:]])
        assert split.requests == ours.requests, (data, at)
        assert (split.refused is None) == (ours.refused is None), (data, at)
    assert served > 150


def post_of(length: bytes, body: bytes, name: bytes = b"Content-Length") -> bytes:
    return b"POST /a HTTP/1.1\r\nHost: localhost\r\n" + name + b": " + length + b"\r\nX: y\r\n\r\n" + body


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
async def test_head_that_differs_in_its_length_alone(server: MemoryServer, name: bytes) -> None:
    """It is not read again as a whole; its length is."""
    good = [
        (b"5", b"hello"),
        (b"0", b""),
        (b"3", b"abc"),
        (b"000002", b"hi"),
        (b"12", b"twelve bytes"),
        (b"5", b"again"),
    ]
    reading = await server.read([b"".join(post_of(length, body, name) for length, body in good)])
    assert reading.refused is None
    assert [request[3] for request in reading.requests] == [body for _, body in good]
    assert [dict(request[2])[b"content-length"] for request in reading.requests] == [
        length for length, _ in good
    ]
    bad = [
        b"",
        b" ",
        b"+5",
        b"-5",
        b"5 5",
        b"5,5",
        b"0x5",
        b"5_0",
        b"\xb2",
        b"5\0",
        b"5\n",
        b"5;",
        b"9" * 16,
        b"5.0",
    ]
    for length in bad:
        reading = await server.read([post_of(b"5", b"hello", name) + post_of(length, b"hello", name)])
        assert (len(reading.requests), reading.refused) == (1, 400), length
    reading = await server.read([post_of(b"5", b"hello", name) + post_of(b"999999999", b"", name)])
    assert (len(reading.requests), reading.refused) == (1, 413)


@pytest.mark.parametrize("first", [b"", b"Content-Length: 0\r\n", b"X-Content-Length: 5\r\n", b"X-A: 1\r\n"])
async def test_a_head_before_changes_nothing(server: MemoryServer, first: bytes) -> None:
    before = b"POST /a HTTP/1.1\r\nHost: localhost\r\n" + first + b"\r\n"
    for entry in ALL:
        alone = await server.read([entry.data])
        after = await server.read([before, entry.data])
        assert (after.requests[1:], after.refused) == (alone.requests, alone.refused), entry.name
        twice = await server.read([entry.data, entry.data])
        assert twice.requests[: len(alone.requests)] == alone.requests, entry.name
        if entry in corpus.ACCEPTED and b"lose" not in entry.data and b"HTTP/1.0" not in entry.data:
            assert twice.requests == alone.requests * 2, entry.name


async def test_limits_hold_at_the_byte() -> None:
    limits = GatewayLimits(head_bytes=200, target_bytes=50, header_count=3, body_bytes=100)
    server = MemoryServer(limits)

    async def verdict(data: bytes) -> int | None:
        readings = [await server.read([data]), await server.read([data[:7], data[7:150], data[150:]])]
        assert readings[0].refused == readings[1].refused
        assert len(readings[0].requests) == (readings[0].refused is None)
        return readings[0].refused

    start = b"GET /a HTTP/1.1\r\nHost: a\r\nX: "
    assert await verdict(start + b"x" * (200 - len(start) - 4) + b"\r\n\r\n") is None
    assert await verdict(start + b"x" * (201 - len(start) - 4) + b"\r\n\r\n") == 431
    assert await verdict(b"GET /" + b"a" * 49 + b" HTTP/1.1\r\nHost: a\r\n\r\n") is None
    assert await verdict(b"GET /" + b"a" * 50 + b" HTTP/1.1\r\nHost: a\r\n\r\n") == 414
    assert await verdict(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n") is None
    assert await verdict(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\nX: 3\r\n\r\n") == 431
    assert await verdict(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b"x" * 100) is None
    assert await verdict(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n" + b"x" * 101) == 413
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert await verdict(chunked + b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n") is None
    assert await verdict(chunked + b"64\r\n" + b"x" * 100 + b"\r\n1\r\nx\r\n0\r\n\r\n") == 413
    await server.close()


async def test_memos_are_bounded_and_hold_no_secret() -> None:
    from sextant.transport import heads

    server = MemoryServer()
    for number in range(3 * heads.TARGET_MEMO_ENTRIES):
        data = b"GET /%d HTTP/1.1\r\nHost: a\r\nX-N: %d\r\nAuthorization: Bearer k%d\r\n\r\n" % (
            (number,) * 3
        )
        assert len((await server.read([data])).requests) == 1
    assert len(heads._request_lines) <= heads.TARGET_MEMO_ENTRIES
    assert len(heads._request_fields) <= heads.LINE_MEMO_ENTRIES
    assert not any(name == b"authorization" for name, _ in heads._request_fields.values())
    for number in range(heads.LINE_MEMO_ENTRIES + 10):
        heads._request_fields[b"X-M: %d" % number]
    assert len(heads._request_fields) <= heads.LINE_MEMO_ENTRIES
    await server.close()
