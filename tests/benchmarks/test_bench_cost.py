"""The counter of bytecodes: it finds the functions of the hot path, and counts the same twice."""

from __future__ import annotations

from pathlib import Path

import uvloop
from benchmarks.cost import CONNECTIONS, run


def total(folder: Path) -> tuple[int, set[str]]:
    counter = uvloop.run(run(stream=False, socket_path=str(folder / "ledger.sock")))
    own = {place: count for place, count in counter.bytecodes.items() if "sextant" in place[0]}
    return sum(own.values()), {place[2] for place in own}


def test_a_request_costs_the_same_each_time(tmp_path: Path) -> None:
    first, names = total(tmp_path)
    (tmp_path / "ledger.sock").unlink(missing_ok=True)
    second, _ = total(tmp_path)
    assert {"serve", "_read_head", "admit", "settle", "reply"} <= names
    assert first / CONNECTIONS > 500
    assert abs(first - second) < 0.05 * first
