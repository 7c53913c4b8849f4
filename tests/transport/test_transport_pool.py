"""The pool itself: stale connections and retries, bounds and order, deadlines, what is sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pytest
import transport_kit as kit
from transport_benches import JSON, SECRET, Benches, always
from transport_upstreams import Call, Script, ScriptedUpstream, answer, chunked

from sextant.base.errors import Misconfigured, UpstreamError, UpstreamUnavailable
from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport.client import ORIGINS, Pool
from sextant.transport.emission import UnsafeHeader
from sextant.transport.upstream import READ_AHEAD_BYTES

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


@pytest.mark.timing
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


async def test_refused_connection_is_unavailable(benches: Benches, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the address, the client's answer does not."""
    bench = await benches.start(always(b""))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(UpstreamUnavailable) as caught:
            await bench.pool.send(f"{bench.upstream.scheme}://127.0.0.1:{port}", b"GET", b"/", (), b"")
    assert str(port) not in caught.value.message
    assert f"127.0.0.1:{port}" in caplog.text
    assert bench.metric("sextant_transport_upstream_connects_total", result="failed") == 1


@pytest.mark.timing
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


async def test_closing_an_answer_wakes_its_reader(benches: Benches) -> None:
    async def script(call: Call) -> None:
        await call.send(chunked(b"one", end=b""))
        await call.reader.read()

    bench = await benches.start(script)
    found = await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")
    assert await found.chunk() == b"one"
    waiting = asyncio.ensure_future(found.chunk())
    await asyncio.sleep(0.01)
    found.close()
    with pytest.raises(UpstreamError):
        await waiting
    assert bench.pool.connections == 0


async def test_pool_closed_during_a_connect_keeps_nothing(benches: Benches) -> None:
    bench = await benches.start(always(answer(b"fine")))
    ask = asyncio.ensure_future(bench.ask())
    await asyncio.sleep(0)
    bench.pool.close()
    with pytest.raises(UpstreamUnavailable):
        await ask
    assert bench.pool.connections == 0
    await kit.soon(lambda: bench.upstream.open == 0)


@pytest.mark.parametrize(
    "base_url", ["", "ftp://h", "http://", "http://h:0", "http://h:99999", "http://h:x", "http://a b", "h:1"]
)
async def test_what_is_no_address_is_misconfigured(base_url: str) -> None:
    with pytest.raises(Misconfigured):
        await Pool(GatewayLimits(), Registry()).send(base_url, b"GET", b"/", (), b"")


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


# origins of engines that were replaced


async def test_engines_that_were_replaced_make_room_for_others(benches: Benches) -> None:
    bench = await benches.start(always(answer(b"fine")))
    assert await bench.ask() == b"fine"
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for number in range(ORIGINS + 10):
            with pytest.raises(UpstreamUnavailable):
                await bench.pool.send(f"{nobody}/{number}", b"GET", b"/", (), b"")
    assert await bench.ask() == b"fine"
    assert len(bench.upstream.calls) == 2
    assert {call.connection for call in bench.upstream.calls} == {1}
