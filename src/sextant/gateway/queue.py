"""The concurrency gates: places and a bounded queue for the gateway, and for each model within it.

Flow 1 (serve), between admit and route. The tenants that wait are served in turn by weight, first come first
served within each (`fairness.py`). A full queue is Overloaded (503) for the tenant that has most waiting; so
is a wait over `queue_timeout_s`. A place that is given up while its owner is cancelled goes to the next.
A request takes a place of its model first and then one of the gateway, so a model whose engine hangs fills
its own places and its own queue and leaves those of the others alone. Neighbours: `router.py` keeps a gate
with each route, `flow.py` enters it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from sextant.base.errors import Overloaded
from sextant.gateway.fairness import FairQueue
from sextant.spec.snapshot import GatewayLimits, ServedModel
from sextant.transport.exchange import Header


class Waiter(msgspec.Struct, frozen=True, gc=False):
    """For whom a place is: the tenant, and its share of a gate at which others wait too."""

    tenant_id: str
    weight: int = 1


class Gate:
    """So many places, and a queue before them. While somebody waits no place is free."""

    __slots__ = ("_queue_length", "_timeout_s", "_waiting", "_whose", "free", "places")

    def __init__(self, limits: GatewayLimits, whose: str = "of this gateway") -> None:
        """`limits` gives places, queue and wait; `whose` names it in errors: `of the model 'x'`."""
        self._whose = whose
        self._queue_length = limits.queue_length
        self._timeout_s = limits.queue_timeout_s
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self.places = limits.concurrent_requests
        self.free = self.places
        """Places left; negative while more are taken than a smaller bound has."""

    @property
    def active(self) -> int:
        """Places taken."""
        return self.places - self.free

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def tenants_waiting(self) -> int:
        return self._waiting.tenants

    async def take(self, waiter: Waiter, until_s: float | None = None) -> None:
        """Takes a place, or waits for one until the loop's clock shows `until_s`; None: for
        `queue_timeout_s`. Raises Overloaded when the queue is full or the wait too long."""
        if self.free > 0:
            self.free -= 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._join(waiter, turn)
        try:
            async with asyncio.timeout_at(loop.time() + self._timeout_s if until_s is None else until_s):
                await turn
        except BaseException as error:
            self._abandon(waiter, turn)
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    f"No place {self._whose} became free within {self._timeout_s:g} s; try again shortly.",
                    code="queue_timeout",
                    retry_after_s=5,
                ) from error
            raise

    def _join(self, waiter: Waiter, turn: asyncio.Future[None]) -> None:
        """Puts `turn` into the queue. Of a full one the tenant that has most waiting loses its youngest."""
        if len(self._waiting) >= self._queue_length:
            youngest = self._waiting.displace(waiter.tenant_id, waiter.weight) if self._queue_length else None
            if youngest is None:
                raise Overloaded(f"{self._full}; try again shortly.", code="queue_full", retry_after_s=1)
            most = f"{self._full}, most of them yours; try again shortly."
            youngest.set_exception(Overloaded(most, code="queue_displaced", retry_after_s=1))
        self._waiting.push(waiter.tenant_id, waiter.weight, turn)

    @property
    def _full(self) -> str:
        return f"{self.places} requests {self._whose} run, {self._queue_length} wait"

    def _abandon(self, waiter: Waiter, turn: asyncio.Future[None]) -> None:
        """The waiter left. If its place had been given to it in the same moment, the next one gets it."""
        if self._waiting.remove(waiter.tenant_id, turn):
            return
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.give_back()

    def give_back(self) -> None:
        """Gives a place back; it passes to the first that waits."""
        self.free += 1
        if self._waiting:
            self._let_in()

    def resize(self, limits: GatewayLimits) -> None:
        """New bounds. Who is in stays in; who waits and now has a place enters."""
        self.free += limits.concurrent_requests - self.places
        self.places = limits.concurrent_requests
        self._queue_length = limits.queue_length
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.free > 0:
            turn = self._waiting.pop()
            if not turn.done():
                self.free -= 1
                turn.set_result(None)


class ModelGate(Gate):
    """A model's own places within those of the gateway."""

    __slots__ = ("outer", "told")

    def __init__(self, limits: GatewayLimits, whose: str, outer: Gate) -> None:
        super().__init__(limits, whose)
        self.outer = outer
        self.told = LimitHeaders(self.places)
        """The rate-limit headers by places left to the model."""

    def resize(self, limits: GatewayLimits) -> None:
        if limits.concurrent_requests != self.places:
            self.told = LimitHeaders(limits.concurrent_requests)
        super().resize(limits)

    def enter_now(self) -> bool:
        """Takes a place of the model and one of the gateway if both have one free."""
        outer = self.outer
        if self.free > 0 and outer.free > 0:
            self.free -= 1
            outer.free -= 1
            return True
        return False

    async def enter(self, waiter: Waiter) -> None:
        """Waits for a place of the model and then for one of the gateway, `queue_timeout_s` for both. Raises
        Overloaded."""
        until_s = asyncio.get_running_loop().time() + self._timeout_s
        await self.take(waiter, until_s)
        try:
            await self.outer.take(waiter, until_s)
        except BaseException:
            self.give_back()
            raise

    def leave(self) -> None:
        """Gives both places back."""
        outer = self.outer
        self.free += 1
        outer.free += 1
        if self._waiting:
            self._let_in()
        if outer._waiting:
            outer._let_in()


