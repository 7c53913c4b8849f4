"""The gates: places and queues of models within those of the gateway, at each bound."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from gateway_stack import limits

from sextant.base.errors import Overloaded
from sextant.gateway.queue import Gates, ModelGate, Waiter, bounds_of
from sextant.spec.snapshot import GatewayLimits, ServedModel

ANYBODY = Waiter("tenant")


def served(name: str, **more: Any) -> ServedModel:
    return ServedModel(id=name, engine="x", upstreams=(), **more)


def gates_of(bounds: GatewayLimits, *models: ServedModel) -> tuple[Gates, list[ModelGate]]:
    gates = Gates(bounds)
    return gates, gates.assign(models)


async def waiting(gate: ModelGate, *, turns: int = 3) -> asyncio.Task[None]:
    """A task that waits at the gate by now."""
    task = asyncio.ensure_future(gate.enter(ANYBODY))
    for _ in range(turns):
        await asyncio.sleep(0)
    return task


@pytest.mark.parametrize(
    ("own", "models", "expected"),
    [
        ({}, 1, (10, 7)),
        ({}, 2, (5, 4)),
        ({}, 20, (1, 1)),
        ({"concurrent_requests": 3, "queue_length": 2}, 2, (3, 2)),
        ({"concurrent_requests": 300, "queue_length": 200}, 2, (10, 7)),
    ],
)
def test_a_model_has_its_own_bounds_or_an_even_share(
    own: dict[str, int], models: int, expected: tuple[int, int]
) -> None:
    bounds = bounds_of(served("a", **own), models, limits(concurrent_requests=10, queue_length=7))
    assert (bounds.concurrent_requests, bounds.queue_length) == expected


def test_no_queue_is_no_queue_for_a_model() -> None:
    assert bounds_of(served("a", queue_length=5), 2, limits(queue_length=0)).queue_length == 0


async def test_a_full_model_leaves_the_others_their_places() -> None:
    gates, (a, b) = gates_of(limits(concurrent_requests=4, queue_length=2), served("a"), served("b"))
    assert [a.enter_now(), a.enter_now(), a.enter_now()] == [True, True, False]
    task = await waiting(a)
    with pytest.raises(Overloaded) as full:
        await a.enter(ANYBODY)
    assert full.value.code == "queue_full"
    assert "of the model 'a'" in full.value.message
    assert [b.enter_now(), b.enter_now()] == [True, True]
    assert (gates.outer.active, gates.waiting, a.waiting, b.waiting) == (4, 1, 1, 0)
    a.leave()
    await task
    assert (a.active, a.waiting, gates.outer.active) == (2, 0, 4)


async def test_overcommitted_models_wait_for_the_gateway() -> None:
    own = {"concurrent_requests": 2, "queue_length": 1}
    gates, (a, b) = gates_of(
        limits(concurrent_requests=2, queue_length=1), served("a", **own), served("b", **own)
    )
    assert a.enter_now()
    assert a.enter_now()
    assert not b.enter_now()
    task = await waiting(b)
    assert (b.active, b.waiting, gates.outer.waiting) == (1, 0, 1)
    with pytest.raises(Overloaded) as full:
        await b.enter(ANYBODY)
    assert "of this gateway" in full.value.message
    assert b.active == 1, "a place of the model that led nowhere is given back"
    a.leave()
    await task
    b.leave()
    a.leave()
    assert (gates.outer.active, a.active, b.active) == (0, 0, 0)


async def test_a_wait_ends_with_its_time_and_leaves_nothing_taken() -> None:
    gates, (a,) = gates_of(limits(concurrent_requests=1, queue_timeout_s=0.02), served("a"))
    assert a.enter_now()
    with pytest.raises(Overloaded) as late:
        await a.enter(ANYBODY)
    assert late.value.code == "queue_timeout"
    a.leave()
    assert (a.free, a.waiting, gates.outer.free) == (1, 0, 1)


async def test_the_wait_for_the_model_and_for_the_gateway_have_one_end() -> None:
    timeout_s = 0.6
    bounds = limits(concurrent_requests=1, queue_length=4, queue_timeout_s=timeout_s)
    _, (a, b) = gates_of(bounds, served("a"), served("b"))
    assert a.enter_now()
    first = await waiting(b)  # has b's only place, and waits for the gateway's
    began_s = time.monotonic()
    second = await waiting(b)
    await asyncio.sleep(timeout_s * 3 / 4)
    first.cancel()
    with pytest.raises(Overloaded) as late:
        await second
    assert "of this gateway" in late.value.message
    assert time.monotonic() - began_s < timeout_s * 5 / 4, "it waited anew at the second gate"
    assert (b.active, b.waiting) == (0, 0)
    a.leave()


async def test_a_place_given_to_one_who_leaves_in_that_moment_goes_to_the_next() -> None:
    gates, (a,) = gates_of(limits(concurrent_requests=1), served("a"))
    assert a.enter_now()
    first, second = await waiting(a), await waiting(a)
    a.leave()
    first.cancel()
    await asyncio.wait({first, second}, timeout=2)
    assert first.cancelled()
    assert second.done()
    assert (a.active, gates.outer.active, a.waiting) == (1, 1, 0)


async def test_a_new_table_keeps_the_gate_and_its_new_bounds_hold() -> None:
    gates, (a,) = gates_of(limits(concurrent_requests=8), served("a", concurrent_requests=2))
    assert a.enter_now()
    assert a.enter_now()
    task = await waiting(a)
    assert gates.assign([served("a", concurrent_requests=3), served("b")])[0] is a
    await asyncio.wait_for(task, 2)
    assert (a.active, a.free, a.places) == (3, 0, 3)
    gates.assign([served("a", concurrent_requests=1)])
    assert a.free == -2
    assert dict(a.told[a.free])[b"x-ratelimit-remaining-requests"] == b"0"
    for _ in range(3):
        a.leave()
    assert (a.free, gates.outer.free) == (1, 8)
    assert dict(a.told[a.free])[b"x-ratelimit-limit-requests"] == b"1"


async def test_a_smaller_bound_lets_nobody_in_until_enough_have_left() -> None:
    gates, (a,) = gates_of(limits(concurrent_requests=8), served("a", concurrent_requests=2))
    assert a.enter_now()
    assert a.enter_now()
    gates.assign([served("a", concurrent_requests=1)])
    task = await waiting(a)
    a.leave()
    await asyncio.sleep(0)
    assert not task.done()
    a.leave()
    await asyncio.wait_for(task, 2)
    assert a.active == 1
