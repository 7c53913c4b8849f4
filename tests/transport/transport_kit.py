"""What the transport's tests share: a handler that does as it is told, services over it, and a raw client."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import uvicorn

from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport.asgi import AsgiTwin
from sextant.transport.emission import UnsafeHeader
from sextant.transport.exchange import Handler, Request, Responder
from sextant.transport.server import Server, serve

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 20.0
TEXT = ((b"content-type", b"text/plain"),)
FLOOD_PIECE_BYTES = 16 * 1024


@dataclasses.dataclass
class Certificate:
    cert_file: Path
    key_file: Path

    def server_context(self, client_ca: Certificate | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.cert_file, self.key_file)
        if client_ca is not None:
            context.load_verify_locations(client_ca.cert_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self, own: Certificate | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.cert_file))
        if own is not None:
            context.load_cert_chain(own.cert_file, own.key_file)
        return context


class Cook:
    """A handler that does what the path says, and remembers what happened to it."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()
        self.flooded_bytes = 0
        self.late: Responder | None = None

    async def __call__(self, request: Request, responder: Responder) -> None:
        self.requests.append(request)
        name, _, argument = request.path.strip("/").partition("/")
        action = getattr(self, "do_" + name.replace("-", "_"), None)
        if action is None:
            responder.reply(404, TEXT, b"no such thing")
            return
        await action(request, responder, argument)

    async def do_echo(self, request: Request, responder: Responder, _: str) -> None:
        seen = {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
            "body": request.body.decode("latin-1"),
            "peer": request.peer,
        }
        responder.reply(200, ((b"content-type", b"application/json"),), json.dumps(seen).encode())

    async def do_big(self, request: Request, responder: Responder, size: str) -> None:
        responder.reply(200, TEXT, b"x" * int(size))

    async def do_empty(self, request: Request, responder: Responder, _: str) -> None:
        responder.reply(204, (), b"")

    async def do_stream(self, request: Request, responder: Responder, count: str) -> None:
        responder.start(200, TEXT)
        for number in range(int(count)):
            responder.write(b"piece %d\n" % number)
            responder.write(b"")
            await responder.drain()
        responder.end(b"last")

    async def do_hang(self, request: Request, responder: Responder, how: str) -> None:
        if how == "streaming":
            responder.start(200, TEXT)
            responder.write(b"first")
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if how == "streaming":
            responder.end(b"done")
        else:
            responder.reply(200, TEXT, b"done")

    async def do_flood(self, request: Request, responder: Responder, _: str) -> None:
        self.started.set()
        responder.start(200, TEXT)
        try:
            while True:
                responder.write(b"f" * FLOOD_PIECE_BYTES)
                self.flooded_bytes += FLOOD_PIECE_BYTES
                await responder.drain()
                await asyncio.sleep(0)
        finally:
            self.cancelled.set()

    async def do_fail(self, request: Request, responder: Responder, how: str) -> None:
        if how == "late":
            responder.start(200, TEXT)
            responder.write(b"first")
            await asyncio.sleep(0.05)
        raise ZeroDivisionError("on purpose")

    async def do_forget(self, request: Request, responder: Responder, how: str) -> None:
        if how == "late":
            responder.start(200, TEXT)
            responder.write(b"first")

    async def do_keep(self, request: Request, responder: Responder, _: str) -> None:
        self.late = responder
        responder.reply(200, TEXT, b"kept")

    async def do_late(self, request: Request, responder: Responder, _: str) -> None:
        """Uses the responder of an earlier request on the same connection."""
        assert self.late is not None
        self.late.write(b"INJECTED")
        with contextlib.suppress(RuntimeError):
            self.late.reply(200, TEXT, b"INJECTED")
        responder.reply(200, TEXT, b"clean")

    async def do_unsafe(self, request: Request, responder: Responder, _: str) -> None:
        refused = 0
        for headers in UNSAFE_HEADERS:
            for act in (lambda h: responder.reply(200, h, b"x"), lambda h: responder.start(200, h)):
                try:
                    act(headers)
                except UnsafeHeader:
                    refused += 1
        for status in (100, 101, 199, 600, 0):
            try:
                responder.reply(status, (), b"")
            except UnsafeHeader:
                refused += 1
        responder.reply(200, TEXT, str(refused).encode())


UNSAFE_HEADERS: list[list[tuple[bytes, bytes]]] = [
    [(b"x-a", b"a\r\nset-cookie: b")],
    [(b"x-a", b"a\nset-cookie: b")],
    [(b"x-a", b"a\rset-cookie: b")],
    [(b"x-a", b"a\0b")],
    [(b"x-a", b"\r\n")],
    [(b"x-a", b"a\r\n\r\nHTTP/1.1 200 OK\r\n")],
    [(b"x-a\r\nx-b", b"a")],
    [(b"x a", b"a")],
    [(b"x-a:", b"a")],
    [(b"", b"a")],
    [(b"x-\xe9", b"a")],
    [(b"content-length", b"5")],
    [(b"Content-Length", b"5")],
    [(b"transfer-encoding", b"chunked")],
    [(b"Transfer-Encoding", b"chunked")],
    [(b"connection", b"close")],
    [(b"date", b"today")],
    [(b"upgrade", b"h2c")],
]


