"""The gateway's side of the ledger: against a real ledger where it can be, against a scripted one where the
moment matters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from ledger_under_test import TestDisk, row, serving, stored
from sextant.base.errors import LedgerUnavailable, Misconfigured, UpstreamError
from sextant.governance.ledger_client import DEFAULT_BOUNDS, LedgerBounds, LedgerClient
from sextant.spec.ledger_wire import (
    SCOPES_MAX,
    WIRE_VERSION,
    Ack,
    Ask,
    Batch,
    FrameBuffer,
    Hello,
    Refusal,
    Welcome,
    frame,
)
from sextant.spec.policy import Standing
from sextant.telemetry.table import Registry

EAGER = LedgerBounds(retry_min_s=0.005, retry_max_s=0.02)
"""Tries again soon, so that tests are short."""
IMPATIENT = msgspec.structs.replace(EAGER, settle_deadline_s=0.3)
"""Gives waiters up soon, for tests of just that."""


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "ledger.db", tmp_path / "run" / "ledger.sock"


@contextlib.asynccontextmanager
async def client_of(
    socket_path: Path, bounds: LedgerBounds = DEFAULT_BOUNDS, *, flush_s: float = 5.0
) -> AsyncIterator[LedgerClient]:
    client = LedgerClient(str(socket_path), Registry(), bounds)
    await client.start()
    try:
        yield client
    finally:
        await client.close(flush_s)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


class ScriptedLedger:
    """Accepts, greets, and then leaves every answer to the test."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self.batches: asyncio.Queue[Batch] = asyncio.Queue()
        self.asks: asyncio.Queue[Ask] = asyncio.Queue()
        self.connections = 0
        self.greets = True
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> ScriptedLedger:
        self._socket_path.parent.mkdir(mode=0o700, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._socket_path))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writer = writer
        frames = FrameBuffer()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for body in frames.feed(data):
                    message = msgspec.msgpack.decode(body, type=Hello | Batch | Ask)
                    if isinstance(message, Batch):
                        self.batches.put_nowait(message)
                    elif isinstance(message, Ask):
                        self.asks.put_nowait(message)
                    elif self.greets:
                        self.answer(Welcome(WIRE_VERSION))
        writer.close()

    def answer(self, message: Welcome | Ack | Refusal) -> None:
        self.answer_bytes(frame(msgspec.msgpack.encode(message)))

    def answer_bytes(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()

    async def next_ids(self) -> tuple[int, list[str]]:
        batch = await asyncio.wait_for(self.batches.get(), 10)
        return batch.seq, [usage.request_id for usage in batch.rows]


# the plain way


async def test_a_settled_row_is_in_the_file(paths: tuple[Path, Path]) -> None:
    with serving(*paths):
        async with client_of(paths[1]) as client:
            assert client.ready
            await client.submit(row("r1"))
            assert stored(paths[0]) == {"r1": msgspec.structs.astuple(row("r1"))}
            assert client.pending_rows == 0


async def test_rows_that_settle_in_one_turn_share_a_batch_and_the_rest_waits_for_its_acknowledgement(
    paths: tuple[Path, Path],
) -> None:
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1]) as client:
        first = [client.submit(row(f"a{number}")) for number in range(3)]
        assert await ledger.next_ids() == (1, ["a0", "a1", "a2"])
        later = [client.submit(row(f"b{number}")) for number in range(2)]
        await asyncio.sleep(0.02)
        assert ledger.batches.empty(), "one batch in flight"
        assert not any(future.done() for future in first + later)
        ledger.answer(Ack(1))
        assert await ledger.next_ids() == (2, ["b0", "b1"])
        await asyncio.gather(*first)
        assert not any(future.done() for future in later)
        ledger.answer(Ack(2))
        await asyncio.gather(*later)


async def test_a_batch_has_a_bound(paths: tuple[Path, Path]) -> None:
    bounds = LedgerBounds(batch_rows=2)
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1], bounds) as client:
        rows = [client.submit(row(f"r{number}")) for number in range(5)]
        for seq, ids in ((1, ["r0", "r1"]), (2, ["r2", "r3"]), (3, ["r4"])):
            assert await ledger.next_ids() == (seq, ids)
            ledger.answer(Ack(seq))
        await asyncio.gather(*rows)


async def test_the_queue_has_a_bound(paths: tuple[Path, Path]) -> None:
    bounds = LedgerBounds(pending_rows=3)
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1], bounds) as client:
        kept = [client.submit(row(f"r{number}")) for number in range(3)]
        assert not client.ready
        with pytest.raises(LedgerUnavailable, match="3 usage rows wait"):
            client.submit(row("one too many"))
        with pytest.raises(LedgerUnavailable):
            client.submit_soon(row("one too many"))
        seq, _ = await ledger.next_ids()
        ledger.answer(Ack(seq))
        await asyncio.gather(*kept)
        assert client.ready
        assert client.room_for(2)
        assert not client.room_for(3), "each open admission has a place"


