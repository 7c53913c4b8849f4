"""Real gateway processes, one ledger process and one key, asked by many callers at the same instant.

`race` sends waves of parallel calls to all gateways until a whole wave is refused. What was let through is
then compared with the limit: never over it by one, and never so far under it that another call would have
fitted: all that are allowed do get through.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.fake_engine import Exchange, FakeEngine, whole
from sextant.base.lifeline import PARENT_VARIABLE
from sextant.spec.policy import (
    Billing,
    KeyPolicy,
    LimitRules,
    Price,
    PricePlan,
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
from stack_under_test import free_port, until

GATEWAYS = 3
CALLS_EACH = 200
WAVES_MAX = 60
WAVES_OF_A_BUCKET = 12
"""A bucket that fills again never refuses for good."""
SECRET = "sk-race"
TENANT, PROJECT, KEY = "race", "race-project", "key_race"
INPUT_TOKENS, OUTPUT_TOKENS = 100, 40
NANO_PER_TOKEN = 1000
COST_NANO = (INPUT_TOKENS + OUTPUT_TOKENS) * NANO_PER_TOKEN
BODY = json.dumps(
    {"model": "fast", "messages": [{"role": "user", "content": "go" * 40}], "max_tokens": OUTPUT_TOKENS}
).encode()
HOLD_TOKENS_MOST = len(BODY) + 256 + OUTPUT_TOKENS
"""The most that admission sets aside for one call."""
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: race\r\nconnection: close\r\n"
    b"authorization: Bearer " + SECRET.encode() + b"\r\ncontent-type: application/json\r\n"
    b"content-length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY
)


class Terms(msgspec.Struct, frozen=True):
    """What the key is held to, and by which scope."""

    scope: str
    """`key`, `project` or `tenant`: whose limits they are."""
    limits: LimitRules = LimitRules()
    billing: Billing = "free"
    funds_nano: int = 0

    def policy(self) -> PolicySnapshot:
        of = dict.fromkeys(("key", "project", "tenant"), LimitRules()) | {self.scope: self.limits}
        per_mtok = NANO_PER_TOKEN * 1_000_000
        plan = PricePlan("flat", "USD", (Price("*", per_mtok, per_mtok, per_mtok, per_mtok),))
        tenant = TenantPolicy(
            TENANT, "Race", tier="any", limits=of["tenant"], billing=self.billing,
            plan="flat" if self.billing != "free" else "", currency="USD",
        )  # fmt: skip
        digest = hashlib.sha256(SECRET.encode()).hexdigest()
        key = KeyPolicy(KEY, TENANT, digest, project_id=PROJECT, limits=of["key"])
        project = ProjectPolicy(PROJECT, TENANT, "Project", limits=of["project"])
        return PolicySnapshot(1, (tenant,), (key,), (project,), (TierPolicy("any"),), (plan,))


class Engine:
    """Answers every call alike, and remembers how many it worked on at once."""

    def __init__(self, work_s: float) -> None:
        self.work_s = work_s
        self.answered = 0
        self.peak = 0
        self._at_once = 0

    async def answer(self, exchange: Exchange) -> None:
        exchange.engine.exchanges.clear()
        self._at_once += 1
        self.peak = max(self.peak, self._at_once)
        try:
            await asyncio.sleep(self.work_s)
        finally:
            self._at_once -= 1
        self.answered += 1
        total = INPUT_TOKENS + OUTPUT_TOKENS
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": total}
        await exchange.whole(whole(usage=usage))


@dataclasses.dataclass
class Outcome:
    """What a race came to. `waves` has the calls that were let through in each wave."""

    statuses: collections.Counter[int]
    waves: list[int]
    elapsed_s: float
    peak: int

    @property
    def let_through(self) -> int:
        return self.statuses[200]


async def race(
    folder: Path, terms: Terms, redis_url: str, *, gateways: int = GATEWAYS, work_s: float = 0.02
) -> Outcome:
    """Runs the processes below `folder` and waves of `CALLS_EACH` parallel calls to each gateway until one is
    refused as a whole."""
    engine = Engine(work_s)
    async with FakeEngine(engine.answer) as fake:
        with processes(folder, terms, redis_url, fake.port, gateways) as ports:
            if terms.funds_nano:
                top_up(folder, terms.funds_nano)
            began_s = time.monotonic()
            outcome = Outcome(collections.Counter(), [], 0.0, 0)
            refills = terms.limits.tokens_per_min is not None
            for _ in range(WAVES_OF_A_BUCKET if refills else WAVES_MAX):
                statuses = await wave(ports)
                outcome.statuses.update(statuses)
                outcome.waves.append(statuses[200])
                if not statuses[200]:
                    break
            outcome.elapsed_s, outcome.peak = time.monotonic() - began_s, engine.peak
    assert refills or outcome.waves[-1] == 0, (
        f"calls were still let through after {WAVES_MAX} waves: {outcome.waves}"
    )
    return outcome


async def wave(ports: Sequence[int]) -> collections.Counter[int]:
    """All calls to all gateways at once; how often each status came."""
    start = asyncio.Event()
    calls = [asyncio.ensure_future(call(port, start)) for port in ports for _ in range(CALLS_EACH)]
    await asyncio.sleep(0.05)
    start.set()
    return collections.Counter(await asyncio.gather(*calls))


async def call(port: int, start: asyncio.Event) -> int:
    """One call on a connection of its own, sent when `start` is set; its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await start.wait()
        writer.write(REQUEST)
        answer = await reader.read()
        return int(answer.split(b" ", 2)[1])
    finally:
        writer.close()


