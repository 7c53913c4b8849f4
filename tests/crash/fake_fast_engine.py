"""An engine that answers at once, in a process of its own, so that it can be killed like any other.

    python -m crash.fake_fast_engine PORT

A fake because the load must come from the gateway's side: the bundled model answers some dozens a second,
this some hundreds. Its usage follows from the request, so that a row with another's numbers would be seen.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from gateway.fake_engine import Exchange, FakeEngine, chunk, usage_chunk, whole
from sextant.base.lifeline import PARENT_VARIABLE, bind_to_parent

MODEL = "fast"
PAUSE_S = 0.004
_chance = random.Random(7)


async def answer(exchange: Exchange) -> None:
    """A whole answer or a stream, as asked; at times slow enough that a kill falls into the middle of it."""
    exchange.engine.exchanges.clear()
    if exchange.target.endswith("/models"):
        await exchange.whole({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        return
    body = exchange.body
    usage = {"prompt_tokens": len(exchange.raw), "completion_tokens": int(body.get("max_tokens") or 4)}
    usage["total_tokens"] = sum(usage.values())
    if not body.get("stream"):
        await asyncio.sleep(_chance.random() * PAUSE_S)
        await exchange.whole(whole(usage=usage))
        return
    await exchange.begin()
    await exchange.event(chunk(delta={"role": "assistant", "content": ""}))
    for _ in range(_chance.randrange(1, 8)):
        await exchange.event(chunk("word "))
        await asyncio.sleep(_chance.random() * PAUSE_S)
    await exchange.event(chunk(finish="stop"))
    await exchange.event(usage_chunk(**usage))
    await exchange.event(b"[DONE]")
    await exchange.finish()


async def serve(port: int) -> None:
    async with FakeEngine(answer, port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    parent = os.environ.get(PARENT_VARIABLE)
    bind_to_parent(int(parent) if parent else None)
    asyncio.run(serve(int(sys.argv[1])))