async def test_two_workers_write_to_one_ledger(paths: tuple[Path, Path]) -> None:
    with serving(*paths):
        async with client_of(paths[1]) as one, client_of(paths[1]) as two:
            await asyncio.gather(
                *(one.submit(row(f"one-{number}")) for number in range(500)),
                *(two.submit(row(f"two-{number}")) for number in range(500)),
                *(client.submit(row("shared")) for client in (one, two)),
            )
    assert len(stored(paths[0])) == 1001


async def test_on_a_slow_disk_throughput_follows_the_number_of_waiters(paths: tuple[Path, Path]) -> None:
    with TestDisk() as disk, serving(*paths):
        async with client_of(paths[1]) as client:
            disk.sync_delay_s = 0.05
            before = disk.syncs
            await asyncio.gather(*(client.submit(row(f"r{number}")) for number in range(400)))
            assert disk.syncs - before <= 3
            disk.sync_delay_s = 0.0
    assert len(stored(paths[0])) == 400


# waiters that leave


async def test_waiters_that_were_cancelled_do_not_cost_the_others_their_acknowledgement(
    paths: tuple[Path, Path],
) -> None:
    with serving(*paths):
        async with client_of(paths[1]) as client:

            async def settle(number: int) -> str:
                await client.submit(row(f"r{number}"))
                return "released"

            tasks = [asyncio.ensure_future(settle(number)) for number in range(10)]
            await asyncio.sleep(0)
            for gone in (0, 4, 9):
                tasks[gone].cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(end) for end in ends].count(asyncio.CancelledError) == 3
            assert ends.count("released") == 7
    assert len(stored(paths[0])) == 10, "a row is owed whether or not someone waits for it"


async def test_a_waiter_whose_wake_up_fails_does_not_cost_the_others_their_acknowledgement(
    paths: tuple[Path, Path],
) -> None:
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1]) as client:
        futures = [client.submit(row(f"r{number}")) for number in range(3)]
        seq, _ = await ledger.next_ids()
        futures[0].cancel()
        futures[1].set_result(None)  # as if somebody had released it already
        ledger.answer(Ack(seq))
        await asyncio.wait_for(futures[2], 5)
        assert client.pending_rows == 0


async def test_rows_without_a_waiter_are_written_too(paths: tuple[Path, Path]) -> None:
    with serving(*paths):
        async with client_of(paths[1]) as client:
            client.submit_soon(row("r1"))
            await until(lambda: client.pending_rows == 0)
    assert set(stored(paths[0])) == {"r1"}


# standings


async def test_standings_come_with_the_acknowledgement_before_anybody_wakes(paths: tuple[Path, Path]) -> None:
    events: list[object] = []
    with serving(*paths):
        async with client_of(paths[1]) as client:
            client.on_standings = lambda standings: events.append({one.scope: one for one in standings})
            settled = client.submit(row("r1"), lambda: events.append("row"))
            settled.add_done_callback(lambda _: events.append("waiter"))
            await settled
            await asyncio.sleep(0)
            (standing,) = await client.standings(["tenant:default"])
    told = events[0]
    assert isinstance(told, dict)
    assert set(told) == {"tenant:default", "key:key_a"}
    assert events[1:3] == ["row", "waiter"]
    assert told["tenant:default"] == standing
    assert standing.day_tokens == standing.month_tokens == 120
    assert events[3] == {"tenant:default": standing}, "an answer is told too"


async def test_a_question_is_answered_while_a_batch_is_in_flight(paths: tuple[Path, Path]) -> None:
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1]) as client:
        waiter = client.submit(row("r1"))
        batch_seq, _ = await ledger.next_ids()
        asked = asyncio.ensure_future(client.standings(["tenant:a"]))
        ask = await asyncio.wait_for(ledger.asks.get(), 10)
        assert ask.scopes == ["tenant:a"]
        standing = Standing("tenant:a", 1, 20261122, 2, 202611, 3, 4)
        ledger.answer(Ack(ask.seq, [standing]))
        assert await asked == [standing]
        assert not waiter.done()
        ledger.answer(Ack(batch_seq))
        await waiter


