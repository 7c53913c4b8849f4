"""Waiting: how long requests queue, by formula and by a small simulation of continuous batching.

The formulas treat each request that is being answered as a server (M/G/c with Allen and Cunneen's correction
for the variability of arrivals and of work); they are quick and smooth. The simulation steps an engine as it
runs (admit into free places, prefill in chunks beside decode, one token a step for every running request) and
gives percentiles. Both are pure: arrivals are passed in. Neighbours: `roofline.py` (what a step takes),
`cli/plan.py`.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

SEARCH_STEPS = 40
HALVINGS_SIMULATED = 7
NANO = 1e-9


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a load."""

    at_s: float
    input_tokens: int
    output_tokens: int


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What the formulas need of a service: places, time that a place is held, and the squared coefficients of
    variation of the gaps between arrivals and of that time (1: exponential, 0: constant)."""

    servers: int
    mean_s: float
    arrivals_cv2: float = 1.0
    service_cv2: float = 1.0


class Batcher(msgspec.Struct, frozen=True, kw_only=True):
    """An engine with continuous batching, as far as time goes."""

    places: int
    """Requests that run together at most."""
    steps_ms: tuple[tuple[int, float], ...]
    """(requests running, milliseconds for one token of each), by rising number; straight between them."""
    prefill_ms_per_token: float
    chunk_tokens: int = 2048
    """Most tokens that one step prefills."""
    kv_tokens: int = 0
    """Tokens that the KV cache holds; 0: enough for all places."""
    prefix_hit_share: float = 0.0
    """Share of each prompt that is found in the prefix cache, and so not read."""


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated load saw. Milliseconds."""

    ttft_ms_p50: float
    ttft_ms_p99: float
    tpot_ms_p50: float
    tpot_ms_p99: float
    end_to_end_ms_p50: float
    end_to_end_ms_p99: float
    output_tokens_per_s: float
    requests: int


def erlang_c(servers: int, offered: float) -> float:
    """Probability that an arrival must wait in M/M/c with `offered` erlangs; 1 when they are too many."""
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked / (1 - (offered / servers) * (1 - blocked))


def wait_s(service: Service, requests_per_s: float, share: float = 0.0) -> float:
    """Seconds in the queue: the mean (`share` 0), or what that share of the requests stays within (0.99).
    Infinite when more arrives than can be served. Allen and Cunneen: the mean of M/M/c times half the sum of
    both squared coefficients of variation; the tail falls exponentially at the rate that goes with it."""
    offered = requests_per_s * service.mean_s
    waits = erlang_c(service.servers, offered)
    if offered >= service.servers:
        return math.inf
    uneven = (service.arrivals_cv2 + service.service_cv2) / 2
    each_s = uneven * service.mean_s / (service.servers - offered)
    if share == 0.0:
        return waits * each_s
    return each_s * math.log(waits / (1 - share)) if waits > 1 - share else 0.0


def most_requests_per_s(service: Service, wait_s_most: float, share: float) -> float:
    """The most arrivals a second of which `share` wait at most `wait_s_most`."""
    low, high = 0.0, service.servers / service.mean_s
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if wait_s(service, middle, share) <= wait_s_most else (low, middle)
    return low


def spread(values: Sequence[float]) -> float:
    """The squared coefficient of variation."""
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values) / mean**2 if mean else 0.0


def scaled(trace: Sequence[Arrival], *, requests_per_s: float, tokens: tuple[int, int]) -> list[Arrival]:
    """The trace with its own unevenness at another mean rate and other mean (input, output) tokens."""
    span_s = trace[-1].at_s - trace[0].at_s
    slower = (len(trace) - 1) / span_s / requests_per_s
    inputs = tokens[0] * len(trace) / sum(one.input_tokens for one in trace)
    outputs = tokens[1] * len(trace) / sum(one.output_tokens for one in trace)
    return [
        Arrival(
            at_s=(one.at_s - trace[0].at_s) * slower,
            input_tokens=max(1, round(one.input_tokens * inputs)),
            output_tokens=max(1, round(one.output_tokens * outputs)),
        )
        for one in trace
    ]


def simulate(engine: Batcher, arrivals: Sequence[Arrival]) -> Waits:
    """Runs the load through the engine, in order of arrival, until all is answered."""
    run = _Run(engine)
    for request in arrivals:
        run.until(request.at_s * 1000)
        run.waiting.append(request)
    run.until(math.inf)
    return run.waits()


def most_simulated(
    engine: Batcher,
    load_at: Callable[[float], Sequence[Arrival]],
    *,
    meets: Callable[[Waits], bool],
    requests_per_s: float,
) -> float:
    """The most requests a second, up to `requests_per_s`, at which the simulated load `load_at` still `meets`
    the targets; by halving, so within a percent of it."""
    if meets(simulate(engine, load_at(requests_per_s))):
        return requests_per_s
    low, high = 0.0, requests_per_s
    for _ in range(HALVINGS_SIMULATED):
        middle = (low + high) / 2
        if meets(simulate(engine, load_at(middle))):
            low = middle
        else:
            high = middle
    return low


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed (nearest rank). 0 of none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0


