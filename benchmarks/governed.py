"""Starts our gateway with so much of governance as a column of the feature table says.

Everything that a column runs (gateways, ledger, Redis, PostgreSQL) shares the server's core or cores, and its
CPU counts. Without governance the gateway checks the key and nothing else: no ledger, no limits.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from tests.servers import Postgres, Redis
from tests.servers import Server as Foreign

from benchmarks import payload
from benchmarks.processes import BenchmarkError, Pinned, free_port, wait_for_port
from benchmarks.product import KEY, START_TIMEOUT_S, frozen_source, python_module, write_json
from benchmarks.servers import Bench, Server, wait_for_answer
from benchmarks.slow_fsync import slow_fsync_environment
from sextant.spec.policy import (
    KeyPolicy,
    LimitRules,
    Price,
    PricePlan,
    PrivacyPolicy,
    ProjectPolicy,
    TenantPolicy,
    TierPolicy,
)
from sextant.spec.snapshot import (
    GatewaySettings,
    PolicySnapshot,
    Quirks,
    RouteTable,
    ServedModel,
    Upstream,
)
from sextant.spec.stores import SharedLimits
from sextant.spec.transfer import CASH, Transfer, prepaid_account
from sextant.store.ledger_posting import LedgerPosting

TENANT, PROJECT = "tenant_bench", "project_bench"
NEVER_REACHED = 10**12
"""A limit that is checked and never in the way."""
PRICE_NANO_PER_MTOK = 3_000_000_000
READY_TIMEOUT_S = 60


@dataclass(frozen=True)
class Column:
    """What is switched on. `workers` gateway processes share one port."""

    name: str
    governed: bool = True
    limits: bool = False
    money: bool = False
    privacy: bool = False
    redis: bool = False
    postgres: bool = False
    workers: int = 1
    both_cores: bool = False
    """Whether the kernel places its processes on both cores, as where nobody pins anything; the load has one
    of them too."""
    slow_fsync_ms: float = 0.0


@dataclass
class Outside:
    """A server that is not ours, pinned, as the harness sees its processes."""

    server: Foreign
    core: str
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.server.name
        self.server.start()
        os.sched_setaffinity(self.server.pid, {int(core) for core in self.core.split(",")})

    @property
    def pid(self) -> int:
        return self.server.pid

    def check_alive(self) -> None:
        if not self.server.running:
            raise BenchmarkError(f"{self.name} ended:\n{self.server.said()}")

    def stop(self) -> None:
        self.server.remove()


def start_column(bench: Bench, column: Column, upstream_port: int) -> Server:
    """The column's processes before one upstream, serving. Raises BenchmarkError."""
    folder = bench.state / column.name.replace(" ", "-")
    run = folder / "run"
    run.mkdir(mode=0o700, parents=True)
    core = _cores(bench, column)
    processes: list[Pinned | Outside] = []
    server = Server(
        column.name,
        free_port(),
        processes,  # type: ignore[arg-type]  # an outside server has what the harness uses
        {"authorization": f"Bearer {KEY}"},
        folder=folder,
    )
    try:
        ledger_store, limits_url = _outside(column, core, run, processes)
        write(run / "policy.json", policy(column))
        write(run / "routes.json", routes(upstream_port))
        source = {"PYTHONPATH": str(frozen_source(bench))}
        if column.governed:
            slower = slow_fsync_environment(folder, column.slow_fsync_ms) if column.slow_fsync_ms else {}
            arguments = [*(ledger_store or ("--db", folder / "ledger.db")), "--socket", run / "ledger.sock"]
            argv = python_module("sextant.app.ledger_process", *arguments, "--policy", run / "policy.json")
            ledger = Pinned(
                "ledger", argv, core, bench.work / f"{folder.name}-ledger.log", {**source, **slower}
            )
            processes.append(ledger.start())
            _wait_for(run / "ledger.sock", ledger)
            _top_up(run / "ledger.sock", column)
        for number in range(column.workers):
            gateway = _gateway(bench, column, run, (number, server.port, limits_url))
            processes.insert(0, gateway)
            gateway.start()
        wait_for_port(gateway, server.port, START_TIMEOUT_S)
        wait_for_answer(server, READY_TIMEOUT_S)
    except BaseException:
        server.stop()
        raise
    return server


def _outside(
    column: Column, core: str, run: Path, processes: list[Pinned | Outside]
) -> tuple[Sequence[str | Path], str]:
    """(arguments of the ledger, URL of the limits), with the servers that they name running."""
    ledger_store: Sequence[str | Path] = ()
    limits_url = ""
    if column.postgres:
        postgres = Postgres()
        processes.append(Outside(postgres, core))
        url, _, password = _without_password(postgres.create_database())
        for name, content in (("store.url", url), ("store.password", password)):
            (run / name).write_text(content)
            (run / name).chmod(0o600)
        ledger_store = ("--store", run / "store.url", "--password", f"file:{run / 'store.password'}")
    if column.redis:
        redis = Redis()
        processes.append(Outside(redis, core))
        limits_url = redis.url
    return ledger_store, limits_url