@contextlib.contextmanager
def processes(
    folder: Path, terms: Terms, redis_url: str, engine_port: int, gateways: int
) -> Iterator[list[int]]:
    """One ledger and the gateways, serving; their ports. Ended in the end, whatever happened."""
    run = folder / "run"
    run.mkdir(mode=0o700)
    write(run / "policy.json", terms.policy())
    upstream = Upstream("u", f"http://127.0.0.1:{engine_port}/v1")
    model = ServedModel("fast", "remote", (upstream,), quirks=Quirks(compliant=True), context_tokens=65536)
    write(run / "routes.json", RouteTable(1, (model,)))
    ledger_socket = run / "ledger.sock"
    books = ("--db", folder / "ledger.db", "--socket", ledger_socket, "--policy", run / "policy.json")
    started = [start(folder, "ledger", *books)]
    try:
        until(ledger_socket.exists, "the ledger listens")
        ports = []
        for number in range(gateways):
            ports.append(free_port())
            files = [str(path) for path in (run / "routes.json", run / "policy.json", ledger_socket)]
            settings = GatewaySettings("127.0.0.1", ports[-1], *files, access_log=False)
            if redis_url:
                shared = SharedLimits(redis_url, f"gateway-{number}", name=folder.name, lease_s=1.0)
                settings = msgspec.structs.replace(settings, shared_limits=shared)
            write(run / f"gateway-{number}.json", settings)
            started.append(start(folder, "gateway", "--settings", run / f"gateway-{number}.json"))
        for port in ports:
            # a limits store that is new waits for what others may still hold before it lets anybody in
            until(lambda port=port: ready(port), "a gateway is ready", 60)  # type: ignore[misc]
        yield ports
        for process in reversed(started):
            process.terminate()
            assert process.wait(40) == 0
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait(10)


def start(folder: Path, name: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"sextant.app.{name}_process", *map(str, arguments)]
    with (folder / f"{name}.log").open("ab") as log:
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def write(path: Path, content: msgspec.Struct) -> None:
    path.write_bytes(msgspec.json.encode(content))
    path.chmod(0o600)


def top_up(folder: Path, amount_nano: int) -> None:
    now_ms = time.time_ns() // 1_000_000
    transfer = Transfer("t1", "top-up", CASH, prepaid_account(TENANT), amount_nano, "USD", now_ms)
    LedgerPosting(folder / "run" / "ledger.sock").post([transfer])
