"""Clients that leave, half-close, pipeline, or are gone while the handler tidies up: our own server."""

from __future__ import annotations

import asyncio

import pytest
import transport_kit as kit
from transport_kit import get

from sextant.transport.connection import LINGER_BYTES, PIPELINE_BYTES
from sextant.transport.exchange import Request, Responder

# half-close and leaving


async def test_half_closed_client_is_told_so(plain_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await plain_service.start(cook)
    wire = await up.connect()
    wire.send(get("/hang"))
    await cook.started.wait()
    wire.writer.write_eof()
    data = await wire.rest()
    assert data.startswith(b"HTTP/1.1 400 ") and b"half_closed" in data
    assert cook.cancelled.is_set()


async def test_half_close_inside_a_stream_cuts_it(plain_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await plain_service.start(cook)
    wire = await up.connect()
    wire.send(get("/hang/streaming"))
    await cook.started.wait()
    wire.writer.write_eof()
    data = await wire.rest()
    assert data.endswith(b"5\r\nfirst\r\n")
    assert cook.cancelled.is_set()


async def test_half_close_inside_a_1_0_answer_is_a_reset(plain_service: kit.ServiceMaker) -> None:
    """Such an answer ends with the connection: a plain close would look complete."""
    cook = kit.Cook()
    up = await plain_service.start(cook)
    wire = await up.connect()
    wire.send(b"GET /hang/streaming HTTP/1.0\r\n\r\n")
    await cook.started.wait()
    await wire.reader.readuntil(b"first")
    wire.writer.write_eof()
    with pytest.raises(ConnectionResetError):
        await wire.reader.read()


async def test_cut_1_0_answer_is_a_reset(plain_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await plain_service.start(cook)
    wire = await up.connect()
    wire.send(b"GET /hang/streaming HTTP/1.0\r\n\r\n")
    await wire.reader.readuntil(b"first")
    await up.server.close(0)
    with pytest.raises(ConnectionResetError):
        await wire.reader.read()


@pytest.mark.parametrize(
    "start", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n", get("/echo", "Content-Length: 5", method="POST")]
)
async def test_half_close_inside_a_request_is_400(plain_service: kit.ServiceMaker, start: bytes) -> None:
    cook = kit.Cook()
    up = await plain_service.start(cook)
    wire = await up.connect()
    wire.send(start)
    wire.writer.write_eof()
    data = await wire.rest()
    assert data.startswith(b"HTTP/1.1 400 ") and b"incomplete_request" in data
    assert cook.requests == []


async def test_client_that_leaves_between_requests_is_forgotten(own_service: kit.ServiceMaker) -> None:
    up = await own_service.start(kit.Cook())
    assert up.server is not None
    for _ in range(10):
        await up.ask(get("/big/3"))
    await kit.soon(lambda: up.server.connections == 0)
    open_now = own_service.registry.prometheus.get_sample_value("sextant_transport_connections")
    assert open_now == 0


async def test_client_that_leaves_at_any_byte_leaves_nothing_behind(plain_service: kit.ServiceMaker) -> None:
    up = await plain_service.start(kit.Cook())
    data = get("/stream/3", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhello\r\n0\r\n\r\n"
    for stop in range(len(data) + 1):
        wire = await up.connect()
        wire.send(data[:stop])
        if stop % 2:
            wire.reset()
        else:
            await wire.close()
    assert up.server is not None
    await kit.soon(lambda: up.server.connections == 0)
    assert (await up.ask(get("/big/3"))).body == b"xxx"


async def test_leaving_behind_a_full_pipeline_is_noticed(own_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await own_service.start(cook)
    wire = await up.connect()
    wire.send(get("/hang") + get("/echo", method="POST", body=b"x" * 40 * PIPELINE_BYTES))
    await cook.started.wait()
    await kit.soon(lambda: own_service.rejected("pipeline_overrun") == 1)
    await wire.close()
    async with asyncio.timeout(kit.PATIENCE_S):
        await cook.cancelled.wait()


async def test_overrun_pipeline_gets_one_answer_and_a_close(own_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await own_service.start(cook)
    wire = await up.connect()
    wire.send(get("/hang") + get("/echo", method="POST", body=b"x" * 1000) * 200)
    await cook.started.wait()
    await kit.soon(lambda: own_service.rejected("pipeline_overrun") == 1)
    assert up.server is not None
    [connection] = up.server._connections
    assert connection._buffer == b""
    cook.release.set()
    reply = await wire.answer()
    assert reply.body == b"done" and reply.headers["connection"] == "close"
    assert await wire.rest() == b""
    assert len(cook.requests) == 1


async def test_client_that_floods_while_it_waits_is_cut(plain_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await plain_service.start(cook)
    wire = await up.connect()
    wire.send(get("/hang"))
    await cook.started.wait()
    wire.send(b"x" * (LINGER_BYTES + 1_000_000))
    async with asyncio.timeout(kit.PATIENCE_S):
        await cook.cancelled.wait()


async def test_pipeline_within_the_bound_is_served(own_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await own_service.start(cook)
    wire = await up.connect()
    wire.send(get("/hang") + get("/echo", method="POST", body=b"x" * 1000) * 50)
    await cook.started.wait()
    await asyncio.sleep(0.05)
    cook.release.set()
    assert (await wire.answer()).body == b"done"
    for _ in range(50):
        assert len((await wire.answer()).json()["body"]) == 1000


async def test_client_that_pipelines_and_reads_nothing_is_bounded(plain_service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await plain_service.start(cook)
    wire = await up.connect()
    wire.writer.transport.pause_reading()
    wire.send(get("/big/1000000") * 500)
    served = -1
    while served != len(cook.requests):
        served = len(cook.requests)
        await asyncio.sleep(0.1)
    assert served < 50


# after the answer


async def test_client_may_leave_while_the_handler_tidies_up(own_service: kit.ServiceMaker) -> None:
    """What the handler does after the end of its answer is not cancelled."""
    tidied = asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        responder.reply(200, (), b"ok")
        await asyncio.sleep(0.1)
        tidied.set()

    up = await own_service.start(handler)
    await up.ask(get("/x"))
    async with asyncio.timeout(kit.PATIENCE_S):
        await tidied.wait()


async def test_handler_that_ignores_cancellation_can_send_nothing(own_service: kit.ServiceMaker) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            responder.reply(200, (), b"too late")
            ended.set()

    up = await own_service.start(handler)
    wire = await up.connect()
    wire.send(get("/x"))
    await started.wait()
    await wire.close()
    async with asyncio.timeout(kit.PATIENCE_S):
        await ended.wait()
    assert up.server is not None
    await kit.soon(lambda: up.server.connections == 0)
