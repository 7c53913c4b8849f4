"""Rounds of `kill -9` at random moments under load, and what must hold afterwards.

    make crash                       # 100 rounds
    make crash ROUNDS=20 SEED=7      # the same choices again

Clients ask two models of a real `sextant up` (the bundled one on the embedded engine, and a fast one) as
hard as they can, while one process after another is killed. Then, with the load gone: every completed answer
has exactly one ledger row with its numbers, no row is without a request, nothing is still held, and the
books agree with their entries. Half of the clients belong to a prepaid tenant with limits, whose balance runs
out and is topped up: it is what was paid less what its rows cost, and never below zero. The seed settles
which process dies after which pause; the instant within a request is the machine's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from answers_under_load import Client, Seen, check_rows, load, usage_rows
from crash.fake_fast_engine import MODEL as FAST_MODEL
from crash.paying import PayingTenant
from crash.victims import FastEngine, Shared, kill_host, kill_member, wait_ready
from servers import PASSWORD
from sextant.store.upgrade_backup import Databases
from sextant.store.upgrade_check import check_databases
from stack_under_test import Stack, until

CLIENTS = 12
PAUSE_MOST_S = 0.8
RUN_OUT_S = 60
"""The load goes on so long at most until the last top-up is used up."""
DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: crash}}
spec:
  models:
    - {{name: sextant-nano, engine: {{kind: embedded}}}}
    - {{name: {model}, engine: {{kind: remote, base_url: 'http://127.0.0.1:{port}/v1', compliant: true}}}}
"""
SHARED_STORES = """\
  store: {{url: '{store}', password: 'file:{secret}'}}
  limits: {{url: '{limits}', lease_s: 1}}
  gateway: {{workers: 2}}
"""
GAUGES_AT_REST = (
    "sextant_ledger_pending_rows",
    "sextant_governance_open_admissions",
    "sextant_gateway_requests_in_progress",
)


@dataclasses.dataclass
class Report:
    """What a run saw."""

    seed: int
    kills: dict[str, int]
    seen: Seen
    rows: int
    elapsed_s: float

    def __str__(self) -> str:
        seen = self.seen
        return (
            f"seed {self.seed}: {sum(self.kills.values())} kills {self.kills} in {self.elapsed_s:.0f} s; "
            f"{len(seen.completed)} completed answers, {self.rows} rows, {seen.broken} cut off, "
            f"{seen.refused} refused {dict(sorted(seen.statuses.items()))}"
        )


def run_rounds(root: Path, rounds: int, seed: int, shared: Shared | None = None) -> Report:
    """Kills `rounds` times and checks. `root` is a folder for the state; with `shared` servers the books and
    the limits are there, two gateways serve, and the servers are killed too. Raises AssertionError with what
    did not hold; the message of every failure names the seed."""
    try:
        return _run_rounds(root, rounds, seed, shared)
    except BaseException as error:
        error.add_note(f"again: make crash ROUNDS={rounds} SEED={seed}")
        raise


def _run_rounds(root: Path, rounds: int, seed: int, shared: Shared | None) -> Report:
    began_s = time.monotonic()
    chance = random.Random(seed)
    url = shared.postgres.create_database() if shared else ""
    with _stack(root, shared, url) as (up, fast):
        kills = _killers(up, fast, shared)
        counts = dict.fromkeys(kills, 0)
        tenant = PayingTenant(up)
        with load(up, _clients(up, seed, tenant)) as seen:
            for name in _schedule(chance, list(kills), rounds):
                time.sleep(chance.uniform(0.0, PAUSE_MOST_S))
                counts[name] += 1
                kills[name]()
                tenant.top_up()
            time.sleep(PAUSE_MOST_S)
            until(lambda: refusals_for_money(up) > 0, "the balance runs out", RUN_OUT_S)
        for gauge in GAUGES_AT_REST:
            until(lambda gauge=gauge: metric(up, gauge) == 0, f"{gauge} is 0 once the load is gone")  # type: ignore[misc]
        assert up.stop() == 0
        rows = check_state(up.root, url, seen)
        tenant.check(url or up.root / "ledger.db")
    return Report(seed, counts, seen, rows, time.monotonic() - began_s)


