"""Driving the protocols without sockets: every byte split is under the test's control."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from typing import Any

from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport import connection as states
from sextant.transport.client import Origin, Pool
from sextant.transport.connection import ServerConnection
from sextant.transport.exchange import Request, Responder
from sextant.transport.server import Server
from sextant.transport.upstream import UpstreamConnection


class MemoryTransport(asyncio.Transport):
    """Keeps what is written; delivers `connection_lost` when asked to close."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.eof_written = False
        self.reading = True
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 4711) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.eof_written
        if not self.closed:
            self.written += data

    def write_eof(self) -> None:
        self.eof_written = True

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


ANSWER = re.compile(rb"^HTTP/1\.1 ([0-9]{3}) [A-Z][A-Za-z -]+\r\n", re.MULTILINE)

Seen = tuple[str, str, tuple[tuple[bytes, bytes], ...], bytes]
"""Method, target, headers and body of a request."""


@dataclasses.dataclass
class Reading:
    """What a reader made of some bytes: the requests in order, then how it ended."""

    requests: list[Seen] = dataclasses.field(default_factory=list)
    refused: int | None = None
    """Status of our refusal; for the reference parsers 400 for any."""
    waiting: bool = False
    """A message has begun and is not complete."""


class Recorder:
    """A handler that notes each request and answers 200."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []

    async def __call__(self, request: Request, responder: Responder) -> None:
        target = f"{request.path}?{request.query}" if request.query else request.path
        self.requests.append((request.method, target, tuple(request.headers), request.body))
        responder.reply(200, (), b"ok\n")


class MemoryServer:
    """A server without a listener."""

    def __init__(self, limits: GatewayLimits = GatewayLimits()) -> None:  # noqa: B008
        self.recorder = Recorder()
        self.server = Server(self.recorder, limits, Registry())

    async def read(self, pieces: list[bytes]) -> Reading:
        """A fresh connection that receives `pieces`."""
        self.recorder.requests = []
        connection = ServerConnection(self.server)
        transport = MemoryTransport(connection)
        connection.connection_made(transport)
        for piece in pieces:
            if transport.closed:
                break
            if piece:
                connection.data_received(piece)
            while connection.state == states.BUSY:
                await asyncio.sleep(0)
        reading = Reading(list(self.recorder.requests))
        statuses = [int(status) for status in ANSWER.findall(bytes(transport.written)) if status != b"100"]
        assert statuses.count(200) == len(reading.requests)
        if statuses and statuses[-1] != 200:
            reading.refused = statuses[-1]
        reading.waiting = not transport.closed and reading.refused is None and connection.is_waiting()
        if not transport.closed:
            transport.close()
        while connection.state != states.CLOSED:
            await asyncio.sleep(0)
        return reading

    async def close(self) -> None:
        await self.server.close(0)


class MemoryUpstream:
    """A pool with one connection whose far end is the test."""

    def __init__(self, limits: GatewayLimits = GatewayLimits()) -> None:  # noqa: B008
        self.pool = Pool(limits, Registry())
        self.origin = Origin("http://engine:80")

    def connect(self) -> tuple[UpstreamConnection, MemoryTransport]:
        connection = UpstreamConnection(self.pool, self.origin, asyncio.get_running_loop())
        self.pool._loop = asyncio.get_running_loop()
        transport = MemoryTransport(connection)
        connection.connection_made(transport)
        self.pool._connections.add(connection)
        return connection, transport
