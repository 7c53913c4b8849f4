"""No completed answer without its ledger row, no row twice, no hold left behind, whatever is killed when.

Two gateway-like processes settle as fast as they can against one ledger process; for some hundreds of rounds
one of the three is killed at a random moment, and started again. Each worker writes down what it hands over
(`S id`), what it may tell its client (`C id`: the last event leaves), and a clean end (`Z worker`).
A full file system is the real one too: a tmpfs of two megabytes, where the test may mount one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
import uvloop

from ledger_under_test import TestDisk, row, serving, stored
from sextant.base.errors import LedgerUnavailable
from sextant.base.lifeline import bind_to_parent
from sextant.governance.door import Claim, Outcome, Principal
from sextant.governance.governor import LocalGovernor
from sextant.governance.ledger_client import LedgerBounds, LedgerClient
from sextant.spec.policy import KeyPolicy, TenantPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.usage import Usage
from sextant.store.ledger import run_ledger
from sextant.store.ledger_check import check_books
from sextant.store.ledger_reading import ledger_view
from sextant.store.statements import UsageQuery, usage_lines
from sextant.telemetry.table import Registry

ROUNDS = 400
TASKS = 12
POLICY = PolicySnapshot(1, (TenantPolicy("default", "D"),), (KeyPolicy("key_a", "default", "00" * 32),))
PRINCIPAL = Principal("default", "key_a")


def tokens_of(request_id: str) -> int:
    """A number that belongs to the id, so that a row with another's content would be seen."""
    return sum(request_id.encode()) * 7919 % 100_003


class Child:
    """A process forked from this one, so that a restart costs milliseconds. SIGTERM waits until the body is
    ready for it and unblocks it."""

    def __init__(self, body: Callable[[], None]) -> None:
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self.pid = os.fork()
        if self.pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        else:
            status = 1
            try:
                bind_to_parent(parent)
                body()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def end(self, number: signal.Signals) -> int:
        """Sends the signal, waits, and returns the exit status (negative: the signal that ended it)."""
        os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> int:
        give_up = time.monotonic() + 20
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < give_up, f"process {self.pid} does not end"
            time.sleep(0.001)


async def _work(socket_path: Path, journal: int, worker: str, seed: int) -> None:
    """A gateway's settling, until SIGTERM."""
    chance = random.Random(seed)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    bounds = LedgerBounds(settle_deadline_s=2.0, batch_rows=8, retry_min_s=0.001, retry_max_s=0.01)
    client = LedgerClient(str(socket_path), Registry(), bounds)
    await client.start()
    governor = LocalGovernor(POLICY, client, Registry())

    def note(line: str) -> None:
        os.write(journal, f"{line}\n".encode())

    async def requests(task: int) -> None:
        for number in range(1_000_000):
            if stop.is_set():
                return
            request_id = f"{worker}-{task}-{number}"
            try:
                admission = await governor.admit(PRINCIPAL, Claim(request_id, "nano", "chat", 1, 1))
            except LedgerUnavailable:
                await asyncio.sleep(0.002)
                continue
            outcome = Outcome(Usage(tokens_of(request_id), 1), "ok", 1)
            note(f"S {request_id}")
            await _settle_somehow(governor, admission, outcome, chance.random())
            if admission.claim.request_id not in gone:
                note(f"C {request_id}")

    gone: set[str] = set()

    async def _settle_somehow(governor, admission, outcome, draw: float) -> None:  # type: ignore[no-untyped-def]
        """Mostly as for a client that stays; at times it has left, or leaves while the row is on its way."""
        if draw < 0.05:
            gone.add(admission.claim.request_id)
            governor.settle_soon(admission, outcome)
            await asyncio.sleep(0)
            return
        settling = asyncio.ensure_future(governor.settle(admission, outcome))
        if draw < 0.15:
            gone.add(admission.claim.request_id)
            await asyncio.sleep(0)
            settling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await settling
            except LedgerUnavailable:
                gone.add(admission.claim.request_id)

    async with asyncio.TaskGroup() as group:
        for task in range(TASKS):
            group.create_task(requests(task))
    assert governor.open_admissions == {}, "a hold was left behind"
    await client.close(flush_s=10)
    if client.pending_rows == 0:
        note(f"Z {worker}")


def keep_ledger(db_path: Path, socket_path: Path) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    run_ledger(db_path, socket_path)


Starter = Callable[[Callable[[], None]], Child]


@pytest.fixture
def start() -> Iterator[Starter]:
    """Starts children; those that a failing test leaves behind are killed."""
    children: list[Child] = []

    def started(body: Callable[[], None]) -> Child:
        children.append(Child(body))
        return children[-1]

    yield started
    for child in children:
        if child.pid:
            child.end(signal.SIGKILL)


def read_journal(path: Path) -> tuple[set[str], set[str], set[str]]:
    """What was handed over, what was completed, which workers ended cleanly."""
    kinds: dict[str, set[str]] = {"S": set(), "C": set(), "Z": set()}
    for line in path.read_text().splitlines():
        kind, _, name = line.partition(" ")
        assert name not in kinds[kind], f"{line} twice"
        kinds[kind].add(name)
    return kinds["S"], kinds["C"], kinds["Z"]


def check(db_path: Path, journal: Path) -> int:
    """The promise, at any moment. Returns the number of completed requests."""
    handed_over, completed, clean = read_journal(journal)
    rows = stored(db_path)
    assert completed <= rows.keys(), "a completed answer without its row"
    owed = {name for name in handed_over if name.split("-")[0] in clean}
    assert owed <= rows.keys(), "a worker ended cleanly without a row of its"
    assert {name: values[10] for name, values in rows.items()} == {name: tokens_of(name) for name in rows}
    return len(completed)


