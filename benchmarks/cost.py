"""What one request costs in bytecodes and C calls, by function: `python -m benchmarks.cost [--stream]`.

Times move by a factor of two on a machine that others use; these counts do not. The real handler, governor,
ledger client, pool and both protocols run in this process, before an upstream and a ledger that answer at
once; nothing here says what the kernel and the event loop add. A tool for finding: it has no goals.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop

from benchmarks import payload, product
from sextant.gateway.app import build_handler
from sextant.governance.governor import LocalGovernor
from sextant.governance.ledger_client import LedgerClient
from sextant.spec.ledger_wire import Ack, Batch, FrameBuffer, Hello, Welcome, frame
from sextant.spec.snapshot import GatewayLimits, GatewaySettings, PolicySnapshot, RouteTable
from sextant.telemetry.table import Registry
from sextant.transport.client import Pool
from sextant.transport.server import serve

WARM_UP_ROUNDS = 3
CONNECTIONS = 32
STREAM_TOKENS = 200
TOP = 45

Place = tuple[str, int, str]


class Counter:
    """Counts bytecodes and C calls by the Python function in which they happen."""

    def __init__(self) -> None:
        self.bytecodes: collections.Counter[Place] = collections.Counter()
        self.c_calls: collections.Counter[Place] = collections.Counter()

    def __enter__(self) -> Counter:
        sys.settrace(self._trace)
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        sys.setprofile(None)

    def _trace(self, frame_: types.FrameType, event: str, _: Any) -> Any:
        frame_.f_trace_opcodes = True
        frame_.f_trace_lines = False
        if event == "opcode":
            self.bytecodes[place_of(frame_)] += 1
        return self._trace

    def _profile(self, frame_: types.FrameType, event: str, _: Any) -> None:
        if event == "c_call":
            self.c_calls[place_of(frame_)] += 1


def place_of(frame_: types.FrameType) -> Place:
    code = frame_.f_code
    return code.co_filename, code.co_firstlineno, code.co_name


class Peer(asyncio.Protocol):
    """One end of a connection that is no part of what is counted."""

    def __init__(self, take: Callable[[asyncio.Transport, bytes], None]) -> None:
        self._take = take

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._take(self.transport, data)


def engine(stream: bool) -> Callable[[asyncio.Transport, bytes], None]:
    """Answers each request at once: one whole completion, or a stream whose chunks leave one by one."""
    body = payload.answer().encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    pieces = [head + body] if not stream else stream_pieces()

    def answer(transport: asyncio.Transport, _: bytes) -> None:
        send_next(transport, 0)

    def send_next(transport: asyncio.Transport, index: int) -> None:
        transport.write(pieces[index])
        if index + 1 < len(pieces):
            asyncio.get_running_loop().call_later(0.0005, send_next, transport, index + 1)

    return answer


def stream_pieces() -> list[bytes]:
    """The chunks of one stream as `load/source.c` sends them."""
    base = {"id": "x", "object": "chat.completion.chunk", "created": 1790000000, "model": payload.MODEL}
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    def event(choices: list[Any], **more: Any) -> bytes:
        data = b"data: %b\n\n" % json.dumps({**base, "choices": choices, **more}).encode()
        return b"%x\r\n%b\r\n" % (len(data), data)

    pieces = [
        event([{"index": 0, "delta": {"content": f"t{n}"}, "logprobs": None, "finish_reason": None}])
        for n in range(STREAM_TOKENS)
    ]
    pieces[0] = head + pieces[0]
    usage = {"prompt_tokens": 150, "completion_tokens": STREAM_TOKENS, "total_tokens": 150 + STREAM_TOKENS}
    ends = [
        event([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]),
        event([], usage=usage),
    ]
    done = b"data: [DONE]\n\n"
    pieces.append(b"".join(ends) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done))
    return pieces


def ledger() -> Callable[[asyncio.Transport, bytes], None]:
    """Acknowledges every batch at once."""
    frames = FrameBuffer()
    decode = msgspec.msgpack.Decoder(Hello | Batch).decode
    encode = msgspec.msgpack.Encoder().encode

    def take(transport: asyncio.Transport, data: bytes) -> None:
        for body in frames.feed(data):
            message = decode(body)
            said = Welcome(message.version) if isinstance(message, Hello) else Ack(message.seq)
            transport.write(frame(encode(said)))

    return take


async def run(stream: bool, socket_path: str) -> Counter:
    """Serves `CONNECTIONS` requests at once a few times, then once more under the counter."""
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(lambda: Peer(engine(stream)), "127.0.0.1", 0)
    books = await loop.create_unix_server(lambda: Peer(ledger()), socket_path)
    registry, limits = Registry(), GatewayLimits()
    client = LedgerClient(socket_path, registry)
    await client.start()
    governor = LocalGovernor(msgspec.convert(product.policy(), PolicySnapshot), client, registry)
    settings = GatewaySettings("127.0.0.1", 0, "", "", socket_path, access_log=False)
    pool = Pool(limits, registry)
    app = build_handler(settings, governor, pool, registry)
    app.swap_routes(msgspec.convert(product.routes(upstream.sockets[0].getsockname()[1]), RouteTable))
    server = await serve(app, host="127.0.0.1", port=0, limits=limits, registry=registry)
    ended = asyncio.Semaphore(0)

    def take(_: asyncio.Transport, data: bytes) -> None:
        if not stream or data.endswith(b"0\r\n\r\n"):
            ended.release()

    peers = [
        (await loop.create_connection(lambda: Peer(take), "127.0.0.1", server.port))[1]
        for _ in range(CONNECTIONS)
    ]
    body = payload.body(stream=stream, max_tokens=STREAM_TOKENS)
    request = payload.http_request(body, {"authorization": f"Bearer {product.KEY}"})

    async def round_() -> None:
        for peer in peers:
            peer.transport.write(request)
        for _ in peers:
            await ended.acquire()

    for _ in range(WARM_UP_ROUNDS):
        await round_()
    with Counter() as counter:
        await round_()
    for peer in peers:
        peer.transport.close()
    await server.close(1.0)
    app.close()
    pool.close()
    await client.close()
    upstream.close()
    books.close()
    return counter


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--stream", action="store_true", help="a stream of 200 chunks instead of a whole answer"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sextant-cost-") as folder:
        counter = uvloop.run(run(options.stream, str(Path(folder) / "ledger.sock")))
    bytecodes = {
        place: count / CONNECTIONS for place, count in counter.bytecodes.items() if place[0] != __file__
    }
    c_calls = {place: count / CONNECTIONS for place, count in counter.c_calls.items() if place[0] != __file__}
    for place, count in sorted(bytecodes.items(), key=lambda item: -item[1])[:TOP]:
        name = f"{'/'.join(Path(place[0]).parts[-2:])}:{place[1]} {place[2]}"
        print(f"{count:>9.0f} bytecodes {c_calls.get(place, 0.0):>7.1f} C calls  {name}")
    figures = {
        "bytecodes_per_request": round(sum(bytecodes.values())),
        "c_calls_per_request": round(sum(c_calls.values())),
    }
    print(json.dumps({"benchmark": "cost-stream" if options.stream else "cost", "figures": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
