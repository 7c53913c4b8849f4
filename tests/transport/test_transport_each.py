"""`UpstreamResponse.each`: pieces taken in the turn that read them, and everything that can end it."""

from __future__ import annotations

import asyncio

import pytest
from transport_benches import JSON, Bench, Benches, always
from transport_upstreams import Call, answer, chunked

from sextant.base.errors import UpstreamError
from sextant.spec.snapshot import GatewayLimits
from sextant.transport.upstream import READ_AHEAD_BYTES, UpstreamAnswer


async def ask(bench: Bench) -> UpstreamAnswer:
    return await bench.pool.send(bench.upstream.url, b"POST", b"/x", JSON, b"")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Taken:
    """Collects pieces; says stop at the ones in `stops`."""

    def __init__(self, *stops: bytes) -> None:
        self.pieces: list[bytes] = []
        self.stops = stops

    def __call__(self, piece: bytes) -> bool:
        self.pieces.append(piece)
        return piece in self.stops


async def test_takes_every_piece_of_every_framing(benches: Benches) -> None:
    heads = {
        chunked(b"one", b"two"): [b"one", b"two"],
        answer(b"whole"): [b"whole"],
        answer(b""): [],
    }
    for wire, pieces in heads.items():
        bench = await benches.start(always(wire))
        found, taken = await ask(bench), Taken()
        assert await found.each(taken) is False
        assert taken.pieces == pieces
        assert await found.each(taken) is False
        found.close()
        assert bench.pool.idle_connections == 1


async def test_pieces_come_one_by_one_without_waking_the_task(plain_benches: Benches) -> None:
    turn = asyncio.Event()

    async def script(call: Call) -> None:
        await call.send(chunked(b"1", end=b""))
        for piece in (b"2", b"3"):
            await turn.wait()
            turn.clear()
            await call.send(chunk(piece))
        await turn.wait()
        await call.send(b"0\r\n\r\n")

    bench = await plain_benches.start(script)
    found, taken = await ask(bench), Taken()
    reading = asyncio.ensure_future(found.each(taken))
    for count in (1, 2, 3):
        async with asyncio.timeout(5):
            while len(taken.pieces) < count:
                await asyncio.sleep(0.001)
        assert not reading.done()
        turn.set()
    assert await reading is False
    assert taken.pieces == [b"1", b"2", b"3"]
    found.close()
    assert bench.pool.idle_connections == 1


async def test_a_full_taker_gets_the_rest_in_order_later(benches: Benches) -> None:
    bench = await benches.start(always(chunked(b"1", b"2", b"3", b"4")))
    found, taken = await ask(bench), Taken(b"1", b"3")
    assert await found.each(taken) is True
    assert taken.pieces == [b"1"]
    assert await found.each(taken) is True
    assert await found.chunk() == b"4"
    assert await found.each(taken) is False
    assert taken.pieces == [b"1", b"2", b"3"]


async def test_a_taker_that_says_stop_in_the_middle_of_a_read(plain_benches: Benches) -> None:
    go = asyncio.Event()

    async def script(call: Call) -> None:
        await call.send(chunked(b"0", end=b""))
        await go.wait()
        await call.send(chunk(b"1") + chunk(b"2") + chunk(b"3") + b"0\r\n\r\n")

    bench = await plain_benches.start(script)
    found, taken = await ask(bench), Taken(b"1")
    reading = asyncio.ensure_future(found.each(taken))
    await asyncio.sleep(0.01)
    go.set()
    assert await reading is True
    assert taken.pieces == [b"0", b"1"]
    assert await found.each(taken) is False
    assert taken.pieces == [b"0", b"1", b"2", b"3"]


