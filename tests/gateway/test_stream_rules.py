"""The rules of the stream: one chunk in is one chunk out, the end waits for the ledger, a client that leaves
takes the engine call with it, and whoever waits is kept alive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_engine import HELLO, Exchange, FakeEngine, chunk, usage_chunk, whole
from fake_governor import SECRET
from gateway_stack import COMPLIANT, LLAMA, Stack, limits, stack

from sextant.gateway.holds import TEMPLATE_TOKENS
from sextant.spec.snapshot import Quirks

QUIRKS = pytest.mark.parametrize("quirks", [COMPLIANT, LLAMA], ids=["relayed", "rewritten"])


async def until(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds; fails after five seconds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


class RawClient:
    """A client that can leave at any byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def ask(cls, s: Stack, *, stream: bool) -> RawClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
        body = json.dumps(
            {"model": "nano", "messages": [{"role": "user", "content": "hi" * 50}], "stream": stream}
        ).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return cls(reader, writer)

    def vanish(self) -> None:
        self.writer.transport.abort()


@QUIRKS
async def test_one_engine_chunk_is_one_chunk_to_the_client_at_once(quirks: Quirks) -> None:
    """The engine sends its next event only when the client has seen the one before."""
    seen: asyncio.Queue[bytes] = asyncio.Queue()
    events = [chunk(delta={"role": "assistant", "content": ""}), *[chunk(str(n)) for n in range(5)]]

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for event in events:
            await exchange.event(event)
            await seen.get()
        await exchange.event(chunk(finish="stop"))
        await exchange.event(usage_chunk())
        await exchange.event(b"[DONE]")
        await exchange.finish()

    async with stack(FakeEngine(script), quirks=quirks) as s:
        client = await RawClient.ask(s, stream=True)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in head
        for event in events:
            size = int(await client.reader.readline(), 16)
            piece = await client.reader.readexactly(size + 2)
            if quirks.compliant:
                assert piece == b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n\r\n"
            else:
                assert piece.startswith(b"data: ")
                assert piece.count(b"data: ") == 1
            seen.put_nowait(piece)
        rest = await client.reader.readuntil(b"0\r\n\r\n")
        assert rest.count(b"data: ") == 2
        client.writer.close()


@QUIRKS
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
async def test_events_split_and_joined_on_the_wire_come_out_the_same(end: bytes, quirks: Quirks) -> None:
    wire = b": hello" + end + end
    wire += b"".join(
        b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + end + end
        for e in [*HELLO, b"[DONE]"]
    )
    size = 1

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for at in range(0, len(wire), size):
            await exchange.piece(wire[at : at + size])
        await exchange.finish()

    async with stack(FakeEngine(script), quirks=quirks) as s:
        for size in (1, 7, 100, 333, len(wire)):  # noqa: B007 - the script reads it
            response = await s.chat(stream=True)
            text = response.content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode()
            blocks = [block for block in text.split("\n\n") if block]
            assert blocks[-1] == "data: [DONE]"
            contents = [json.loads(block[6:])["choices"][0]["delta"].get("content") for block in blocks[:-1]]
            assert contents[:3] == ["", "Hel", "lo"]
            assert len(contents) == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_leaves_only_when_the_usage_is_durable(stream: bool) -> None:
    async def script(exchange: Exchange) -> None:
        await (exchange.stream(HELLO) if stream else exchange.whole(whole()))

    async with stack(FakeEngine(script)) as s:
        s.governor.settle_gate = asyncio.Event()
        asked = asyncio.ensure_future(s.chat(stream=stream))
        await until(lambda: bool(s.governor.rows))
        await asyncio.sleep(0.05)
        assert not asked.done()
        s.governor.settle_gate.set()
        response = await asked
        assert response.text.endswith("data: [DONE]\n\n") if stream else response.status_code == 200


async def test_a_usage_that_cannot_be_made_durable_is_no_answer() -> None:
    async def script(exchange: Exchange) -> None:
        await (exchange.stream(HELLO) if exchange.body.get("stream") else exchange.whole(whole()))

    async with stack(FakeEngine(script)) as s:
        s.governor.settle_fails = True
        response = await s.chat()
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "ledger_unavailable"
        assert response.headers["retry-after"]
        response = await s.chat(stream=True)
        assert "[DONE]" not in response.text
        assert json.loads(response.text.split("\n\n")[-2][6:])["error"]["code"] == "ledger_unavailable"
        assert s.governor.open == 0


# clients that leave


