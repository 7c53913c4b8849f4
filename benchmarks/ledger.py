"""`make bench-ledger`: what durability costs a request: governor, ledger client, ledger process.

One process settles as a gateway worker does (identify, admit, settle), the ledger is the process that ships.
Saturated: so many requests at once, each followed by the next. Paced: so many a second on a clock, the time
from settle to durable. Client cost: CPU of the worker per settled request at a paced rate, less that of the
same loop without settling. Ledger cost: CPU of the ledger process per row. With `--charged` the tenant pays
later by a price plan, so that each row moves money too. Nothing else is measured: no HTTP, no engine.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import uvloop

from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.machine import fsync_ms
from benchmarks.processes import stop_cleanly_on_sigterm
from benchmarks.slow_fsync import slow_fsync_environment
from benchmarks.stats import percentile
from sextant.base.ids import IdSource
from sextant.governance.door import Claim, Outcome
from sextant.governance.governor import LocalGovernor
from sextant.governance.ledger_client import LedgerClient
from sextant.spec.policy import KeyPolicy, Price, PricePlan, TenantPolicy, TierPolicy, VolumeStep
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.usage import Usage
from sextant.telemetry.table import Registry

SECRET = b"sk-benchmark"
PACE_PER_S = 5_000
COST_PACE_PER_S = 30_000
COST_WINDOWS = 5
TICK_S = 0.001
FAST_FSYNC_MS = 0.1
ROWS_PER_S = 30_000.0
SETTLE_P50_OVER_FSYNC_MS = 0.15
CLIENT_US = 5.0


@dataclass(frozen=True)
class Window:
    """One way of loading, for a few seconds."""

    load: str
    rows_per_s: float
    settle_p50_ms: float
    settle_p99_ms: float
    rows_per_batch: float
    ledger_us_per_row: float


class Worker:
    """A gateway's governance, without the gateway."""

    def __init__(self, socket_path: Path, policy: PolicySnapshot, ledger_pid: int) -> None:
        self.ledger_pid = ledger_pid
        self.registry = Registry()
        self.client = LedgerClient(str(socket_path), self.registry)
        self.governor = LocalGovernor(policy, self.client, self.registry)
        self.ids = IdSource("req_")
        self.waits_ms: list[float] = []

    async def request(self) -> None:
        principal = self.governor.identify(SECRET)
        claim = Claim(self.ids.next(), "sextant-nano", "chat.completions", 600, 64)
        admission = await self.governor.admit(principal, claim)
        started_s = time.perf_counter()
        await self.governor.settle(admission, Outcome(Usage(150, 64, 128, 0), "ok", 40, 12))
        self.waits_ms.append((time.perf_counter() - started_s) * 1e3)

    async def idle_request(self) -> None:
        """The same but for admit and settle: what the loop itself costs."""
        self.governor.identify(SECRET)
        Claim(self.ids.next(), "sextant-nano", "chat.completions", 600, 64)
        started_s = time.perf_counter()
        await asyncio.sleep(0)
        self.waits_ms.append((time.perf_counter() - started_s) * 1e3)

    def batches(self) -> float:
        return self.registry.prometheus.get_sample_value("sextant_ledger_commit_seconds_count") or 0.0

    async def window(self, load: str, run: Callable[[], Awaitable[None]]) -> Window:
        self.waits_ms = []
        batches, cpu_before_s, started_s = self.batches(), cpu_s(self.ledger_pid), time.perf_counter()
        await run()
        elapsed_s, rows = time.perf_counter() - started_s, len(self.waits_ms)
        return Window(
            load,
            round(rows / elapsed_s),
            round(percentile(self.waits_ms, 50), 3),
            round(percentile(self.waits_ms, 99), 3),
            round(rows / max(self.batches() - batches, 1), 1),
            round((cpu_s(self.ledger_pid) - cpu_before_s) / rows * 1e6, 1),
        )

    async def saturated(self, at_once: int, seconds: float) -> None:
        until_s = time.perf_counter() + seconds

        async def one_after_another() -> None:
            while time.perf_counter() < until_s:
                await self.request()

        await asyncio.gather(*(one_after_another() for _ in range(at_once)))


async def paced(per_s: int, seconds: float, request: Callable[[], Awaitable[None]]) -> None:
    """Starts requests on the clock, whatever the ones before are doing."""
    started_s, sent, under_way = time.perf_counter(), 0, set[asyncio.Future[None]]()
    while (elapsed_s := time.perf_counter() - started_s) < seconds:
        for _ in range(int(elapsed_s * per_s) - sent):
            task = asyncio.ensure_future(request())
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            sent += 1
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*under_way)


async def client_us(worker: Worker, seconds: float) -> float:
    """CPU microseconds that admitting and settling add to a request: the least of `COST_WINDOWS` windows,
    since other work on the machine only ever adds."""

    async def cost_us(request: Callable[[], Awaitable[None]]) -> float:
        worker.waits_ms = []
        before_s = time.process_time()
        await paced(COST_PACE_PER_S, seconds / COST_WINDOWS, request)
        return (time.process_time() - before_s) / len(worker.waits_ms) * 1e6

    settling = [await cost_us(worker.request) for _ in range(COST_WINDOWS)]
    idle = [await cost_us(worker.idle_request) for _ in range(COST_WINDOWS)]
    return min(settling) - min(idle)


