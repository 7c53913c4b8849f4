"""Usage rows equal completed answers on the real stack, while the ledger and the gateway are killed in the
middle of streams.

Clients stream as fast as the bundled model answers and write down each answer that ended cleanly, with its
request id and the usage it carried. Afterwards the ledger must hold exactly one row for each of these, with
the same numbers, and no hold may be left in the gateway.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import random
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ledger_under_test import stored
from sextant.store.usage_report import usage_report
from stack_under_test import Stack, stack, until

CLIENTS = 10
KILLS = ("ledger", "gateway", "ledger", "gateway", "both", "gateway", "ledger")
PROMPTS = ("12+30", "sort: pear apple fig", "who are you?", "reverse: stone")


@dataclasses.dataclass
class Seen:
    """What the clients saw. `completed` maps request ids to (input, output) tokens."""

    completed: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    refused: int = 0
    """No connection, or an error status."""
    broken: int = 0
    """Sent, and then cut off or ended with an error."""


def exchange(up: Stack, body: dict[str, Any], seen: Seen) -> None:
    """One request to its end, clean or not."""
    connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=30)
    try:
        try:
            connection.connect()
        except OSError:
            seen.refused += 1
            return
        headers = {"Authorization": f"Bearer {up.key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException):
        seen.broken += 1
        return
    finally:
        connection.close()
    if answer.status != 200:
        seen.refused += 1
        return
    if body["stream"]:
        events = re.findall(r"^data: (.*)$", text, re.MULTILINE)
        if not events or events[-1] != "[DONE]":
            seen.broken += 1  # an error event, or cut off
            return
        usage = json.loads(events[-2])["usage"]
    else:
        usage = json.loads(text).get("usage")
        if usage is None:
            seen.broken += 1  # an error after a keep-alive
            return
    request_id = answer.getheader("x-request-id")
    assert request_id and request_id not in seen.completed
    seen.completed[request_id] = (usage["prompt_tokens"], usage["completion_tokens"])


def client(up: Stack, number: int, stop: threading.Event, seen: Seen) -> None:
    chance = random.Random(number)
    while not stop.is_set():
        body: dict[str, Any] = {
            "model": "sextant-nano",
            "messages": [{"role": "user", "content": chance.choice(PROMPTS)}],
            "max_tokens": chance.randrange(4, 80),
            "stream": chance.random() < 0.8,
        }
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        before = seen.refused + seen.broken
        exchange(up, body, seen)
        if seen.refused + seen.broken > before:
            stop.wait(0.05)


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


def rows_of(db_path: Path, outcome: str) -> dict[str, tuple[int, int]]:
    return {name: (row[9], row[10]) for name, row in stored(db_path).items() if row[5] == outcome}


@pytest.mark.slow
def test_rows_equal_completed_answers_whatever_is_killed_mid_stream(tmp_path: Path) -> None:
    seen_by_client = [Seen() for _ in range(CLIENTS)]
    stop = threading.Event()
    with stack(root=tmp_path / "state") as up:
        threads = [
            threading.Thread(target=client, args=(up, number, stop, seen))
            for number, seen in enumerate(seen_by_client)
        ]
        for thread in threads:
            thread.start()
        try:
            for kind in KILLS:
                time.sleep(0.8)  # load between the kills
                kill(up, kind)
            time.sleep(0.5)
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        until(lambda: metric(up, "sextant_ledger_pending_rows") == 0, "all rows are durable")
        assert metric(up, "sextant_governance_open_admissions") == 0, "a hold was left behind"
        assert metric(up, "sextant_gateway_requests_in_progress") == 0
        assert up.stop() == 0

    completed = {name: usage for seen in seen_by_client for name, usage in seen.completed.items()}
    broken = sum(seen.broken for seen in seen_by_client)
    assert len(completed) == sum(len(seen.completed) for seen in seen_by_client)
    db_path = tmp_path / "state" / "ledger.db"
    rows = rows_of(db_path, "ok")
    assert completed.items() <= rows.items(), "a completed answer without its row, or with another's numbers"
    assert len(rows) - len(completed) <= broken, "a row for which nobody saw even a broken answer"
    total = usage_report(db_path, since_ms=0, until_ms=2**62)
    assert sum(day.requests for day in total) == len(stored(db_path)), "counted once each"
    assert len(completed) > 30, "the load was real"
    assert broken > 0, "the kills hit streams"
    print(f"{len(completed)} completed, {len(rows)} rows, {broken} broken")
