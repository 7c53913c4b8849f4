"""The pool against upstreams of every kind, hostile ones too.

No foreign byte reaches a caller, a connection that misbehaved is never used again, and what was cut short is
never taken for complete.
"""

from __future__ import annotations

import asyncio

import pytest
import transport_kit as kit
from transport_benches import JSON, SECRET, Benches, always, first_then
from transport_memory import MemoryUpstream
from transport_upstreams import Call, answer, chunked

from sextant.base.errors import UpstreamError

# ordinary answers


async def test_connection_is_kept_and_used_again(benches: Benches) -> None:
    bench = await benches.start(always(answer(b"hello")))
    for _ in range(5):
        assert await bench.ask() == b"hello"
    assert bench.upstream.connections == 1
    assert bench.pool.idle_connections == 1
    assert bench.metric("sextant_transport_upstream_connects_total", result="ok") == 1


async def test_request_is_sent_as_given(benches: Benches) -> None:
    bench = await benches.start(always(answer(b"")))
    await bench.ask(b"/v1/chat?x=1", b'{"a": 1}')
    call = bench.upstream.calls[0]
    lines = call.head.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat?x=1 HTTP/1.1"
    assert b"host: 127.0.0.1:%d" % bench.upstream.port in lines
    assert b"content-length: 8" in lines and b"content-type: application/json" in lines
    assert call.body == b'{"a": 1}'


async def test_get_has_no_length(benches: Benches) -> None:
    bench = await benches.start(always(answer(b"")))
    await bench.ask(b"/health", b"", b"GET")
    assert b"content-length" not in bench.upstream.calls[0].head


async def test_large_bodies_both_ways(benches: Benches) -> None:
    async def script(call: Call) -> None:
        await call.send(answer(call.body[::-1]))

    bench = await benches.start(script)
    body = bytes(range(256)) * 12_000
    assert await bench.ask(body=body) == body[::-1]
    assert await bench.ask() == b"}{"
    assert bench.upstream.connections == 1


async def test_each_chunk_is_one_piece(benches: Benches) -> None:
    pieces = [b"one", b"two", b"x" * 5000, b"four"]
    bench = await benches.start(always(chunked(*pieces)))
    found = await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")
    assert [await found.chunk() for _ in range(4)] == pieces
    assert await found.chunk() is None
    found.close()
    assert await bench.ask() == b"".join(pieces)
    assert bench.upstream.connections == 1


async def test_chunks_split_anywhere(benches: Benches) -> None:
    data = chunked(b"hello", b"world", end=b"0\r\nx-t: 1\r\n\r\n")
    bench = await benches.start(always(*[data[at : at + 1] for at in range(len(data))]))
    assert await bench.ask() == b"helloworld"
    assert await bench.ask() == b"helloworld"
    assert bench.upstream.connections == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_body(benches: Benches, status: int) -> None:
    bench = await benches.start(always(b"HTTP/1.1 %d X\r\n\r\n" % status))
    for _ in range(2):
        assert await bench.ask() == b""
    assert bench.upstream.connections == 1