def cpu_s(pid: int) -> float:
    """What a process has used of the CPU, in ticks of a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def policy_of(*, charged: bool) -> PolicySnapshot:
    """One tenant with one key, free or postpaid."""
    digest = hashlib.sha256(SECRET).hexdigest()
    tenant = TenantPolicy("default", "D", currency="USD")
    if charged:
        tenant = msgspec.structs.replace(tenant, billing="postpaid", plan="standard")
    price = Price("*", *[3_000_000_000] * 4)
    plan = PricePlan("standard", "USD", (price,), (VolumeStep(100_000_000, 600_000),))
    key = KeyPolicy("key_1", "default", digest)
    return PolicySnapshot(1, (tenant,), (key,), tiers=(TierPolicy("internal"),), plans=(plan,))


@contextmanager
def ledger_process(
    directory: Path, policy: PolicySnapshot, slow_fsync_ms: float = 0.0
) -> Iterator[tuple[Path, int]]:
    """The ledger that ships, on a core of its own; its syncs may be made slower."""
    socket_path = directory / "run" / "ledger.sock"
    policy_file = directory / "policy.json"
    policy_file.write_bytes(msgspec.json.encode(policy))
    arguments = ["--db", str(directory / "ledger.db"), "--socket", str(socket_path)]
    arguments += ["--policy", str(policy_file)]
    slower = slow_fsync_environment(directory, slow_fsync_ms) if slow_fsync_ms else {}
    process = subprocess.Popen(
        [sys.executable, "-m", "sextant.app.ledger_process", *arguments], env={**os.environ, **slower}
    )
    try:
        give_up_s = time.monotonic() + 20
        while not socket_path.exists() and process.poll() is None and time.monotonic() < give_up_s:
            time.sleep(0.01)
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, {cores[-1]})
        os.sched_setaffinity(0, {cores[0]})
        yield socket_path, process.pid
    finally:
        process.terminate()
        process.wait(20)


async def measure(worker: Worker, seconds: float) -> tuple[list[Window], float]:
    await worker.client.start()
    windows = [
        await worker.window(f"{count} at once", lambda count=count: worker.saturated(count, seconds))  # type: ignore[misc]
        for count in (1, 64, 512)
    ]
    windows.append(await worker.window(f"{PACE_PER_S}/s", lambda: paced(PACE_PER_S, seconds, worker.request)))
    cost_us = await client_us(worker, seconds)
    await worker.client.close()
    return windows, cost_us


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.ledger")
    parser.add_argument("--form", choices=("short", "full"), default="full")
    parser.add_argument("--directory", type=Path, help="where the ledger lies; else a temporary one")
    parser.add_argument("--slow-fsync-ms", type=float, default=0.0, help="added to each fsync of the ledger")
    parser.add_argument("--charged", action="store_true", help="a tenant that pays, by a price plan")
    given = parser.parse_args()
    policy, seconds = policy_of(charged=given.charged), 2.0 if given.form == "short" else 10.0
    stop_cleanly_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="sextant-bench-", dir=given.directory) as folder:
        disk_ms = fsync_ms(Path(folder)) + given.slow_fsync_ms
        with ledger_process(Path(folder), policy, given.slow_fsync_ms) as (socket_path, pid):
            windows, cost_us = uvloop.run(measure(Worker(socket_path, policy, pid), seconds))
    print(f"an fsync takes {disk_ms:.3f} ms here")
    print(f"{'load':>12} {'rows/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'rows/batch':>11} {'ledger us/row':>14}")
    for window in windows:
        print(
            f"{window.load:>12} {window.rows_per_s:8.0f} {window.settle_p50_ms:8.3f} "
            f"{window.settle_p99_ms:8.3f} {window.rows_per_batch:11.1f} "
            f"{window.ledger_us_per_row:14.1f}"
        )
    slow = disk_ms > FAST_FSYNC_MS
    note = f"an fsync takes {disk_ms:.3f} ms here, over {FAST_FSYNC_MS} ms" if slow else ""
    over_ms = windows[-1].settle_p50_ms - disk_ms
    goals = [
        Goal("rows_per_s_at_512", windows[2].rows_per_s, ROWS_PER_S),
        Goal("client_us_per_row", cost_us, CLIENT_US, at_least=False),
        Goal(
            "settle_p50_over_fsync_ms",
            over_ms,
            SETTLE_P50_OVER_FSYNC_MS,
            at_least=False,
            applies=not slow,
            note=note,
        ),
    ]
    figures = {"fsync_ms": round(disk_ms, 4), "windows": [asdict(window) for window in windows]}
    print(last_line("ledger", figures, goals))
    return exit_code(goals)


if __name__ == "__main__":
    sys.exit(main())