@QUIRKS
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_gone_before_the_first_token_frees_its_slot_at_once(
    stream: bool, quirks: Quirks
) -> None:
    async def script(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with stack(FakeEngine(script), quirks=quirks) as s:
        client = await RawClient.ask(s, stream=stream)
        await until(lambda: s.engine.working == 1)
        assert s.app.requests_in_progress == 1
        assert b"sextant_gateway_requests_in_progress 1.0" in s.registry.exposition()
        client.vanish()
        await asyncio.wait_for(s.engine.exchanges[0].gone(), 2)
        await until(lambda: bool(s.governor.rows))
        ((claim, outcome),) = s.governor.rows
        assert (outcome.result, outcome.ttft_ms) == ("client_closed", -1)
        assert outcome.usage.estimated
        prompt_bytes = claim.input_tokens - TEMPLATE_TOKENS
        assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (prompt_bytes // 4, 0)
        assert s.app.requests_in_progress == 0
        assert s.governor.open == 0


RUNNING: list[tuple[dict[str, Any], Callable[[int], dict[str, Any]]]] = [
    (
        {"timings_per_token": True},
        lambda n: {"timings": {"cache_n": 3, "prompt_n": 4, "predicted_n": 10 * n}},
    ),
    (
        {"stream_options": {"continuous_usage_stats": True}},
        lambda n: {"usage": {"prompt_tokens": 7, "completion_tokens": 10 * n, "total_tokens": 7 + 10 * n}},
    ),
]


@pytest.mark.parametrize(("running", "counts"), RUNNING, ids=["timings", "usage"])
async def test_a_client_gone_midway_pays_exactly_where_the_engine_counts_as_it_goes(
    running: dict[str, Any], counts: Callable[[int], dict[str, Any]]
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for n in range(3):
            await exchange.event({**chunk(str(n)), **counts(n + 1)})
        await asyncio.Event().wait()

    quirks = Quirks(strip_fields=("timings",), running_usage=running)
    async with stack(FakeEngine(script), quirks=quirks) as s:
        client = await RawClient.ask(s, stream=True)
        told = await client.reader.readuntil(b'"content":"2"')
        client.vanish()
        await until(lambda: bool(s.governor.rows))
        ((_, outcome),) = s.governor.rows
        usage = outcome.usage
        assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (7, 30, False)
        assert b"timings" not in told and b"prompt_tokens" not in told
        body = s.engine.exchanges[0].body
        assert body.get("timings_per_token") == running.get("timings_per_token")
        assert body["stream_options"] == {"include_usage": True, **running.get("stream_options", {})}


@QUIRKS
async def test_a_client_gone_midway_pays_for_what_was_counted(quirks: Quirks) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for n in range(3):
            await exchange.event(chunk(str(n)))
        await asyncio.Event().wait()

    async with stack(FakeEngine(script), quirks=quirks) as s:
        client = await RawClient.ask(s, stream=True)
        await client.reader.readuntil(b'"content":"2"')
        client.vanish()
        await asyncio.wait_for(s.engine.exchanges[0].gone(), 2)
        await until(lambda: bool(s.governor.rows))
        ((_, outcome),) = s.governor.rows
        assert (outcome.result, outcome.usage.output_tokens, outcome.usage.estimated) == (
            "client_closed",
            3,
            True,
        )
        assert outcome.ttft_ms >= 0
        assert s.app.requests_in_progress == 0
        text = s.registry.exposition().decode()
        assert 'sextant_gateway_client_disconnects_total{endpoint="chat.completions"} 1.0' in text


async def test_a_client_gone_in_the_queue_never_reaches_the_engine() -> None:
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await exchange.whole(whole())

    async with stack(FakeEngine(script), limits=limits(concurrent_requests=1)) as s:
        first = asyncio.ensure_future(s.chat())
        await until(lambda: s.engine.working == 1)
        client = await RawClient.ask(s, stream=True)
        await until(lambda: b"sextant_gateway_queue_length 1.0" in s.registry.exposition())
        client.vanish()
        await until(lambda: b"sextant_gateway_queue_length 0.0" in s.registry.exposition())
        release.set()
        assert (await first).status_code == 200
        assert len(s.engine.exchanges) == 1
        assert len(s.governor.refunds) == 1
        assert (await s.chat()).status_code == 200
        assert s.governor.open == 0


async def test_a_client_gone_while_the_ledger_works_is_settled_once() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream(HELLO)

    async with stack(FakeEngine(script)) as s:
        s.governor.settle_gate = asyncio.Event()
        client = await RawClient.ask(s, stream=True)
        await until(lambda: bool(s.governor.rows))
        client.vanish()
        await until(lambda: s.app.requests_in_progress == 0)
        assert [outcome.result for _, outcome in s.governor.rows] == ["ok"]


async def test_a_stalled_reader_is_bounded_and_its_engine_paused() -> None:
    sent = 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.begin()
        while True:
            await exchange.event(chunk("x" * 20_000))
            sent += 20_000

    bounds = limits(write_buffer_bytes=64 * 1024, write_stall_timeout_s=0.5)
    async with stack(FakeEngine(script), limits=bounds) as s:
        client = await RawClient.ask(s, stream=True)
        await until(lambda: sent > 0)
        await asyncio.wait_for(s.engine.exchanges[0].gone(), 10)  # the stalled client was cut off
        assert sent < 30_000_000  # kernel buffers on both connections, not the whole stream
        await until(lambda: s.governor.open == 0)
        assert [outcome.result for _, outcome in s.governor.rows] == ["client_closed"]
        client.vanish()


# waiting


async def test_a_waiting_stream_gets_comments_first_after_the_interval() -> None:
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await exchange.stream(HELLO)

    async with stack(FakeEngine(script), limits=limits(keepalive_after_s=0.2)) as s:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with s.chat_stream() as response:
            assert response.status_code == 200
            pieces = response.aiter_bytes()
            assert await anext(pieces) == b": keep-alive\n\n"
            assert loop.time() - began >= 0.2
            assert await anext(pieces) == b": keep-alive\n\n"
            release.set()
            rest = b"".join([piece async for piece in pieces])
        assert rest.endswith(b"data: [DONE]\n\n")
        assert b"sextant_gateway_keepalives_total" in s.registry.exposition()


async def test_a_waiting_whole_answer_gets_blank_lines() -> None:
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await exchange.whole(whole())

    async with stack(FakeEngine(script), limits=limits(keepalive_after_s=0.1)) as s:
        request = s.client.build_request(
            "POST",
            "/v1/chat/completions",
            json={"model": "nano", "messages": [{"role": "user", "content": "hi"}]},
        )
        response = await s.client.send(request, stream=True)
        assert response.headers["content-type"] == "application/json"
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"\n"
        release.set()
        text = b"\n" + b"".join([piece async for piece in pieces])
        assert json.loads(text)["choices"][0]["message"]["content"] == "Hello there"
        await response.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_after_a_keep_alive_goes_into_the_body(stream: bool) -> None:
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await exchange.whole({"error": {"message": "broken"}}, 500)

    async with stack(FakeEngine(script), limits=limits(keepalive_after_s=0.1)) as s:
        async with s.chat_stream(stream=stream) as response:
            assert response.status_code == 200
            pieces = response.aiter_bytes()
            await anext(pieces)
            release.set()
            rest = b"".join([piece async for piece in pieces])
        error = json.loads(rest.strip().removeprefix(b"data: "))["error"]
        assert error["type"] == "server_error"
        assert s.governor.open == 0


async def test_a_request_in_the_queue_is_kept_alive_too() -> None:
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await exchange.whole(whole())

    bounds = limits(concurrent_requests=1, keepalive_after_s=0.1)
    async with stack(FakeEngine(script), limits=bounds) as s:
        first = asyncio.ensure_future(s.chat())
        await until(lambda: s.engine.working == 1)
        async with s.chat_stream(stream=False) as response:
            pieces = response.aiter_bytes()
            assert await anext(pieces) == b"\n"
            release.set()
            assert json.loads(b"".join([piece async for piece in pieces]))["choices"]
        await first


async def test_a_full_queue_is_503() -> None:
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await exchange.whole(whole())

    bounds = limits(concurrent_requests=1, queue_length=1)
    async with stack(FakeEngine(script), limits=bounds) as s:
        waiting = [asyncio.ensure_future(s.chat())]
        await until(lambda: s.engine.working == 1)
        waiting.append(asyncio.ensure_future(s.chat()))
        await until(lambda: b"sextant_gateway_queue_length 1.0" in s.registry.exposition())
        response = await s.chat()
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "queue_full"
        assert response.headers["retry-after"]
        release.set()
        assert [r.status_code for r in await asyncio.gather(*waiting)] == [200, 200]
        assert len(s.governor.refunds) == 1


async def test_a_wait_in_the_queue_ends() -> None:
    async def script(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    bounds = limits(concurrent_requests=1, queue_timeout_s=0.1)
    async with stack(FakeEngine(script), limits=bounds) as s:
        first = asyncio.ensure_future(s.chat())
        await until(lambda: s.engine.working == 1)
        response = await s.chat()
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "queue_timeout"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_a_hundred_clients_that_come_and_go_leave_nothing() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for n in range(50):
            await exchange.event(chunk(str(n)))
            await asyncio.sleep(0.005)
        await exchange.event(chunk(finish="stop"))
        await exchange.event(usage_chunk())
        await exchange.event(b"[DONE]")
        await exchange.finish()

    async def come_and_go(s: Stack, number: int) -> None:
        client = await RawClient.ask(s, stream=number % 3 > 0)
        if number % 2:
            await asyncio.sleep(number % 20 / 100)
            client.vanish()
        else:
            await asyncio.wait_for(client.reader.read(200), 5)
            client.writer.close()

    async with stack(FakeEngine(script), limits=limits(concurrent_requests=16)) as s:
        await asyncio.gather(*(come_and_go(s, number) for number in range(100)))
        await until(lambda: s.app.requests_in_progress == 0 and s.governor.open == 0)
        await until(lambda: s.engine.working == 0)
        assert len(s.governor.rows) + len(s.governor.refunds) == 100
        assert len({claim.request_id for claim, _ in s.governor.rows}) == len(s.governor.rows)
