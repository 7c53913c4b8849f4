"""One measured window of each kind: closed-loop load by wrk, constant-rate load, open streams, memory.

A window is only a figure when the server answered correctly before, during and after it: any non-2xx, any
lost connection, any answer that is not the upstream's ends the whole benchmark.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import payload, stats
from benchmarks.machine import CoreTimes, core_times
from benchmarks.processes import BenchmarkError, cpu_s, rss_kib
from benchmarks.servers import BUILD, LOAD, PERIOD_MS, STREAM_TOKENS, Bench, Server, ask
from benchmarks.streams import StreamWindow, read_window

QUIET_SHARE = 0.05
QUIET_STEP_S = 0.2
QUIET_LIMIT_S = 60.0
BODY_TOLERANCE = 0.05
WRK_TIMEOUT_S = 60
OPEN_LOOP_CONNECTIONS = 256
STREAM_RAMP_S = STREAM_TOKENS * PERIOD_MS / 1000
STREAM_SETTLE_S = 1.0
RSS_STEP_S = 0.05


@dataclass(frozen=True)
class Cores:
    """How the two cores were used in a window. `others_*` is CPU that neither the server nor the load took:
    other programs on the machine. `server_share` near 1 means that the server, not the load, was
    the limit."""

    server_share: float
    others_on_server_core: float
    load_core_busy: float
    stolen: float


@dataclass(frozen=True)
class ClosedWindow:
    """One wrk window."""

    req_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    cpu_us_per_request: float
    cores: Cores


@dataclass(frozen=True)
class OpenWindow:
    """One constant-rate window."""

    latencies: stats.Latencies
    achieved_per_s: float
    cores: Cores


@dataclass(frozen=True)
class StreamsWindow:
    """One window of open streams with what the server spent on it."""

    streams: int
    window: StreamWindow
    cpu_s_per_1000_chunks: float
    source_late_ticks_share: float
    source_late_max_ms: float
    source_blocked: int
    cores: Cores


class Meter:
    """CPU of the server and of both cores between two moments."""

    def __init__(self, bench: Bench, server: Server) -> None:
        self._bench = bench
        self._server = server
        self._start = self._read()

    def _read(self) -> tuple[float, CoreTimes, CoreTimes]:
        bench = self._bench
        return cpu_s(self._server.pids), core_times(bench.server_core), core_times(bench.load_core)

    def stop(self) -> tuple[float, Cores]:
        """(CPU seconds of the server, use of the cores) since the start."""
        spent, server_core, load_core = self._read()
        spent_0, server_0, load_0 = self._start
        wall = server_core.at_s - server_0.at_s
        own = spent - spent_0
        busy = server_core.busy_s - server_0.busy_s
        direct = self._server.name == "direct"
        cores = Cores(
            server_share=0.0 if direct else own / wall,
            others_on_server_core=max(0.0, (busy if direct else busy - own) / wall),
            load_core_busy=(load_core.busy_s - load_0.busy_s) / wall,
            stolen=(server_core.steal_s - server_0.steal_s + load_core.steal_s - load_0.steal_s) / wall,
        )
        return own, cores


def wait_until_quiet(servers: Sequence[Server]) -> None:
    """Returns when none of the servers works any more on what an earlier window left it (LiteLLM goes on for
    seconds after its clients have gone). Raises BenchmarkError when one never rests."""
    end = time.monotonic() + QUIET_LIMIT_S
    while time.monotonic() < end:
        before = [cpu_s(server.pids) for server in servers]
        time.sleep(QUIET_STEP_S)
        after = [cpu_s(server.pids) for server in servers]
        if sum(after) - sum(before) <= QUIET_SHARE * QUIET_STEP_S + 0.01:
            return
    raise BenchmarkError(f"the servers were still busy after {QUIET_LIMIT_S} s without load")


def probe(server: Server) -> int:
    """Checks one whole answer; its body's length. Raises BenchmarkError when it is not the upstream's."""
    server.check_alive()
    raw = ask(server)
    problem = payload.check_answer(raw)
    if problem:
        raise BenchmarkError(f"{server.name}: {problem}")
    return len(raw)


def closed_window(
    bench: Bench, server: Server, connections: int, seconds: int, *, body: bytes | None = None
) -> ClosedWindow:
    """`connections` clients, each asking again as soon as it is answered; they send `body`, or the plain
    one."""
    body_bytes = probe(server)
    body_file = bench.work / "body.json"
    body_file.write_bytes(body or payload.body(stream=False))
    argv = [
        "taskset", "-c", str(bench.load_core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s",
        "--timeout", f"{WRK_TIMEOUT_S}s", "-s", str(LOAD / "wrk.lua"),
        f"http://127.0.0.1:{server.port}{payload.PATH}",
    ]  # fmt: skip
    env = {**os.environ, "BENCH_BODY": str(body_file)}
    env["BENCH_AUTHORIZATION"] = server.headers.get("authorization", "")
    meter = Meter(bench, server)
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=seconds + 120, check=False)
    spent, cores = meter.stop()
    window = read_wrk(server.name, done.stdout + done.stderr, body_bytes, (spent, cores))
    probe(server)
    return window


def read_wrk(name: str, output: str, body_bytes: int, used: tuple[float, Cores]) -> ClosedWindow:
    """The figures of one wrk run; `used` is what `Meter.stop` returned. Raises BenchmarkError on any error,
    and when the answers were on average shorter than the checked one: then something else was counted."""
    match = re.search(r"^BENCH (\{.*\})$", output, re.MULTILINE)
    if not match:
        raise BenchmarkError(f"wrk against {name} gave no figures:\n{output[-1000:]}")
    row = json.loads(match.group(1))
    errors = {kind: count for kind, count in row.items() if kind.endswith("errors") or kind == "timeouts"}
    if any(errors.values()):
        raise BenchmarkError(f"{name}: not every answer was a 200: {errors} of {row['requests']} requests")
    if not row["requests"]:
        raise BenchmarkError(f"{name} answered nothing in the window")
    mean_bytes = row["bytes"] / row["requests"]
    if mean_bytes < body_bytes * (1 - BODY_TOLERANCE):
        raise BenchmarkError(
            f"{name}: answers of {mean_bytes:.0f} bytes on average, the checked one has {body_bytes}"
        )
    return ClosedWindow(
        req_per_s=row["requests"] / (row["duration_us"] / 1e6),
        p50_ms=row["p50_us"] / 1e3,
        p99_ms=row["p99_us"] / 1e3,
        max_ms=row["max_us"] / 1e3,
        requests=row["requests"],
        cpu_us_per_request=used[0] / row["requests"] * 1e6,
        cores=used[1],
    )


def run_open_loop(bench: Bench, server: Server, rate_per_s: float, requests: int) -> subprocess.Popen[str]:
    """Starts the constant-rate load; its records will be in `open_loop_records`."""
    request_file = bench.work / "open-loop.http"
    request_file.write_bytes(payload.http_request(payload.body(stream=False), server.headers))
    argv = [
        "taskset", "-c", str(bench.load_core), str(BUILD / "open_loop"), str(server.port), str(rate_per_s),
        str(OPEN_LOOP_CONNECTIONS), str(requests), str(request_file), str(open_loop_records(bench)),
    ]  # fmt: skip
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)


def open_loop_records(bench: Bench) -> Path:
    return bench.work / "open-loop.records"


def finish(process: subprocess.Popen[str], name: str, timeout_s: float) -> None:
    """Waits for a load generator. Raises BenchmarkError with its own words when it gave up."""
    try:
        _, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise BenchmarkError(f"{name}: the load did not end within {timeout_s} s") from None
    if process.returncode:
        raise BenchmarkError(f"{name}: {errors.strip()}")


def open_window(bench: Bench, server: Server, rate_per_s: float, seconds: float) -> OpenWindow:
    """`rate_per_s` requests a second, sent when they are due whatever the server does."""
    probe(server)
    meter = Meter(bench, server)
    load = run_open_loop(bench, server, rate_per_s, int(rate_per_s * seconds))
    finish(load, server.name, seconds + 90)
    _, cores = meter.stop()
    probe(server)
    records = open_loop_records(bench).read_bytes()
    return OpenWindow(stats.open_loop_latencies(records), stats.achieved_per_s(records), cores)


def memory_run(bench: Bench, server: Server, rate_per_s: float, requests: int) -> stats.Growth:
    """Resident memory of the server's first process while it answers `requests` requests."""
    probe(server)
    load = run_open_loop(bench, server, rate_per_s, requests)
    readings: list[tuple[int, int]] = []
    while load.poll() is None:
        readings.append((time.monotonic_ns(), rss_kib(server.pids[0])))
        time.sleep(RSS_STEP_S)
    finish(load, server.name, 5)
    records = open_loop_records(bench).read_bytes()
    done_ns = sorted(row[2] for row in stats.OPEN_LOOP_RECORD.iter_unpack(records))
    return stats.growth(by_requests(readings, done_ns))