class _Running:
    """A request that has a place."""

    __slots__ = ("first_ms", "left", "prefill", "request")

    def __init__(self, request: Arrival, fresh: float) -> None:
        self.request = request
        self.prefill = max(1.0, request.input_tokens * fresh)
        self.left = request.output_tokens
        self.first_ms = 0.0


class _Run:
    """One simulation: time, the queue, the places, and what has been measured."""

    def __init__(self, engine: Batcher) -> None:
        self.engine, self.fresh = engine, 1 - engine.prefix_hit_share
        self.now_ms = 0.0
        self.waiting: deque[Arrival] = deque()
        self.reading: deque[_Running] = deque()
        self.writing: list[_Running] = []
        self.held_tokens = 0
        self.ttft_ms: list[float] = []
        self.tpot_ms: list[float] = []
        self.total_ms: list[float] = []
        self.tokens = 0
        self._counts = [count for count, _ in engine.steps_ms]

    def until(self, moment_ms: float) -> None:
        """Works until that moment, or until there is nothing left to do."""
        while self.now_ms < moment_ms:
            self._admit()
            if not self.reading and not self.writing:
                self.now_ms = moment_ms if moment_ms < math.inf else self.now_ms
                return
            if self.reading:
                self._step_with_prefill()
            else:
                self._steps(moment_ms)

    def _admit(self) -> None:
        """Queue to places, first come first served, while there is a place and room in the KV cache."""
        while self.waiting and len(self.reading) + len(self.writing) < self.engine.places:
            request = self.waiting[0]
            need = request.input_tokens + request.output_tokens
            empty = not self.reading and not self.writing  # one that never fits alone still has to end
            if self.engine.kv_tokens and self.held_tokens + need > self.engine.kv_tokens and not empty:
                return
            self.held_tokens += need
            self.reading.append(_Running(self.waiting.popleft(), self.fresh))

    def _step_with_prefill(self) -> None:
        room, read = float(self.engine.chunk_tokens), 0.0
        ready = []
        while self.reading and room > NANO:
            first = self.reading[0]
            part = min(room, first.prefill)
            first.prefill -= part
            room, read = room - part, read + part
            if first.prefill <= NANO:
                ready.append(self.reading.popleft())
        self.now_ms += self._step_ms(len(self.writing)) + read * self.engine.prefill_ms_per_token
        self._write(1)
        for one in ready:
            one.first_ms = self.now_ms
            one.left -= 1
            self.tokens += 1
            self.ttft_ms.append(self.now_ms - one.request.at_s * 1000)
            self.writing.append(one)
        self._leave()

    def _steps(self, moment_ms: float) -> None:
        """Plain decoding: as many steps at once as nothing changes in."""
        step = self._step_ms(len(self.writing))
        most = min(one.left for one in self.writing)
        if moment_ms < math.inf:
            most = min(most, max(1, math.ceil((moment_ms - self.now_ms) / step)))
        self.now_ms += most * step
        self._write(most)
        self._leave()

    def _write(self, steps: int) -> None:
        for one in self.writing:
            one.left -= steps
        self.tokens += steps * len(self.writing)

    def _leave(self) -> None:
        staying = []
        for one in self.writing:
            if one.left > 0:
                staying.append(one)
                continue
            request = one.request
            self.held_tokens -= request.input_tokens + request.output_tokens
            self.total_ms.append(self.now_ms - request.at_s * 1000)
            if request.output_tokens > 1:
                self.tpot_ms.append((self.now_ms - one.first_ms) / (request.output_tokens - 1))
        self.writing = staying

    def _step_ms(self, running: int) -> float:
        if running == 0:
            return 0.0
        steps = self.engine.steps_ms
        at = bisect.bisect_left(self._counts, running)
        if at == 0:
            return steps[0][1]
        if at == len(steps):
            return steps[-1][1]
        (low, low_ms), (high, high_ms) = steps[at - 1], steps[at]
        return low_ms + (high_ms - low_ms) * (running - low) / (high - low)

    def waits(self) -> Waits:
        """What was measured."""
        return Waits(
            ttft_ms_p50=percentile(self.ttft_ms, 0.5),
            ttft_ms_p99=percentile(self.ttft_ms, 0.99),
            tpot_ms_p50=percentile(self.tpot_ms, 0.5),
            tpot_ms_p99=percentile(self.tpot_ms, 0.99),
            end_to_end_ms_p50=percentile(self.total_ms, 0.5),
            end_to_end_ms_p99=percentile(self.total_ms, 0.99),
            output_tokens_per_s=self.tokens / self.now_ms * 1000 if self.now_ms else 0.0,
            requests=len(self.total_ms),
        )
