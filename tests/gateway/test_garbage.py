"""Whatever an engine puts into its JSON: a well-formed answer or an engine error, never a defect of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_engine import USAGE, chunk, usage_chunk, whole
from gateway_stack import COMPLIANT, LLAMA
from hypothesis import given
from hypothesis import strategies as st

from sextant.base.errors import UpstreamError
from sextant.gateway.chat import ChatDialect
from sextant.gateway.completions import CompletionsDialect
from sextant.gateway.meters import Meters
from sextant.gateway.observe import Observer
from sextant.gateway.queue import Gates
from sextant.gateway.relay import StreamRelay, whole_answer
from sextant.gateway.router import ModelRoute
from sextant.gateway.run import Run, Surface
from sextant.spec.snapshot import GatewayLimits, Quirks, ServedModel

ENTRY = {
    "token": "a",
    "logprob": -0.5,
    "bytes": [97],
    "top_logprobs": [{"token": "b", "logprob": -1, "bytes": None}],
}
CALLS = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
CHUNKS: list[Any] = [
    chunk(delta={"role": "assistant", "content": None}),
    chunk(delta={"reasoning_content": "hm"}),
    chunk("a", usage=USAGE),
    chunk(delta={"tool_calls": CALLS}),
    usage_chunk(),
    {"error": {"message": "x"}},
    {"choices": [{"index": 0, "text": "t", "logprobs": {"content": [ENTRY]}, "finish_reason": "stop"}]},
]
WHOLES: list[Any] = [
    whole(),
    whole("a", reasoning_content="hm", tool_calls=CALLS),
    {**whole(), "choices": [{"text": "t", "logprobs": {"content": [ENTRY]}, "finish_reason": "stop"}] * 2},
]
for answer in (CHUNKS[2], WHOLES[0]):
    answer["choices"][0]["logprobs"] = {"content": [ENTRY, ENTRY], "refusal": None}

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=2)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@st.composite
def damaged(draw: st.DrawFn, originals: list[Any]) -> bytes:
    """A good answer in which one to three values were replaced or left out."""
    value = {"root": json.loads(json.dumps(draw(st.sampled_from(originals))))}
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([place for place in places(value) if place]))
        holder: Any = value
        for key in path[:-1]:
            holder = holder[key]
        if draw(st.booleans()) or path == ("root",):
            holder[path[-1]] = draw(junk)
        else:
            del holder[path[-1]]
    return json.dumps(value.get("root")).encode()


class Responder:
    started = False

    def start(self, status: int, headers: Any) -> None:
        self.started = True

    def write(self, data: bytes) -> None:
        for event in data.removesuffix(b"\n\n").split(b"\n\n"):
            json.loads(event.removeprefix(b"data: "))

    def needs_drain(self) -> bool:
        return False


class Response:
    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    async def each(self, take: Callable[[bytes], bool]) -> bool:
        while self.pieces:
            if take(self.pieces.pop(0)):
                return True
        return False


def begin(make: Any, quirks: Quirks) -> tuple[Run, Any, ModelRoute]:
    served = ServedModel(id="nano", engine="x", upstreams=(), quirks=quirks)
    route = ModelRoute(served, [], Gates(GatewayLimits()).assign([served])[0])
    surface = Surface(make, Observer(Meters()))
    dialect = make()
    prompt = (
        {"prompt": "p"} if make is CompletionsDialect else {"messages": [{"role": "user", "content": "p"}]}
    )
    fields = {"model": "nano", "logprobs": 1 if make is CompletionsDialect else True, **prompt}
    call = dialect.parse(fields, b"{}", route.served)
    run = Run(surface, "req", dialect, Responder(), [], 0.0, 0.0)  # type: ignore[arg-type]
    run.call, run.route = call, route
    return run, call, route


QUIRKS = pytest.mark.parametrize("quirks", [COMPLIANT, LLAMA], ids=["relayed", "rewritten"])
MAKE = pytest.mark.parametrize("make", [ChatDialect, CompletionsDialect])


@QUIRKS
@MAKE
@given(body=damaged(WHOLES))
def test_whole_answers(make: Any, quirks: Quirks, body: bytes) -> None:
    run, call, route = begin(make, quirks)
    try:
        answer, usage = whole_answer(run, call, route.served.quirks, body)
    except UpstreamError:
        return
    assert json.loads(answer)["usage"]["total_tokens"] == usage.input_tokens + usage.output_tokens
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens


@QUIRKS
@MAKE
@given(bodies=st.lists(damaged(CHUNKS), max_size=4))
async def test_streams(make: Any, quirks: Quirks, bodies: list[bytes]) -> None:
    run, call, route = begin(make, quirks)
    relay = StreamRelay(run, call, route, GatewayLimits())
    try:
        await relay.run(Response([b"data: " + body + b"\n\n" for body in bodies]))  # type: ignore[arg-type]
    except UpstreamError:
        return
    usage = relay.tally.usage(100)
    assert relay.finale(usage).endswith(b"data: [DONE]\n\n")
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens
