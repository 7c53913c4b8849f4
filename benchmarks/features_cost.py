"""What each part of governance costs the gateway: `python -m benchmarks.features_cost [--column NAME]`.

The real handler, governor, limiter, ledger client, pool and both protocols in this process, before an
upstream and a ledger that answer at once, with the policy of a column of the feature table. Without
`--column`: CPU microseconds and bytecodes a request for each column that needs no other server; the least of
many short rounds, so that another program on the core hardly shows. With it: bytecodes and C calls by
function. What the ledger process itself spends is not in it. A tool for finding: it has no goals.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from benchmarks import payload, product
from benchmarks.cost import TOP, Counter, Peer, engine
from benchmarks.features import COLUMNS
from benchmarks.governed import NEVER_REACHED, Column, policy, routes
from benchmarks.ungoverned import Ungoverned
from sextant.gateway.app import build_handler
from sextant.governance.governor import LocalGovernor
from sextant.governance.ledger_client import LedgerClient
from sextant.spec.ledger_wire import Ack, Ask, Batch, FrameBuffer, Hello, Welcome, frame
from sextant.spec.policy import Standing
from sextant.spec.snapshot import GatewayLimits, GatewaySettings
from sextant.store.books import scopes_of
from sextant.telemetry.table import Registry
from sextant.transport.client import Pool
from sextant.transport.server import serve

CONNECTIONS = 32
WARM_UP_ROUNDS = 20
ROUNDS = 400


def ledger() -> Callable[[asyncio.Transport, bytes], None]:
    """Acknowledges every batch at once, with a standing for each scope that it touches."""
    frames = FrameBuffer()
    decode = msgspec.msgpack.Decoder(Hello | Batch | Ask).decode
    encode = msgspec.msgpack.Encoder().encode
    version = 0

    def take(transport: asyncio.Transport, data: bytes) -> None:
        nonlocal version
        for body in frames.feed(data):
            message = decode(body)
            if isinstance(message, Hello):
                transport.write(frame(encode(Welcome(message.version))))
                continue
            version += 1
            scopes = scopes_of(message.rows) if isinstance(message, Batch) else message.scopes
            known = [Standing(scope, version, 0, 0, 0, 0, 0, NEVER_REACHED * 1000) for scope in scopes]
            transport.write(frame(encode(Ack(message.seq, known))))

    return take


async def run(column: Column, socket_path: str) -> tuple[float, Counter]:
    """(least CPU microseconds a request, bytecodes and C calls of `CONNECTIONS` requests). The upstream, the
    clients and the ledger's stub are in the time, the same for all columns; they are not in the counts."""
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(lambda: Peer(engine(False)), "127.0.0.1", 0)
    books = await loop.create_unix_server(lambda: Peer(ledger()), socket_path)
    registry, limits = Registry(), GatewayLimits()
    client = LedgerClient(socket_path, registry)
    await client.start()
    governor = (LocalGovernor if column.governed else Ungoverned)(policy(column), client, registry)
    settings = GatewaySettings("127.0.0.1", 0, "", "", socket_path, access_log=False)
    pool = Pool(limits, registry)
    app = build_handler(settings, governor, pool, registry)
    app.swap_routes(routes(upstream.sockets[0].getsockname()[1]))
    server = await serve(app, host="127.0.0.1", port=0, limits=limits, registry=registry)
    ended = asyncio.Semaphore(0)

    async def connected() -> Peer:
        made = await loop.create_connection(
            lambda: Peer(lambda *_: ended.release()), "127.0.0.1", server.port
        )
        return made[1]

    peers = [await connected() for _ in range(CONNECTIONS)]
    body = payload.body(stream=False, personal=True)
    request = payload.http_request(body, {"authorization": f"Bearer {product.KEY}"})

    async def round_() -> None:
        for peer in peers:
            peer.transport.write(request)
        for _ in peers:
            await ended.acquire()

    for _ in range(WARM_UP_ROUNDS):
        await round_()
    gc.disable()
    least_s = float("inf")
    for _ in range(ROUNDS):
        begun_s = time.thread_time()
        await round_()
        least_s = min(least_s, time.thread_time() - begun_s)
    with Counter() as counter:
        await round_()
    gc.enable()
    for peer in peers:
        peer.transport.close()
    await server.close(1.0)
    app.close()
    pool.close()
    await client.close()
    upstream.close()
    books.close()
    return least_s / CONNECTIONS * 1e6, counter


def measured(column: Column) -> tuple[float, Counter]:
    with tempfile.TemporaryDirectory(prefix="sextant-cost-") as folder:
        return uvloop.run(run(column, str(Path(folder) / "ledger.sock")))


def told(counter: Counter) -> dict[str, tuple[float, float]]:
    """(bytecodes, C calls) of a request by function of the product, the most first."""
    found = {}
    for place, count in counter.bytecodes.most_common():
        if f"{Path('/benchmarks')}/" not in place[0]:
            name = f"{'/'.join(Path(place[0]).parts[-2:])}:{place[1]} {place[2]}"
            found[name] = (count / CONNECTIONS, counter.c_calls.get(place, 0) / CONNECTIONS)
    return found


def main() -> int:
    columns = {column.name: column for column in COLUMNS if not (column.redis or column.postgres)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--column", choices=tuple(columns), help="show where its bytecodes are")
    options = parser.parse_args()
    figures = {}
    for name in [options.column] if options.column else columns:
        cost_us, counter = measured(columns[name])
        places = told(counter)
        bytecodes = sum(count for count, _ in places.values())
        if options.column:
            for place, (count, calls) in list(places.items())[:TOP]:
                print(f"{count:>9.0f} bytecodes {calls:>7.1f} C calls  {place}")
        print(f"{name:<12} {cost_us:>7.1f} us {bytecodes:>7.0f} bytecodes a request")
        figures |= {f"{name}_us": round(cost_us, 1), f"{name}_bytecodes": round(bytecodes)}
    print(json.dumps({"benchmark": "features-cost", "figures": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