def _cores(bench: Bench, column: Column) -> str:
    """Where a column's processes run, as taskset takes it."""
    if column.both_cores or column.workers > 1:
        return f"{bench.load_core},{bench.server_core}"
    return str(bench.server_core)


def _without_password(url: str) -> tuple[str, str, str]:
    """(URL without its password, user, password)."""
    scheme, _, rest = url.partition("://")
    login, _, where = rest.partition("@")
    user, _, password = login.partition(":")
    return f"{scheme}://{user}@{where}", user, password


def _gateway(bench: Bench, column: Column, run: Path, place: tuple[int, int, str]) -> Pinned:
    number, port, limits_url = place
    settings = GatewaySettings(
        "127.0.0.1",
        port,
        str(run / "routes.json"),
        str(run / "policy.json"),
        str(run / "ledger.sock"),
        reuse_port=column.workers > 1,
        access_log=False,
        shared_limits=SharedLimits(limits_url, f"w{number}", lease_s=1.0) if limits_url else None,
    )
    write(run / f"gateway-{number}.json", settings)
    module = "sextant.app.gateway_process" if column.governed else "benchmarks.ungoverned"
    argv = python_module(module, "--settings", run / f"gateway-{number}.json")
    core = _cores(bench, column)
    if column.workers > 1:
        core = str(bench.server_core if number else bench.load_core)
    name = f"{run.parent.name}-gateway-{number}"
    return Pinned(name, argv, core, bench.work / f"{name}.log", {"PYTHONPATH": str(frozen_source(bench))})


def policy(column: Column) -> PolicySnapshot:
    """One key, with everything of the column's that a key, its project and its tenant can have."""
    limits, key_limits, project_limits = LimitRules(), LimitRules(), LimitRules()
    if column.limits:
        key_limits = LimitRules(requests_per_s=1e6, burst_requests=10**6, concurrent_requests=10**6)
        project_limits = LimitRules(tokens_per_min=NEVER_REACHED)
        limits = LimitRules(requests_per_s=1e6, burst_requests=10**6)
    if column.money:
        project_limits = msgspec.structs.replace(project_limits, tokens_per_day=NEVER_REACHED)
        limits = msgspec.structs.replace(limits, spend_nano_per_month=10**18)
    price = Price("*", *[PRICE_NANO_PER_MTOK] * 4)
    tenant = TenantPolicy(
        TENANT,
        "bench",
        tier="bench",
        limits=limits,
        billing="prepaid" if column.money else "free",
        plan="flat" if column.money else "",
        currency="USD",
        privacy=PrivacyPolicy(otherwise="mask", everywhere=True) if column.privacy else PrivacyPolicy(),
    )
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    key = KeyPolicy("key_bench", TENANT, digest, "bench", project_id=PROJECT, limits=key_limits)
    return PolicySnapshot(
        1,
        (tenant,),
        (key,),
        (ProjectPolicy(PROJECT, TENANT, "bench", limits=project_limits),),
        (TierPolicy("bench"),),
        (PricePlan("flat", "USD", (price,)),),
    )


def routes(upstream_port: int) -> RouteTable:
    upstream = Upstream("static", f"http://127.0.0.1:{upstream_port}/v1")
    quirks = Quirks(compliant=True, counts_reasoning=True)
    return RouteTable(
        1, (ServedModel(payload.MODEL, "remote", (upstream,), quirks=quirks, context_tokens=65536),)
    )


def _top_up(socket_path: Path, column: Column) -> None:
    if column.money:
        now_ms = time.time_ns() // 1_000_000
        sides = CASH, prepaid_account(TENANT)
        LedgerPosting(socket_path).post([Transfer("bench", "top-up", *sides, 10**17, "USD", now_ms)])


def _wait_for(path: Path, process: Pinned) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while not path.exists():
        process.check_alive()
        if time.monotonic() > end_s:
            raise BenchmarkError(f"{process.name} made no {path}:\n{process.log_tail()}")
        time.sleep(0.02)


def write(path: Path, content: msgspec.Struct) -> None:
    write_json(path, msgspec.to_builtins(content))


def remove(server: Server) -> None:
    """Stops a column and deletes what it wrote."""
    server.stop()
    if server.folder is not None:
        shutil.rmtree(server.folder, ignore_errors=True)
