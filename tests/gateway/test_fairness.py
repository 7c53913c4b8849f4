"""Fair queueing: turns by weight, a full queue, and a tenant that floods beside one that does not."""

from __future__ import annotations

import asyncio
import collections
import statistics
import time

import pytest
from gateway_stack import limits
from hypothesis import given
from hypothesis import strategies as st

from sextant.base.errors import Overloaded
from sextant.gateway import fairness
from sextant.gateway.fairness import FairQueue
from sextant.gateway.queue import Gate, Gates, ModelGate, Waiter
from sextant.spec.snapshot import ServedModel

A, B, HEAVY = Waiter("a"), Waiter("b"), Waiter("heavy", 3)


def drained(queue: FairQueue[str]) -> str:
    return "".join(queue.pop() for _ in range(len(queue)))


def test_tenants_are_served_in_turn_and_each_in_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.push("a", 1, f"a{number} ")
    queue.push("b", 1, "b0 ")
    queue.push("b", 1, "b1 ")
    assert drained(queue) == "a0 b0 a1 b1 a2 a3 "
    assert (len(queue), queue.tenants) == (0, 0)
    with pytest.raises(IndexError):
        queue.pop()


def test_turns_go_by_weight() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(40):
        queue.push("light", 1, "l")
        queue.push("heavy", 3, "h")
    first = "".join(queue.pop() for _ in range(40))
    assert collections.Counter(first) == {"h": 30, "l": 10}
    assert "ll" not in first


def test_nobody_saves_up_turns_and_nobody_gains_by_leaving() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.push("a", 1, "a")
    for _ in range(50):
        queue.pop()
    for _ in range(50):
        queue.push("late", 1, "l")
    assert collections.Counter(queue.pop() for _ in range(20)) == {"a": 10, "l": 10}
    order = ""
    for _ in range(10):  # one that comes again after each turn gets no more than its turn
        queue.push("in-and-out", 1, "i")
        order += "".join(queue.pop() for _ in range(3))
    assert order.count("i") <= 11


def test_one_that_comes_back_has_no_turns_saved_up() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("x", 1, "x")
    for _ in range(100):
        queue.push("a", 1, "a")
    assert [queue.pop(), queue.pop()] == ["x", "a"]
    for _ in range(60):
        queue.pop()
    for _ in range(20):
        queue.push("x", 1, "x")
    assert collections.Counter(queue.pop() for _ in range(20)) == {"a": 10, "x": 10}


def test_a_full_queue_gives_up_the_youngest_of_who_has_most() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a0", "a1", "a2"):
        queue.push("a", 1, item)
    for item in ("h0", "h1", "h2", "h3"):
        queue.push("heavy", 3, item)
    assert queue.displace("b", 1) == "a2"
    assert queue.displace("a", 1) is None, "nobody makes room for who has most himself"
    assert queue.displace("b", 1) == "a1"
    assert queue.displace("b", 1) == "h3", "four at weight 3 are more than one at weight 1"
    assert queue.displace("b", 1) is None, "an equal share is no reason"
    assert drained(queue) == "a0h0h1h2"


