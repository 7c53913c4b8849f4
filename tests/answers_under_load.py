"""Clients that stream as fast as they are answered and write down what they saw: the other side of the books.

Each answer that ended cleanly is remembered by its request id with the usage that it carried. Afterwards the
ledger must hold exactly one row for each of these with the same numbers, and nothing that nobody asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import random
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from sextant.store.ledger_reading import ledger_view

PROMPTS = ("12+30", "sort: pear apple fig", "who are you?", "reverse: stone")
PAUSE_AFTER_FAILURE_S = 0.05


class Address(Protocol):
    """Where the API is, and the key for it."""

    @property
    def port(self) -> int: ...

    @property
    def key(self) -> str: ...


@dataclasses.dataclass
class Seen:
    """What the clients saw. `completed` maps request ids to (input, output) tokens."""

    completed: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    refused: int = 0
    """No connection, or an error status."""
    broken: int = 0
    """Sent, and then cut off or ended with an error."""
    statuses: dict[int, int] = dataclasses.field(default_factory=dict)

    def add(self, other: Seen) -> None:
        assert not self.completed.keys() & other.completed.keys(), "one request id for two answers"
        self.completed |= other.completed
        self.refused += other.refused
        self.broken += other.broken
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count


def exchange(up: Address, body: dict[str, Any], seen: Seen, key: str | None = None) -> int:
    """One request to its end, clean or not; its status, 0 for none."""
    connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=30)
    try:
        try:
            connection.connect()
        except OSError:
            seen.refused += 1
            return 0
        headers = {"Authorization": f"Bearer {key or up.key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException):
        seen.broken += 1
        return 0
    finally:
        connection.close()
    seen.statuses[answer.status] = seen.statuses.get(answer.status, 0) + 1
    if answer.status != 200:
        seen.refused += 1
        return answer.status
    usage = _usage_of(text, streamed=bool(body.get("stream")))
    if usage is None:
        seen.broken += 1
        return 0
    request_id = answer.getheader("x-request-id")
    assert request_id and request_id not in seen.completed
    seen.completed[request_id] = (usage["prompt_tokens"], usage["completion_tokens"])
    return 200


def _usage_of(text: str, *, streamed: bool) -> dict[str, int] | None:
    """None for an answer that was cut off or ended with an error, after a keep-alive for instance."""
    if not streamed:
        usage: dict[str, int] | None = json.loads(text).get("usage")
        return usage
    events = re.findall(r"^data: (.*)$", text, re.MULTILINE)
    if not events or events[-1] != "[DONE]":
        return None
    streamed_usage: dict[str, int] = json.loads(events[-2])["usage"]
    return streamed_usage


@dataclasses.dataclass(frozen=True)
class Client:
    """One client's habits; `seed` settles them."""

    seed: int
    models: Sequence[str] = ("sextant-nano",)
    keys: Sequence[str] = ()
    """One of these is used for each request; none: the stack's own."""
    output_tokens_max: int = 80


def ask_on(up: Address, client: Client, stop: threading.Event, seen: Seen) -> None:
    """One request after the other until told to stop."""
    chance = random.Random(client.seed)
    while not stop.is_set():
        body: dict[str, Any] = {
            "model": chance.choice(client.models),
            "messages": [{"role": "user", "content": chance.choice(PROMPTS)}],
            "max_tokens": chance.randrange(4, client.output_tokens_max),
            "stream": chance.random() < 0.8,
        }
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        key = chance.choice(client.keys) if client.keys else None
        if exchange(up, body, seen, key) != 200:
            stop.wait(PAUSE_AFTER_FAILURE_S)


@contextlib.contextmanager
def load(up: Address, clients: Sequence[Client]) -> Iterator[Seen]:
    """Runs the clients meanwhile; what they saw is complete when it ends."""
    stop, each = threading.Event(), [Seen() for _ in clients]
    threads = [
        threading.Thread(target=ask_on, args=(up, client, stop, seen), name=f"client {client.seed}")
        for client, seen in zip(clients, each, strict=True)
    ]
    total = Seen()
    for thread in threads:
        thread.start()
    try:
        yield total
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    for seen in each:
        total.add(seen)


def usage_rows(ledger: Path | str, outcome: str = "") -> dict[str, tuple[int, int]]:
    """(input, output) tokens of the ledger's rows (a file, or PostgreSQL's URL) by request id; of one outcome
    when that is named."""
    with ledger_view(ledger) as view:
        rows = view.query("SELECT request_id, input_tokens, output_tokens, outcome FROM usage")
        return {name: (read, made) for name, read, made, ended in rows if outcome in ("", ended)}


def check_rows(seen: Seen, rows: dict[str, tuple[int, int]]) -> None:
    """Fails when the rows of clean ends are not those of the answers that the clients saw."""
    missing = seen.completed.keys() - rows.keys()
    assert not missing, f"{len(missing)} completed answers without a row: {sorted(missing)[:5]}"
    other = {name for name, usage in seen.completed.items() if rows[name] != usage}
    assert not other, f"rows with other numbers than the answer: {sorted(other)[:5]}"
    extra = len(rows) - len(seen.completed)
    assert extra <= seen.broken, f"{extra} more rows than answers, and only {seen.broken} were cut off"
