"""Our own server's bounds: connections, deadlines, bodies, refusals, shutting down, TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time

import pytest
import transport_kit as kit
from transport_kit import get

from conftest import make_certificate
from sextant.base.errors import Misconfigured
from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport import refusals
from sextant.transport.connection import LINGER_S
from sextant.transport.exchange import Request, Responder
from sextant.transport.server import serve


async def took_s(wire: kit.Wire) -> tuple[bytes, float]:
    """What comes until the other side closes, and how long that took."""
    began_s = time.monotonic()
    return await wire.rest(), time.monotonic() - began_s


# deadlines


@pytest.mark.timing
@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET /" + b"a" * 100])
async def test_stalled_head_is_408(
    own_service: kit.ServiceMaker, quick_limits: GatewayLimits, start: bytes
) -> None:
    up = await own_service.start(kit.Cook(), quick_limits)
    wire = await up.connect()
    wire.send(start)
    data, duration_s = await took_s(wire)
    assert data.startswith(b"HTTP/1.1 408 ") and b"head_timeout" in data
    assert 0.25 <= duration_s < 1.5
    assert own_service.rejected("head_timeout") == 1


@pytest.mark.timing
async def test_dripping_head_is_408_all_the_same(
    own_service: kit.ServiceMaker, quick_limits: GatewayLimits
) -> None:
    up = await own_service.start(kit.Cook(), quick_limits)
    wire = await up.connect()
    began_s = time.monotonic()
    answer = asyncio.ensure_future(wire.rest())
    wire.send(b"GET / HTTP/1.1\r\n")
    while not answer.done():
        wire.send(b"X: y\r\n")
        await asyncio.sleep(0.05)
    assert answer.result().startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began_s < 1.5


@pytest.mark.timing
@pytest.mark.slow
async def test_default_limits_cut_a_stalled_head_and_body_after_five_seconds(
    plain_service: kit.ServiceMaker,
) -> None:
    up = await plain_service.start(kit.Cook())
    wires = [await up.connect(), await up.connect()]
    wires[0].send(b"GET / HTTP/1.1\r\n")
    wires[1].send(get("/echo", "Content-Length: 5", method="POST") + b"he")
    for data, duration_s in await asyncio.gather(*map(took_s, wires)):
        assert data.startswith(b"HTTP/1.1 408 ")
        assert 4.9 <= duration_s < 5.7


@pytest.mark.timing
async def test_idle_connection_is_closed_without_a_word(
    own_service: kit.ServiceMaker, quick_limits: GatewayLimits
) -> None:
    up = await own_service.start(kit.Cook(), quick_limits)
    fresh, used = await up.connect(), await up.connect()
    used.send(get("/big/3"))
    assert (await used.answer()).status == 200
    for wire in (fresh, used):
        data, duration_s = await took_s(wire)
        assert data == b"" and duration_s < 2.0
    assert up.server is not None
    await kit.soon(lambda: up.server.connections == 0)


@pytest.mark.timing
async def test_handler_has_no_deadline_of_the_transport(
    own_service: kit.ServiceMaker, quick_limits: GatewayLimits
) -> None:
    cook = kit.Cook()
    up = await own_service.start(cook, quick_limits)
    wire = await up.connect()
    wire.send(get("/hang"))
    await asyncio.sleep(1.2)
    cook.release.set()
    assert (await wire.answer()).body == b"done"


async def test_client_that_reads_nothing_is_cut(
    plain_service: kit.ServiceMaker, quick_limits: GatewayLimits
) -> None:
    cook = kit.Cook()
    up = await plain_service.start(cook, quick_limits)
    wire = await up.connect()
    wire.writer.transport.pause_reading()
    wire.send(get("/flood"))
    async with asyncio.timeout(kit.PATIENCE_S):
        await cook.cancelled.wait()
    assert plain_service.rejected("write_stall") == 1


@pytest.mark.timing
async def test_client_that_reads_slowly_is_not_cut(
    plain_service: kit.ServiceMaker, quick_limits: GatewayLimits
) -> None:
    cook = kit.Cook()
    up = await plain_service.start(cook, quick_limits)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", up.port))
        await loop.sock_sendall(sock, get("/flood"))
        for _ in range(20):
            await asyncio.sleep(0.1)
            assert await loop.sock_recv(sock, 65536)
        assert not cook.cancelled.is_set()


# refusals


async def test_refusals_have_openai_shape_and_close(own_service: kit.ServiceMaker) -> None:
    up = await own_service.start(kit.Cook())
    wire = await up.connect()
    wire.send(b"GET / HTTP/1.1\r\n\r\n" + get("/echo"))
    reply = await wire.answer()
    assert reply.status == 400 and reply.headers["connection"] == "close"
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"error"}
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, "missing_host")
    assert await wire.rest() == b""
    assert own_service.rejected("missing_host") == 1


async def test_every_refusal_is_documented() -> None:
    text = (kit.REPOSITORY / "docs" / "concepts" / "transport.md").read_text()
    for reason, (status, _) in refusals.TABLE.items():
        assert f"| `{reason}` | {status} |" in text, reason


async def test_refused_client_can_read_why_while_it_sends(plain_service: kit.ServiceMaker) -> None:
    """A client that writes a large body sees the 413, not a reset."""
    up = await plain_service.start(kit.Cook(), GatewayLimits(body_bytes=1000))
    wire = await up.connect()
    wire.send(get("/echo", "Content-Length: 5000000", method="POST") + b"x" * 5_000_000)
    reply = await wire.answer()
    assert reply.status == 413


@pytest.mark.timing
@pytest.mark.slow
async def test_refused_client_that_goes_on_is_cut(plain_service: kit.ServiceMaker) -> None:
    up = await plain_service.start(kit.Cook())
    wire = await up.connect()
    wire.send(b"BREW / HTTP/1.1\r\n\r\n")
    began_s = time.monotonic()
    with pytest.raises(ConnectionError):
        while True:
            wire.send(b"x" * 100)
            await wire.writer.drain()
            await asyncio.sleep(0.05)
            assert time.monotonic() - began_s < LINGER_S + 2


async def test_connect_is_refused(own_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await own_service.start(cook)
    reply = await up.ask(b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n")
    assert reply.status == 501 and cook.requests == []


async def test_websocket_upgrade_is_refused_and_its_bytes_are_dropped(own_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await own_service.start(cook)
    wire = await up.connect()
    wire.send(
        get("/echo", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13") + get("/echo")
    )
    assert (await wire.answer()).status == 501
    assert await wire.rest() == b"" and cook.requests == []


BIG = get("/hang", "Content-Length: 600000", method="POST")


async def test_bodies_together_are_bounded(own_service: kit.ServiceMaker) -> None:
    """Bodies count while they come in and until they are answered."""
    cook = kit.Cook()
    up = await own_service.start(cook, GatewayLimits(bodies_bytes=1_000_000))
    assert up.server is not None
    first, second = await up.connect(), await up.connect()
    first.send(BIG)
    await first.writer.drain()
    await asyncio.sleep(0.02)
    first.send(b"x" * 600_000)
    await cook.started.wait()
    assert up.server.held_bytes == 600_000
    second.send(BIG)
    await asyncio.sleep(0.02)
    second.send(b"x" * 600_000)
    reply = await second.answer()
    assert reply.status == 503 and reply.json()["error"]["code"] == "bodies_too_large"
    cook.release.set()
    assert (await first.answer()).body == b"done"
    assert up.server.held_bytes == 0
    third = await up.connect()
    third.send(BIG)
    await asyncio.sleep(0.02)
    third.send(b"x" * 600_000)
    assert (await third.answer()).body == b"done"
    fourth = await up.connect()
    fourth.send(BIG + b"x" * 1000)
    await kit.soon(lambda: up.server.held_bytes == 1000)
    fourth.reset()
    await kit.soon(lambda: up.server.held_bytes == 0)


async def test_many_small_pieces_of_a_body_take_no_more_than_the_body(
    plain_service: kit.ServiceMaker,
) -> None:
    cook = kit.Cook()
    up = await plain_service.start(cook)
    wire = await up.connect()
    wire.send(get("/hang", "Transfer-Encoding: chunked", method="POST"))
    wire.send(b"8\r\n12345678\r\n" * 50_000)
    await kit.soon(lambda: up.server.held_bytes >= 300_000)
    [connection] = up.server._connections
    assert isinstance(connection._body, bytearray)
    assert connection._chunks.pieces == []
    wire.send(b"0\r\n\r\n")
    await cook.started.wait()
    assert cook.requests[0].body == b"12345678" * 50_000


@pytest.mark.slow
async def test_too_many_connections_are_503(own_service: kit.ServiceMaker) -> None:
    up = await own_service.start(kit.Cook(), GatewayLimits(connections=3))
    wires = [await up.connect() for _ in range(3)]
    refused = await up.connect()
    data = await refused.rest()
    assert data.startswith(b"HTTP/1.1 503 ") and b"too_many_connections" in data
    await wires.pop().close()
    assert up.server is not None
    await kit.soon(lambda: up.server.connections < 3)
    assert (await up.ask(get("/big/3"))).status == 200


@pytest.mark.slow
async def test_far_too_many_connections_are_cut(
    plain_service: kit.ServiceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sextant.transport.server.REFUSED_CONNECTIONS", 2)
    up = await plain_service.start(kit.Cook(), GatewayLimits(connections=1))
    wires = [await up.connect() for _ in range(6)]
    said = [await wire.rest() for wire in wires[1:]]
    assert sum(data.startswith(b"HTTP/1.1 503 ") for data in said) >= 2
    assert b"" in said
    assert up.server is not None
    await kit.soon(lambda: up.server.connections == 1)


async def test_requests_per_connection(own_service: kit.ServiceMaker) -> None:
    up = await own_service.start(kit.Cook(), GatewayLimits(requests_per_connection=3))
    wire = await up.connect()
    wire.send(get("/big/1") * 5)
    replies = [await wire.answer() for _ in range(3)]
    assert [reply.headers.get("connection") for reply in replies] == [None, None, "close"]
    assert await wire.rest() == b""


# shutting down


async def test_close_lets_answers_end_and_cuts_idle_connections(own_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await own_service.start(cook)
    busy, idle = await up.connect(), await up.connect()
    busy.send(get("/hang/streaming"))
    await cook.started.wait()
    assert up.server is not None
    closing = asyncio.ensure_future(up.server.close(10))
    assert await idle.rest() == b""
    with pytest.raises(OSError):
        await up.connect()
    cook.release.set()
    reply = await busy.answer()
    assert reply.complete and reply.body == b"firstdone"
    assert await busy.rest() == b""
    await closing
    assert up.server.connections == 0


async def test_close_takes_a_request_that_was_arriving(own_service: kit.ServiceMaker) -> None:
    up = await own_service.start(kit.Cook())
    head, body = await up.connect(), await up.connect()
    whole = get("/echo", body=b"hello", method="POST")
    head.send(whole[:20])
    body.send(whole[:-3])
    assert up.server is not None
    server = up.server
    await kit.soon(lambda: sum(each.is_waiting() for each in server._connections) == 2)
    closing = asyncio.ensure_future(server.close(10))
    await asyncio.sleep(0.05)
    assert not closing.done()
    head.send(whole[20:])
    body.send(whole[-3:])
    for wire in (head, body):
        reply = await wire.answer()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert b'"body": "hello"' in reply.body
        assert await wire.rest() == b""
    await closing


@pytest.mark.parametrize("turns", [0, 3])
async def test_close_answers_whoever_had_just_connected(plain_service: kit.ServiceMaker, turns: int) -> None:
    """With no turn of the loop the connection still stands in the kernel's queue."""
    up = await plain_service.start(kit.Cook())
    assert up.server is not None
    with socket.create_connection(("127.0.0.1", up.port), timeout=5) as client:
        for _ in range(turns):
            await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(up.server.close(10))
        await asyncio.sleep(0.05)
        client.sendall(get("/echo", body=b"hello", method="POST"))
        said = await asyncio.to_thread(client.makefile("rb").read)
    assert said.startswith(b"HTTP/1.1 200 ") and b'"body": "hello"' in said
    await closing
    assert up.server.connections == 0