def by_requests(readings: Sequence[tuple[int, int]], done_ns: Sequence[int]) -> list[tuple[float, float]]:
    """Turns (time, KiB) into (requests answered by then, KiB)."""
    samples: list[tuple[float, float]] = []
    done = 0
    for at, kib in readings:
        while done < len(done_ns) and done_ns[done] <= at:
            done += 1
        samples.append((float(done), float(kib)))
    return samples


def source_stats(source: Server) -> dict[str, int]:
    """The paced source's own counters since they were last asked for."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{source.port}/stats", timeout=5) as response:
        counters: dict[str, int] = json.loads(response.read())
    return counters


def streams_window(bench: Bench, server: Server, source: Server, count: int, seconds: float) -> StreamsWindow:
    """`count` open streams at the source's pace. The window begins when every stream runs and has settled."""
    events, answers = bench.work / "events", bench.work / "answers"
    request_file = bench.work / "stream.http"
    body = payload.body(stream=True, max_tokens=STREAM_TOKENS)
    request_file.write_bytes(payload.http_request(body, server.headers))
    total_s = STREAM_RAMP_S + STREAM_SETTLE_S + seconds + 0.5
    argv = [
        "taskset", "-c", str(bench.load_core), str(BUILD / "stream_client"), str(server.port), str(count),
        str(STREAM_RAMP_S), str(total_s), "0", str(request_file), str(events), str(answers),
    ]  # fmt: skip
    load = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    time.sleep(STREAM_RAMP_S + STREAM_SETTLE_S)
    server.check_alive()
    source.check_alive()
    source_stats(source)
    meter = Meter(bench, server)
    start_ns = time.monotonic_ns()
    time.sleep(seconds)
    end_ns = time.monotonic_ns()
    spent, cores = meter.stop()
    sent = source_stats(source)
    finish(load, server.name, 30)
    offered = max(sent["chunks"] / ((end_ns - start_ns) / 1e9), nominal_chunks_per_s(count))
    try:
        window = read_window(
            events.read_bytes(), answers.read_bytes(),
            start_ns=start_ns, end_ns=end_ns, offered_per_s=offered, period_ms=PERIOD_MS,
        )  # fmt: skip
    except ValueError as error:
        raise BenchmarkError(f"{server.name} at {count} streams: {error}") from error
    return StreamsWindow(
        streams=count,
        window=window,
        cpu_s_per_1000_chunks=spent / (window.chunks_per_s * seconds) * 1000,
        source_late_ticks_share=sent["late_ticks"] / max(1, sent["ticks"]),
        source_late_max_ms=sent["late_max_us"] / 1e3,
        source_blocked=sent["blocked"],
        cores=cores,
    )


def nominal_chunks_per_s(count: int) -> float:
    """Content chunks per second that `count` streams at the source's pace make."""
    return count * 1000 / PERIOD_MS
