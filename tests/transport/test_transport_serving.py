"""What every service must do for its clients and its handler: own server, with TLS, and the ASGI twin."""

from __future__ import annotations

import asyncio

import pytest
import transport_kit as kit
from transport_kit import get

from sextant.spec.snapshot import GatewayLimits


async def test_request_reaches_the_handler_as_sent(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    data = get("/echo/a%20b?x=1&y=%2F", "X-Thing: some value ", method="POST", body=b"hello")
    reply = await up.ask(data)
    assert reply.status == 200 and reply.complete
    seen = reply.json()
    assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/echo/a%20b", "x=1&y=%2F")
    assert seen["body"] == "hello"
    assert ["x-thing", "some value"] in seen["headers"]
    assert seen["peer"] == "127.0.0.1"


async def test_keep_alive_serves_many_requests_on_one_connection(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    wire = await up.connect()
    for number in range(20):
        wire.send(get(f"/echo/{number}", body=b"b" * number, method="POST"))
        reply = await wire.answer()
        assert reply.json()["path"] == f"/echo/{number}"
        assert len(reply.json()["body"]) == number
    await wire.close()


async def test_pipelined_requests_are_answered_in_order(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    wire = await up.connect()
    wire.send(b"".join(get(f"/echo/{number}", body=b"x" * 10, method="POST") for number in range(50)))
    for number in range(50):
        assert (await wire.answer()).json()["path"] == f"/echo/{number}"
    await wire.close()


async def test_answers_carry_date_and_length(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    reply = await up.ask(get("/big/1000"))
    assert reply.headers["content-length"] == "1000"
    assert reply.headers["date"].endswith("GMT")
    assert len(reply.body) == 1000


async def test_large_answer_arrives_whole(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    reply = await up.ask(get("/big/5000000"))
    assert reply.complete and len(reply.body) == 5_000_000


async def test_stream_is_chunked_and_ends_cleanly(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    wire = await up.connect()
    for _ in range(2):
        wire.send(get("/stream/5"))
        reply = await wire.answer()
        assert reply.complete and reply.headers["transfer-encoding"] == "chunked"
        assert reply.body == b"".join(b"piece %d\n" % number for number in range(5)) + b"last"
    await wire.close()


async def test_http_1_0_stream_ends_with_the_connection(own_service: kit.ServiceMaker) -> None:
    up = await own_service.start(kit.Cook())
    wire = await up.connect()
    wire.send(b"GET /stream/2 HTTP/1.0\r\n\r\n")
    data = await wire.rest()
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower() and b"chunked" not in head
    assert body == b"piece 0\npiece 1\nlast"
    await wire.close()


async def test_http_1_0_with_host_gets_one_answer_and_a_close(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    wire = await up.connect()
    wire.send(b"GET /big/3 HTTP/1.0\r\nHost: localhost\r\n\r\n")
    data = await wire.rest()
    assert data.startswith(b"HTTP/1.1 200 OK\r\n") and data.endswith(b"\r\n\r\nxxx")
    await wire.close()


async def test_connection_close_is_honoured(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    wire = await up.connect()
    wire.send(get("/big/3", "Connection: close"))
    data = await wire.rest()
    assert b"connection: close" in data.lower() and data.endswith(b"xxx")
    await wire.close()


@pytest.mark.parametrize("path", ["/big/10", "/stream/3"])
async def test_head_has_no_body_and_keeps_the_connection(service: kit.ServiceMaker, path: str) -> None:
    up = await service.start(kit.Cook())
    wire = await up.connect()
    wire.send(get(path, method="HEAD"))
    reply = await wire.answer(head=True)
    assert reply.status == 200 and reply.body == b""
    wire.send(get("/big/3"))
    assert (await wire.answer()).body == b"xxx"
    await wire.close()


async def test_no_content_has_no_length_and_keeps_the_connection(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    wire = await up.connect()
    wire.send(get("/empty"))
    reply = await wire.answer()
    assert reply.status == 204 and "content-length" not in reply.headers
    wire.send(get("/big/3"))
    assert (await wire.answer()).body == b"xxx"
    await wire.close()


async def test_options_reaches_the_handler(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    assert (await up.ask(get("/echo", method="OPTIONS"))).json()["method"] == "OPTIONS"


async def test_chunked_request_body(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    wire = await up.connect()
    for _ in range(2):
        wire.send(get("/echo", "Transfer-Encoding: chunked", method="POST"))
        for piece in (b"5\r\nhello\r\n", b"6;ext=1\r\n wor", b"ld\r\n0\r\nX-Trailer: t\r\n", b"\r\n"):
            wire.send(piece)
            await asyncio.sleep(0.002)
        assert (await wire.answer()).json()["body"] == "hello world"
    await wire.close()


async def test_expect_100_continue(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    wire = await up.connect()
    wire.send(get("/echo", "Content-Length: 5", "Expect: 100-continue", method="POST"))
    first = await wire.reader.readuntil(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 100 ")
    wire.send(b"hello")
    assert (await wire.answer()).json()["body"] == "hello"
    await wire.close()


async def test_body_over_the_limit_is_413(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook(), GatewayLimits(body_bytes=1000))
    request_ids: set[str] = set()
    for data in (
        get("/echo", method="POST", body=b"x" * 1001),
        get("/echo", "Transfer-Encoding: chunked", method="POST")
        + b"3e9\r\n"
        + b"x" * 1001
        + b"\r\n0\r\n\r\n",
    ):
        reply = await up.ask(data)
        assert reply.status == 413
        assert reply.json()["error"]["code"] == "body_too_large"
        request_ids.add(reply.headers["x-request-id"])
    assert len(request_ids) == 2
    assert all(request_id.startswith("req_") for request_id in request_ids)
    assert (await up.ask(get("/echo", method="POST", body=b"x" * 1000))).status == 200


async def test_target_over_the_limit_is_414(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook(), GatewayLimits(target_bytes=100))
    assert (await up.ask(get("/echo/" + "a" * 95))).json()["error"]["code"] == "target_too_long"
    assert (await up.ask(get("/echo/" + "a" * 94))).status == 200


async def test_too_many_headers_are_431(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook(), GatewayLimits(header_count=10))
    assert (await up.ask(get("/echo", *[f"X-{n}: 1" for n in range(10)]))).status == 431
    assert (await up.ask(get("/echo", *[f"X-{n}: 1" for n in range(9)]))).status == 200


async def test_head_over_the_limit_is_431(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook(), GatewayLimits(head_bytes=1024))
    reply = await up.ask(get("/echo", "X-Long: " + "a" * 1024))
    assert reply.status == 431 and reply.json()["error"]["code"] == "head_too_large"


async def test_upgrade_is_refused(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    reply = await up.ask(
        get("/echo", "Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    )
    assert reply.status == 501 and reply.json()["error"]["code"] == "upgrade"


async def test_unknown_expectation_is_417(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    assert (await up.ask(get("/echo", "Expect: the-unexpected"))).status == 417


@pytest.mark.timing
async def test_stalled_body_is_408(service: kit.ServiceMaker, quick_limits: GatewayLimits) -> None:
    up = await service.start(kit.Cook(), quick_limits)
    began_s = asyncio.get_running_loop().time()
    reply = await up.ask(get("/echo", "Content-Length: 10", method="POST") + b"half")
    assert reply.status == 408 and reply.json()["error"]["code"] == "body_timeout"
    assert 0.25 < asyncio.get_running_loop().time() - began_s < 2.0


@pytest.mark.timing
async def test_dripping_body_is_cut_by_the_whole_deadline(
    service: kit.ServiceMaker, quick_limits: GatewayLimits
) -> None:
    up = await service.start(kit.Cook(), quick_limits)
    wire = await up.connect()
    wire.send(get("/echo", "Content-Length: 1000", method="POST"))
    answer = asyncio.ensure_future(wire.answer())
    while not answer.done():
        wire.send(b"x")
        await asyncio.sleep(0.1)
    assert answer.result().status == 408
    await wire.close()


@pytest.mark.timing
@pytest.mark.parametrize("how", ["before", "streaming"])
@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_leaving_client_cancels_the_handler_at_once(
    service: kit.ServiceMaker, how: str, leave: str
) -> None:
    cook = kit.Cook()
    up = await service.start(cook)
    wire = await up.connect()
    wire.send(get(f"/hang/{how}"))
    await cook.started.wait()
    began_s = asyncio.get_running_loop().time()
    if leave == "reset":
        wire.reset()
    else:
        await wire.close()
    async with asyncio.timeout(kit.PATIENCE_S):
        await cook.cancelled.wait()
    assert asyncio.get_running_loop().time() - began_s < 1.0


async def test_client_that_stays_is_answered_after_a_wait(service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    up = await service.start(cook)
    wire = await up.connect()
    wire.send(get("/hang"))
    await cook.started.wait()
    cook.release.set()
    assert (await wire.answer()).body == b"done"
    assert not cook.cancelled.is_set()
    await wire.close()


async def test_stalled_reader_holds_bounded_bytes(service: kit.ServiceMaker) -> None:
    cook = kit.Cook()
    limits = GatewayLimits(write_buffer_bytes=128 * 1024)
    up = await service.start(cook, limits)
    wire = await up.connect()
    wire.writer.transport.pause_reading()
    wire.send(get("/flood"))
    await cook.started.wait()
    level = -1
    while level != cook.flooded_bytes:
        level = cook.flooded_bytes
        await asyncio.sleep(0.2)
    kernel_bytes = 8 * 1024 * 1024
    assert level <= limits.write_buffer_bytes + kernel_bytes
    wire.reset()
    async with asyncio.timeout(kit.PATIENCE_S):
        await cook.cancelled.wait()


async def test_unsafe_headers_never_leave(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    reply = await up.ask(get("/unsafe"))
    assert reply.status == 200
    assert int(reply.body) == 2 * len(kit.UNSAFE_HEADERS) + 5
    assert "set-cookie" not in reply.headers


async def test_failing_handler_is_500_before_the_answer(service: kit.ServiceMaker) -> None:
    up = await service.start(kit.Cook())
    for path in ("/fail", "/forget"):
        reply = await up.ask(get(path))
        assert reply.status == 500 and reply.json()["error"]["type"] == "server_error"
        assert b"ZeroDivision" not in reply.body


@pytest.mark.parametrize("path", ["/fail/late", "/forget/late"])
async def test_failing_handler_never_ends_a_begun_answer_cleanly(
    service: kit.ServiceMaker, path: str
) -> None:
    up = await service.start(kit.Cook())
    reply = await up.ask(get(path))
    assert not reply.complete


async def test_responder_of_a_past_request_can_send_nothing(own_service: kit.ServiceMaker) -> None:
    up = await own_service.start(kit.Cook())
    wire = await up.connect()
    wire.send(get("/keep"))
    assert (await wire.answer()).body == b"kept"
    wire.send(get("/late"))
    assert (await wire.answer()).body == b"clean"
    await wire.close()