def test_of_tenants_that_went_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "IDLE_LINES", 5)
    queue: FairQueue[str] = FairQueue()
    queue.push("stays", 1, "s")
    for number in range(100):
        queue.push(f"t{number}", 1, "t")
        queue.push("stays", 1, "s")
        queue.pop()
        queue.pop()
        assert len(queue._lines) <= 8


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(("push", "push", "pop", "remove", "displace"))),
        max_size=120,
    )
)
def test_whatever_is_done_nothing_is_lost_or_served_twice(steps: list[tuple[str, str]]) -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    queue: FairQueue[str] = FairQueue()
    waiting: dict[str, list[str]] = {tenant: [] for tenant in weights}
    for number, (tenant, what) in enumerate(steps):
        if what == "push":
            queue.push(tenant, weights[tenant], f"{tenant}{number}")
            waiting[tenant].append(f"{tenant}{number}")
        elif what == "pop" and len(queue):
            item = queue.pop()
            assert item == waiting[item[0]].pop(0)
        elif what == "remove" and waiting[tenant]:
            item = waiting[tenant].pop(len(waiting[tenant]) // 2)
            assert queue.remove(tenant, item)
            assert not queue.remove(tenant, item)
        elif what == "displace":
            gone = queue.displace(tenant, weights[tenant])
            if gone is not None:
                assert gone[0] != tenant
                assert gone == waiting[gone[0]].pop()
        assert len(queue) == sum(map(len, waiting.values()))
        assert queue.tenants == sum(map(bool, waiting.values()))


def model_gate(**bounds: int) -> tuple[Gates, ModelGate]:
    gates = Gates(limits(**bounds))
    (gate,) = gates.assign([ServedModel(id="m", engine="x", upstreams=())])
    return gates, gate


async def settled() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_a_newcomer_of_another_tenant_is_never_refused_by_a_full_queue() -> None:
    gates, gate = model_gate(concurrent_requests=1, queue_length=3)
    assert gate.enter_now()
    flood = [asyncio.ensure_future(gate.enter(A)) for _ in range(3)]
    await settled()
    with pytest.raises(Overloaded) as mine:
        await gate.enter(A)
    assert mine.value.code == "queue_full"
    newcomer = asyncio.ensure_future(gate.enter(B))
    await settled()
    with pytest.raises(Overloaded) as displaced:
        await flood[2]
    assert displaced.value.code == "queue_displaced"
    assert "most of them yours" in displaced.value.message
    assert (gate.waiting, gates.tenants_waiting) == (3, 2)
    gate.leave()
    await settled()
    assert flood[0].done()
    gate.leave()
    await newcomer
    assert not flood[1].done()
    gate.leave()
    await flood[1]
    gate.leave()
    assert (gate.active, gate.waiting, gates.outer.active, gates.tenants_waiting) == (0, 0, 0, 0)


async def test_one_displaced_while_it_leaves_takes_no_place_with_it() -> None:
    gate = Gate(limits(concurrent_requests=1, queue_length=2))
    await gate.take(A)
    flood = [asyncio.ensure_future(gate.take(A)) for _ in range(2)]
    await settled()
    newcomer = asyncio.ensure_future(gate.take(B))
    await asyncio.sleep(0)
    flood[1].cancel()
    await asyncio.gather(flood[1], return_exceptions=True)
    for task in (flood[0], newcomer):
        gate.give_back()
        await task
    gate.give_back()
    assert (gate.active, gate.waiting) == (0, 0)


async def test_the_gateways_own_places_are_shared_fairly_too() -> None:
    gates = Gates(limits(concurrent_requests=2, queue_length=100))
    own = {"engine": "x", "upstreams": (), "concurrent_requests": 2, "queue_length": 100}
    one, other = gates.assign([ServedModel(id="one", **own), ServedModel(id="other", **own)])  # type: ignore[arg-type]
    assert one.enter_now()
    assert one.enter_now()
    order: list[str] = []

    async def run(gate: ModelGate, waiter: Waiter) -> None:
        await gate.enter(waiter)
        order.append(waiter.tenant_id)

    tasks = [asyncio.ensure_future(run(one, A)) for _ in range(6)]
    await settled()
    tasks += [asyncio.ensure_future(run(other, HEAVY)) for _ in range(3)]
    await settled()
    for _ in range(9):
        gate = one if one.active else other
        gate.leave()
        await settled()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert order.index("heavy") <= 1


async def test_a_tenant_that_floods_leaves_another_its_latency() -> None:
    """Eight places, 5 ms each. One tenant keeps 200 requests waiting; another asks one after the other."""
    service_s, places = 0.005, 8
    _, gate = model_gate(concurrent_requests=places, queue_length=200)
    stop = asyncio.Event()
    served: collections.Counter[str] = collections.Counter()

    async def request(waiter: Waiter) -> float:
        begun_s = time.monotonic()
        if not gate.enter_now():
            await gate.enter(waiter)
        waited_s = time.monotonic() - begun_s
        try:
            await asyncio.sleep(service_s)
            served[waiter.tenant_id] += 1
        finally:
            gate.leave()
        return waited_s

    async def flood() -> None:
        while not stop.is_set():
            try:
                await request(A)
            except Overloaded:
                await asyncio.sleep(service_s)

    flooding = [asyncio.ensure_future(flood()) for _ in range(200)]
    await asyncio.sleep(5 * service_s)
    assert gate.waiting > 150
    quiet = [await request(B) for _ in range(40)]
    stop.set()
    for task in flooding:
        task.cancel()
    await asyncio.gather(*flooding, return_exceptions=True)
    behind_all_s = 200 / places * service_s
    assert statistics.median(quiet) < behind_all_s / 4, "it waits for a place, not for the flood"
    assert served["a"] > served["b"], "and the flood has all that is left"
