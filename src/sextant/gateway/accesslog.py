"""The access log: one JSON line a request, without prompt or answer, written beside the loop.

Flow 1 (serve), after its end. The loop only appends a record; a thread of its own turns records into lines
and writes them, so that a slow terminal or a full pipe never holds up a request. The queue is bounded: what
does not fit is counted, and the count is written as soon as there is room. Lines have the form of
`telemetry.logs`. Neighbours: `observe.py` appends, `app.py` owns it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import IO

import msgspec

QUEUE_LINES = 20_000
"""Lines waiting for the writer; further ones are dropped and counted."""
PAUSE_S = 0.2
"""Lines are late by about this much."""

_log = logging.getLogger(__name__)


class Line(msgspec.Struct, gc=False):
    """One request. `at_s` is Unix time at its end; `ttft_ms` -1 where no token was streamed."""

    at_s: float
    request_id: str
    endpoint: str
    status: int
    outcome: str
    duration_ms: float
    model: str = ""
    tenant_id: str = ""
    key_id: str = ""
    peer: str = ""
    ttft_ms: float = -1.0
    input_tokens: int = 0
    output_tokens: int = 0


class AccessLog:
    """Collects lines and writes them to `stream` from its own thread until `close`."""

    def __init__(self, stream: IO[str], *, queue_lines: int = QUEUE_LINES) -> None:
        self._stream = stream
        self._queue_lines = queue_lines
        # one thread appends and counts, the other takes and reports: no lock
        self._waiting: deque[Line] = deque()
        self._dropped = 0
        self._reported = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="access-log", daemon=True)
        self._thread.start()

    def add(self, line: Line) -> None:
        """Queues one line; never blocks."""
        if len(self._waiting) < self._queue_lines:
            self._waiting.append(line)
        else:
            self._dropped += 1

    def close(self) -> None:
        """Writes what waits, then stops; gives up on a stream that takes nothing for two seconds."""
        self._closing.set()
        self._thread.join(2.0)

    def _write_on(self) -> None:
        while not self._closing.wait(PAUSE_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        dropped = self._dropped - self._reported
        self._reported += dropped
        if not lines and not dropped:
            return
        text = "".join([_json_line(line) for line in lines])
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:  # a closed pipe or stream; serving goes on
            _log.warning("%d access log lines could not be written: %s", len(lines), error)
        if dropped:
            _log.warning("%d access log lines were dropped: the log's stream is slow", dropped)


def _json_line(line: Line) -> str:
    fields = msgspec.structs.asdict(line)
    at_s = fields.pop("at_s")
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))
    head = {
        "time": f"{stamp}.{int(at_s * 1000) % 1000:03d}Z",
        "level": "info",
        "process": "gateway",
        "logger": "sextant.access",
        "message": "request",
    }
    return msgspec.json.encode({**head, **fields}).decode() + "\n"
