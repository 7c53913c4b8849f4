"""A short load on a live endpoint, as its callers see it: for `sextant plan --measure` and `--calibrate`.

A closed loop: so many callers, each asking one answer after the other, begun apart so that prompts of one
fall into answers of another. Tokens are what the endpoint's own usage says. `planner/local_speed.py` steps
the same loop through its model of the engine.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sextant.base.config import variable
from sextant.base.errors import UpstreamError
from sextant.planner.queueing import percentile
from sextant.spec.local_calibration import LocalPoint

if TYPE_CHECKING:
    import httpx2

DEADLINE_S = 300.0
WORDS = ("north ", "river ", "seven ", "stone ", "light ", "paper ", "green ", "table ")
KEY_VARIABLE = "SEXTANT_API_KEY"
SMALLEST_MS = 0.001
"""No time per token is shorter: text that came all at once was not written in no time."""
HELD_MOST = 2
"""llama.cpp's first token opens the answer without text; a larger difference is text that came together."""
PROBED_WORDS = (16, 112)
"""Two prompts that tell how many tokens a word is."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: `concurrency` callers, `rounds` answers each in one pass."""

    concurrency: int
    rounds: int
    input_tokens: int
    output_tokens: int


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One load as it was seen. Milliseconds are medians."""

    concurrency: int
    rounds: int
    input_tokens: int
    output_tokens: int
    ttft_ms: float
    tpot_ms: float
    output_tokens_per_s: float
    overlapping: int
    """Answers that were being written at the same time, at most."""
    held_tokens: int
    """Tokens that were written before the first text was seen."""

    @property
    def point(self) -> LocalPoint:
        """The same as a point to fit to."""
        return msgspec.convert(msgspec.to_builtins(self), _Point)


class _Point(LocalPoint, frozen=True, forbid_unknown_fields=False, kw_only=True):
    """Reads a point out of a measurement."""


class _Seen(msgspec.Struct, frozen=True):
    first_s: float
    last_s: float
    asked_s: float
    inputs: int
    outputs: int
    texts: int
    """Events with text in them."""

    @property
    def held(self) -> int:
        return min(HELD_MOST, max(0, self.outputs - self.texts))

    @property
    def each_ms(self) -> float:
        return (self.last_s - self.first_s) * 1000 / max(1, self.outputs - self.held - 1)


async def measured(url: str, loads: Sequence[Load], *, passes: int = 1) -> tuple[Measured, ...]:
    """What the endpoint does with those loads, one after the other, after two requests that learn how many
    tokens a word is. With several passes each load is asked that often, all others between, and its quickest
    pass counts. Raises UpstreamError when it cannot be measured."""
    import httpx2

    key = variable(KEY_VARIABLE)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    base = url.rstrip("/").removesuffix("/v1")
    limit = httpx2.Timeout(DEADLINE_S)
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=limit) as client:
        try:
            listed = (await client.get("/v1/models")).raise_for_status().json()
            caller = _Caller(client, listed["data"][0]["id"])
            await caller.learn()
            seen = [[await _answers(caller, load) for load in loads] for _ in range(passes)]
        except (httpx2.HTTPError, ValueError, KeyError, IndexError) as error:
            said = str(error).partition("\n")[0] or type(error).__name__
            raise UpstreamError(
                f"{url} cannot be measured: {said}; expected an OpenAI-compatible API that lists models and "
                f"streams chat completions, with its key in {KEY_VARIABLE}"
            ) from None
    return tuple(_summed(load, of_load) for load, of_load in zip(loads, zip(*seen, strict=True), strict=True))


class _Caller:
    """Asks one model, with prompts of a wanted number of tokens."""

    def __init__(self, client: httpx2.AsyncClient, model: str) -> None:
        self.client, self.model = client, model
        self.tokens_per_word, self.tokens_besides = 1.0, 0.0

    async def learn(self) -> None:
        """How many tokens a word is, and how many stand around the prompt."""
        few, many = [(await self._ask(words, 4)).inputs for words in PROBED_WORDS]
        self.tokens_per_word = max(0.1, (many - few) / (PROBED_WORDS[1] - PROBED_WORDS[0]))
        self.tokens_besides = few - self.tokens_per_word * PROBED_WORDS[0]

    async def ask(self, load: Load) -> _Seen:
        """One answer of that load."""
        words = round((load.input_tokens - self.tokens_besides) / self.tokens_per_word)
        return await self._ask(max(1, words), load.output_tokens)

    async def _ask(self, words: int, output_tokens: int) -> _Seen:
        # Chance first: no prompt is the beginning of another, so nothing comes out of a prefix cache.
        prompt = f"{secrets.token_hex(4)} " + "".join(itertools.islice(itertools.cycle(WORDS), words))
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": output_tokens,
            "ignore_eos": True,  # engines that know it answer at full length; others leave it unread
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
        }
        asked_s = time.perf_counter()
        pieces: list[tuple[float, bytes]] = []
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code >= 400:
                text = (await response.aread()).decode(errors="replace")
                raise ValueError(f"HTTP {response.status_code}: {text[:200]}")
            async for piece in response.aiter_bytes():
                pieces.append((time.perf_counter(), piece))
        return _read(asked_s, pieces)


def _read(asked_s: float, pieces: Sequence[tuple[float, bytes]]) -> _Seen:
    """First and last content of a stream. Decoded after its end, to take no time from the engine."""
    first_s = last_s = 0.0
    texts = 0
    usage: dict[str, Any] = {}
    rest = b""
    for at_s, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                continue
            event = msgspec.json.decode(line[6:])
            usage = event.get("usage") or usage
            delta = (event["choices"][0].get("delta") or {}) if event.get("choices") else {}
            if delta.get("content") or delta.get("reasoning_content"):
                last_s = at_s
                texts += 1
                first_s = first_s or at_s
    outputs = int(usage.get("completion_tokens", 0))
    if not first_s or not outputs:
        raise ValueError("a stream ended without content or without usage")
    return _Seen(first_s, last_s, asked_s, int(usage.get("prompt_tokens", 0)), outputs, texts)


async def _answers(caller: _Caller, load: Load) -> tuple[list[_Seen], float]:
    """Every answer of one load, and the seconds that all took."""
    alone = await caller.ask(load)
    apart_s = (alone.last_s - alone.asked_s) / load.concurrency

    async def one_after_another(number: int) -> list[_Seen]:
        await asyncio.sleep(number * apart_s)
        return [await caller.ask(load) for _ in range(load.rounds)]

    started_s = time.perf_counter()
    lists = await asyncio.gather(*(one_after_another(number) for number in range(load.concurrency)))
    return [one for each in lists for one in each], time.perf_counter() - started_s


def _summed(load: Load, passes: Sequence[tuple[list[_Seen], float]]) -> Measured:
    """Of the passes the quickest: other programs only ever make a load slower."""
    seen, took_s = min(passes, key=lambda one: one[1])
    return Measured(
        concurrency=load.concurrency,
        rounds=load.rounds,
        input_tokens=round(sum(one.inputs for one in seen) / len(seen)),
        output_tokens=round(sum(one.outputs for one in seen) / len(seen)),
        ttft_ms=percentile([(one.first_s - one.asked_s) * 1000 for one in seen], 0.5),
        tpot_ms=max(SMALLEST_MS, percentile([one.each_ms for one in seen], 0.5)),
        output_tokens_per_s=sum(one.outputs for one in seen) / took_s,
        overlapping=max(sum(a.first_s <= b.first_s < a.last_s for a in seen) for b in seen),
        held_tokens=round(percentile([one.held for one in seen], 0.5)),
    )
