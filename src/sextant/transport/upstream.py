"""One connection to an upstream (an engine), and the answer that comes over it.

Flow 1: `client.Pool` opens and keeps these; the gateway's streaming reads `Answer` piece by piece. An answer
object dies with its request, so nobody can read what a later request of another tenant receives.
"""

from __future__ import annotations

import array
import asyncio
import collections
import enum
import fcntl
import socket
import termios
from typing import TYPE_CHECKING, cast

from sextant.base.errors import UpstreamError
from sextant.transport.chunks import BadChunk, ChunkedBody
from sextant.transport.exchange import Header
from sextant.transport.heads import CHUNKED, UNTIL_CLOSE, BadHead, parse_response_head
from sextant.transport.opinion import Disagreement, SecondOpinion

if TYPE_CHECKING:
    from sextant.transport.client import Origin, Pool

READ_AHEAD_BYTES = 64 * 1024
"""Bytes of an answer that wait unread before reading from upstream pauses."""
ANSWER_HEAD_BYTES = 64 * 1024
INTERIM_ANSWERS = 8
"""1xx answers skipped before the final one."""

_unread = array.array("i", [0])
_NO_BODY = (204, 304)
_SWITCHING = 101


class Stale(Exception):
    """A pooled connection ended before the first byte of an answer: the request may be sent once more."""


class State(enum.IntEnum):
    IDLE = 0
    HEAD = 1
    BODY = 2
    DONE = 3
    CLOSED = 4


