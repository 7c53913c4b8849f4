"""Each token leaves at once: the time between tokens at the client is the engine's."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time

import pytest
from fake_engine import Exchange, FakeEngine, chunk, usage_chunk
from gateway_stack import COMPLIANT, LLAMA, stack

from sextant.spec.snapshot import Quirks

TOKENS = 150
PERIOD_S = 0.01
ALLOWED_S = 0.0005


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("quirks", [COMPLIANT, LLAMA], ids=["relayed", "rewritten"])
async def test_the_median_time_between_tokens_is_within_half_a_millisecond(quirks: Quirks) -> None:
    sent_s: list[float] = []

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for number in range(TOKENS):
            await asyncio.sleep(PERIOD_S)
            sent_s.append(time.perf_counter())
            await exchange.event(chunk(str(number)))
        for event in (chunk(finish="stop"), usage_chunk(), b"[DONE]"):
            await exchange.event(event)
        await exchange.finish()

    got_s: list[float] = []
    async with stack(FakeEngine(script), quirks=quirks) as s, s.chat_stream() as response:
        async for piece in response.aiter_bytes():
            got_s += [time.perf_counter()] * piece.count(b'"content":"')
    assert len(got_s) == len(sent_s) == TOKENS
    gaps = [
        statistics.median(later - earlier for earlier, later in itertools.pairwise(times))
        for times in (sent_s, got_s)
    ]
    assert abs(gaps[1] - gaps[0]) < ALLOWED_S
