"""The pool against upstreams of every kind, hostile ones too.

No foreign byte reaches a caller, a connection that misbehaved is never used again, and what was cut short is
never taken for complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import transport_kit as kit
from transport_memory import MemoryUpstream
from transport_upstreams import Call, Script, ScriptedUpstream, answer, chunked

from sextant.base.errors import UpstreamError, UpstreamUnavailable
from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport.client import Pool
from sextant.transport.emission import UnsafeHeader
from sextant.transport.upstream import READ_AHEAD_BYTES

JSON = ((b"content-type", b"application/json"),)


class Bench:
    """A scripted upstream and a pool before it."""

    def __init__(self, upstream: ScriptedUpstream, pool: Pool, registry: Registry) -> None:
        self.upstream = upstream
        self.pool = pool
        self.registry = registry

    async def ask(self, target: bytes = b"/x", body: bytes = b"{}", method: bytes = b"POST") -> bytes:
        """One request, its whole answer."""
        async with asyncio.timeout(kit.PATIENCE_S):
            found = await self.pool.send(self.upstream.url, method, target, JSON, body)
            try:
                return await found.read(1 << 26)
            finally:
                found.close()

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.prometheus.get_sample_value(name, labels) or 0.0


class Benches:
    """Makes benches of one kind (plain or TLS) and ends them."""

    def __init__(self, kind: str, certificate: kit.Certificate) -> None:
        self.kind = kind
        self._certificate = certificate
        self._stack = contextlib.AsyncExitStack()

    async def start(self, script: Script, limits: GatewayLimits = GatewayLimits()) -> Bench:  # noqa: B008
        tls = self.kind == "tls"
        upstream = ScriptedUpstream(script)
        await self._stack.enter_async_context(upstream.running(self.server_context()))
        registry = Registry()
        pool = Pool(limits, registry, ssl_context=self._certificate.client_context() if tls else None)
        self._stack.callback(pool.close)
        return Bench(upstream, pool, registry)

    def server_context(self) -> ssl.SSLContext | None:
        """What an upstream of this kind listens with."""
        return self._certificate.server_context() if self.kind == "tls" else None

    async def close(self) -> None:
        await self._stack.aclose()


@pytest_asyncio.fixture(params=["plain", "tls"])
async def benches(request: pytest.FixtureRequest, certificate: kit.Certificate) -> AsyncIterator[Benches]:
    found = Benches(request.param, certificate)
    yield found
    await found.close()


@pytest_asyncio.fixture
async def plain_benches(certificate: kit.Certificate) -> AsyncIterator[Benches]:
    found = Benches("plain", certificate)
    yield found
    await found.close()


def always(*pieces: bytes, hang_up: bool = False) -> Script:
    """Answers every request with the same bytes."""

    async def script(call: Call) -> None:
        await call.send(*pieces)
        if hang_up:
            call.hang_up()

    return script


def first_then(first: Script, later: Script) -> Script:
    """One script for the first request, another for all others."""

    async def script(call: Call) -> None:
        await (first if len(call.upstream.calls) == 1 else later)(call)

    return script


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


SECRET = b"ANOTHER TENANT'S ANSWER"


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


# stale connections and retries


def close_on_second(data: bytes) -> Script:
    """Answers the first request of each connection; sends `data` and closes at the second."""
    served: dict[int, int] = {}

    async def script(call: Call) -> None:
        served[call.connection] = served.get(call.connection, 0) + 1
        if served[call.connection] == 1:
            await call.send(answer(b"fine"))
        else:
            await call.send(data)
            call.hang_up()

    return script


async def test_stale_connection_is_retried_once_on_a_fresh_one(benches: Benches) -> None:
    bench = await benches.start(close_on_second(b""))
    assert [await bench.ask() for _ in range(3)] == [b"fine"] * 3
    assert [call.connection for call in bench.upstream.calls] == [1, 1, 2, 2, 3]
    assert bench.metric("sextant_transport_upstream_retries_total") == 2


async def test_no_retry_after_an_answer_byte(benches: Benches) -> None:
    bench = await benches.start(close_on_second(b"H"))
    assert await bench.ask() == b"fine"
    with pytest.raises(UpstreamError):
        await bench.ask()
    assert len(bench.upstream.calls) == 2


async def test_no_retry_after_an_interim_answer(benches: Benches) -> None:
    bench = await benches.start(close_on_second(b"HTTP/1.1 100 Continue\r\n\r\n"))
    assert await bench.ask() == b"fine"
    with pytest.raises(UpstreamError):
        await bench.ask()
    assert len(bench.upstream.calls) == 2


async def test_at_most_one_retry(benches: Benches) -> None:
    async def script(call: Call) -> None:
        if len(call.upstream.calls) <= 2:
            while len(call.upstream.calls) < 2:
                await asyncio.sleep(0.005)
            await call.send(answer(b"fine"))
        else:
            call.hang_up()

    bench = await benches.start(script)
    await asyncio.gather(bench.ask(), bench.ask())
    assert bench.pool.idle_connections == 2
    with pytest.raises(UpstreamError):
        await bench.ask()
    assert len(bench.upstream.calls) == 4
    assert bench.upstream.connections == 3


async def test_fresh_connection_is_never_retried(benches: Benches) -> None:
    async def script(call: Call) -> None:
        call.hang_up()

    bench = await benches.start(script)
    with pytest.raises(UpstreamError):
        await bench.ask()
    assert len(bench.upstream.calls) == 1


async def test_connection_closed_while_idle_leaves_the_pool(benches: Benches) -> None:
    bench = await benches.start(always(answer(b"fine"), hang_up=True))
    assert await bench.ask() == b"fine"
    await kit.soon(lambda: bench.pool.connections == 0)
    assert bench.pool.idle_connections == 0
    assert await bench.ask() == b"fine"


# bounds, order, deadlines


async def test_last_used_connection_comes_first(benches: Benches) -> None:
    gate = asyncio.Event()

    async def script(call: Call) -> None:
        if len(call.upstream.calls) <= 3:
            await gate.wait()
        await call.send(answer(b"%d" % call.connection))

    bench = await benches.start(script)
    asks = [asyncio.ensure_future(bench.ask()) for _ in range(3)]
    await kit.soon(lambda: len(bench.upstream.calls) == 3)
    gate.set()
    await asyncio.gather(*asks)
    last = list(bench.pool._origins[bench.upstream.url].idle)[-1]
    answers = {await bench.ask() for _ in range(10)}
    assert len(answers) == 1
    assert list(bench.pool._origins[bench.upstream.url].idle)[-1] is last


async def test_idle_connections_are_bounded(benches: Benches) -> None:
    gate = asyncio.Event()

    async def script(call: Call) -> None:
        await gate.wait()
        await call.send(answer(b"fine"))

    bench = await benches.start(script, GatewayLimits(upstream_idle_connections=2))
    asks = [asyncio.ensure_future(bench.ask()) for _ in range(6)]
    await kit.soon(lambda: len(bench.upstream.calls) == 6)
    gate.set()
    await asyncio.gather(*asks)
    assert bench.pool.idle_connections == bench.pool.connections == 2
    await kit.soon(lambda: bench.upstream.open == 2)


async def test_silence_before_the_first_byte(benches: Benches, quick_limits: GatewayLimits) -> None:
    async def script(call: Call) -> None:
        await asyncio.sleep(60)

    bench = await benches.start(script, quick_limits)
    with pytest.raises(UpstreamError) as raised:
        await bench.ask()
    assert raised.value.code == "engine_timeout"
    assert bench.pool.connections == 0
    await kit.soon(lambda: len(bench.upstream.calls) == 1)


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel", chunked(b"hel", end=b"")]
)
async def test_silence_inside_an_answer(benches: Benches, quick_limits: GatewayLimits, data: bytes) -> None:
    async def script(call: Call) -> None:
        await call.send(data)
        await asyncio.sleep(60)

    bench = await benches.start(script, quick_limits)
    found = await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")
    assert await found.chunk() == b"hel"
    with pytest.raises(UpstreamError) as raised:
        await found.chunk()
    assert raised.value.code == "engine_timeout"
    found.close()
    assert bench.pool.connections == 0


async def test_slow_reader_is_not_taken_for_a_silent_upstream(
    benches: Benches, quick_limits: GatewayLimits
) -> None:
    bench = await benches.start(always(chunked(b"one", end=b""), b"3\r\ntwo\r\n0\r\n\r\n"), quick_limits)
    found = await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")
    assert await found.chunk() == b"one"
    await asyncio.sleep(2 * quick_limits.upstream_idle_timeout_s)
    assert await found.chunk() == b"two"
    assert await found.chunk() is None
    found.close()


async def test_refused_connection_is_unavailable(benches: Benches) -> None:
    bench = await benches.start(always(b""))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"{bench.upstream.scheme}://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UpstreamUnavailable):
            await bench.pool.send(url, b"GET", b"/", (), b"")
    assert bench.metric("sextant_transport_upstream_connects_total", result="failed") == 1


async def test_connect_deadline(benches: Benches, quick_limits: GatewayLimits) -> None:
    """A listener with a full queue: the kernel answers no further connection attempt."""
    bench = await benches.start(always(b""), quick_limits)
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamUnavailable):
            await bench.pool.send(f"http://127.0.0.1:{full.getsockname()[1]}", b"GET", b"/", (), b"")
        assert asyncio.get_running_loop().time() - began_s < 5.0


async def test_cancelling_send_closes_the_connection(benches: Benches) -> None:
    async def script(call: Call) -> None:
        await call.reader.read()

    bench = await benches.start(script)
    ask = asyncio.ensure_future(bench.ask())
    await kit.soon(lambda: len(bench.upstream.calls) == 1)
    ask.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ask
    assert bench.pool.connections == 0
    await kit.soon(lambda: bench.upstream.open == 0)


async def test_cancelling_chunk_closes_the_connection(benches: Benches) -> None:
    async def script(call: Call) -> None:
        await call.send(chunked(b"one", end=b""))
        await call.reader.read()

    bench = await benches.start(script)
    found = await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")
    assert await found.chunk() == b"one"
    waiting = asyncio.ensure_future(found.chunk())
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(UpstreamError):
        await found.chunk()
    found.close()
    assert bench.pool.connections == 0
    await kit.soon(lambda: bench.upstream.open == 0)


async def test_closing_an_unread_answer_closes_the_connection(benches: Benches) -> None:
    async def script(call: Call) -> None:
        await call.send(chunked(b"one", end=b""))
        await call.reader.read()

    bench = await benches.start(script)
    found = await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")
    found.close()
    found.close()
    assert bench.pool.connections == 0
    await kit.soon(lambda: bench.upstream.open == 0)


async def test_reading_pauses_while_nobody_asks(benches: Benches) -> None:
    sent_bytes = 0

    async def script(call: Call) -> None:
        nonlocal sent_bytes
        call.writer.transport.set_write_buffer_limits(high=1)
        call.writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        for _ in range(4000):
            call.writer.write(piece)
            await call.writer.drain()
            sent_bytes += len(piece)
        call.writer.write(b"0\r\n\r\n")

    bench = await benches.start(script)
    found = await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")
    level = -1
    while level != sent_bytes:
        level = sent_bytes
        await asyncio.sleep(0.1)
    assert level < 40_000_000
    assert found._waiting_bytes < READ_AHEAD_BYTES + 512 * 1024
    total_bytes = 0
    while (piece := await found.chunk()) is not None:
        total_bytes += len(piece)
        assert found._waiting_bytes < READ_AHEAD_BYTES + 512 * 1024
    assert total_bytes == 4000 * 0x4000
    found.close()
    assert bench.pool.idle_connections == 1


async def test_early_answer_to_an_unread_body_is_not_pooled(plain_benches: Benches) -> None:
    gone = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"too large", status=413))
        await writer.drain()
        await gone.wait()
        writer.transport.abort()

    bench = await plain_benches.start(always(answer(b"")))
    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=1024)
    url = f"{bench.upstream.scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    found = await bench.pool.send(url, b"POST", b"/x", JSON, b"x" * 50_000_000)
    assert found.status == 413
    assert await found.read(1000) == b"too large"
    found.close()
    assert bench.pool.connections == 0
    gone.set()
    server.close()


async def test_closed_pool_fails_what_is_under_way(benches: Benches) -> None:
    async def script(call: Call) -> None:
        await call.send(chunked(b"one", end=b""))
        await call.reader.read()

    bench = await benches.start(script)
    found = await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")
    assert await found.chunk() == b"one"
    bench.pool.close()
    with pytest.raises(UpstreamError):
        await found.chunk()
    with pytest.raises(UpstreamUnavailable):
        await bench.ask()


# what is sent

UNSAFE = [headers for headers in kit.UNSAFE_HEADERS if headers[0][0] != b"date"]
UNSAFE += [[(b"host", b"evil")], [(b"expect", b"100-continue")]]


@pytest.mark.parametrize("headers", UNSAFE)
async def test_unsafe_headers_are_not_sent(benches: Benches, headers: list[tuple[bytes, bytes]]) -> None:
    bench = await benches.start(always(answer(b"")))
    with pytest.raises(UnsafeHeader):
        await bench.pool.send(bench.upstream.url, b"POST", b"/x", headers, b"")
    assert bench.upstream.connections == 0


@pytest.mark.parametrize("target", [b"", b"x", b"/a b", b"/a\r\nX: y", b"/\xff", b"http://h/", b"/a\n"])
async def test_illegal_targets_are_not_sent(benches: Benches, target: bytes) -> None:
    bench = await benches.start(always(answer(b"")))
    with pytest.raises(UnsafeHeader):
        await bench.pool.send(bench.upstream.url, b"POST", target, (), b"")
    assert bench.upstream.connections == 0


@pytest.mark.parametrize("method", [b"GET /x HTTP/1.1\r\nX: y\r\n\r\nPOST", b"", b"G T", b"CONNECT"])
async def test_illegal_methods_are_not_sent(benches: Benches, method: bytes) -> None:
    bench = await benches.start(always(answer(b"")))
    with pytest.raises(UnsafeHeader):
        await bench.pool.send(bench.upstream.url, method, b"/x", (), b"")
    assert bench.upstream.connections == 0


async def test_unknown_certificate_is_refused(certificate: kit.Certificate) -> None:
    upstream = ScriptedUpstream(always(answer(SECRET)))
    async with upstream.running(certificate.server_context()):
        pool = Pool(GatewayLimits(), Registry())
        with pytest.raises(UpstreamUnavailable):
            await pool.send(upstream.url, b"GET", b"/", (), b"")
        assert pool._ssl_context is not None
        assert pool._ssl_context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert pool._ssl_context.verify_mode == ssl.CERT_REQUIRED
        pool.close()
