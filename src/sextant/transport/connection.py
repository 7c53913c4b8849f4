"""One client connection: bytes in, requests to the handler in order, answers out.

Flow 1 begins here. `ServerConnection` reads (strictly, by `heads.py` and `chunks.py`, then by llhttp) and
hands one request at a time to the handler, in a task that lives as long as the connection; `responder.py`
writes the answer. Deadlines are looked at by the server's sweep (`server.py`), never by timers of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from sextant.transport import heads
from sextant.transport.chunks import BadChunk, ChunkedBody
from sextant.transport.exchange import ClientGone, Request
from sextant.transport.lasthead import LastRequestHead
from sextant.transport.opinion import Disagreement, SecondOpinion
from sextant.transport.refusals import Refusal, error_body, new_request_id, own_headers
from sextant.transport.responder import Answer

if TYPE_CHECKING:
    from sextant.transport.server import Server

log = logging.getLogger(__name__)

PIPELINE_BYTES = 64 * 1024
"""Bytes of following requests kept while one is under way; with more, that one is the connection's last."""
CHUNK_OVERHEAD_BYTES = 16 * 1024
"""What the chunk framing of a request body may take beyond the bytes it carries."""
LINGER_S = 2.0
"""How long a refused client may go on sending, so that it can read the refusal, before it is cut off."""
LINGER_BYTES = 16 * 1024 * 1024
"""What is read and dropped from a client before it is cut off."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NEVER = -1
_TCP_INFO_BYTES, _TCP_INFO_ACKED = 128, slice(120, 128)
"""`struct tcp_info` as far as `tcpi_bytes_acked` (Linux 4.1), and where that stands in it: linux/tcp.h."""
FIRST_REQUEST_S = 0.5
"""While shutting down, how long who has just connected may take to begin a request."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


HEAD, BODY, BUSY, LINGER, CLOSED = range(5)
"""States of a connection: a request's head or body is awaited, a handler is at work, we have said our last,
it is gone. Plain numbers: the hot path compares them, and an enumeration costs ten times as much."""


class Admitted(enum.IntEnum):
    """What the server says to a new connection."""

    YES = 0
    REFUSED = 1
    CUT = 2


