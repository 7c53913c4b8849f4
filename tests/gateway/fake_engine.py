"""A scripted engine on loopback: speaks just enough HTTP/1.1, and misbehaves at any byte as told.

A fake because no real engine can be made to truncate, hang, reset or send garbage on demand.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any


class Exchange:
    """One request that the engine got, and the wire to answer it on."""

    def __init__(
        self,
        engine: FakeEngine,
        target: str,
        headers: dict[str, str],
        raw: bytes,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.engine = engine
        self.target = target
        self.headers = headers
        self.raw = raw
        self.writer = writer

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def whole(self, body: Any, status: int = 200, *headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [
            f"HTTP/1.1 {status} X",
            "content-type: application/json",
            f"content-length: {len(data)}",
            *headers,
        ]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    async def begin(self, status: int = 200, kind: str = "text/event-stream") -> None:
        await self.send(
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )

    async def piece(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, payload: Any) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload, separators=(",", ":")).encode()
        await self.piece(b"data: " + data + b"\n\n")

    async def finish(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def stream(self, events: list[Any]) -> None:
        await self.begin()
        for event in events:
            await self.event(event)
        await self.event(b"[DONE]")
        await self.finish()

    def reset(self) -> None:
        """A TCP reset, not a clean close."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def cut(self) -> None:
        self.writer.close()

    async def gone(self) -> None:
        """Returns when the gateway has closed this connection."""
        await self.engine.closed[self.writer].wait()


Script = Callable[[Exchange], Awaitable[None]]


class FakeEngine:
    """`script` answers each request; `exchanges` are those that came so far."""

    def __init__(self, script: Script | None = None, port: int = 0) -> None:
        self.script = script
        self.port = port
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self.working = 0
        self.idle = asyncio.Event()
        """Set while no request is being worked on."""
        self.closed: dict[asyncio.StreamWriter, asyncio.Event] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FakeEngine:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stops listening and cuts every connection."""
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.closed[writer] = asyncio.Event()
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass
        finally:
            self.closed[writer].set()
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(_pair(line) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        exchange = Exchange(self, head[0].split(" ")[1], headers, body, writer)
        self.exchanges.append(exchange)
        assert self.script is not None
        work = asyncio.ensure_future(self.script(exchange))
        gone = asyncio.ensure_future(reader.read(1))
        self.working += 1
        self.idle.clear()
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not work.done():
                return False  # the gateway hung up before the answer was complete
            await work
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            return not writer.is_closing()
        finally:
            self.working -= 1
            if not self.working:
                self.idle.set()
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name.lower(), value


def chunk(content: str | None = None, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chat chunk as a compliant engine sends it."""
    delta: dict[str, Any] = {}
    if content is not None:
        delta["content"] = content
    delta |= more.pop("delta", {})
    return {
        "id": "chatcmpl-e1",
        "object": "chat.completion.chunk",
        "created": 1763763000,
        "model": "nano",
        "system_fingerprint": "fp_e",
        "choices": [
            {"index": more.pop("index", 0), "delta": delta, "logprobs": None, "finish_reason": finish}
        ],
        "usage": None,
        **more,
    }


USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


def usage_chunk(**usage: Any) -> dict[str, Any]:
    return {**chunk(), "choices": [], "usage": usage or USAGE}


def whole(content: str | None = "Hello there", **message: Any) -> dict[str, Any]:
    """A whole chat completion as a compliant engine sends it."""
    usage = message.pop("usage", USAGE)
    return {
        "id": "chatcmpl-e1",
        "object": "chat.completion",
        "created": 1763763000,
        "model": "nano",
        "system_fingerprint": "fp_e",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None, **message},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": usage,
    }


HELLO = [
    chunk(delta={"role": "assistant", "content": ""}),
    chunk("Hel"),
    chunk("lo"),
    chunk(finish="stop"),
    usage_chunk(),
]