async def test_head_answer_has_no_body_and_is_not_pooled(benches: Benches) -> None:
    bench = await benches.start(always(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"))
    assert await bench.ask(body=b"", method=b"HEAD") == b""
    assert bench.pool.connections == 0


async def test_connection_close_is_honoured(benches: Benches) -> None:
    bench = await benches.start(always(answer(b"a", extra=b"Connection: close\r\n")))
    assert await bench.ask() == b"a"
    assert bench.pool.connections == 0


async def test_http_1_0_answer_is_not_pooled(benches: Benches) -> None:
    bench = await benches.start(always(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na"))
    assert await bench.ask() == b"a"
    assert bench.pool.connections == 0


# 1xx, 101, surplus, unsolicited


@pytest.mark.parametrize("joined", [True, False])
async def test_interim_answers_are_skipped(benches: Benches, joined: bool) -> None:
    pieces = (
        b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", answer(b"final"),
    )  # fmt: skip
    bench = await benches.start(always(b"".join(pieces)) if joined else always(*pieces))
    for _ in range(3):
        assert await bench.ask() == b"final"
    assert bench.upstream.connections == 1


async def test_endless_interim_answers_are_refused(benches: Benches) -> None:
    bench = await benches.start(always(b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + answer(b"final")))
    with pytest.raises(UpstreamError):
        await bench.ask()
    assert bench.pool.connections == 0


async def test_interim_answer_alone_is_no_answer(benches: Benches) -> None:
    bench = await benches.start(always(b"HTTP/1.1 100 Continue\r\n\r\n", hang_up=True))
    with pytest.raises(UpstreamError):
        await bench.ask()


async def test_switching_protocols_is_refused(benches: Benches) -> None:
    data = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello"
    )
    bench = await benches.start(always(data))
    with pytest.raises(UpstreamError):
        await bench.ask()
    assert bench.pool.connections == 0


@pytest.mark.parametrize(
    "pieces",
    [
        (answer(b"mine") + answer(SECRET),),
        (answer(b"mine") + b"\r\n",),
        (answer(b"mine") + b"x",),
        (answer(b"mine"), answer(SECRET)),
        (chunked(b"mine") + answer(SECRET),),
        (chunked(b"mine"), answer(SECRET)),
        (b"HTTP/1.1 204 No Content\r\n\r\n" + answer(SECRET),),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 23\r\n\r\n" + SECRET,),
    ],
)
async def test_surplus_reaches_nobody(benches: Benches, pieces: tuple[bytes, ...]) -> None:
    bench = await benches.start(first_then(always(*pieces), always(answer(b"mine"))))
    assert await bench.ask() in (b"mine", b"")
    await kit.soon(lambda: bench.pool.connections == 0)
    for _ in range(3):
        assert await bench.ask() == b"mine"
    assert bench.upstream.connections == 2


async def test_surplus_waiting_in_the_kernel_reaches_nobody(plain_benches: Benches) -> None:
    """The second answer lies unread when the connection is wanted again: the loop has not come to it."""
    bench = await plain_benches.start(always(answer(b"mine")))
    assert await bench.ask() == b"mine"
    [connection] = bench.pool._connections
    connection._transport.pause_reading()
    await bench.upstream.calls[0].send(answer(SECRET))
    await asyncio.sleep(0.05)
    assert await bench.ask() == b"mine"
    assert bench.upstream.connections == 2
    assert connection not in bench.pool._connections


async def test_connection_that_speaks_first_is_not_used() -> None:
    memory = MemoryUpstream()
    connection, transport = memory.connect()
    assert connection.usable()
    connection.data_received(answer(SECRET))
    assert not connection.usable()
    assert transport.closed
    assert memory.pool.connections == 0


async def test_closed_answer_gives_nothing_though_its_connection_lives_on(benches: Benches) -> None:
    bench = await benches.start(always(answer(b"mine")))
    old = await bench.pool.send(bench.upstream.url, b"POST", b"/", JSON, b"")
    assert await old.read(100) == b"mine"
    old.close()
    new = await bench.pool.send(bench.upstream.url, b"POST", b"/", JSON, b"")
    assert bench.upstream.connections == 1
    old.close()
    assert await old.chunk() is None
    assert await new.read(100) == b"mine"
    new.close()


# truncated and broken answers

TRUNCATED = {
    "no byte": b"",
    "half a status line": b"HTTP/1.1 2",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "no body": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
    "half a body": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
    "no chunk": chunked(end=b""),
    "half a chunk": chunked(end=b"5\r\nhel"),
    "no last chunk": chunked(b"hello", end=b""),
    "no blank line after the last chunk": chunked(b"hello", end=b"0\r\n"),
    "half a blank line after the last chunk": chunked(b"hello", end=b"0\r\n\r"),
}


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("data", TRUNCATED.values(), ids=TRUNCATED.keys())
async def test_truncated_answers_are_errors(benches: Benches, data: bytes, how: str) -> None:
    async def script(call: Call) -> None:
        await call.send(data)
        call.reset() if how == "reset" else call.hang_up()

    bench = await benches.start(script)
    with pytest.raises(UpstreamError):
        await bench.ask()
    assert len(bench.upstream.calls) == 1
    await kit.soon(lambda: bench.pool.connections == 0)


BROKEN = {
    "http 0.9": b"hello\r\n\r\n",
    "http 2": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "http 1.2": b"HTTP/1.2 200 OK\r\ncontent-length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\ncontent-length: 0\r\n\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 X\r\ncontent-length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n",
    "bare lf": b"HTTP/1.1 200 OK\ncontent-length: 0\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nx: 1\r\n 2\r\ncontent-length: 0\r\n\r\n",
    "blank before a colon": b"HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nx: a\0\r\ncontent-length: 0\r\n\r\n",
    "bare cr in a value": b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 0\r\n\r\n",
    "length and chunks": b"HTTP/1.1 200 X\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",  # noqa: E501
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "two equal lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
    "signed length": b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n",
    "chunked 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": chunked(end=b"xyz\r\n"),
    "signed chunk size": chunked(end=b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk too long": chunked(end=b"3\r\nhello\r\n0\r\n\r\n"),
    "chunk ended by lf": chunked(end=b"5\r\nhello\n0\r\n\r\n"),
    "endless chunk size": chunked(end=b"0" * 400),
    "endless trailers": chunked(end=b"0\r\n" + b"x: y\r\n" * 2000),
    "head without end": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
async def test_broken_answers_are_errors(benches: Benches, data: bytes) -> None:
    bench = await benches.start(first_then(always(data), always(answer(b"fine"))))
    with pytest.raises(UpstreamError):
        await bench.ask()
    assert len(bench.upstream.calls) == 1
    assert bench.pool.connections == 0
    assert await bench.ask() == b"fine"


@pytest.mark.parametrize("length", [b"", b"+4", b"-4", b"4 4", b"4,4", b"0x4", b"4_0", b"9" * 16, b"4\0"])
async def test_answer_like_the_last_but_for_a_broken_length(benches: Benches, length: bytes) -> None:
    def data(value: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: " + value + b"\r\n\r\nfine"

    async def script(call: Call) -> None:
        await call.send(data(length if len(call.upstream.calls) == 3 else b"4"))

    bench = await benches.start(script)
    assert [await bench.ask(), await bench.ask()] == [b"fine", b"fine"]
    with pytest.raises(UpstreamError):
        await bench.ask()
    assert bench.upstream.connections == 1 and bench.pool.connections == 0


async def test_answers_of_other_lengths_on_one_connection(benches: Benches) -> None:
    async def script(call: Call) -> None:
        await call.send(answer(b"x" * (len(call.upstream.calls) * 7 % 13)))

    bench = await benches.start(script)
    assert [len(await bench.ask()) for _ in range(20)] == [number * 7 % 13 for number in range(1, 21)]
    assert bench.upstream.connections == 1


async def test_answer_ended_by_the_connection(benches: Benches) -> None:
    bench = await benches.start(always(b"HTTP/1.1 200 OK\r\n\r\n", b"hello", b"world", hang_up=True))
    if benches.kind == "tls":
        with pytest.raises(UpstreamError):
            await bench.ask()
    else:
        assert await bench.ask() == b"helloworld"
    await kit.soon(lambda: bench.pool.connections == 0)


async def test_answer_ended_by_a_reset_is_an_error(benches: Benches) -> None:
    async def script(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await asyncio.sleep(0.05)
        call.reset()

    bench = await benches.start(script)
    with pytest.raises(UpstreamError):
        await bench.ask()


async def test_pieces_before_a_truncation_are_handed_out_first(benches: Benches) -> None:
    bench = await benches.start(always(chunked(b"one", b"two", end=b"5\r\nth"), hang_up=True))
    found = await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")
    assert [await found.chunk(), await found.chunk(), await found.chunk()] == [b"one", b"two", b"th"]
    for _ in range(2):
        with pytest.raises(UpstreamError):
            await found.chunk()
    found.close()
    assert bench.pool.connections == 0


async def test_answer_over_the_limit_is_an_error(benches: Benches) -> None:
    bench = await benches.start(always(answer(b"x" * 1001)))
    found = await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")
    with pytest.raises(UpstreamError):
        await found.read(1000)