class UpstreamAnswer:
    """The UpstreamResponse of one request."""

    __slots__ = ("_connection", "_error", "_pieces", "_waiting_bytes", "ended", "headers", "status", "waiter")

    def __init__(self, connection: UpstreamConnection) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self.ended = False
        self.waiter: asyncio.Future[None] | None = None
        self._connection: UpstreamConnection | None = connection
        self._error: Exception | None = None
        self._pieces: collections.deque[bytes] = collections.deque()
        self._waiting_bytes = 0

    async def read(self, limit_bytes: int) -> bytes:
        pieces: list[bytes] = []
        total_bytes = 0
        while True:
            piece = await self.chunk()
            if piece is None:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            total_bytes += len(piece)
            if total_bytes > limit_bytes:
                self.close()
                raise UpstreamError(
                    f"the engine's answer is over {limit_bytes} bytes", code="engine_answer_too_large"
                )
            pieces.append(piece)

    async def chunk(self) -> bytes | None:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.ended:
                return None
            connection = self._connection
            if connection is None:
                raise UpstreamError("the answer was closed before it was read to its end")
            await connection.more(self)
        piece = self._pieces.popleft()
        self._waiting_bytes -= len(piece)
        if self._waiting_bytes <= READ_AHEAD_BYTES and self._connection is not None:
            self._connection.resume()
        return piece

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._pieces.clear()
        connection.finish(self.ended and self._error is None)

    # the connection calls these

    def push(self, piece: bytes) -> bool:
        """One more piece; True when enough of them wait."""
        self._pieces.append(piece)
        self._waiting_bytes += len(piece)
        return self._waiting_bytes > READ_AHEAD_BYTES

    def wake(self) -> None:
        """Something has changed: the head is there, a piece, the end."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """The answer cannot be completed; pieces already here are still handed out."""
        if self._error is None and not self.ended:
            self._error = error
        self.wake()

    def raise_error(self) -> None:
        """Raises what `fail` was told."""
        if self._error is not None:
            raise self._error


class UpstreamConnection(asyncio.Protocol):
    """The protocol object of one upstream connection."""

    __slots__ = (
        "_answer", "_buffer", "_chunks", "_fileno", "_head_only", "_interim", "_loop", "_opinion",
        "_paused", "_pool", "_remaining", "_reusable", "_reused", "_seen_answer", "_tls",
        "_transport", "deadline", "idle_since", "origin", "state",
    )  # fmt: skip

    def __init__(self, pool: Pool, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self.origin = origin
        self.state = State.IDLE
        self.deadline = 0.0
        self.idle_since = 0.0
        self._pool = pool
        self._loop = loop
        self._transport: asyncio.Transport
        self._opinion = SecondOpinion(requests=False)
        self._fileno = -1
        self._tls = False
        self._answer: UpstreamAnswer | None = None
        self._buffer = b""
        self._chunks: ChunkedBody | None = None
        self._remaining = 0
        self._interim = 0
        self._head_only = False
        self._paused = False
        self._reusable = True
        self._reused = False
        self._seen_answer = False

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._fileno = sock.fileno()
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = transport.get_extra_info("ssl_object") is not None
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            if self.state == State.HEAD:
                self._seen_answer = True
                if self._buffer:
                    data = self._buffer + data
                    self._buffer = b""
                self._read_head(data)
            elif self.state == State.BODY:
                self._read_body(data)
            else:
                self._surplus()
        except (BadHead, BadChunk, Disagreement) as error:
            self._fail(UpstreamError(f"the engine's answer breaks HTTP/1.1: {error}", code="engine_garbage"))

    def eof_received(self) -> bool:
        if self.state == State.BODY and self._remaining == UNTIL_CLOSE and self._chunks is None:
            self._reusable = False
            self._complete()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.lost(self)
        state, self.state = self.state, State.CLOSED
        self._reusable = False
        if state == State.HEAD and self._reused and not self._seen_answer:
            self._tell(Stale())
        elif state in (State.HEAD, State.BODY):
            self._tell(UpstreamError("the engine closed the connection before its answer was complete",
                                     code="engine_truncated"))  # fmt: skip

    # the pool calls these

    def begin(self, request: bytes, body: bytes, *, head_only: bool) -> UpstreamAnswer:
        """Sends one request; its answer's `waiter` is done when the head is there."""
        self.state = State.HEAD
        self._head_only = head_only
        self._seen_answer = False
        self._interim = 0
        answer = self._answer = UpstreamAnswer(self)
        answer.waiter = self._loop.create_future()
        self.deadline = self._loop.time() + self._pool.limits.upstream_first_byte_timeout_s
        self._transport.write(request)
        if body:
            self._transport.write(body)
        return answer

    def usable(self) -> bool:
        """Whether an idle connection can take a request: open, and no byte waits unread in the kernel.

        Such a byte would be read as the answer to the request sent next, perhaps another tenant's. (On a
        fresh TLS connection they are the server's session tickets.)
        """
        if self.state != State.IDLE or self._transport.is_closing():
            return False
        if self._fileno >= 0 and (self._reused or not self._tls):
            fcntl.ioctl(self._fileno, termios.FIONREAD, _unread)
            return _unread[0] == 0
        return True

    def expire(self) -> None:
        """The deadline has passed."""
        self.deadline = 0.0
        what = "no answer" if self.state == State.HEAD else "no further bytes"
        self._fail(UpstreamError(f"{what} from the engine in time", code="engine_timeout"))

    def abort(self) -> None:
        """Closes at once; an answer under way fails."""
        if self.state != State.CLOSED:
            self.state = State.CLOSED
            self._reusable = False
            self.deadline = 0.0
            self._tell(UpstreamError("the connection to the engine was closed", code="engine_closed"))
            self._pool.lost(self)
            self._transport.abort()

    # the answer calls these

    async def more(self, answer: UpstreamAnswer) -> None:
        """Waits until something changes for `answer`. Cancelling it closes the connection."""
        self.resume()
        answer.waiter = self._loop.create_future()
        self.deadline = self._loop.time() + self._pool.limits.upstream_idle_timeout_s
        try:
            await answer.waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self.deadline = 0.0

    def resume(self) -> None:
        """Reads on after a pause."""
        if self._paused and self.state == State.BODY:
            self._paused = False
            self._transport.resume_reading()

    def finish(self, clean: bool) -> None:
        """The answer is closed: pool this connection, or close it at once."""
        self._answer = None
        self.deadline = 0.0
        unsent_bytes = self._transport.get_write_buffer_size()
        if clean and self._reusable and self.state == State.DONE and not unsent_bytes:
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            self.state = State.IDLE
            self._reused = True
            self._pool.release(self)
        else:
            self.abort()

    # reading

    def _read_head(self, data: bytes) -> None:
        while True:
            end = data.find(b"\r\n\r\n", 0, ANSWER_HEAD_BYTES) + 4
            if end < 4:
                if len(data) >= ANSWER_HEAD_BYTES:
                    raise BadHead("head too large")
                self._buffer = data
                return
            head = parse_response_head(data, end)
            if head.status >= 200 or head.status == _SWITCHING:
                break
            self._interim += 1
            if self._interim > INTERIM_ANSWERS:
                raise BadHead("too many interim answers")
            self._opinion.last(memoryview(data)[:end])
            data = data[end:]
            if not data:
                return
        if head.status == _SWITCHING:
            raise BadHead("the engine switched protocols")
        length = 0 if self._head_only or head.status in _NO_BODY else head.length
        if length == UNTIL_CLOSE and self._tls:
            raise BadHead("no length, and over TLS its end cannot be told from truncation")
        answer = self._answer
        assert answer is not None
        answer.status = head.status
        answer.headers = head.headers
        if not head.keep_alive or self._head_only or length == UNTIL_CLOSE:
            self._reusable = False
        if length == 0 or (length > 0 and len(data) - end >= length):
            self._whole(data, end, length)
            return
        self._opinion.more(memoryview(data)[:end])
        self.state = State.BODY
        self._remaining = length
        self._chunks = ChunkedBody() if length == CHUNKED else None
        self.deadline = 0.0
        if len(data) > end:
            self._read_body(data[end:])
        answer.wake()

    def _whole(self, data: bytes, end: int, length: int) -> None:
        """The answer came complete with its head."""
        answer = self._answer
        assert answer is not None
        stop = end + length
        size = len(data)
        if not self._head_only:
            self._opinion.last(data if size == stop else memoryview(data)[:stop])
        if length:
            answer.push(data[end:stop])
        self._complete()
        if size > stop:
            self._surplus()

    def _read_body(self, data: bytes) -> None:
        answer = self._answer
        assert answer is not None
        size = len(data)
        full = False
        if self._chunks is not None:
            stop = self._chunks.feed(data)
            self._opinion_on(data, stop)
            pieces, self._chunks.pieces = self._chunks.pieces, []
            for piece in pieces:
                full = answer.push(piece)
        elif self._remaining == UNTIL_CLOSE:
            stop = -1
            self._opinion.more(data)
            full = answer.push(data)
        else:
            stop = self._remaining if self._remaining <= size else -1
            self._opinion_on(data, stop)
            self._remaining -= size
            full = answer.push(data if stop in (-1, size) else data[:stop])
        if stop >= 0:
            self._complete()
            if stop < size:
                self._surplus()
            return
        if full and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        answer.wake()

    def _opinion_on(self, data: bytes, stop: int) -> None:
        if stop < 0:
            self._opinion.more(data)
        else:
            self._opinion.last(data if stop == len(data) else memoryview(data)[:stop])

    def _complete(self) -> None:
        """The answer's last byte is here."""
        self.state = State.DONE
        self.deadline = 0.0
        self._chunks = None
        answer = self._answer
        if answer is not None:
            answer.ended = True
            answer.wake()

    def _surplus(self) -> None:
        """Bytes that belong to no answer we asked for: nobody gets them, and the connection ends."""
        self.abort()

    def _fail(self, error: Exception) -> None:
        self._reusable = False
        self._tell(error)
        self.abort()

    def _tell(self, error: Exception) -> None:
        answer = self._answer
        if answer is not None:
            answer.fail(error)
