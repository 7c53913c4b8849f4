"""The gateway's side of the ledger: hands over settled rows, tells each waiter when its row is durable.

Flow 1 (serve), at its end: `governor.settle -> here -> unix socket -> store.ledger`. Runs in the gateway's
event loop, without a thread and without a batching timer: one batch is in flight, and what has gathered
meanwhile leaves on its acknowledgement. A ledger that is away or whose disk is full loses nothing: rows stay
queued up to a bound, `ready` turns false so that no new request is admitted, and they are sent again by id.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import msgspec

from sextant.base.errors import LedgerUnavailable, Misconfigured, UpstreamError
from sextant.spec.ledger_wire import (
    SCOPES_MAX,
    WIRE_VERSION,
    Ack,
    Ask,
    BadFrame,
    FrameBuffer,
    Hello,
    PackedBatch,
    Refusal,
    Welcome,
    frame,
)
from sextant.spec.policy import Standing
from sextant.spec.usage import UsageRow
from sextant.telemetry.table import Registry

_log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Welcome | Ack | Refusal).decode


class LedgerBounds(msgspec.Struct, frozen=True):
    """Every bound of the client, each with its name."""

    pending_rows: int = 65_536
    """Rows kept here, in flight and waiting; a further one is refused, and no request is admitted that could
    not be settled."""
    batch_rows: int = 1024
    """Rows in one batch, hence in one transaction."""
    settle_deadline_s: float = 5.0
    """Longest a waiter waits; then it gets LedgerUnavailable, while its row stays queued."""
    retry_min_s: float = 0.02
    retry_max_s: float = 1.0
    """Pause before connecting or sending again; doubles in between."""
    greeting_deadline_s: float = 5.0
    asks: int = 4096
    """Questions for standings under way; a further one is refused."""
    ask_deadline_s: float = 2.0


DEFAULT_BOUNDS = LedgerBounds()
_SWEEP_S = 0.25


class _Entry(msgspec.Struct, gc=False):
    """One row on its way: packed bytes, who waits for it (nobody, when the client has left), since when, and
    what ends with it."""

    packed: msgspec.Raw
    future: asyncio.Future[None] | None
    since_s: float
    then: Callable[[], None] | None = None

    def fail(self, error: Exception) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class LedgerClient:
    """One per gateway worker. `start` it inside the event loop, `close` it there too."""

    def __init__(self, socket_path: str, registry: Registry, bounds: LedgerBounds = DEFAULT_BOUNDS) -> None:
        self.policy_version = 0
        """Of the policy by which requests are admitted now; goes with each batch. The governor sets it."""
        self.on_standings: Callable[[Sequence[Standing]], None] = _nobody_listens
        """Called with the standings of each acknowledgement before the waiters of its rows wake. Must not
        raise."""
        self._socket_path = socket_path
        self._bounds = bounds
        self._asks: dict[int, asyncio.Future[list[Standing]]] = {}
        self._waiting: list[_Entry] = []
        self._flying: list[_Entry] = []
        self._seq = 0
        self._flying_seq = 0
        self._sent_s = 0.0
        self._batch_rows = bounds.batch_rows
        self._pending_rows_max = bounds.pending_rows
        self._settle_deadline_s = bounds.settle_deadline_s
        self._link: _Link | None = None
        self._dispatch_due = False
        self._sweeping = False
        self._retry: asyncio.TimerHandle | None = None
        self._retry_s = bounds.retry_min_s
        self._refused_because = ""
        self._closing = False
        self._drained: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._rows_metric = registry["sextant_ledger_rows"]
        self._commit_metric = registry["sextant_ledger_commit_seconds"]
        self._connected_metric = registry["sextant_ledger_connected"]
        registry["sextant_ledger_pending_rows"].set_function(lambda: self.pending_rows)

    async def start(self) -> None:
        """Connects, or goes on trying in the background when the ledger is not there yet."""
        self._loop = asyncio.get_running_loop()
        first_try = self._loop.create_future()
        self._keeper = self._loop.create_task(self._keep_connected(first_try), name="ledger-client")
        await first_try

    async def close(self, flush_s: float = 5.0) -> None:
        """Waits until all rows are durable, at most `flush_s`, then disconnects. Rows that are left then had
        waiters or clients that never got their last event; their number is logged."""
        self._closing = True
        if self.pending_rows and self._keeper is not None:
            self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=flush_s)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._retry is not None:
            self._retry.cancel()
        if self._link is not None:
            self._link.abort()
            self._link = None
            self._end_asks("the gateway is stopping")
        self._connected_metric.set(0)
        left = [*self._flying, *self._waiting]
        if left:
            _log.error("closing with %d usage rows that the ledger has not acknowledged", len(left))
        for entry in left:
            entry.fail(LedgerUnavailable("the gateway is stopping and the usage ledger does not answer"))

    @property
    def connected(self) -> bool:
        """True while the ledger answers."""
        return self._link is not None

    @property
    def pending_rows(self) -> int:
        return len(self._waiting) + len(self._flying)

    @property
    def ready(self) -> bool:
        """True while a new request's row can be expected to become durable in time."""
        return self.room_for(0)

    def room_for(self, open_admissions: int) -> bool:
        """Whether one more request may be admitted while each of `open_admissions` still owes a row."""
        if self._link is None or self._refused_because or self._closing:
            return False
        flying = self._flying
        if flying and self._loop.time() - flying[0].since_s > self._settle_deadline_s:
            return False
        return len(self._waiting) + len(flying) + open_admissions < self._pending_rows_max

    @property
    def trouble(self) -> str:
        """Why `ready` is false, in words for an operator."""
        if self._link is None:
            return "the ledger process does not answer"
        if self._refused_because:
            return f"the ledger cannot write: {self._refused_because}"
        return f"{self.pending_rows} usage rows wait for the ledger"

    def submit(self, row: UsageRow, then: Callable[[], None] | None = None) -> asyncio.Future[None]:
        """Queues `row`; the future ends when it is durable, or with LedgerUnavailable after the settle
        deadline (the row stays queued). `then` is called once, when the row is durable or refused for good,
        however long that takes; it must not raise. Raises LedgerUnavailable when the queue is full."""
        future = self._loop.create_future()
        self._enqueue(row, future, then)
        return future

    def submit_soon(self, row: UsageRow, then: Callable[[], None] | None = None) -> None:
        """The same where nobody waits. Raises LedgerUnavailable when the queue is full."""
        self._enqueue(row, None, then)

    def _enqueue(
        self, row: UsageRow, future: asyncio.Future[None] | None, then: Callable[[], None] | None
    ) -> None:
        waiting = self._waiting
        if len(waiting) + len(self._flying) >= self._pending_rows_max:
            raise LedgerUnavailable(
                f"{self.pending_rows} usage rows wait, the most that are kept; look after the ledger process",
                retry_after_s=self._bounds.retry_max_s,
            )
        try:
            packed = msgspec.Raw(_encode(row))
        except (OverflowError, UnicodeEncodeError) as error:
            raise UpstreamError(
                f"the usage of request {row.request_id} fits no ledger row: {error}"
            ) from error
        waiting.append(_Entry(packed, future, self._loop.time(), then))
        if not self._dispatch_due and not self._flying:
            # One turn of the loop later, so that all requests that settle in this turn share a batch.
            self._dispatch_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Sends the next batch, unless one is in flight, nothing waits, or the ledger is away."""
        self._dispatch_due = False
        link, waiting = self._link, self._waiting
        if link is None or self._flying or not waiting or self._retry is not None:
            self._sweep_later()
            return
        if len(waiting) <= self._batch_rows:
            self._flying, self._waiting = waiting, []
        else:
            self._flying, self._waiting = waiting[: self._batch_rows], waiting[self._batch_rows :]
        self._seq += 1
        self._flying_seq = self._seq
        self._sent_s = time.perf_counter()
        rows = [entry.packed for entry in self._flying]
        link.send(PackedBatch(self._seq, self.policy_version, rows))
        self._sweep_later()

    async def standings(self, scopes: Sequence[str]) -> list[Standing]:
        """What the books say now of each of `scopes`, also of those they do not know (version 0). Raises
        LedgerUnavailable when the ledger does not answer in time, or too many ask already."""
        link = self._link
        if link is None or len(self._asks) >= self._bounds.asks:
            why = self.trouble if link is None else f"{len(self._asks)} questions wait for the ledger"
            raise LedgerUnavailable(f"the balance and the counts are not known: {why}", retry_after_s=1.0)
        if len(scopes) > SCOPES_MAX:
            raise ValueError(f"{len(scopes)} scopes in one question; ask for at most {SCOPES_MAX}")
        self._seq += 1
        seq = self._seq
        answer = self._asks[seq] = self._loop.create_future()
        link.send(Ask(seq, list(scopes)))
        try:
            async with asyncio.timeout(self._bounds.ask_deadline_s):
                standings: list[Standing] = await answer
        except TimeoutError:
            raise LedgerUnavailable(
                f"the ledger did not tell a balance and counts within {self._bounds.ask_deadline_s:g} s",
                retry_after_s=1.0,
            ) from None
        return standings

    def on_ack(self, ack: Ack) -> None:
        """The batch in flight is durable: the next one leaves, the standings are told, then each waiter is
        released on its own. Or a question is answered."""
        if (answer := self._asks.pop(ack.seq, None)) is not None:
            self.on_standings(ack.standings)
            if not answer.done():
                answer.set_result(ack.standings)
            return
        if ack.seq != self._flying_seq or not self._flying:
            raise BadFrame(f"acknowledgement of batch {ack.seq} while {self._flying_seq} was in flight")
        durable, self._flying = self._flying, []
        self._refused_because = ""
        self._retry_s = self._bounds.retry_min_s
        if self._batch_rows < self._bounds.batch_rows:
            self._batch_rows = min(2 * self._batch_rows, self._bounds.batch_rows)
        self._commit_metric.observe(time.perf_counter() - self._sent_s)
        self._rows_metric.inc(len(durable))
        if self._waiting:
            self._dispatch()
        self.on_standings(ack.standings)
        for entry in durable:
            if entry.then is not None:
                entry.then()
            if entry.future is not None:
                # Each waiter in a step of its own: one that was cancelled costs the others nothing.
                try:  # noqa: SIM105 - contextlib.suppress costs more than all else here
                    entry.future.set_result(None)
                except asyncio.InvalidStateError:
                    pass
        self._note_drained()

    def on_refusal(self, refusal: Refusal) -> None:
        """The batch in flight was not kept. Retryable: the same again after a pause. Otherwise one of its
        rows is at fault: ever smaller batches find it, and it alone is given up."""
        if (answer := self._asks.pop(refusal.seq, None)) is not None:
            if not answer.done():
                answer.set_exception(LedgerUnavailable(f"the ledger cannot tell: {refusal.reason}"))
            return
        if refusal.seq != self._flying_seq or not self._flying:
            raise BadFrame(f"refused: {refusal.reason}")
        refused, self._flying = self._flying, []
        if refusal.retryable:
            self._refused_because = refusal.reason
            self._waiting = refused + self._waiting
            self._retry = self._loop.call_later(self._pause_s(), self._try_again)
            _log.error("the ledger refuses rows for now: %s", refusal.reason)
            return
        self._refused_because = ""
        if len(refused) == 1:
            _log.error("the ledger refuses a usage row for good, it is lost: %s", refusal.reason)
            refused[0].fail(Misconfigured(f"the usage ledger refuses this row: {refusal.reason}"))
            if refused[0].then is not None:
                refused[0].then()
        else:
            self._batch_rows = len(refused) // 2
            self._waiting = refused + self._waiting
        self._dispatch()
        self._note_drained()

    def on_lost(self, link: _Link, why: str) -> None:
        """The connection is gone; what was in flight is sent again on the next one."""
        if self._link is not link:
            return
        self._link = None
        self._connected_metric.set(0)
        self._waiting = self._flying + self._waiting
        self._flying = []
        self._end_asks(f"the ledger is gone: {why}")
        if not self._closing:
            _log.warning("lost the ledger (%s) with %d rows pending", why, self.pending_rows)
        self._sweep_later()

    def _end_asks(self, why: str) -> None:
        asks, self._asks = self._asks, {}
        for answer in asks.values():
            if not answer.done():
                answer.set_exception(LedgerUnavailable(why, retry_after_s=1.0))

    def _note_drained(self) -> None:
        if self._drained is not None and not self.pending_rows:
            _set_once(self._drained)

    def _try_again(self) -> None:
        self._retry = None
        self._dispatch()

    def _pause_s(self) -> float:
        """The next pause, jittered so that workers do not return in step."""
        pause_s = self._retry_s
        self._retry_s = min(2 * pause_s, self._bounds.retry_max_s)
        return pause_s * random.uniform(0.5, 1.0)

    async def _keep_connected(self, first_try: asyncio.Future[None]) -> None:
        """Connects, waits until the connection is gone, and so on until cancelled."""
        last_trouble = ""
        while True:
            try:
                link = await self._connect()
                self._link, last_trouble = link, ""
                self._connected_metric.set(1)
                self._dispatch()
                _set_once(first_try)
                await asyncio.wait([link.lost])
            except (OSError, BadFrame) as error:
                trouble = str(error) or type(error).__name__
                if trouble != last_trouble:
                    _log.warning("no ledger at %s: %s", self._socket_path, trouble)
                last_trouble = trouble
            _set_once(first_try)
            await asyncio.sleep(self._pause_s())

    async def _connect(self) -> _Link:
        """A greeted connection. Raises OSError (TimeoutError too) or BadFrame."""
        transport, link = await self._loop.create_unix_connection(lambda: _Link(self), self._socket_path)
        try:
            link.send(Hello(WIRE_VERSION, f"gateway-{os.getpid()}"))
            async with asyncio.timeout(self._bounds.greeting_deadline_s):
                await link.welcomed
        except BaseException:
            transport.abort()
            raise
        return link

    def _sweep_later(self) -> None:
        if not self._sweeping and (self._flying or self._waiting):
            self._sweeping = True
            self._loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Tells waiters past their deadline; runs a few times a second, only while rows are pending."""
        self._sweeping = False
        overdue_s = self._loop.time() - self._settle_deadline_s
        if not self._fail_overdue(self._flying, overdue_s):
            self._fail_overdue(self._waiting, overdue_s)
        if not self._closing:
            self._sweep_later()

    def _fail_overdue(self, entries: Iterable[_Entry], overdue_s: float) -> bool:
        """Fails the waiters of entries older than `overdue_s`, oldest first; True if it met a younger one."""
        for entry in entries:
            if entry.since_s > overdue_s:
                return True
            entry.fail(LedgerUnavailable(f"usage could not be made durable in time: {self.trouble}"))
        return False


def _nobody_listens(_standings: Sequence[Standing]) -> None:
    """Where limits do not depend on the books."""


class _Link(asyncio.Protocol):
    """One connection to the ledger process."""

    def __init__(self, client: LedgerClient) -> None:
        self._client = client
        self._frames = FrameBuffer()
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, message: Hello | PackedBatch | Ask) -> None:
        """At most one batch is unsent here: the next waits for its acknowledgement."""
        if self._transport is not None:
            self._transport.write(frame(_encode(message)))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._on_message(_decode(body))
        except (BadFrame, msgspec.DecodeError) as error:
            self._end(error)
            self.abort()

    def _on_message(self, message: Welcome | Ack | Refusal) -> None:
        if isinstance(message, Ack):
            self._client.on_ack(message)
        elif isinstance(message, Refusal):
            self._client.on_refusal(message)
        elif message.version != WIRE_VERSION:
            raise BadFrame(
                f"the ledger speaks protocol version {message.version}, this gateway {WIRE_VERSION}"
            )
        else:
            _set_once(self.welcomed)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionResetError("closed by the ledger"))

    def _end(self, error: Exception) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(error)
        self._client.on_lost(self, str(error))
        _set_once(self.lost)


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
