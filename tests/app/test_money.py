"""Usage rows equal completed answers on the real stack, while the ledger and the gateway are killed in the
middle of streams.

What clients saw is compared with the ledger (`answers_under_load.py`), and no hold may be left in the
gateway. `tests/crash` does the same to every process at random moments.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from answers_under_load import Client, check_rows, load, usage_rows
from sextant.store.ledger_reading import ledger_view
from sextant.store.statements import UsageQuery, usage_lines
from stack_under_test import Stack, stack, until

CLIENTS = 10
KILLS = ("ledger", "gateway", "ledger", "gateway", "both", "gateway", "ledger")


def kill(up: Stack, kind: str) -> None:
    """Kills the process of that kind (or both at once), when it is up."""
    kinds = ("ledger", "gateway") if kind == "both" else (kind,)
    victims = [process for process in up.status()["processes"] if process["kind"] in kinds]
    assert len(victims) == len(kinds)
    for process in victims:
        os.kill(process["pid"], signal.SIGKILL)

    def back() -> bool:
        now = up.processes()
        return all(
            now[process["name"]]["restarts"] > process["restarts"]
            and now[process["name"]]["state"] == "ready"
            for process in victims
        )

    until(back, f"{kind} is ready again", 30)
    until(lambda: up.ask("GET", "/ready").status == 200, "the gateway is ready", 30)


def metric(up: Stack, name: str) -> float:
    text = up.ask("GET", "/metrics").body.decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not exported"
    return float(found[1])


@pytest.mark.slow
def test_rows_equal_completed_answers_whatever_is_killed_mid_stream(tmp_path: Path) -> None:
    clients = [Client(number) for number in range(CLIENTS)]
    with stack(root=tmp_path / "state") as up:
        with load(up, clients) as seen:
            for kind in KILLS:
                time.sleep(0.8)  # load between the kills
                kill(up, kind)
            time.sleep(0.5)
        until(lambda: metric(up, "sextant_ledger_pending_rows") == 0, "all rows are durable")
        assert metric(up, "sextant_governance_open_admissions") == 0, "a hold was left behind"
        assert metric(up, "sextant_gateway_requests_in_progress") == 0
        assert up.stop() == 0

    db_path = tmp_path / "state" / "ledger.db"
    rows = usage_rows(db_path, "ok")
    check_rows(seen, rows)
    with ledger_view(db_path) as view:
        total = usage_lines(view, UsageQuery(first_day=0, last_day=99_999_999, by=("month",)))
    assert sum(line.totals.requests for line in total) == len(usage_rows(db_path)), "counted once each"
    assert len(seen.completed) > 30, "the load was real"
    assert seen.broken > 0, "the kills hit streams"
    print(f"{len(seen.completed)} completed, {len(rows)} rows, {seen.broken} broken")
