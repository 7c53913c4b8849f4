"""Waiting: the formulas against known values and the simulation, and the simulation against itself."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import msgspec
import pytest

from sextant.planner.queueing import (
    Arrival,
    Batcher,
    Service,
    erlang_c,
    most_requests_per_s,
    most_simulated,
    percentile,
    scaled,
    simulate,
    spread,
    wait_s,
)

STEADY = Batcher(places=4, steps_ms=((1, 10.0), (4, 16.0)), prefill_ms_per_token=0.1)


def poisson(
    uniform: Callable[[], float], *, count: int, requests_per_s: float, tokens: tuple[int, int]
) -> list[Arrival]:
    """Memoryless arrivals."""
    at_s, found = 0.0, []
    for _ in range(count):
        at_s -= math.log(1 - uniform()) / requests_per_s
        found.append(Arrival(at_s=at_s, input_tokens=tokens[0], output_tokens=tokens[1]))
    return found


def request(at_s: float, inputs: int = 100, outputs: int = 11) -> Arrival:
    return Arrival(at_s=at_s, input_tokens=inputs, output_tokens=outputs)


def test_erlang_c_has_the_values_of_the_books() -> None:
    assert erlang_c(1, 0.5) == pytest.approx(0.5)  # one server: the utilisation itself
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10, 8.0) == pytest.approx(0.409, abs=0.001)  # Gross and Harris, table of M/M/c
    assert erlang_c(3, 3.0) == 1.0


def test_the_wait_of_one_server_is_pollaczek_khinchine() -> None:
    constant = Service(servers=1, mean_s=1.0, service_cv2=0.0)
    assert wait_s(constant, 0.8) == pytest.approx(0.8 / (2 * (1 - 0.8)))  # M/D/1
    assert wait_s(Service(servers=1, mean_s=1.0), 0.8) == pytest.approx(4.0)  # M/M/1
    assert wait_s(constant, 1.0) == math.inf
    assert wait_s(Service(servers=1, mean_s=1.0), 0.8, 0.99) == pytest.approx(5 * math.log(80))
    assert wait_s(Service(servers=9, mean_s=1.0), 0.5, 0.99) == 0.0


def test_the_most_requests_just_meet_the_wait() -> None:
    service = Service(servers=8, mean_s=2.0)
    most = most_requests_per_s(service, 1.0, 0.99)
    assert wait_s(service, most, 0.99) <= 1.0 < wait_s(service, most * 1.01, 0.99)


def test_one_request_takes_its_prefill_and_its_steps() -> None:
    seen = simulate(STEADY, [request(1.0)])
    assert seen.ttft_ms_p50 == pytest.approx(10.0)
    assert seen.tpot_ms_p50 == pytest.approx(10.0)
    assert seen.end_to_end_ms_p99 == pytest.approx(110.0)
    assert seen.requests == 1


def test_a_hit_prefix_is_not_read_again() -> None:
    hits = msgspec.structs.replace(STEADY, prefix_hit_share=0.9)
    assert simulate(hits, [request(0.0)]).ttft_ms_p50 == pytest.approx(1.0)


def test_the_fifth_waits_for_a_place() -> None:
    seen = simulate(STEADY, [request(0.0) for _ in range(5)])
    assert seen.ttft_ms_p50 == pytest.approx(40.0)  # four prompts read in one step
    assert seen.ttft_ms_p99 > seen.end_to_end_ms_p50


def test_a_full_kv_cache_holds_back_what_has_a_place() -> None:
    loads = [request(0.0) for _ in range(4)]
    tight = Batcher(places=4, steps_ms=STEADY.steps_ms, prefill_ms_per_token=0.1, kv_tokens=222)
    assert simulate(tight, loads).ttft_ms_p99 > 2 * simulate(STEADY, loads).ttft_ms_p99
    never = Batcher(places=4, steps_ms=STEADY.steps_ms, prefill_ms_per_token=0.1, kv_tokens=10)
    assert simulate(never, loads).requests == 4  # each alone, none for ever


def test_the_simulation_agrees_with_the_formula_where_the_formula_is_exact() -> None:
    """One place, one-token answers of constant length: M/D/1."""
    engine = Batcher(places=1, steps_ms=((1, 1.0),), prefill_ms_per_token=1.0, chunk_tokens=1000)
    load = poisson(random.Random(5).random, count=40_000, requests_per_s=7.0, tokens=(100, 1))
    seen = simulate(engine, load)
    service = Service(servers=1, mean_s=0.1, service_cv2=0.0)
    # Exponential tails overstate those of constant service a little.
    assert seen.ttft_ms_p99 / 1000 - 0.1 == pytest.approx(wait_s(service, 7.0, 0.99), rel=0.15)


def test_a_trace_keeps_its_unevenness_at_another_rate() -> None:
    drawn = random.Random(3)
    trace = poisson(drawn.random, count=200, requests_per_s=3.0, tokens=(10, 10))
    trace = [
        Arrival(at_s=one.at_s, input_tokens=drawn.randint(1, 99), output_tokens=drawn.randint(1, 99))
        for one in trace
    ]
    other = scaled(trace, requests_per_s=12.0, tokens=(1000, 200))
    assert (len(other) - 1) / other[-1].at_s == pytest.approx(12.0)
    assert sum(one.input_tokens for one in other) / 200 == pytest.approx(1000, rel=0.01)
    assert sum(one.output_tokens for one in other) / 200 == pytest.approx(200, rel=0.01)
    sizes = [one.input_tokens for one in trace]
    assert spread([one.input_tokens for one in other]) == pytest.approx(spread(sizes), rel=0.01)


def test_more_load_never_waits_less_and_the_most_is_found() -> None:
    def load(requests_per_s: float) -> list[Arrival]:
        return poisson(random.Random(1).random, count=400, requests_per_s=requests_per_s, tokens=(500, 50))

    seen = [simulate(STEADY, load(rate)).ttft_ms_p99 for rate in (0.5, 2.0, 4.0, 8.0)]
    assert seen == sorted(seen)
    most = most_simulated(STEADY, load, meets=lambda waits: waits.ttft_ms_p99 <= 500, requests_per_s=8.0)
    assert 0.5 < most < 8.0
    assert simulate(STEADY, load(most)).ttft_ms_p99 <= 500
    assert simulate(STEADY, load(most * 1.1)).ttft_ms_p99 > 500
    assert most_simulated(STEADY, load, meets=lambda waits: True, requests_per_s=3.0) == 3.0


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([], 0.5) == 0.0
    assert spread([2.0, 2.0]) == 0.0 and spread([0.0]) == 0.0