def check_state(state: Path, url: str, seen: Seen) -> int:
    """Everything that must hold of the databases when nothing runs; the number of rows."""
    databases = Databases(state, state / "accounts.db", state / "ledger.db", url)
    faults = check_databases(databases)
    assert faults == [], faults
    ledger = url or databases.ledger
    check_rows(seen, usage_rows(ledger, "ok"))
    rows = len(usage_rows(ledger))
    asked = len(seen.completed) + seen.broken + seen.refused
    assert rows <= asked, f"{rows} rows for {asked} requests"
    return rows


def metric(up: Stack, name: str) -> float:
    """The sum over all gateway workers."""
    text = up.ask("GET", "/metrics").body.decode()
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not exported"
    return sum(map(float, found))


def refusals_for_money(up: Stack) -> int:
    """Answers with 402 since the gateways were last started."""
    text = up.ask("GET", "/metrics").body.decode()
    return sum(
        int(float(count))
        for count in re.findall(r'^sextant_gateway_requests_total{[^}]*status="402"} (\S+)$', text, re.M)
    )


def _clients(up: Stack, seed: int, tenant: PayingTenant) -> list[Client]:
    """Half of them pay."""
    keys = (up.key, tenant.key)
    models = ("sextant-nano", FAST_MODEL)
    return [Client(seed * 1000 + number, models, (keys[number % 2],)) for number in range(CLIENTS)]


def _killers(up: Stack, fast: FastEngine, shared: Shared | None) -> dict[str, Callable[[], None]]:
    def kill_fast() -> None:
        fast.kill()
        fast.start()

    servers: dict[str, Callable[[], None]] = {}
    if shared is not None:
        servers = {"PostgreSQL": shared.postgres.restart, "Redis": shared.redis.restart}
    return {
        **servers,
        "gateway": lambda: kill_member(up, "gateway"),
        "ledger": lambda: kill_member(up, "ledger"),
        "gateway and ledger": lambda: kill_member(up, "gateway", "ledger"),
        "engine": lambda: kill_member(up, "engine"),
        "control": lambda: kill_member(up, "control"),
        "fast engine": kill_fast,
        "host": lambda: kill_host(up),
    }


def _schedule(chance: random.Random, names: list[str], rounds: int) -> Iterator[str]:
    """Every kind once in every round of all kinds, in random order: none is left out, and none so often that
    the supervisor's growing pauses between restarts are what is tested."""
    left: list[str] = []
    for _ in range(rounds):
        if not left:
            left = chance.sample(names, len(names))
        yield left.pop()


@contextlib.contextmanager
def _stack(root: Path, shared: Shared | None, url: str) -> Iterator[tuple[Stack, FastEngine]]:
    fast = FastEngine()
    document = root / "crash.yaml"
    text = DOCUMENT.format(model=FAST_MODEL, port=fast.port)
    if shared is not None:
        secret = root / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        text += SHARED_STORES.format(
            store=url.replace(f":{PASSWORD}@", "@"), secret=secret, limits=shared.redis.url
        )
    document.write_text(text)
    up = Stack(root / "state", document=document)
    try:
        fast.start()
        up.start().wait_serving()
        wait_ready(up)
        yield up, fast
    finally:
        up.kill()
        fast.kill()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="as an earlier run printed it")
    parser.add_argument("--store", choices=("files", "shared"), help="one of the two alone")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1_000_000)
    print(f"{given.rounds} rounds each; again: make crash ROUNDS={given.rounds} SEED={seed}", flush=True)
    for store in ("files", "shared"):
        if given.store in (None, store):
            shared = Shared.start() if store == "shared" else None
            try:
                with tempfile.TemporaryDirectory(prefix="sx-crash-") as folder:
                    print(f"{store}: {run_rounds(Path(folder), given.rounds, seed, shared)}", flush=True)
            finally:
                if shared is not None:
                    shared.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