class ServiceMaker:
    """Starts services of one kind and stops them all."""

    def __init__(self, kind: str, certificate: Certificate) -> None:
        self.kind = kind
        self.certificate = certificate
        self.registry = Registry()
        self._closers: list[Callable[[], Any]] = []
        self._wires: list[Wire] = []

    async def start(self, handler: Handler, limits: GatewayLimits = GatewayLimits()) -> Service:  # noqa: B008
        if self.kind == "twin":
            return await self._start_twin(handler, limits)
        context = self.certificate.server_context() if self.kind == "tls" else None
        server = await serve(
            handler, host="127.0.0.1", port=0, limits=limits, registry=self.registry, ssl_context=context
        )
        self._closers.append(lambda: server.close(0))
        client_context = self.certificate.client_context() if self.kind == "tls" else None
        return Service(server.port, client_context, server, self._wires)

    async def _start_twin(self, handler: Handler, limits: GatewayLimits) -> Service:
        config = uvicorn.Config(
            AsgiTwin(handler, limits), port=0, lifespan="on", http="httptools", log_config=None, ws="none",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        task = asyncio.ensure_future(server._serve([listening]))
        while not server.started:
            await asyncio.sleep(0.005)

        async def close() -> None:
            server.should_exit = True
            await task
            listening.close()

        self._closers.append(close)
        return Service(listening.getsockname()[1], None, None, self._wires)

    def rejected(self, reason: str) -> float:
        """How often our own server counted a refusal."""
        labels = {"reason": reason}
        value = self.registry.prometheus.get_sample_value("sextant_transport_rejected_requests_total", labels)
        return value or 0.0

    async def close(self) -> None:
        for wire in self._wires:
            # Debian 12's Python 3.11.2 raises when a TLS transport has ended already.
            with contextlib.suppress(AttributeError):
                wire.writer.transport.abort()
        for closer in reversed(self._closers):
            await closer()


@dataclasses.dataclass
class Service:
    port: int
    client_context: ssl.SSLContext | None
    server: Server | None
    wires: list[Wire]

    async def connect(self) -> Wire:
        wire = await Wire.open(self.port, self.client_context)
        self.wires.append(wire)
        return wire

    async def ask(self, data: bytes) -> Reply:
        """One connection, one request, one answer."""
        wire = await self.connect()
        try:
            wire.send(data)
            return await wire.answer(head=data.startswith(b"HEAD"))
        finally:
            await wire.close()


@dataclasses.dataclass
class Reply:
    """An answer as h11, a strict client, reads it."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True
    interim: tuple[int, ...] = ()

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A client that writes any bytes and reads answers strictly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._left = b""

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext | None = None) -> Wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        return cls(reader, writer)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, head: bool = False) -> Reply:
        """The next answer. Bytes after it are kept for the next call."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._answer(head)

    async def _answer(self, head: bool) -> Reply:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="HEAD" if head else "GET", target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        reply = Reply(0, {}, b"", complete=False)
        if self._left:
            parser.receive_data(self._left)
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                try:
                    data = await self.reader.read(65536)
                except (ConnectionError, ssl.SSLError):
                    return reply
                try:
                    parser.receive_data(data)
                except h11.RemoteProtocolError:
                    return reply
                if not data and not reply.status:
                    return reply
                if not data:
                    try:
                        event = parser.next_event()
                    except h11.RemoteProtocolError:
                        return reply
                else:
                    continue
            if isinstance(event, h11.InformationalResponse):
                reply.interim += (event.status_code,)
            elif isinstance(event, h11.Response):
                reply.status = event.status_code
                names = [name for name, _ in event.headers]
                assert len(set(names)) == len(names), names
                reply.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                reply.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reply.complete = True
                self._left = parser.trailing_data[0]
                return reply
            elif isinstance(event, h11.ConnectionClosed):
                return reply

    async def rest(self) -> bytes:
        """Everything until the other side closes."""
        async with asyncio.timeout(PATIENCE_S):
            parts = [self._left]
            self._left = b""
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while data := await self.reader.read(65536):
                    parts.append(data)
            return b"".join(parts)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Leaves with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def get(path: str, *extra: str, body: bytes = b"", method: str = "GET") -> bytes:
    """A valid request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *extra]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def soon(condition: Callable[[], bool], patience_s: float = 5.0) -> None:
    """Waits until `condition` holds; fails after `patience_s`."""
    deadline = asyncio.get_running_loop().time() + patience_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)