class Gates:
    """The gateway's gate and those of the models that it serves, kept from one route table to the next."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self.outer = Gate(limits)
        self._by_model: dict[tuple[str, str], ModelGate] = {}
        self._told = LimitHeaders(limits.concurrent_requests)

    def assign(self, models: Iterable[ServedModel]) -> list[ModelGate]:
        """A gate for each model and pool, in their order; one that was served before keeps its own, with the
        bounds of now."""
        served = tuple(models)
        gates = {}
        for model in served:
            bounds = bounds_of(model, len(served), self._limits)
            name = (model.id, model.pool)
            gate = self._by_model.get(name)
            if gate is None:
                pool = f" in the pool {model.pool!r}" if model.pool else ""
                gate = ModelGate(bounds, f"of the model {model.id!r}{pool}", self.outer)
            else:
                gate.resize(bounds)
            gates[name] = gate
        self._by_model = gates
        return [gates[model.id, model.pool] for model in served]

    @property
    def waiting(self) -> int:
        """Requests that wait, for a place of their model or of the gateway."""
        return self.outer.waiting + sum(gate.waiting for gate in self._by_model.values())

    @property
    def tenants_waiting(self) -> int:
        """Tenants that wait at some gate, counted at each."""
        return sum(gate.tenants_waiting for gate in (self.outer, *self._by_model.values()))

    def told(self) -> list[Header]:
        """The rate-limit headers of a request whose model is not known yet."""
        return self._told[self.outer.free]


def bounds_of(model: ServedModel, models: int, limits: GatewayLimits) -> GatewayLimits:
    """`limits` with the places and the queue of one of so many models: its own, or an even share, and never
    more than there are."""
    places = model.concurrent_requests or max(1, limits.concurrent_requests // models)
    queue_length = model.queue_length or -(-limits.queue_length // models)
    return msgspec.structs.replace(
        limits,
        concurrent_requests=min(places, limits.concurrent_requests),
        queue_length=min(queue_length, limits.queue_length),
    )


GATE_HEADERS = 3
"""How many headers tell of places."""


class LimitHeaders(dict[int, list[Header]]):
    """The rate-limit headers by places left, each made once. What is limited today is requests at a time; a
    place is free again as soon as a request ends."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self._places = places

    def __missing__(self, free: int) -> list[Header]:
        left = max(0, free)
        found: list[Header] = [
            (b"x-ratelimit-limit-requests", b"%d" % self._places),
            (b"x-ratelimit-remaining-requests", b"%d" % left),
            (b"x-ratelimit-reset-requests", b"0s" if left else b"1s"),
        ]
        self[free] = found
        return found
