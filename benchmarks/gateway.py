"""`make bench-gateway`: our gateway beside nginx, SGLang's gateway and LiteLLM, before one static upstream.

Each server has one core, the load and the upstream the other; windows alternate between the servers, so that
a noisy moment of the machine falls on all of them. Four parts: closed-loop load at 64 and 512 connections, a
constant rate, open streams, memory. `--form full` is what the committed tables come from; `--form short` is
for `make bench`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine, report, servers
from benchmarks.goals import exit_code, last_line
from benchmarks.processes import BenchmarkError, stop_cleanly_on_sigterm
from benchmarks.product import check_ledger, start_product, start_product_in_ram
from benchmarks.servers import Bench, Server
from benchmarks.stats import Growth
from benchmarks.verdict import goals_of
from benchmarks.windows import (
    ClosedWindow,
    OpenWindow,
    StreamsWindow,
    closed_window,
    memory_run,
    open_window,
    streams_window,
    wait_until_quiet,
)

SERVERS = ("nginx", "sextant", "sextant-ram", "sglang", "litellm")
PARTS = ("plain", "streams")
RATE_PER_S = 5000
MEMORY_REQUESTS = 100_000
MEMORY_RATE_PER_S = 10_000
CONNECTIONS = (64, 512)
LITELLM_SECONDS = {64: 6, 512: 16}
"""LiteLLM works on all requests at once: of 512 of them a short window would see no end."""
WARM_UP_S = 1


@dataclass(frozen=True)
class Form:
    """How much is measured."""

    windows: int
    window_s: int
    litellm_windows: int
    open_windows: int
    open_s: float
    stream_counts: tuple[int, ...]
    stream_windows: int
    stream_s: float


FORMS = {
    "full": Form(9, 2, 9, 5, 5.0, (100, 500, 1000), 3, 6.0),
    "short": Form(3, 2, 1, 1, 4.0, (100, 1000), 1, 3.0),
}


@dataclass
class Results:
    """All windows of one run, by part, server and setting."""

    machine: dict[str, Any]
    settings: dict[str, str] = field(default_factory=dict)
    closed: dict[int, dict[str, list[ClosedWindow]]] = field(default_factory=dict)
    rate: dict[str, list[OpenWindow]] = field(default_factory=dict)
    streams: dict[int, dict[str, list[StreamsWindow]]] = field(default_factory=dict)
    memory: Growth | None = None
    fsync_ms: list[float] = field(default_factory=list)
    ledger_rows: int | None = None


def say(text: str) -> None:
    print(text, flush=True)


def starters(names: Sequence[str], *, streaming: bool) -> dict[str, Callable[[Bench, int], Server]]:
    """How to start each wanted server before an upstream port, in the order of the table."""
    known: dict[str, Callable[[Bench, int], Server]] = {
        "nginx": lambda bench, port: servers.nginx_peer(bench, port, streaming=streaming),
        "sextant": start_product,
        "sextant-ram": start_product_in_ram,
        "sglang": servers.sglang_peer,
        "litellm": servers.litellm_peer,
    }
    return {name: known[name] for name in known if name in names}


def rotated(items: Sequence[Server], by: int) -> list[Server]:
    """The servers in another order each round, so that none always follows the same one."""
    cut = by % len(items)
    return [*items[cut:], *items[:cut]]


def start_all(stack: ExitStack, bench: Bench, names: Sequence[str], upstream: Server) -> list[Server]:
    """Every wanted server, running before `upstream`."""
    streaming = upstream.processes[0].name == "source"
    running = []
    for name, start in starters(names, streaming=streaming).items():
        say(f"  starting {name}")
        server = start(bench, upstream.port)
        stack.callback(server.stop)
        running.append(server)
    return running


def part_plain(bench: Bench, form: Form, names: Sequence[str], results: Results) -> None:
    """Closed-loop load, constant rate and memory, before the static upstream."""
    with ExitStack() as stack:
        upstream = servers.static_upstream(bench)
        stack.callback(upstream.stop)
        running = start_all(stack, bench, names, upstream)
        results.settings.update({server.name: server.settings for server in running})
        warm_up = {server.name: warm(bench, server) for server in running}
        closed_rounds(bench, form, running, results)
        fast = [upstream, *(server for server in running if server.name != "litellm")]
        rate_rounds(bench, form, fast, results)
        for server in running:
            if server.name == "sextant":
                wait_until_quiet(running)
                results.memory = memory_run(bench, server, MEMORY_RATE_PER_S, MEMORY_REQUESTS)
                say(f"  memory after {MEMORY_REQUESTS} requests: {results.memory.growth_kib:+.0f} KiB")
                counted = warm_up["sextant"].requests + answered(results, "sextant") + MEMORY_REQUESTS
                results.ledger_rows = check_ledger(bench, counted)


def warm(bench: Bench, server: Server) -> ClosedWindow:
    """A window that is not counted: code paths, connections and caches are warm after it."""
    seconds = LITELLM_SECONDS[CONNECTIONS[0]] if server.name == "litellm" else WARM_UP_S
    return closed_window(bench, server, CONNECTIONS[0], seconds)


def answered(results: Results, name: str) -> int:
    """Answers that the windows of one server counted."""
    rounds = [by_server.get(name, []) for by_server in results.closed.values()]
    closed = sum(window.requests for windows in rounds for window in windows)
    return closed + sum(window.latencies.requests for window in results.rate.get(name, []))


def closed_rounds(bench: Bench, form: Form, running: Sequence[Server], results: Results) -> None:
    """Windows of every server at every number of connections, in alternation."""
    for connections in CONNECTIONS:
        by_server: dict[str, list[ClosedWindow]] = {server.name: [] for server in running}
        results.closed[connections] = by_server
        for round_index in range(form.windows):
            results.fsync_ms.append(machine.fsync_ms(bench.state))
            for server in rotated(running, round_index):
                slow = server.name == "litellm"
                if slow and round_index >= form.litellm_windows:
                    continue
                wait_until_quiet(running)
                seconds = LITELLM_SECONDS[connections] if slow else form.window_s
                window = closed_window(bench, server, connections, seconds)
                by_server[server.name].append(window)
                say(f"  {connections:>4} connections  {server.name:<9} {window.req_per_s:>9.0f} req/s")


def rate_rounds(bench: Bench, form: Form, running: Sequence[Server], results: Results) -> None:
    """Constant-rate windows; `direct` is the upstream without a server between."""
    results.rate = {server.name: [] for server in running}
    for round_index in range(form.open_windows):
        for server in rotated(running, round_index):
            wait_until_quiet(running)
            window = open_window(bench, server, RATE_PER_S, form.open_s)
            results.rate[server.name].append(window)
            say(f"  {RATE_PER_S}/s  {server.name:<9} p50 {window.latencies.p50_ms:.3f} ms")


def part_streams(bench: Bench, form: Form, names: Sequence[str], results: Results) -> None:
    """Open streams before the paced source. A server that falls behind in every window of one count is
    not asked for more streams."""
    with ExitStack() as stack:
        source = servers.stream_source(bench)
        stack.callback(source.stop)
        streamed = [name for name in names if name != "sextant-ram"]
        running = [source, *start_all(stack, bench, streamed, source)]
        beaten: set[str] = set()
        for count in form.stream_counts:
            by_server: dict[str, list[StreamsWindow]] = {}
            results.streams[count] = by_server
            for round_index in range(form.stream_windows):
                for server in rotated(running, round_index):
                    if server.name in beaten:
                        continue
                    wait_until_quiet(running)
                    window = streams_window(bench, server, source, count, form.stream_s)
                    by_server.setdefault(server.name, []).append(window)
                    say(
                        f"  {count:>4} streams  {server.name:<9} {window.window.chunks_per_s:>7.0f} chunks/s"
                        f"{'  FALLS BEHIND' if window.window.falls_behind else ''}"
                    )
            beaten |= {
                name for name, rows in by_server.items() if all(row.window.falls_behind for row in rows)
            }


def some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A reader of comma-separated names. An unknown one is refused: otherwise nothing would be measured."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return names

    return read


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=FORMS, default="full")
    parser.add_argument("--servers", type=some_of(SERVERS), default=list(SERVERS), help=",".join(SERVERS))
    parser.add_argument("--parts", type=some_of(PARTS), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--server-core", type=int, default=1)
    parser.add_argument("--load-core", type=int, default=0)
    parser.add_argument("--state", type=Path, help="directory for the ledger (default: beside the checkout)")
    parser.add_argument("--out", type=Path, help="directory for the result files")
    return parser.parse_args()


def run(options: argparse.Namespace, bench: Bench) -> Results:
    servers.build_tools()
    names = options.servers
    results = Results(machine=machine.describe(bench.state))
    results.machine.update(servers.peer_versions())
    results.machine["server_core"], results.machine["load_core"] = bench.server_core, bench.load_core
    form = FORMS[options.form]
    for part, measure in (("plain", part_plain), ("streams", part_streams)):
        if part in options.parts:
            say(f"{part}:")
            measure(bench, form, names, results)
    return results


def main() -> int:
    options = arguments()
    stop_cleanly_on_sigterm()
    out = options.out or (Path(__file__).parent / "results" if options.form == "full" else servers.BUILD)
    state_root = options.state or servers.BUILD
    for directory in (out, state_root):
        directory.mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix="bench-state-", dir=state_root))
    work = Path(tempfile.mkdtemp(prefix="sextant-bench-"))
    try:
        results = run(options, Bench(work, state, options.server_core, options.load_core))
    except BenchmarkError as error:
        say(f"the benchmark was stopped: {error}")
        say(last_line("gateway", {"error": str(error)[:300]}, []))
        return 1
    finally:
        shutil.rmtree(state, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
    goals = goals_of(results)
    name = "gateway" if options.form == "full" else f"gateway-{options.form}"
    report.write_gateway(out, name, results, goals)
    say((out / f"{name}.md").read_text())
    say(last_line("gateway", report.summary(results), goals))
    return exit_code(goals)


if __name__ == "__main__":
    sys.exit(main())
