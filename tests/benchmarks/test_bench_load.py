"""The load generators themselves, against servers whose misbehaviour is known."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from benchmarks.processes import BenchmarkError, Pinned, cpu_s, family_of, free_port, rss_kib, wait_for_port
from benchmarks.servers import BUILD, build_tools
from benchmarks.windows import Cores, by_requests, read_wrk

from benchmarks import payload, stats, streams, windows

CORES = Cores(1.0, 0.0, 0.5, 0.0)
GOOD = (
    '{"requests":1000,"bytes":900000,"duration_us":2000000,"p50_us":500,"p99_us":2500,"max_us":9000,'
    '"connect_errors":0,"read_errors":0,"write_errors":0,"status_errors":0,"timeouts":0}'
)

needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="no C compiler for the load generators"
)


@pytest.fixture(scope="module")
def tools() -> None:
    build_tools()


class Stalling(BaseHTTPRequestHandler):
    """Answers at once, but stands still for STALL_S once, at the 20th request of the server's life."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body leave in one write
    STALL_S = 0.3
    lock = threading.Lock()
    served = 0
    status = 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        with Stalling.lock:
            Stalling.served += 1
            if Stalling.served == 20:
                time.sleep(self.STALL_S)
        body = b"{}"
        self.send_response(Stalling.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def stalling_port() -> Iterator[int]:
    Stalling.served, Stalling.status = 0, 200
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def open_loop(port: int, folder: Path) -> subprocess.CompletedProcess[str]:
    request = folder / "request"
    request.write_bytes(payload.http_request(payload.body(stream=False), {}))
    argv = [str(BUILD / "open_loop"), str(port), "200", "2", "120", str(request), str(folder / "records")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


@needs_compiler
@pytest.mark.timing
def test_a_stalled_server_is_charged_for_the_requests_it_kept_from_being_sent(
    tools: None, stalling_port: int, tmp_path: Path
) -> None:
    """200/s on two connections: a stall of 0.3 s blocks both, about 60 requests become due meanwhile."""
    done = open_loop(stalling_port, tmp_path)
    assert done.returncode == 0, done.stderr
    records = (tmp_path / "records").read_bytes()
    rows = list(stats.OPEN_LOOP_RECORD.iter_unpack(records))
    assert len(rows) == 120
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    delayed = sum(done_ns - due > 100e6 for due, _, done_ns in rows)
    stalled_in_flight = sum(done_ns - sent > 100e6 for _, sent, done_ns in rows)
    assert stalled_in_flight <= 2
    assert delayed >= 30
    assert stats.open_loop_latencies(records).max_ms >= 290


@needs_compiler
def test_any_other_status_ends_the_load(tools: None, stalling_port: int, tmp_path: Path) -> None:
    Stalling.status = 503
    done = open_loop(stalling_port, tmp_path)
    assert done.returncode == 3
    assert "status 503" in done.stderr


@pytest.fixture
def source_port(tools: None, tmp_path: Path) -> Iterator[int]:
    port = free_port()
    source = Pinned(
        "source", [str(BUILD / "source"), str(port), "5", "20"], 0, tmp_path / "source.log"
    ).start()
    wait_for_port(source, port, 10)
    yield port
    source.stop()


def stream_client(port: int, folder: Path, tokens: int) -> subprocess.CompletedProcess[str]:
    request = folder / "request"
    request.write_bytes(payload.http_request(payload.body(stream=True, max_tokens=tokens), {}))
    files = [str(request), str(folder / "events"), str(folder / "answers")]
    argv = [str(BUILD / "stream_client"), str(port), "8", "0.05", "10", "2", *files]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


@needs_compiler
def test_every_chunk_of_the_source_arrives_once_in_order_and_stamped(
    source_port: int, tmp_path: Path
) -> None:
    done = stream_client(source_port, tmp_path, tokens=12)
    assert done.returncode == 0, done.stderr
    endings = list(streams.ANSWER.iter_unpack((tmp_path / "answers").read_bytes()))
    events = list(streams.EVENT.iter_unpack((tmp_path / "events").read_bytes()))
    assert sorted(row[0] for row in endings) == sorted([*range(8), *range(8)])
    assert {(row[1], row[2]) for row in endings} == {(12, 12)}
    for stream in range(8):
        own = [row for row in events if row[0] == stream]
        assert [row[1] for row in own] == [-1, *range(12)] * 2
        assert all(read >= made > 0 for _, _, read, made in own)


@needs_compiler
@pytest.mark.timing
def test_the_source_keeps_its_pace(tools: None, source_port: int, tmp_path: Path) -> None:
    done = stream_client(source_port, tmp_path, tokens=20)
    assert done.returncode == 0, done.stderr
    events = list(streams.EVENT.iter_unpack((tmp_path / "events").read_bytes()))
    for stream in range(8):
        made = [row[3] for row in events if row[0] == stream and row[1] >= 0]
        gaps_ms = [(b - a) / 1e6 for a, b in itertools.pairwise(made[1:20])]
        assert sum(gaps_ms) / len(gaps_ms) == pytest.approx(5.0, abs=1.5)


def test_a_family_is_counted_whole_and_stopped_whole(tmp_path: Path) -> None:
    """A process whose child does the work: the child's CPU counts, and both are gone after `stop`."""
    work = "import time; end = time.monotonic() + 60\nwhile time.process_time() < 0.3: pass\ntime.sleep(60)"
    code = (
        f"import subprocess, sys, signal; signal.signal(15, signal.SIG_IGN); "
        f"subprocess.run([sys.executable, '-c', {work!r}])"
    )
    parent = Pinned("parent", [sys.executable, "-c", code], 0, tmp_path / "log").start()
    end = time.monotonic() + 20
    while cpu_s([parent.pid]) < 0.3 and time.monotonic() < end:
        time.sleep(0.02)
    family = family_of(parent.pid)
    assert cpu_s([parent.pid]) >= 0.3
    assert len(family) == 2
    assert rss_kib(family[1]) > 1000
    parent.stop(grace_s=0.1)
    end = time.monotonic() + 10
    while any(alive(pid) for pid in family) and time.monotonic() < end:
        time.sleep(0.01)  # the kernel ends a killed process in its own time
    assert not [pid for pid in family if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_wrk_figures() -> None:
    found = read_wrk("ours", f"noise\nBENCH {GOOD}\n", 800, (1.5, CORES))
    assert (found.req_per_s, found.p50_ms, found.p99_ms, found.max_ms) == (500.0, 0.5, 2.5, 9.0)
    assert found.cpu_us_per_request == pytest.approx(1500)


def changed(**fields: int) -> str:
    return "BENCH " + json.dumps({**json.loads(GOOD), **fields})


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("Usage: wrk", "no figures"),
        (changed(status_errors=1), "not every answer was a 200"),
        (changed(read_errors=1), "not every answer was a 200"),
        (changed(connect_errors=3), "not every answer was a 200"),
        (changed(timeouts=1), "not every answer was a 200"),
        (changed(requests=0), "answered nothing"),
        (changed(bytes=500_000), "500 bytes on average, the checked one has 800"),
    ],
)
def test_a_window_with_any_error_is_no_figure(output: str, says: str) -> None:
    with pytest.raises(BenchmarkError, match=says):
        read_wrk("ours", output, 800, (1.0, CORES))


def wrong(change: Callable[[dict[str, object]], None]) -> bytes:
    answer = json.loads(payload.answer())
    change(answer)
    return json.dumps(answer).encode()


def test_an_answer_is_checked_for_what_a_caller_needs() -> None:
    assert payload.check_answer(payload.answer().encode()) is None
    assert "text" in str(payload.check_answer(payload.answer().replace("Pump", "Pimp").encode()))
    assert "total_tokens" in str(payload.check_answer(payload.answer().replace("244", "245").encode()))
    assert "not a chat completion" in str(payload.check_answer(b'{"error":"no"}'))
    assert "not a chat completion" in str(payload.check_answer(b"<html>"))
    assert "not a chat completion" in str(payload.check_answer(wrong(lambda answer: answer.pop("usage"))))


def test_the_request_is_the_600_byte_prompt_with_its_length() -> None:
    assert len(payload.prompt().encode()) == 600
    raw = payload.http_request(payload.body(stream=True), {"authorization": "Bearer x"})
    head, _, body = raw.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)["stream_options"] == {"include_usage": True}


def test_memory_readings_are_placed_by_requests_answered() -> None:
    assert by_requests([(5, 100), (10, 110), (99, 120)], [1, 5, 7, 20]) == [(2, 100), (3, 110), (4, 120)]


def test_the_nominal_rate_of_streams() -> None:
    assert windows.nominal_chunks_per_s(1000) == 50_000
