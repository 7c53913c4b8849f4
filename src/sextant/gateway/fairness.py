"""Whose turn it is: a queue that serves the tenants that wait in turn by weight, first come first served
within a tenant.

Flow 1 (serve), inside the gates (`queue.py`). Start-time fair queueing (Goyal, Vin and Cheng, 1996) with one
request as the unit of work: each tenant has a virtual time, which goes on by 1/weight with each of its
requests that is served, and the tenant that is furthest behind is next. One that has not waited begins at the
time of the queue, so that nobody saves up turns while idle. Pure but for the order of calls.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")
IDLE_LINES = 64
"""Tenants that wait no more and are remembered all the same; of more, those whose time has passed go."""


class _Line(Generic[T]):
    """Those of one tenant that wait, oldest first."""

    __slots__ = ("items", "tenant_id", "virtual", "weight")

    def __init__(self, tenant_id: str, weight: int, virtual: float) -> None:
        self.items: deque[T] = deque()
        self.tenant_id = tenant_id
        self.weight = weight
        self.virtual = virtual


class FairQueue(Generic[T]):
    """Items by tenant. Every tenant with an item stands in the heap once."""

    __slots__ = ("_heap", "_length", "_lines", "_served", "_virtual")

    def __init__(self) -> None:
        self._lines: dict[str, _Line[T]] = {}
        self._heap: list[tuple[float, int, _Line[T]]] = []
        self._virtual = 0.0
        self._served = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def tenants(self) -> int:
        """Tenants that wait."""
        return len(self._heap)

    def push(self, tenant_id: str, weight: int, item: T) -> None:
        """`item` behind all others of its tenant."""
        line = self._lines.get(tenant_id)
        if line is None:
            self._forget_idle()
            line = self._lines[tenant_id] = _Line(tenant_id, weight, self._virtual)
        line.weight = weight
        line.items.append(item)
        self._length += 1
        if len(line.items) == 1:
            line.virtual = max(line.virtual, self._virtual)
            self._stand(line)

    def pop(self) -> T:
        """The item whose turn it is. Raises IndexError when nothing waits."""
        virtual, _, line = heapq.heappop(self._heap)
        item = line.items.popleft()
        self._length -= 1
        self._virtual = virtual
        line.virtual = virtual + 1 / line.weight
        if line.items:
            self._stand(line)
        elif not self._heap:
            self._begin_anew()
        return item

    def remove(self, tenant_id: str, item: T) -> bool:
        """Takes `item` out; False when it does not wait."""
        line = self._lines.get(tenant_id)
        if line is None or item not in line.items:
            return False
        line.items.remove(item)
        self._left(line)
        return True

    def displace(self, tenant_id: str, weight: int) -> T | None:
        """Makes room for a newcomer: the youngest item of the tenant that has most waiting for its weight,
        taken out; None where that is the newcomer's own tenant."""
        mine = self._lines.get(tenant_id)
        own = (1 + (0 if mine is None else len(mine.items))) / weight
        longest = max((entry[2] for entry in self._heap), key=_length_by_weight, default=None)
        if longest is None or longest.tenant_id == tenant_id or _length_by_weight(longest) <= own:
            return None
        item = longest.items.pop()
        self._left(longest)
        return item

    def _stand(self, line: _Line[T]) -> None:
        self._served += 1
        heapq.heappush(self._heap, (line.virtual, self._served, line))

    def _left(self, line: _Line[T]) -> None:
        """One item of `line` went without being served: its tenant's time stands still."""
        self._length -= 1
        if not line.items:
            self._heap = [entry for entry in self._heap if entry[2] is not line]
            heapq.heapify(self._heap)
            if not self._heap:
                self._begin_anew()

    def _forget_idle(self) -> None:
        """Drops the lines that would begin at the queue's time anyway, when there are many."""
        if len(self._lines) - len(self._heap) > IDLE_LINES:
            self._lines = {
                name: line for name, line in self._lines.items() if line.items or line.virtual > self._virtual
            }

    def _begin_anew(self) -> None:
        """Nobody waits: what was owed is forgotten, and with it every tenant's line."""
        self._lines.clear()
        self._virtual = 0.0


def _length_by_weight(line: _Line[T]) -> float:
    return len(line.items) / line.weight