@pytest.mark.slow
def test_nothing_is_lost_whatever_is_killed_when(tmp_path: Path, start: Starter) -> None:
    db_path, socket_path, journal_path = (
        tmp_path / "ledger.db",
        tmp_path / "run" / "l.sock",
        tmp_path / "journal",
    )
    journal = os.open(journal_path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    chance = random.Random(20261121)
    generation = 0

    def start_worker() -> Child:
        nonlocal generation
        generation += 1
        worker, seed = f"w{generation}", generation
        return start(lambda: uvloop.run(_work(socket_path, journal, worker, seed)))

    def start_ledger() -> Child:
        return start(lambda: keep_ledger(db_path, socket_path))

    ledger, workers = start_ledger(), [start_worker(), start_worker()]
    kills = {"ledger": 0, "worker": 0, "both": 0}
    for round_ in range(1, ROUNDS + 1):
        time.sleep(chance.uniform(0.0, 0.06))
        victim = chance.choice(["ledger", "ledger", "worker", "both"])
        kills[victim] += 1
        gently = chance.random() < 0.1
        if victim in ("worker", "both"):
            which = chance.randrange(len(workers))
            status = workers[which].end(signal.SIGTERM if gently and victim == "worker" else signal.SIGKILL)
            assert status in (0, -signal.SIGKILL)
            workers[which] = start_worker()
        if victim in ("ledger", "both"):
            status = ledger.end(signal.SIGTERM if gently else signal.SIGKILL)
            assert status in (0, -signal.SIGKILL, -signal.SIGTERM)  # -TERM: before it had set its handler
            ledger = start_ledger()
        if round_ % 50 == 0:
            check(db_path, journal_path)
    for worker in workers:
        assert worker.end(signal.SIGTERM) == 0
    assert ledger.end(signal.SIGTERM) == 0
    assert check_books(db_path) == []
    os.close(journal)

    completed = check(db_path, journal_path)
    rows = stored(db_path)
    handed_over, _, clean = read_journal(journal_path)
    assert rows.keys() <= handed_over
    with ledger_view(db_path) as view:
        total = usage_lines(view, UsageQuery(first_day=0, last_day=99_999_999, by=("month",)))
    assert sum(line.totals.input_tokens for line in total) == sum(map(tokens_of, rows)), "counted once each"
    db = apsw.Connection(str(db_path))
    assert db.pragma("integrity_check") == "ok"
    db.close()
    assert completed > ROUNDS, "the load was real"
    assert {"ledger", "worker", "both"} == {name for name, count in kills.items() if count > ROUNDS // 10}
    assert len(clean) >= 2
    print(f"{kills}; {completed} completed, {len(rows)} rows, {len(handed_over)} handed over")


# a full disk, really


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 2 MiB. Mounting needs root, as in our CI; elsewhere `TestDisk` shows the same in
    test_ledger_client.py, on every machine."""
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(mount_point)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


async def test_a_file_system_that_is_really_full_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    db_path, socket_path = small_disk / "ledger.db", tmp_path / "run" / "l.sock"
    bounds = LedgerBounds(settle_deadline_s=0.3, batch_rows=64, retry_min_s=0.005, retry_max_s=0.02)
    with serving(db_path, socket_path):
        client = LedgerClient(str(socket_path), Registry(), bounds)
        await client.start()
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 1_200_000)
        completed: set[str] = set()

        async def settle(request_id: str) -> None:
            await client.submit(row(request_id))
            completed.add(request_id)

        refused = 0
        for group in range(40):
            names = [f"g{group}-{number}" for number in range(200)]
            ends = await asyncio.gather(*(settle(name) for name in names), return_exceptions=True)
            refused = sum(isinstance(end, LedgerUnavailable) for end in ends)
            assert all(end is None or isinstance(end, LedgerUnavailable) for end in ends)
            if "no space left" in client.trouble:
                break
        assert refused, "the file system was not full"
        assert not client.ready
        assert "no space left" in client.trouble
        assert completed <= stored(db_path).keys()
        ballast.unlink()
        async with asyncio.timeout(20):
            while not client.ready:
                await asyncio.sleep(0.005)
            await client.submit(row("after"))
        await client.close()
        assert len(stored(db_path)) == 200 * (group + 1) + 1, "every row that was handed over"


async def test_a_disk_that_breaks_is_survived_by_a_restart(tmp_path: Path, start: Starter) -> None:
    """The ledger ends itself after a failed sync; the row waits for the next one."""
    db_path, socket_path, broken = tmp_path / "ledger.db", tmp_path / "run" / "l.sock", tmp_path / "broken"

    def ledger_on_a_breaking_disk() -> None:
        with TestDisk() as disk:
            disk.broken_while_exists = broken
            keep_ledger(db_path, socket_path)

    first = start(ledger_on_a_breaking_disk)
    client = LedgerClient(str(socket_path), Registry(), LedgerBounds(retry_min_s=0.005, retry_max_s=0.02))
    await client.start()
    await client.submit(row("before"))
    broken.touch()
    waiter = client.submit(row("meanwhile"))
    assert await asyncio.to_thread(first.wait) == 1
    assert not waiter.done()
    broken.unlink()
    second = start(lambda: keep_ledger(db_path, socket_path))
    await waiter
    await client.close()
    assert second.end(signal.SIGTERM) == 0
    assert set(stored(db_path)) == {"before", "meanwhile"}
