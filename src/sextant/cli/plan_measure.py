"""`sextant plan --measure URL`: a short load on a live endpoint, held against the prediction.

The load is the plan's own: its prompt and answer lengths, at a few requests in flight. What is compared is
the median, as the endpoint's clients see it; the prediction is that of the option that the plan shows.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import msgspec

from sextant.base.config import variable
from sextant.base.errors import UpstreamError
from sextant.cli.output import print_table
from sextant.planner.queueing import percentile

if TYPE_CHECKING:
    import httpx2

    from sextant.cli.plan_answer import Answer
    from sextant.planner.options import Tools

CONCURRENCIES = (1, 4)
REQUESTS_EACH = 3
"""Requests that each of those in flight sends, one after another."""
DEADLINE_S = 300.0
PROMPT_TOKENS_MOST = 4096
"""A measurement stays short: longer prompts are cut to this."""
OUTPUT_TOKENS_MOST = 128
WORDS = ("north ", "river ", "seven ", "stone ", "light ", "paper ", "green ", "table ")
KEY_VARIABLE = "SEXTANT_API_KEY"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One level of concurrency. Milliseconds are medians."""

    concurrency: int
    input_tokens: int
    output_tokens: int
    ttft_ms: float
    tpot_ms: float
    output_tokens_per_s: float


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement beside its prediction; no prediction where the plan has no option."""

    measured: Measured
    ttft_ms: float | None
    tpot_ms: float | None
    within_band: bool | None
    """Whether the time per token lies in the stated band."""


class _Seen(msgspec.Struct, frozen=True):
    first_ms: float
    each_ms: float
    inputs: int
    outputs: int


def compare(answer: Answer, tools: Tools, url: str) -> tuple[Compared, ...]:
    """Puts the load on `url` and predicts the same. Raises UpstreamError when it does not answer."""
    load = answer.plan.question.workload
    shape = (min(load.input_tokens, PROMPT_TOKENS_MOST), min(load.output_tokens, OUTPUT_TOKENS_MOST))
    return tuple(_beside(answer, tools, one) for one in asyncio.run(measured(url, shape)))


async def measured(url: str, shape: tuple[int, int]) -> list[Measured]:
    """What the endpoint does with prompts and answers of those tokens. Raises UpstreamError."""
    import httpx2

    key = variable(KEY_VARIABLE)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    base = url.rstrip("/").removesuffix("/v1")
    limit = httpx2.Timeout(DEADLINE_S)
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=limit) as client:
        try:
            listed = (await client.get("/v1/models")).raise_for_status().json()
            model = listed["data"][0]["id"]
            await _ask(client, model, shape, "0 ")  # the first one loads and compiles
            return [await _level(client, model, shape, width) for width in CONCURRENCIES]
        except (httpx2.HTTPError, ValueError, KeyError, IndexError) as error:
            said = str(error).partition("\n")[0] or type(error).__name__
            raise UpstreamError(
                f"{url} cannot be measured: {said}; expected an "
                f"OpenAI-compatible API that lists models and streams chat completions, "
                f"with its key in {KEY_VARIABLE}"
            ) from None


async def _level(
    client: httpx2.AsyncClient, model: str, shape: tuple[int, int], concurrency: int
) -> Measured:
    serial = itertools.count(1)

    async def one_after_another() -> list[_Seen]:
        return [
            # A number first: no prompt is the beginning of another, so nothing comes out of a prefix cache.
            await _ask(client, model, shape, f"{concurrency} {next(serial)} ")
            for _ in range(REQUESTS_EACH)
        ]

    started = time.perf_counter()
    lists = await asyncio.gather(*(one_after_another() for _ in range(concurrency)))
    took_s = time.perf_counter() - started
    seen = [one for each in lists for one in each]
    return Measured(
        concurrency=concurrency,
        input_tokens=round(sum(one.inputs for one in seen) / len(seen)),
        output_tokens=round(sum(one.outputs for one in seen) / len(seen)),
        ttft_ms=percentile([one.first_ms for one in seen], 0.5),
        tpot_ms=percentile([one.each_ms for one in seen], 0.5),
        output_tokens_per_s=sum(one.outputs for one in seen) / took_s,
    )


async def _ask(client: httpx2.AsyncClient, model: str, shape: tuple[int, int], first: str) -> _Seen:
    """One streamed request. Tokens are what the endpoint's own usage says."""
    words = itertools.islice(itertools.cycle(WORDS), shape[0])
    body = {
        "model": model,
        "messages": [{"role": "user", "content": first + "".join(words)}],
        "max_tokens": shape[1],
        "ignore_eos": True,  # engines that know it answer at full length; others leave it unread
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    started = time.perf_counter()
    first_s = last_s = 0.0
    usage: dict[str, Any] = {}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code >= 400:
            text = (await response.aread()).decode(errors="replace")
            raise ValueError(f"HTTP {response.status_code}: {text[:200]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = msgspec.json.decode(line[6:])
            usage = event.get("usage") or usage
            if event.get("choices") and (event["choices"][0].get("delta") or {}).get("content"):
                last_s = time.perf_counter() - started
                first_s = first_s or last_s
    outputs = int(usage.get("completion_tokens", 0))
    if not first_s or not outputs:
        raise ValueError("a stream ended without content or without usage")
    each_s = (last_s - first_s) / max(1, outputs - 1)
    return _Seen(first_s * 1000, each_s * 1000, int(usage.get("prompt_tokens", 0)), outputs)


def _beside(answer: Answer, tools: Tools, one: Measured) -> Compared:
    if answer.shown is None:
        return Compared(measured=one, ttft_ms=None, tpot_ms=None, within_band=None)
    from sextant.cli.plan_answer import speed_at

    plan = answer.plan
    load = msgspec.structs.replace(
        plan.question.workload, input_tokens=max(1, one.input_tokens), output_tokens=one.output_tokens
    )
    asked = msgspec.structs.replace(plan.question, workload=load)
    speed = speed_at(asked, plan.options[answer.shown.index], tools, concurrency=one.concurrency)
    return Compared(
        measured=one,
        ttft_ms=speed.ttft_ms.value,
        tpot_ms=speed.tpot_ms.value,
        within_band=speed.tpot_ms.low <= one.tpot_ms <= speed.tpot_ms.high,
    )


def show(compared: tuple[Compared, ...]) -> None:
    """Prints measurement beside prediction."""
    columns = (
        *("in flight>", "in/out tokens", "TTFT ms measured>", "predicted>", "ratio>"),
        *("TPOT ms measured>", "predicted>", "ratio>", "output tok/s>", "in the band"),
    )
    rows = []
    for each in compared:
        one = each.measured
        rows.append(
            (
                one.concurrency,
                f"{one.input_tokens}/{one.output_tokens}",
                *_pair(one.ttft_ms, each.ttft_ms),
                *_pair(one.tpot_ms, each.tpot_ms),
                f"{one.output_tokens_per_s:.1f}",
                {True: "yes", False: "no", None: "-"}[each.within_band],
            )
        )
    print_table(columns, rows, "nothing was measured")


def _pair(measured_ms: float, predicted_ms: float | None) -> tuple[str, str, str]:
    if predicted_ms is None:
        return f"{measured_ms:.1f}", "-", "-"
    ratio = predicted_ms / measured_ms if measured_ms else 0.0
    return f"{measured_ms:.1f}", f"{predicted_ms:.1f}", f"{ratio:.2f}"
