"""A box at the edge and its centre, the line between them, and what holds when both were ill-treated.

For tests that start the two, in whatever way. The line is a TCP relay of ours that can be cut, hold back
answers, or lose them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sextant.spec.sites import ForwardStatus, read_forward_status
from sextant.store.ledger_check import check_books
from sextant.store.ledger_reading import ledger_view

SITE = "plant-7"
WAIT_S = 60.0
CONTENT = (
    "request_id, tenant_id, project_id, key_id, model, endpoint, outcome, started_ms, duration_ms, ttft_ms, "
    "input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, cost_nano, list_nano, currency"
)
"""Of a row, what must be the same on both sides."""


class Line:
    """A TCP relay to a port of this machine. `open`: connections are made and kept; `loses_answers`: what is
    sent arrives, and nothing comes back."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._pairs: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_open = True
        self.loses_answers = False
        self.lost = 0
        """Answers that were on their way and were thrown away."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends what is under way and lets nothing through."""
        with self._lock:
            self._is_open = False
            pairs, self._pairs = self._pairs, set()
        for one in pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        with self._lock:
            self._is_open = True

    def close(self) -> None:
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._is_open:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._to), timeout=30)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._pairs |= {near, far}
            threading.Thread(target=self._relay, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._relay, args=(far, near, True), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if answers and self.loses_answers:
                    self.lost += 1
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if answers:
            with self._lock:
                self._pairs -= {source, target}
            source.close()
            target.close()


@contextlib.contextmanager
def line_to(port: int) -> Iterator[Line]:
    line = Line(port)
    try:
        yield line
    finally:
        line.close()


@dataclass(frozen=True)
class Host:
    """A running deployment: its state directory, its API's port, and its command line."""

    state: Path
    port: int
    run: Callable[..., str]

    def chat(self, text: str, model: str) -> tuple[int, dict[str, str], str]:
        """One question: status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 12}
        headers = {"Authorization": f"Bearer {(self.state / 'secrets/local-cli').read_text().strip()}"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def process(self, name: str) -> dict[str, Any]:
        found = json.loads((self.state / "run/status.json").read_bytes())["processes"]
        return next(one for one in found if one["name"] == name)

    def kill(self, name: str) -> None:
        """SIGKILL, and back again."""
        before = self.process(name)
        os.kill(before["pid"], signal.SIGKILL)

        def back() -> bool:
            now = self.process(name)
            return now["restarts"] > before["restarts"] and now["state"] == "ready"

        until(back, f"{name} is back")

    def forwarding(self) -> ForwardStatus:
        return read_forward_status(self.state / "run/forward-status.json") or ForwardStatus(waiting_rows=-1)

    def rows(self, table: str = "usage", where: str = "") -> list[tuple[Any, ...]]:
        with ledger_view(self.state / "ledger.db") as view:
            return view.query(f"SELECT {CONTENT} FROM {table} {where} ORDER BY request_id")

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        with ledger_view(self.state / "ledger.db") as view:
            return view.query(sql)


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {WAIT_S:g} s: {what}")
        time.sleep(0.05)


def use(box: Host, times: int, model: str) -> None:
    for number in range(times):
        status, _, body = box.chat(f"What is {number} + 7?", model)
        assert status == 200, body


def settled(box: Host) -> None:
    """Waits until the centre has confirmed everything."""

    def done() -> bool:
        status = box.forwarding()
        return status.waiting_rows == 0 and not status.trouble and status.number == len(box.rows())

    until(done, f"all forwarded: {box.forwarding()}")


def reconciled(box: Host, centre: Host, tenant: str) -> None:
    """Every row of the box is once at the centre, as it is, and booked there with the same amounts."""
    mine = box.rows()
    assert mine and centre.rows("site_usage", f"WHERE site_id = '{SITE}'") == mine
    sums = "count(*), sum(input_tokens), sum(output_tokens), sum(cost_nano), sum(list_nano)"
    booked = centre.all(
        f"SELECT {sums} FROM usage WHERE request_id LIKE '{SITE}/%' AND tenant_id = '{tenant}'"
    )
    assert booked == box.all(f"SELECT {sums} FROM usage")
    assert check_books(box.state / "ledger.db") == [] == check_books(centre.state / "ledger.db")


def ill_treated(box: Host, centre: Host, line: Line, model: str) -> None:
    """Cut off, used, killed, reconnected with acknowledgements lost and the centre killed in the middle."""
    use(box, 3, model)
    settled(box)
    line.cut()
    use(box, 4, model)
    until(lambda: box.forwarding().waiting_rows == 4 and box.forwarding().trouble, "the backlog is seen")
    assert "4 rows wait" in box.run("status")
    box.kill("forwarder")
    use(box, 3, model)
    line.loses_answers = True
    line.mend()
    box.kill("forwarder")  # begins at once instead of after its pause
    until(lambda: line.lost >= 2, "acknowledgements are lost")
    before = len(centre.rows("site_usage"))
    box.kill("forwarder")
    centre.kill("ledger")
    use(box, 2, model)
    line.loses_answers = False
    centre.kill("control")
    box.kill("forwarder")
    settled(box)
    assert len(centre.rows("site_usage")) >= before
