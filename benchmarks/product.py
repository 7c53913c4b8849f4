"""Starts our gateway as `sextant up` does: the real gateway process with keys, metering, usage rows and
metrics on, and the real ledger process, both on the server's core.

The design counts the ledger to the server, so it shares the core; its CPU counts as the server's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import payload
from benchmarks.processes import BenchmarkError, Pinned, free_port, wait_for_port
from benchmarks.servers import ROOT, Bench, Server, wait_for_answer

KEY = "sk-benchmark0000000000000000000000000000000000000000"
START_TIMEOUT_S = 20

RAM = Path("/dev/shm")


def start_product_in_ram(bench: Bench, upstream_port: int) -> Server:
    """The same with the ledger's file in memory, where an fsync takes no time. Shown, never judged: the
    difference to `sextant` is the disk."""
    state = Path(tempfile.mkdtemp(prefix="bench-state-", dir=RAM))
    server = start_product(dataclasses.replace(bench, state=state), upstream_port)
    server.name, server.folder = "sextant-ram", state
    server.settings = (
        "as sextant, but the ledger's file in /dev/shm: what a disk without fsync time would give"
    )
    return server


def start_product(bench: Bench, upstream_port: int) -> Server:
    """Our gateway and its ledger before one upstream, whose answers it relays as they are, like the peers."""
    run = bench.state / "run"
    run.mkdir(mode=0o700, exist_ok=True)
    port = free_port()
    write_json(run / "routes.json", routes(upstream_port))
    write_json(run / "policy.json", policy())
    settings = {
        "host": "127.0.0.1",
        "port": port,
        "routes_file": str(run / "routes.json"),
        "policy_file": str(run / "policy.json"),
        "ledger_socket": str(run / "ledger.sock"),
        "access_log": False,
    }
    write_json(run / "gateway.json", settings)
    env = {"PYTHONPATH": str(frozen_source(bench))}
    ledger_argv = python_module(
        "sextant.app.ledger_process", "--db", bench.state / "ledger.db", "--socket", run / "ledger.sock"
    )
    ledger = Pinned("ledger", ledger_argv, bench.server_core, bench.work / "ledger.log", env).start()
    gateway_argv = python_module("sextant.app.gateway_process", "--settings", run / "gateway.json")
    gateway = Pinned("sextant", gateway_argv, bench.server_core, bench.work / "sextant.log", env)
    server = Server(
        "sextant",
        port,
        [gateway.start(), ledger],
        {"authorization": f"Bearer {KEY}"},
        "one worker and the ledger process on the same core; key, usage rows and metrics on; no access log",
    )
    try:
        wait_for_port(gateway, port, START_TIMEOUT_S)
        wait_for_answer(server, START_TIMEOUT_S)
    except BenchmarkError:
        server.stop()
        raise
    return server


def python_module(module: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def frozen_source(bench: Bench) -> Path:
    """A copy of the product's source, made once a run: an edit meanwhile must not change what is measured."""
    copy = bench.work / "src"
    if not copy.exists():
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("*.gguf", "*.safetensors"))
    return copy


def routes(upstream_port: int) -> dict[str, Any]:
    upstream = {"id": "static", "base_url": f"http://127.0.0.1:{upstream_port}/v1"}
    model = {
        "id": payload.MODEL,
        "engine": "remote",
        "upstreams": [upstream],
        "quirks": {"compliant": True, "counts_reasoning": True},
    }
    return {"version": 1, "models": [model]}


def policy() -> dict[str, Any]:
    return {
        "version": 1,
        "tenants": [{"id": "tenant_bench", "name": "bench"}],
        "keys": [
            {
                "id": "key_bench",
                "tenant_id": "tenant_bench",
                "sha256": hashlib.sha256(KEY.encode()).hexdigest(),
                "name": "bench",
            }
        ],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))
    path.chmod(0o600)


def ledger_rows(bench: Bench) -> int:
    """Usage rows that are durable."""
    uri = f"file:{bench.state / 'ledger.db'}?mode=ro"
    with sqlite3.connect(uri, uri=True) as connection:
        return int(connection.execute("SELECT count(*) FROM usage").fetchone()[0])


def check_ledger(bench: Bench, answered: int) -> int:
    """The number of durable usage rows. Raises BenchmarkError when it is under the answers that were counted:
    then speed was bought with unmetered answers. It may be over: wrk leaves requests under way behind."""
    rows = ledger_rows(bench)
    if rows < answered:
        raise BenchmarkError(f"the ledger has {rows} rows for at least {answered} answers")
    return rows