async def test_a_refused_question_costs_the_batch_in_flight_nothing(paths: tuple[Path, Path]) -> None:
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1]) as client:
        waiter = client.submit(row("r1"))
        batch_seq, _ = await ledger.next_ids()
        asked = asyncio.ensure_future(client.standings(["tenant:a"]))
        ask = await asyncio.wait_for(ledger.asks.get(), 10)
        ledger.answer(Refusal(ask.seq, "the server is away", True))
        with pytest.raises(LedgerUnavailable, match="the server is away"):
            await asked
        assert client.ready
        ledger.answer(Ack(batch_seq))
        await waiter


async def test_a_question_ends_with_the_connection_and_after_its_deadline(paths: tuple[Path, Path]) -> None:
    bounds = msgspec.structs.replace(EAGER, ask_deadline_s=0.05, asks=2)
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1], bounds) as client:
        with pytest.raises(LedgerUnavailable, match=r"within 0\.05 s"):
            await client.standings(["tenant:a"])
        late = await asyncio.wait_for(ledger.asks.get(), 10)
        asked = asyncio.ensure_future(client.standings(["tenant:b"]))
        await asyncio.wait_for(ledger.asks.get(), 10)
        with pytest.raises(LedgerUnavailable, match="2 questions wait"):
            await client.standings(["tenant:c"])
        ledger.answer(Ack(late.seq, []))  # nobody waits for it any more: no offence
        ledger.hang_up()
        with pytest.raises(LedgerUnavailable, match=r"gone|within"):
            await asked
        await until(lambda: ledger.connections == 2 and client.connected)
        with pytest.raises(ValueError, match="at most"):
            await client.standings(["x"] * (SCOPES_MAX + 1))
    with pytest.raises(LedgerUnavailable, match="does not answer"):
        await client.standings(["tenant:a"])


async def test_a_batch_names_the_policy_that_admitted_it(paths: tuple[Path, Path]) -> None:
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1]) as client:
        client.policy_version = 7
        waiter = client.submit(row("r1"))
        batch = await asyncio.wait_for(ledger.batches.get(), 10)
        assert batch.policy_version == 7
        ledger.answer(Ack(batch.seq))
        await waiter


# a ledger that is away


async def test_no_ledger_at_start_is_not_ready_and_later_is(paths: tuple[Path, Path]) -> None:
    async with client_of(paths[1], IMPATIENT) as client:
        assert not client.ready
        assert not client.connected
        kept = client.submit(row("r1"))
        with pytest.raises(LedgerUnavailable, match="does not answer"):
            await kept
        with serving(*paths):
            await until(lambda: client.ready and client.pending_rows == 0)
            assert set(stored(paths[0])) == {"r1"}, "the row stayed queued although its waiter was told"


async def test_a_lost_connection_sends_what_was_in_flight_again_first(paths: tuple[Path, Path]) -> None:
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1], EAGER) as client:
        first = client.submit(row("r1"))
        assert await ledger.next_ids() == (1, ["r1"])
        second = client.submit(row("r2"))
        ledger.hang_up()
        await until(lambda: not client.connected)
        assert not client.ready
        seq, ids = await ledger.next_ids()
        assert ids == ["r1", "r2"]
        ledger.answer(Ack(seq))
        await asyncio.gather(first, second)
        assert ledger.connections == 2


async def test_a_ledger_that_stalls_turns_ready_off_and_its_acknowledgement_turns_it_on(
    paths: tuple[Path, Path],
) -> None:
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1], IMPATIENT) as client:
        waiter = client.submit(row("r1"))
        behind = client.submit(row("r2"))
        seq, _ = await ledger.next_ids()
        third = client.submit(row("r3"))
        for future in (waiter, behind, third):
            with pytest.raises(LedgerUnavailable, match="in time"):
                await future
        assert not client.ready
        ledger.answer(Ack(seq))
        assert (await ledger.next_ids())[1] == ["r3"]
        ledger.answer(Ack(seq + 1))
        await until(lambda: client.ready)
        assert client.pending_rows == 0


async def test_a_ledger_that_never_greets_is_left_and_tried_again(paths: tuple[Path, Path]) -> None:
    bounds = msgspec.structs.replace(EAGER, greeting_deadline_s=0.05)
    async with ScriptedLedger(paths[1]) as ledger:
        ledger.greets = False
        async with client_of(paths[1], bounds) as client:
            assert not client.connected
            await until(lambda: ledger.connections >= 2)
            ledger.greets = True
            await until(lambda: client.ready)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(b"\xc1"),
        frame(msgspec.msgpack.encode(Ack(99))),
        frame(msgspec.msgpack.encode(Refusal(99, "no such batch", True))),
        frame(msgspec.msgpack.encode(Welcome(WIRE_VERSION + 1))),
    ],
)
async def test_nonsense_from_the_ledger_releases_nobody_and_reconnects(
    paths: tuple[Path, Path], nonsense: bytes
) -> None:
    async with ScriptedLedger(paths[1]) as ledger, client_of(paths[1], EAGER) as client:
        waiter = client.submit(row("r1"))
        await ledger.next_ids()
        ledger.answer_bytes(nonsense)
        seq, ids = await ledger.next_ids()
        assert (ids, waiter.done(), ledger.connections) == (["r1"], False, 2)
        ledger.answer(Ack(seq))
        await waiter


