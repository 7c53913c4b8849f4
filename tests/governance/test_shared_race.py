"""Limits in Redis against the plain model, and three processes that race for the last place of a limit."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from limits_model import MONTH, RULES, SCOPES, LimiterMachine
from shared_limits import KEY, NEVER_US, _end_wait, standing, until

from servers import Redis
from sextant.governance.limits.limiter import NO_LIMIT, Ask, Hold, Limiter, Refused, ScopeRules, Unknown
from sextant.governance.shared.limiter import SharedLimiter
from sextant.governance.shared.link import Scripts
from sextant.spec.stores import SharedLimits
from sextant.telemetry.table import Registry

PROCESSES, CALLS = 3, 200
RACER = """
import asyncio, json, sys
from sextant.governance.limits.limiter import Hold, ScopeRules
import msgspec
from shared_limits import ask, limiter

async def race():
    rules = msgspec.convert(json.loads(sys.argv[2]), ScopeRules)
    async with limiter(sys.argv[1], sys.argv[3], warm=False, lease_s=30.0, timeout_s=30.0) as one:
        print("ready", flush=True)
        sys.stdin.readline()
        calls = [one.admit(ask(rules, tokens=7, nano=11)) for _ in range(int(sys.argv[4]))]
        found = await asyncio.gather(*calls)
        print(sum(isinstance(answer, Hold) for answer in found), flush=True)
        sys.stdin.readline()

asyncio.run(race())
"""


class RedisMachine(LimiterMachine):
    """The model's clock stands in Redis, in the place of the server's own."""

    url: str
    client: redis.Redis
    asked = 0

    @initialize(funds=st.integers(0, 20_000), known=st.integers(0, 3))
    def open_books(self, funds: int, known: int) -> None:
        """Mostly the ledger has been heard of all scopes: otherwise few requests get far."""
        if known:
            self.ask(Ask("req_first", tuple(RULES.values()), 0, 0, self.day, MONTH))
            self.take(dict.fromkeys(SCOPES, (0, 0)), funds)

    @rule(target=LimiterMachine.holds, count=st.integers(1, 6), tokens=st.integers(0, 300))
    def admit_several(self, count: int, tokens: int) -> str:
        return [self.admit(SCOPES, tokens, tokens) for _ in range(count)][-1]

    @rule(target=LimiterMachine.holds, scope=st.sampled_from(SCOPES), over=st.integers(0, 1))
    def admit_what_is_left(self, scope: str, over: int) -> str:
        """Exactly what the day, the month or the funds still allow, or one more than that."""
        of, tokens, nano = self.model[scope], 1, 0
        books = of.standing
        if books is not None and of.rules.tokens_per_day != NO_LIMIT:
            today = books.day_tokens if books.day >= self.day else 0
            tokens = max(1, of.rules.tokens_per_day - today - of.held_tokens + over)
        if books is not None and of.rules.nano_per_month != NO_LIMIT:
            nano = max(0, of.rules.nano_per_month - books.month_nano - of.held_nano + over)
        if books is not None and of.rules.prepaid:
            tokens, nano = 1, max(0, books.funds_nano - of.held_nano + over)
        return self.admit((scope,), tokens, nano)

    def make(self) -> Limiter:
        self.client.flushall()
        self.loop = asyncio.new_event_loop()
        self._write_clock()
        made = SharedLimiter(SharedLimits(self.url, "model", lease_s=300.0, timeout_s=60.0), Registry())
        made._scripts = with_clock_of_test()
        self.loop.run_until_complete(made.start())
        self.client.hset(f"{KEY}meta", "until", "0")
        self.loop.run_until_complete(until(lambda: not made.trouble))
        return made

    def _write_clock(self) -> None:
        self.client.set(f"{KEY}clock", str(self.us))

    def ask(self, ask: Ask) -> Hold | Refused | Unknown:
        RedisMachine.asked += 1
        return self.loop.run_until_complete(self._ask(ask))

    async def _ask(self, ask: Ask) -> Hold | Refused | Unknown:
        return await self.limiter.admit(ask)

    def pass_time(self, us: int) -> None:
        self._write_clock()

    def teardown(self) -> None:
        self.loop.run_until_complete(self.limiter.close())  # type: ignore[attr-defined]
        self.loop.close()


def with_clock_of_test() -> Scripts:
    """The scripts with a clock that a test sets."""
    scripts = Scripts()
    for name, text in scripts.texts.items():
        changed = text.replace(
            "local now = clock[1] * 1000000 + clock[2]",
            "local now = tonumber(redis.call('GET', P .. 'clock'))",
        )
        assert changed != text
        scripts.texts[name] = changed
        scripts.digests[name] = hashlib.sha1(changed.encode()).hexdigest()
    return scripts


@pytest.mark.slow
def test_redis_agrees_with_the_model(redis_server: Redis) -> None:
    case = RedisMachine.TestCase
    case.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
    with redis.Redis(port=redis_server.port) as RedisMachine.client:
        RedisMachine.url = redis_server.url
        case("runTest").runTest()
    assert RedisMachine.asked > 200  # a verdict each, compared with the model's


@pytest.fixture
def racers(redis_server: Redis) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for racer in started:
        racer.kill()
        racer.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        (ScopeRules("key:k", interval_us=NEVER_US, burst_requests=100), 100),
        (ScopeRules("key:k", concurrent_requests=37), 37),
        (ScopeRules("key:k", tokens_per_min=63), 63 // 7),  # the next 7 are there after 6.7 s
        (ScopeRules("key:k", tokens_per_day=1000), 1000 // 7),
        (ScopeRules("tenant:t", nano_per_month=2000), 2000 // 11),
        (ScopeRules("tenant:t", prepaid=True), 1500 // 11),
    ],
    ids=lambda value: "" if isinstance(value, int) else value.scope,
)
def test_three_processes_never_admit_one_too_many(
    redis_server: Redis, racers: list[subprocess.Popen[str]], rules: ScopeRules, allowed: int
) -> None:
    """Nor one too few: every place is given away."""
    words = json.dumps({name: getattr(rules, name) for name in rules.__struct_fields__})
    for number in range(PROCESSES):
        command = [sys.executable, "-c", RACER, redis_server.url, words, f"racer-{number}", str(CALLS)]
        racers.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": "tests:tests/governance"},
            )
        )  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    asyncio.run(_end_wait(redis_server.url))
    if rules.needs_books:
        asyncio.run(_tell(redis_server.url, rules.scope))
    for racer in racers:
        _go(racer)
    admitted = [int(racer.stdout.readline()) for racer in racers if racer.stdout is not None]
    assert sum(admitted) == allowed, admitted
    for racer in racers:
        _go(racer)


async def _tell(url: str, scope: str) -> None:
    """Lets Redis know the books, as the first gateway that asks the ledger does."""
    known = SharedLimiter(SharedLimits(url, "teller", lease_s=30.0, timeout_s=10.0), Registry())
    await known.start()
    known._latest[scope] = None
    known.take([standing(scope, funds_nano=1500)])
    known._work.set()
    await until(lambda: not known._unsent)
    await known.close()


def _go(racer: subprocess.Popen[str]) -> None:
    assert racer.stdin is not None
    racer.stdin.write("go\n")
    racer.stdin.flush()
