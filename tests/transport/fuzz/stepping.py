"""A loop without I/O or time, driven by hand: fast enough to try millions of inputs.

It offers what the transport's protocols ask of a loop (futures, tasks, time) and runs everything at once, in
order. The same targets also run on asyncio and uvloop with real sockets (`sockets.py`).
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from sextant.spec.snapshot import GatewayLimits
from sextant.transport.emission import StatusLines
from sextant.transport.exchange import Handler


class StepFuture:
    """Awaitable by a StepTask alone."""

    def __init__(self, loop: StepLoop) -> None:
        self._loop = loop
        self._done = False
        self._error: BaseException | None = None
        self.task: StepTask | None = None

    def done(self) -> bool:
        return self._done

    def set_result(self, value: None) -> None:
        self._finish(None)

    def set_exception(self, error: BaseException) -> None:
        self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        assert not self._done
        self._done = True
        self._error = error
        if self.task is not None:
            self._loop.ready.append(self.task.step)

    def __await__(self) -> Generator[StepFuture, None, None]:
        if not self._done:
            yield self
        if self._error is not None:
            raise self._error


class StepTask:
    """Runs a coroutine whenever what it waits for is done."""

    def __init__(self, loop: StepLoop, coroutine: Coroutine[Any, None, Any]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._cancelled = False
        self.ended = False
        self.result: Any = None
        self.error: BaseException | None = None
        loop.ready.append(self.step)

    def cancel(self) -> None:
        if not self.ended and not self._cancelled:
            self._cancelled = True
            self._loop.ready.append(self.step)

    def step(self) -> None:
        if self.ended:
            return
        try:
            if self._cancelled:
                self._cancelled = False
                waiting = self._coroutine.throw(asyncio.CancelledError())
            else:
                waiting = self._coroutine.send(None)
        except StopIteration as stop:
            self.ended, self.result = True, stop.value
        except asyncio.CancelledError as error:
            self.ended, self.error = True, error
        except Exception as error:
            self.ended, self.error = True, error
        else:
            waiting.task = self
            if waiting.done():
                self._loop.ready.append(self.step)


class StepLoop:
    """As much of an event loop as the protocols use."""

    def __init__(self) -> None:
        self.ready: collections.deque[Callable[[], None]] = collections.deque()

    def time(self) -> float:
        return 1000.0

    def create_future(self) -> StepFuture:
        return StepFuture(self)

    def create_task(self, coroutine: Coroutine[Any, None, Any]) -> StepTask:
        return StepTask(self, coroutine)

    def run(self) -> None:
        """Until nothing is left to do."""
        while self.ready:
            self.ready.popleft()()


class StepTransport:
    """Keeps what is written; a close is reported to the protocol when the loop runs."""

    def __init__(self, loop: StepLoop, protocol: Any) -> None:
        self.written = bytearray()
        self.closed = False
        self.eof_written = False
        self._loop = loop
        self._protocol = protocol

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        assert not self.eof_written, "written after the end of writing"
        if self.closed:
            raise RuntimeError("the handler is closed")  # as uvloop does
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        assert not self.eof_written
        self.eof_written = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.ready.append(lambda: self._protocol.connection_lost(None))

    abort = close


class StepServer:
    """What a ServerConnection asks of its server."""

    def __init__(self, handler: Handler, limits: GatewayLimits) -> None:
        self.handler = handler
        self.limits = limits
        self.loop = StepLoop()
        self.closing = False
        self.now = self.loop.time()
        self.status_lines = StatusLines()
        self.status_lines.set_time(0)
        self.held_bytes = 0

    def admit(self, connection: Any) -> int:
        return 0

    def forget(self, connection: Any) -> None:
        pass

    def count_refusal(self, reason: str) -> None:
        pass


class StepPool:
    """What an UpstreamConnection asks of its pool."""

    def __init__(self, limits: GatewayLimits) -> None:
        self.limits = limits
        self.pooled: list[Any] = []

    def lost(self, connection: Any) -> None:
        if connection in self.pooled:
            self.pooled.remove(connection)

    def release(self, connection: Any) -> None:
        self.pooled.append(connection)