async def test_a_connection_refused_for_good_says_why(
    paths: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedLedger(paths[1]) as ledger:
        ledger.greets = False
        async with client_of(paths[1].with_name("other"), EAGER, flush_s=0) as client:
            client._socket_path = str(paths[1])
            await until(lambda: ledger.connections > 0)
            ledger.answer(Refusal(0, "this ledger speaks version 2", False))
            await until(lambda: "speaks version 2" in caplog.text)


# a ledger that refuses


async def test_a_full_disk_keeps_the_rows_and_turns_ready_off_until_there_is_room(
    paths: tuple[Path, Path],
) -> None:
    with TestDisk() as disk, serving(*paths):
        async with client_of(paths[1], IMPATIENT) as client:
            disk.full = True
            waiter = client.submit(row("r1"))
            await until(lambda: "no space left" in client.trouble)
            assert not client.ready
            assert client.connected
            with pytest.raises(LedgerUnavailable, match="no space left"):
                await waiter
            client.submit_soon(row("r2"))
            disk.full = False
            await until(lambda: client.ready and client.pending_rows == 0)
    assert set(stored(paths[0])) == {"r1", "r2"}


async def test_one_impossible_row_is_found_and_given_up_and_all_others_are_kept(
    paths: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(*paths):
        async with client_of(paths[1]) as client:
            rows = [row(f"r{number}") for number in range(100)]
            rows[37] = row("impossible", output_tokens=2**63)
            ends = await asyncio.gather(*(client.submit(one) for one in rows), return_exceptions=True)
            assert isinstance(ends[37], Misconfigured)
            assert [end for end in ends if end is not None] == [ends[37]]
            assert client.ready
    assert len(stored(paths[0])) == 99
    assert "it is lost" in caplog.text


async def test_a_row_that_cannot_be_packed_fails_its_own_caller_alone(paths: tuple[Path, Path]) -> None:
    with serving(*paths):
        async with client_of(paths[1]) as client:
            other = client.submit(row("r1"))
            for odd in (row("r2", input_tokens=2**70), row("r3", model="\ud800")):
                with pytest.raises(UpstreamError, match="fits no ledger row"):
                    client.submit(odd)
            await other
    assert set(stored(paths[0])) == {"r1"}


# the end


async def test_close_waits_until_everything_is_durable(paths: tuple[Path, Path]) -> None:
    with TestDisk() as disk, serving(*paths):
        async with client_of(paths[1], LedgerBounds(batch_rows=10)) as client:
            disk.sync_delay_s = 0.01
            for number in range(50):
                client.submit_soon(row(f"r{number}"))
        disk.sync_delay_s = 0.0
        assert len(stored(paths[0])) == 50


async def test_close_without_a_ledger_says_how_many_rows_are_left(
    paths: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    client = LedgerClient(str(paths[1]), Registry(), EAGER)
    await client.start()
    waiter = client.submit(row("r1"))
    client.submit_soon(row("r2"))
    await client.close(flush_s=0.05)
    with pytest.raises(LedgerUnavailable):
        await waiter
    assert "closing with 2 usage rows" in caplog.text
    assert not client.ready


async def test_metrics_tell_rows_pending_rows_and_the_connection(paths: tuple[Path, Path]) -> None:
    registry = Registry()
    client = LedgerClient(str(paths[1]), registry, EAGER)
    await client.start()
    client.submit_soon(row("r1"))

    def sample(name: str) -> float | None:
        return registry.prometheus.get_sample_value(name)

    assert (sample("sextant_ledger_connected"), sample("sextant_ledger_pending_rows")) == (0, 1)
    with serving(*paths):
        await until(lambda: client.pending_rows == 0)
        assert sample("sextant_ledger_connected") == 1
        assert sample("sextant_ledger_rows_total") == 1
        assert sample("sextant_ledger_commit_seconds_count") == 1
        await client.close()
    assert sample("sextant_ledger_connected") == 0


async def test_nothing_is_left_of_a_closed_client(paths: tuple[Path, Path]) -> None:
    before = asyncio.all_tasks()
    async with client_of(paths[1], EAGER):
        pass
    assert asyncio.all_tasks() == before