async def test_what_the_taker_raises_is_raised_and_nothing_more_is_taken(benches: Benches) -> None:
    go = asyncio.Event()
    seen: list[bytes] = []

    async def script(call: Call) -> None:
        await call.send(chunked(b"fine", end=b""))
        await go.wait()
        await call.send(chunk(b"bad") + chunk(b"after") + b"0\r\n\r\n")

    def take(piece: bytes) -> bool:
        seen.append(piece)
        if piece == b"bad":
            raise ValueError("no such piece")
        return False

    bench = await benches.start(script)
    found = await ask(bench)
    reading = asyncio.ensure_future(found.each(take))
    await asyncio.sleep(0.02)
    go.set()
    with pytest.raises(ValueError, match="no such piece"):
        await reading
    assert seen == [b"fine", b"bad"]
    found.close()


async def test_truncation_and_garbage_come_after_what_was_taken(benches: Benches) -> None:
    for ending, hang_up in ((b"5\r\nth", True), (b"zz\r\n", False)):
        bench = await benches.start(always(chunked(b"one", b"two", end=ending), hang_up=hang_up))
        found, taken = await ask(bench), Taken()
        with pytest.raises(UpstreamError):
            await found.each(taken)
        # of a read that breaks the coding nothing is taken, of one that only ends too early everything
        assert b"".join(taken.pieces) in ((b"onetwoth",) if hang_up else (b"", b"onetwo"))
        found.close()
        assert bench.pool.connections == 0


async def test_cancelling_closes_the_connection_and_takes_no_more(benches: Benches) -> None:
    go = asyncio.Event()

    async def script(call: Call) -> None:
        await call.send(chunked(b"one", end=b""))
        await go.wait()
        await call.send(chunk(b"two"))

    bench = await benches.start(script)
    found, taken = await ask(bench), Taken()
    reading = asyncio.ensure_future(found.each(taken))
    await asyncio.sleep(0.02)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    go.set()
    await asyncio.sleep(0.02)
    assert taken.pieces == [b"one"]
    found.close()
    assert bench.pool.connections == 0


@pytest.mark.slow
async def test_a_silent_engine_is_cut_while_pieces_keep_it_alive(plain_benches: Benches) -> None:
    async def script(call: Call) -> None:
        await call.send(chunked(b"0", end=b""))
        for _ in range(8):
            await asyncio.sleep(0.1)
            await call.send(chunk(b"tick"))
        await call.reader.read()

    bench = await plain_benches.start(script, GatewayLimits(upstream_idle_timeout_s=0.4))
    found, taken = await ask(bench), Taken()
    with pytest.raises(UpstreamError) as caught:
        await found.each(taken)
    assert caught.value.code == "engine_timeout"
    assert taken.pieces == [b"0"] + [b"tick"] * 8
    found.close()


async def test_no_deadline_runs_while_the_taker_is_full(plain_benches: Benches) -> None:
    async def script(call: Call) -> None:
        await call.send(chunked(b"0", b"full", end=b""))
        await asyncio.sleep(0.7)
        await call.send(chunk(b"1") + b"0\r\n\r\n")

    bench = await plain_benches.start(script, GatewayLimits(upstream_idle_timeout_s=0.4))
    found, taken = await ask(bench), Taken(b"full")
    assert await found.each(taken) is True
    await asyncio.sleep(0.8)
    assert await found.each(taken) is False
    assert taken.pieces == [b"0", b"full", b"1"]


async def test_a_full_taker_stops_the_reading(benches: Benches) -> None:
    sent_bytes = 0
    piece = chunk(b"x" * 0x4000)

    async def script(call: Call) -> None:
        nonlocal sent_bytes
        await call.send(chunked(b"stop", end=b""))
        for _ in range(2000):
            call.writer.write(piece)
            await call.writer.drain()
            sent_bytes += len(piece)
        call.writer.write(b"0\r\n\r\n")

    bench = await benches.start(script)
    found, taken = await ask(bench), Taken(b"stop")
    assert await found.each(taken) is True
    level = -1
    while level != sent_bytes:
        level = sent_bytes
        await asyncio.sleep(0.1)
    assert level < 2000 * len(piece)
    assert found._waiting_bytes < READ_AHEAD_BYTES + 512 * 1024
    assert await found.each(taken) is False
    assert sum(map(len, taken.pieces)) == 4 + 2000 * 0x4000
