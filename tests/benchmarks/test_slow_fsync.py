"""The shim that makes a disk slow: as much slower as it says, and a batch of the ledger costs one sync."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.slow_fsync import slow_fsync_environment

from ledger_under_test import row
from sextant.governance.ledger_client import LedgerClient
from sextant.telemetry.table import Registry

DELAY_MS = 40.0
SYNC_TEN_TIMES = """
import os, sys, time
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
began = time.monotonic()
for call in (os.fsync, os.fdatasync) * 5:
    os.write(file, b"x")
    call(file)
print(time.monotonic() - began)
"""


def test_each_sync_takes_so_much_longer_and_is_counted(tmp_path: Path) -> None:
    counted = tmp_path / "syncs"
    environment = slow_fsync_environment(tmp_path, DELAY_MS, counted)
    command = [sys.executable, "-c", SYNC_TEN_TIMES, str(tmp_path / "file")]
    took_s = float(subprocess.check_output(command, env={**os.environ, **environment}, text=True))
    assert took_s >= 10 * DELAY_MS / 1000
    assert counted.stat().st_size == 10


@pytest.mark.slow
async def test_a_batch_of_the_ledger_costs_one_slow_sync(tmp_path: Path) -> None:
    """Rows that wait together become durable together: a slow disk costs one sync, not one each."""
    socket_path, counted = tmp_path / "run" / "l.sock", tmp_path / "syncs"
    environment = slow_fsync_environment(tmp_path, DELAY_MS, counted)
    arguments = ["--db", str(tmp_path / "ledger.db"), "--socket", str(socket_path)]
    ledger = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
        [sys.executable, "-m", "sextant.app.ledger_process", *arguments], env={**os.environ, **environment}
    )
    try:
        async with asyncio.timeout(30):
            while not socket_path.exists():
                await asyncio.sleep(0.02)
        client = LedgerClient(str(socket_path), Registry())
        await client.start()
        await client.submit(row("first"))
        before, began_s = counted.stat().st_size, time.monotonic()
        await asyncio.gather(*(client.submit(row(f"r{number}")) for number in range(500)))
        took_s, syncs = time.monotonic() - began_s, counted.stat().st_size - before
        await client.close()
    finally:
        ledger.terminate()
        assert ledger.wait(20) == 0
    assert took_s >= DELAY_MS / 1000
    assert 1 <= syncs <= 3, "one for what left at once, one for what gathered meanwhile, one to spare"