class ServerConnection(asyncio.Protocol):
    """The protocol object of one client connection."""

    __slots__ = (
        "_answer", "_body", "_buffer", "_certificate", "_chunks", "_deadline", "_deadline_reason",
        "_drain_waiter", "_dropped_bytes", "_head_begun", "_held_bytes", "_last_head", "_loop",
        "_opinion", "_overrun", "_peer", "_pending_head", "_remaining", "_request",
        "_requests_left", "_scanned", "_stall_at", "_stall_taken_bytes", "_task", "_transport",
        "_waiter", "_whole_deadline", "keep_alive", "method", "minor", "server", "state", "write",
        "writing_paused",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self.server = server
        self.state = HEAD
        self.method = ""
        self.minor = 1
        self.keep_alive = True
        self.writing_paused = False
        self._loop = server.loop
        self._transport: asyncio.Transport
        self.write: Callable[[bytes], None]
        """Bytes to the client, after everything written before."""
        self._last_head = LastRequestHead()
        self._opinion = SecondOpinion(requests=True)
        self._requests_left = server.limits.requests_per_connection
        self._peer = ""
        self._certificate: bytes | None = None
        # reading
        self._buffer = b""
        self._scanned = 0
        self._head_begun = False
        self._pending_head: heads.RequestHead | None = None
        self._body = bytearray()
        self._held_bytes = 0
        self._remaining = 0
        self._chunks: ChunkedBody | None = None
        self._overrun = False
        self._dropped_bytes = 0
        # deadlines, 0.0 for none
        self._deadline = 0.0
        self._deadline_reason = ""
        self._whole_deadline = 0.0
        # the request under way
        self._request: Request | None = None
        self._answer: Answer | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        # writing
        self._drain_waiter: asyncio.Future[None] | None = None
        self._stall_taken_bytes = _NEVER
        self._stall_at = 0.0

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._peer = str(peer[0])
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._certificate = tls.getpeercert(binary_form=True)
        else:
            sock = transport.get_extra_info("socket")
            if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        high = self.server.limits.write_buffer_bytes
        self._transport.set_write_buffer_limits(high=high, low=high // 4)
        self._deadline = self._loop.time() + self.server.limits.idle_timeout_s
        verdict = self.server.admit(self)
        if verdict == Admitted.REFUSED:
            self._refuse(Refusal("too_many_connections"))
        elif verdict == Admitted.CUT:
            self.cut()
        elif self.server.closing:
            self.retire()

    def data_received(self, data: bytes) -> None:
        try:
            if self.state == HEAD:
                if self._buffer:
                    data = self._buffer + data
                    self._buffer = b""
                self._read_head(data)
            elif self.state == BODY:
                self._read_body(data)
            elif self.state == BUSY:
                self._keep_for_later(data)
            elif self.state == LINGER:
                self._dropped_bytes += len(data)
                if self._dropped_bytes > LINGER_BYTES:
                    self._transport.abort()
        except Refusal as refusal:
            self._refuse(refusal)

    def eof_received(self) -> bool:
        if self.state == BUSY:
            self._client_left()
        elif self.is_waiting():
            self._refuse(Refusal("incomplete_request"), linger=False)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._client_gone()
        self.server.forget(self)
        self.state = CLOSED
        if self._waiter is not None and self._task is not None:
            self._task.cancel()
        self._buffer = b""
        self._drop_body()

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # the answer calls these

    def closing_line(self) -> bytes:
        """The Connection line of an answer that begins now."""
        if self.keep_alive and not self.server.closing and self._requests_left > 0:
            return b""
        self.keep_alive = False
        return b"\r\nconnection: close"

    async def drained(self) -> None:
        """Waits until the client has read enough. Raises ClientGone."""
        while self.writing_paused:
            if self.state == CLOSED:
                raise ClientGone
            self._drain_waiter = self._loop.create_future()
            await self._drain_waiter

    # the server calls these

    def sweep(self, now: float) -> None:
        """Looks at every deadline of this connection; called a few times a second."""
        if self._deadline and now >= self._deadline:
            self._expired()
        elif self._transport.get_write_buffer_size():
            self._watch_stall(now)
        else:
            self._stall_taken_bytes = _NEVER

    def is_waiting(self) -> bool:
        """Whether a request has begun to arrive and is not complete."""
        return self.state == BODY or (self.state == HEAD and bool(self._buffer))

    def retire(self) -> None:
        """Closes after the answer under way, or to the request that is arriving; now when it has had one and
        is idle. Who has just connected is about to ask, and is given a moment for it."""
        self.keep_alive = False
        if self.state != HEAD or self._buffer:
            return
        if self._requests_left < self.server.limits.requests_per_connection:
            self._close()
        else:
            self._deadline = min(self._deadline, self._loop.time() + FIRST_REQUEST_S)

    def cut(self) -> None:
        """Ends at once, whatever is under way."""
        self._client_gone()
        self._reset()

    # reading

    def _read_head(self, data: bytes) -> None:
        limits = self.server.limits
        start = self._scanned
        end = data.find(b"\r\n\r\n", start, limits.head_bytes) + 4
        if end < 4:
            self._keep_partial_head(data)
            return
        self._scanned = 0
        self._head_begun = False
        head = self._last_head.read(data, end, limits)
        length = head.length
        if length >= 0:
            if length > limits.body_bytes:
                raise Refusal("body_too_large")
            stop = end + length
            size = len(data)
            if size >= stop:
                try:
                    self._opinion.last(data if size == stop else memoryview(data)[:stop])
                except Disagreement:
                    raise Refusal("parsers_disagree") from None
                self._begin(head, data[end:stop])
                if size > stop:
                    self._keep_for_later(data[stop:])
                return
        self._begin_body(head, data, end)

    def _keep_partial_head(self, data: bytes) -> None:
        limits = self.server.limits
        if not self._head_begun:
            self._head_begun = True
            self._deadline = self._loop.time() + limits.head_timeout_s
            self._deadline_reason = "head_timeout"
        if len(data) >= limits.head_bytes:
            heads.check_target_length(data.partition(b"\r\n")[0], limits)
            raise Refusal("head_too_large")
        heads.check_partial(data, max(0, self._scanned - 1), limits)
        self._scanned = max(0, len(data) - 3)
        self._buffer = data

    def _begin_body(self, head: heads.RequestHead, data: bytes, end: int) -> None:
        """The head is complete and some of its body is still to come."""
        limits = self.server.limits
        try:
            self._opinion.more(memoryview(data)[:end])
        except Disagreement:
            raise Refusal("parsers_disagree") from None
        self.state = BODY
        self._pending_head = head
        now = self._loop.time()
        self._whole_deadline = now + limits.body_timeout_s
        self._deadline = now + limits.body_stall_timeout_s
        self._deadline_reason = "body_timeout"
        if head.length == heads.CHUNKED:
            self._chunks = ChunkedBody()
        self._remaining = head.length
        if len(data) > end:
            self._read_body(data[end:])
        if head.expects and self.state == BODY and len(data) == end:
            self.write(_CONTINUE)

    def _read_body(self, data: bytes) -> None:
        self._deadline = min(
            self._loop.time() + self.server.limits.body_stall_timeout_s, self._whole_deadline
        )
        if self._chunks is not None:
            stop = self._read_chunks(self._chunks, data)
        else:
            stop = self._remaining if self._remaining <= len(data) else -1
            self._body += data if stop in (-1, len(data)) else data[:stop]
            self._remaining -= len(data)
        self._hold(len(self._body))
        try:
            if stop < 0:
                self._opinion.more(data)
                return
            self._opinion.last(data if stop == len(data) else memoryview(data)[:stop])
        except Disagreement:
            raise Refusal("parsers_disagree") from None
        head, body = self._pending_head, bytes(self._body)
        self._pending_head = self._chunks = None
        self._body = bytearray()
        assert head is not None
        self._begin(head, body)
        if stop < len(data):
            self._keep_for_later(data[stop:])

    def _read_chunks(self, chunks: ChunkedBody, data: bytes) -> int:
        """Decodes into `_body`; the number of bytes used when the body has ended, else -1."""
        try:
            stop = chunks.feed(data)
        except BadChunk:
            raise Refusal("bad_chunk") from None
        if chunks.announced_bytes > self.server.limits.body_bytes:
            raise Refusal("body_too_large")
        if chunks.framing_bytes > CHUNK_OVERHEAD_BYTES + chunks.payload_bytes:
            raise Refusal("body_too_large")
        for piece in chunks.pieces:
            self._body += piece
        chunks.pieces.clear()
        return stop

    def _hold(self, size: int) -> None:
        """Counts this request's body among those held in memory, until it is answered. Raises Refusal."""
        server = self.server
        server.held_bytes += size - self._held_bytes
        self._held_bytes = size
        if server.held_bytes > server.limits.bodies_bytes:
            raise Refusal("bodies_too_large")

    def _drop_body(self) -> None:
        """Forgets a body, complete or not."""
        self._pending_head = self._chunks = None
        self._body = bytearray()
        if self._held_bytes:
            self.server.held_bytes -= self._held_bytes
            self._held_bytes = 0

    def _keep_for_later(self, data: bytes) -> None:
        """Bytes of following requests, which wait for the answer under way.

        Too many are dropped, and the connection ends after that answer: reading never pauses, because only by
        reading do we notice a client that leaves.
        """
        if not self._overrun:
            self._buffer += data
            if len(self._buffer) <= PIPELINE_BYTES:
                return
            self._overrun = True
            self.keep_alive = False
            self._buffer = b""
            self.server.count_refusal("pipeline_overrun")
        self._dropped_bytes += len(data)
        if self._dropped_bytes > LINGER_BYTES:
            self.cut()

    # the request under way

    def _begin(self, head: heads.RequestHead, body: bytes) -> None:
        self.state = BUSY
        self._deadline = 0.0
        self._requests_left -= 1
        self.keep_alive = head.keep_alive
        method, path, query, _, self.minor = head.line
        self.method = method
        self._request = Request(
            method, path, query, head.headers, body, self._peer, self._certificate, head.fields
        )
        self._answer = Answer(self)
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif self._task is None:
            self._task = self._loop.create_task(self._serve())

    async def _serve(self) -> None:
        """Answers the requests of this connection, one after the other."""
        handler = self.server.handler
        try:
            while self.state == BUSY:
                answer = cast(Answer, self._answer)
                try:
                    await handler(cast(Request, self._request), answer)
                except ClientGone:
                    pass
                except Exception as error:  # noqa: BLE001 - the process edge: logged, answered 500
                    self._handler_failed(answer, error)
                answer.detach()
                if not answer.ended:
                    self._unfinished(answer)
                self._request = self._answer = None
                if self._held_bytes:
                    self._drop_body()
                if self.writing_paused:
                    await self.drained()
                self._next()
                if self.state <= BODY:
                    self._waiter = self._loop.create_future()
                    await self._waiter
                    self._waiter = None
        except (asyncio.CancelledError, ClientGone):
            if self.state in (HEAD, BODY, BUSY):
                self.cut()

    def _handler_failed(self, answer: Answer, error: Exception) -> None:
        log.error("the handler failed on %s", self.method, exc_info=error)
        if not answer.started:
            self.keep_alive = False
            message = "The server failed to answer; the failure was logged."
            answer.reply(500, own_headers(), error_body(500, "internal_error", message))

    def _unfinished(self, answer: Answer) -> None:
        """The handler left its answer without an end: cut, so that the client sees it truncated."""
        if self.state != BUSY:
            return
        if answer.started:
            self._reset()
            return
        self.keep_alive = False
        message = "The server gave no answer to this request."
        late = Answer(self)
        late.reply(500, own_headers(), error_body(500, "internal_error", message))
        late.detach()

    def _next(self) -> None:
        """Turns to the bytes that came while the last request was under way."""
        if self.state != BUSY:
            return
        if self._overrun:
            self._linger()
            return
        if not self.keep_alive or self.server.closing:
            self._close()
            return
        self.state = HEAD
        self._deadline = self.server.now + self.server.limits.idle_timeout_s
        if self._buffer:
            data, self._buffer = self._buffer, b""
            try:
                self._read_head(data)
            except Refusal as refusal:
                self._refuse(refusal)

    # the end

    def _refuse(self, refusal: Refusal, *, linger: bool = True) -> None:
        """Answers by ourselves and closes: the place of a next request is unknown or unwanted."""
        self.server.count_refusal(refusal.reason)
        self._buffer = b""
        self._drop_body()
        body = refusal.body
        head = (
            b"%b\r\ncontent-type: application/json\r\nx-request-id: %b\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n"
        ) % (self.server.status_lines[refusal.status], new_request_id(), len(body))
        self.write(head + body)
        if not linger:
            self._close()
            return
        self._linger()

    def _linger(self) -> None:
        """Closes our side and drops what still comes for a while, so that the client can read our answer."""
        self.state = LINGER
        self._deadline = self._loop.time() + LINGER_S
        self._end_task()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _close(self) -> None:
        """Closes after what was sent has left; the stall watch cuts a client that does not read it."""
        self.state = LINGER
        self._deadline = 0.0
        self._end_task()
        self._transport.close()

    def _end_task(self) -> None:
        if self._waiter is not None and self._task is not None:
            self._task.cancel()

    def _client_left(self) -> None:
        """The client closed its side while an answer is awaited. TCP cannot tell a client that has only
        finished sending from one that is gone, so the request ends; the refusal tells the former why."""
        answer = self._answer
        if answer is not None and not answer.started:
            self._client_gone()
            self._refuse(Refusal("half_closed"), linger=False)
        elif answer is not None and not answer.ended:
            self._client_gone()
            if self.minor == 0:
                self._reset()
        else:
            self.keep_alive = False

    def _client_gone(self) -> None:
        """Stops the handler unless its answer is out already."""
        answer = self._answer
        if answer is not None:
            ended = answer.ended
            answer.detach()
            if not ended and self._task is not None:
                self.state = CLOSED
                self._task.cancel()
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(ClientGone())

    def _reset(self) -> None:
        """Cuts with a TCP reset: a client of a close-delimited answer must not take this for its end, and
        what the kernel still holds for a client that does not read is given back at once."""
        self.state = CLOSED
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def _expired(self) -> None:
        self._deadline = 0.0
        if self.state == LINGER:
            self._transport.abort()
        elif self._transport.is_closing():
            return
        elif self.is_waiting():
            self._refuse(Refusal(self._deadline_reason), linger=False)
        else:
            self._close()

    def _watch_stall(self, now: float) -> None:
        """Cuts a client that takes none of the bytes waiting for it."""
        taken_bytes = self._taken_bytes()
        if taken_bytes > self._stall_taken_bytes:
            self._stall_taken_bytes = taken_bytes
            self._stall_at = now + self.server.limits.write_stall_timeout_s
        elif now >= self._stall_at:
            self.server.count_refusal("write_stall")
            self.cut()

    def _taken_bytes(self) -> int:
        """Bytes that the client's kernel has acknowledged since the connection began."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return 0
        with contextlib.suppress(OSError):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            return int.from_bytes(info[_TCP_INFO_ACKED], sys.byteorder)
        return 0
