"""The end-to-end benchmark: its schedule, what is read from a window, its goals, and the generator itself
against servers that stand still, refuse, break off and never answer."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev

import pytest
from benchmarks.e2e import Point, Results
from benchmarks.e2e_report import added_ms, goals_of, page, stored, summary
from benchmarks.e2e_window import (
    ANSWER_TOKENS,
    OK,
    RECORD,
    Arrivals,
    Record,
    Row,
    figures,
    joined,
    read_arrivals,
    request_file,
    schedule,
)
from benchmarks.goals import exit_code
from benchmarks.processes import BenchmarkError
from benchmarks.servers import BUILD, ROOT, build_tools
from benchmarks.stack import Way

from sextant.spec.document import load_document

MS = 1_000_000
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler for the generator")


def test_arrivals_are_poisson_and_come_from_their_seed() -> None:
    due = schedule(200.0, 100.0, seed=1)
    gaps = [b - a for a, b in pairwise(due)]
    assert due == sorted(due) == schedule(200.0, 100.0, seed=1) != schedule(200.0, 100.0, seed=2)
    assert due[-1] < 100e9
    assert len(due) == pytest.approx(20_000, rel=0.03)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(1.0, abs=0.03)  # exponential: as wide as its mean


def test_a_window_without_arrivals_is_refused() -> None:
    with pytest.raises(ValueError, match="make the window longer"):
        schedule(0.001, 1.0, seed=1)


def record(due_ms: float, *, wait_ms: float = 0.0, first_ms: float = 5.0, whole_ms: float = 20.0) -> Record:
    sent = due_ms + wait_ms
    times = [due_ms, sent, sent + first_ms, sent + whole_ms - 2, sent + whole_ms]
    due, sent_ns, first, last, done = (int(at * MS) for at in times)
    return due, sent_ns, first, last, done, OK, ANSWER_TOKENS


def test_time_counts_from_when_a_request_was_due() -> None:
    raw = [record(10.0 * n) for n in range(99)] + [record(990.0, wait_ms=400.0)]
    found = figures(read_arrivals(raw, "sextant", 1.0))
    assert found["whole_p50_ms"] == pytest.approx(20.0)
    assert max(row.whole_ms for row in read_arrivals(raw, "sextant", 1.0).rows) == pytest.approx(420.0)
    assert found["whole_p99_ms"] > found["whole_from_sending_p99_ms"] == pytest.approx(20.0)
    assert found["first_token_p50_ms"] == pytest.approx(5.0)
    assert found["ending_p99_ms"] == pytest.approx(2.0)


def test_a_queue_that_must_drain_after_the_window_was_not_sustained() -> None:
    steady = read_arrivals([record(10.0 * n) for n in range(100)], "sextant", 1.0)
    behind = read_arrivals([record(10.0 * n, wait_ms=2.0 * n) for n in range(100)], "sextant", 1.0)
    assert steady.sustained
    assert steady.attained_per_s == pytest.approx(100)
    assert not behind.sustained
    assert behind.attained_share == pytest.approx(1 / 1.188)
    slow = read_arrivals([record(10.0 * n, whole_ms=5000.0) for n in range(100)], "sextant", 1.0)
    assert slow.sustained  # each answer takes 5 s, but none waits


def test_one_failure_is_counted_and_not_sustained() -> None:
    raw = [record(10.0 * n) for n in range(97)]
    raw += [(970 * MS, 970 * MS, 0, 0, 971 * MS, 503, 0), (980 * MS, 980 * MS, 0, 0, 0, -3, 0)]
    found = read_arrivals(raw, "sextant", 1.0)
    assert found.failures == {"status 503": 1, "no answer in time": 1}
    assert len(found.rows) == 97
    assert not found.sustained


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ((0, 0, 5, 8, 9, OK, ANSWER_TOKENS - 1), "an answer of 15 tokens, expected 16"),
        ((0, 0, 0, 0, -1, OK, ANSWER_TOKENS), "impossible record"),
        ((9, 8, 10, 11, 11, OK, ANSWER_TOKENS), "impossible record"),
        ((5, 6, 0, 0, 9, OK, ANSWER_TOKENS), "impossible record"),  # answered, but never a first token
    ],
)
def test_what_cannot_be_is_no_figure(row: Record, says: str) -> None:
    with pytest.raises(BenchmarkError, match=says):
        read_arrivals([row], "bare", 1.0)
    with pytest.raises(BenchmarkError, match="recorded nothing"):
        read_arrivals([], "bare", 1.0)


def window(way: str, whole_ms: float, *, count: int = 100, elapsed_s: float = 1.0) -> Arrivals:
    rows = [Row(10.0 * n, whole_ms / 4, whole_ms, 0.1, 0.5) for n in range(count)]
    return Arrivals(way, count, 1.0, elapsed_s, rows)


def point(rate: float, bare_ms: float, own_ms: float, *, elapsed_s: float = 1.0) -> Point:
    through = window("sextant", own_ms, elapsed_s=elapsed_s)
    return Point(rate, through, {"bare": window("bare", bare_ms), "sextant": through})


def results(long: Arrivals | None, *, rate_given: bool = False) -> Results:
    curve = [point(10.0, 20.0, 25.0), point(20.0, 40.0, 44.0), point(30.0, 99.0, 400.0, elapsed_s=2.0)]
    return Results({}, curve=curve, long=long, rate_given=rate_given)


def test_the_rates_sustained_are_those_below_the_first_that_was_not() -> None:
    found = results(window("sextant", 30.0))
    assert found.sustained_per_s == [20.0, 10.0]
    found.curve.append(point(40.0, 20.0, 20.0))
    assert found.sustained_per_s == [20.0, 10.0]
    assert Results({}, curve=[point(10.0, 1.0, 1.0, elapsed_s=9.0)]).sustained_per_s == []


def test_the_gateways_share_is_the_difference_of_the_two_halves() -> None:
    found = results(window("sextant", 30.0))
    assert added_ms(found.curve[0])["whole_p50_ms"] == pytest.approx(5.0)
    assert added_ms(Point(9.0, window("sextant", 9.0), {})) == {}
    behind = window("sextant", 9.0, elapsed_s=2.0)
    assert added_ms(Point(9.0, behind, {"bare": window("bare", 9.0), "sextant": behind})) == {}
    assert summary(found)["gateway_share_whole_p50"] == pytest.approx(4 / 44, abs=1e-4)
    found.curve.append(Point(40.0, window("sextant", 900.0, elapsed_s=9.0), {}))  # sustained in no window
    shown = page(found, goals_of(found))
    assert "+5.00 (20%)" in shown
    assert stored(found)["curve"][3]["mixed"] == {}
    assert "sustained" in shown
    assert json.loads(json.dumps(stored(found)))["curve"][1]["added_ms"]["whole_p99_ms"] == pytest.approx(4.0)


def test_windows_of_one_rate_are_read_as_one() -> None:
    both = joined([window("sextant", 10.0), window("sextant", 30.0, count=300)])
    assert (both.arrivals, both.window_s, len(both.rows)) == (400, 2.0, 400)
    assert figures(both)["whole_p50_ms"] == 30.0


@pytest.mark.parametrize(
    ("long", "given", "code"),
    [
        (window("sextant", 30.0), False, 0),
        (window("sextant", 3000.0), False, 0),  # 50 ms are asked at 1,000 requests a second only
        (window("sextant", 30.0, count=1000), True, 0),
        (window("sextant", 51.0, count=1000), True, 1),
        (window("sextant", 30.0, elapsed_s=1.1), False, 1),
        (Arrivals("sextant", 100, 1.0, 1.0, window("sextant", 30.0).rows, {"status 503": 1}), False, 1),
        (None, False, 1),
    ],
)
def test_goals(long: Arrivals | None, given: bool, code: int) -> None:
    assert exit_code(goals_of(results(long, rate_given=given))) == code


@pytest.fixture(scope="module")
def tools() -> None:
    build_tools()


CHUNK = b'data: {"choices":[{"delta":{"content":"t"}}]}\n\n'
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"completion_tokens": 16}}\n\n'
DONE = b"data: [DONE]\n\n"


def http(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Serving:
    """A server of `answers`, one after another, each its own way: bytes, silence, or the end of the
    connection after them. The first answer comes `stall_s` late."""

    def __init__(
        self, answers: Sequence[bytes | None], *, stall_s: float = 0.0, closes: bool = False
    ) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.asked: list[bytes] = []
        self._answers = list(answers)
        self._stall_s, self._closes = stall_s, closes
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the generator is gone, or the test is over
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        while raw := connection.recv(65536):
            with self._lock:
                self.asked.append(raw)
                if len(self.asked) == 1:
                    time.sleep(self._stall_s)
                answer = self._answers[min(len(self.asked), len(self._answers)) - 1]
            if answer is not None:
                connection.sendall(answer)
            if self._closes:
                connection.close()
                return

    def close(self) -> None:
        self.listener.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def start(tools: None) -> Iterator[list[Serving]]:
    running: list[Serving] = []
    yield running
    for server in running:
        server.close()


def run(
    folder: Path, servers: Sequence[Serving], due_ms: Sequence[float], *, connections: int = 8
) -> list[Record]:
    """The generator's records; it waits 0.5 s after the last request was due."""
    schedule_file, requests, records = folder / "schedule", folder / "requests", folder / "records"
    schedule_file.write_bytes(struct.pack(f"<{len(due_ms)}q", *(int(at * MS) for at in due_ms)))
    requests.write_bytes(request_file([Way("way", server.port, "", "m") for server in servers]))
    argv = [str(BUILD / "arrivals"), str(schedule_file), str(requests), str(connections), "0.5", str(records)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return list(RECORD.iter_unpack(records.read_bytes()))


@needs_compiler
def test_the_generator_charges_a_stall_to_the_requests_that_waited_for_it(
    start: list[Serving], tmp_path: Path
) -> None:
    """One connection, a stall of 0.3 s at the first request: the others were due meanwhile."""
    start.append(Serving([http("200 OK", CHUNK + USAGE + DONE)], stall_s=0.3))
    rows = run(tmp_path, start, [0, 50, 100, 150], connections=1)
    assert [row[0] - rows[0][0] for row in rows] == [0, 50 * MS, 100 * MS, 150 * MS]
    assert [row[5:] for row in rows] == [(OK, 16)] * 4
    assert all(row[4] - row[0] >= (300 - 50 * n) * MS for n, row in enumerate(rows))
    assert all(row[1] >= rows[0][4] for row in rows[1:])  # sent only then: a clock from sending sees nothing


@needs_compiler
def test_the_generator_does_not_wait_for_answers(start: list[Serving], tmp_path: Path) -> None:
    start.append(Serving([http("200 OK", CHUNK + USAGE + DONE)], stall_s=0.3))
    rows = run(tmp_path, start, [0, 50, 100, 150], connections=8)
    assert all(row[1] < rows[0][4] for row in rows)


@needs_compiler
@pytest.mark.parametrize(
    ("answer", "closes", "status"),
    [
        (http("200 OK", CHUNK + USAGE + DONE), False, OK),
        (http("503 Service Unavailable", b'{"error":{}}'), False, 503),
        (http("200 OK", CHUNK + b'data: {"error":{"message":"gone"}}\n\n' + DONE), False, -1),
        (http("200 OK", CHUNK + USAGE), False, -1),
        (http("200 OK", CHUNK + USAGE + DONE)[:-5], True, -2),
        (None, False, -3),
    ],
)
def test_a_failure_is_recorded_by_its_kind(
    start: list[Serving], tmp_path: Path, answer: bytes | None, closes: bool, status: int
) -> None:
    start.append(Serving([answer], closes=closes))
    assert [row[5] for row in run(tmp_path, start, [0, 1])] == [status] * 2


@needs_compiler
@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning"])
def test_the_first_token_is_the_first_text_of_any_kind(
    start: list[Serving], tmp_path: Path, name: str
) -> None:
    start.append(Serving([http("200 OK", ROLE + CHUNK.replace(b"content", name.encode()) + USAGE + DONE)]))
    rows = run(tmp_path, start, [0])
    assert rows[0][2] == rows[0][3] > rows[0][1]
    start.append(Serving([http("200 OK", ROLE + USAGE + DONE)]))
    assert run(tmp_path, start[1:], [0])[0][2] == 0


def test_the_document_for_a_machine_with_a_gpu_is_valid() -> None:
    document = load_document(ROOT / "benchmarks" / "e2e-vllm.yaml")
    assert document.spec.model.source is not None
    assert document.spec.engine is not None
    assert document.spec.engine.kind == "vllm"


@needs_compiler
def test_two_ways_take_turns_and_are_never_asked_the_same_at_once(
    start: list[Serving], tmp_path: Path
) -> None:
    good = http("200 OK", CHUNK + USAGE + DONE)
    start += [Serving([good]), Serving([http("429 Too Many Requests", b"{}")])]
    rows = run(tmp_path, start, [5.0 * n for n in range(10)])
    assert [row[5] for row in rows] == [OK, 429] * 5
    assert len(start[0].asked) == len(start[1].asked) == 5
    assert not {raw.partition(b"\r\n\r\n")[2] for raw in start[0].asked} & {
        raw.partition(b"\r\n\r\n")[2] for raw in start[1].asked
    }