async def test_close_ends_connections_that_were_used_at_once(own_service: kit.ServiceMaker) -> None:
    up = await own_service.start(kit.Cook())
    wire = await up.connect()
    wire.send(get("/echo"))
    await wire.answer()
    assert up.server is not None
    await up.server.close(10)
    assert await wire.rest() == b""


@pytest.mark.timing
async def test_close_cuts_what_takes_longer_than_the_grace(own_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await own_service.start(cook)
    wire = await up.connect()
    wire.send(get("/hang/streaming"))
    await cook.started.wait()
    assert up.server is not None
    began_s = time.monotonic()
    await up.server.close(0.2)
    assert time.monotonic() - began_s < 3
    assert cook.cancelled.is_set()
    assert not (await wire.answer()).complete


async def test_answers_given_while_closing_say_so(own_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await own_service.start(cook)
    wire = await up.connect()
    wire.send(get("/hang"))
    await cook.started.wait()
    assert up.server is not None
    closing = asyncio.ensure_future(up.server.close(10))
    await asyncio.sleep(0.01)
    cook.release.set()
    assert (await wire.answer()).headers["connection"] == "close"
    await closing


# sockets and TLS


async def test_nodelay_is_set(plain_service: kit.ServiceMaker) -> None:
    up = await plain_service.start(kit.Cook())
    wire = await up.connect()
    wire.send(get("/big/1"))
    await wire.answer()
    assert up.server is not None
    [connection] = up.server._connections
    sock = connection._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_each_streamed_piece_leaves_at_once(own_service: kit.ServiceMaker) -> None:
    ready = asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200, ())
        for _ in range(5):
            responder.write(b"token")
            ready.clear()
            await ready.wait()
        responder.end()

    up = await own_service.start(handler)
    wire = await up.connect()
    wire.send(get("/x"))
    await wire.reader.readuntil(b"\r\n\r\n")
    for _ in range(5):
        async with asyncio.timeout(2):
            assert await wire.reader.readexactly(10) == b"5\r\ntoken\r\n"
        ready.set()
    assert await wire.reader.readexactly(5) == b"0\r\n\r\n"


async def test_weak_tls_context_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(Misconfigured):
        await serve(
            kit.Cook(),
            host="127.0.0.1",
            port=0,
            limits=GatewayLimits(),
            registry=Registry(),
            ssl_context=context,
        )


async def test_tls_1_2_client_is_refused(certificate: kit.Certificate) -> None:
    maker = kit.ServiceMaker("tls", certificate)
    up = await maker.start(kit.Cook())
    context = certificate.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await kit.Wire.open(up.port, context)
    await maker.close()


async def test_peer_certificate_reaches_the_handler(
    certificate: kit.Certificate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mine = make_certificate(tmp_path_factory.mktemp("client"), "client")
    cook = kit.Cook()
    server = await serve(
        cook, host="127.0.0.1", port=0, limits=GatewayLimits(), registry=Registry(),
        ssl_context=certificate.server_context(client_ca=mine),
    )  # fmt: skip
    wire = await kit.Wire.open(server.port, certificate.client_context(own=mine))
    wire.send(get("/big/1"))
    assert (await wire.answer()).status == 200
    expected = ssl.PEM_cert_to_DER_cert(mine.cert_file.read_text())
    assert cook.requests[0].peer_certificate == expected
    await wire.close()
    await server.close(0)


async def test_two_servers_share_a_port() -> None:
    first = await serve(
        kit.Cook(), host="127.0.0.1", port=0, limits=GatewayLimits(), registry=Registry(), reuse_port=True
    )
    second = await serve(
        kit.Cook(), host="127.0.0.1", port=first.port, limits=GatewayLimits(), registry=Registry(),
        reuse_port=True,
    )  # fmt: skip
    assert first.port == second.port
    await first.close(0)
    await second.close(0)
