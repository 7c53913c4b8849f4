"""The governor and the books together, against a plain model: reserve, settle, cancel, crash, expire.

The governor, its limiter, its price book and the ledger's file are the real ones. Between them stands a
connection whose every step is a rule (`StepLedger`): rows are handed over, committed, acknowledged, lost on
the way and sent again, in any order that hypothesis finds. The model is a few lists of numbers. Each decision
of the governor must be the model's, and after every step no limit is exceeded by what is in the books.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sextant.app.ledger_process import PolicyRates
from sextant.base.errors import InsufficientBalance, RateLimited
from sextant.governance import standings as standings_module
from sextant.governance.door import Admission, Claim, Outcome
from sextant.governance.governor import LocalGovernor
from sextant.spec.policy import (
    KeyPolicy,
    LimitRules,
    Price,
    PricePlan,
    ProjectPolicy,
    Standing,
    TenantPolicy,
    TierPolicy,
)
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.transfer import CASH, Transfer, package_account, prepaid_account
from sextant.spec.usage import Usage, UsageRow
from sextant.store import ledger_file
from sextant.store.books import EXPIRY_GRACE_MS
from sextant.store.ledger_file import LedgerFile
from sextant.telemetry.table import Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TENANT, PROJECT, KEY = "t", "p", "key_m"
SECRET_DIGEST = "00" * 32
NANO_PER_TOKEN = 1000
AT_ONCE = 4
DAY_TOKENS = 3_000
MONTH_NANO = 8_000 * NANO_PER_TOKEN
START_MS = 1_795_348_800_000
"""2026-11-22, noon UTC."""


def policy() -> PolicySnapshot:
    per_mtok = NANO_PER_TOKEN * 1_000_000
    plan = PricePlan("flat", "USD", (Price("*", per_mtok, per_mtok, per_mtok, per_mtok),))
    tenant = TenantPolicy(
        TENANT, "T", tier="any", billing="prepaid", plan="flat", currency="USD",
        limits=LimitRules(spend_nano_per_month=MONTH_NANO),
    )  # fmt: skip
    key = KeyPolicy(
        KEY, TENANT, SECRET_DIGEST, project_id=PROJECT, limits=LimitRules(concurrent_requests=AT_ONCE)
    )
    project = ProjectPolicy(PROJECT, TENANT, "P", limits=LimitRules(tokens_per_day=DAY_TOKENS))
    return PolicySnapshot(1, (tenant,), (key,), (project,), (TierPolicy("any"),), (plan,))


class StepLedger:
    """What the governor takes for its ledger client. Rows wait in `queue` until a step takes them."""

    def __init__(self, file: LedgerFile, rates: PolicyRates) -> None:
        self.file, self.rates = file, rates
        self.policy_version = 0
        self.on_standings: Callable[[Sequence[Standing]], None] = lambda _: None
        self.queue: list[tuple[UsageRow, Callable[[], None] | None]] = []
        self.trouble, self.ready = "", True

    def room_for(self, _open: int) -> bool:
        return True

    def submit(self, row: UsageRow, then: Callable[[], None] | None = None) -> asyncio.Future[None]:
        self.queue.append((row, then))
        return asyncio.get_running_loop().create_future()

    def submit_soon(self, row: UsageRow, then: Callable[[], None] | None = None) -> None:
        self.queue.append((row, then))

    async def standings(self, scopes: Sequence[str]) -> list[Standing]:
        found = self.file.ask(list(scopes), self.rates)
        self.on_standings(found)
        return found

    def commit(self, count: int) -> list[Standing]:
        return self.file.append([row for row, _ in self.queue[:count]], self.rates)

    def acknowledge(self, count: int, told: list[Standing]) -> None:
        durable, self.queue = self.queue[:count], self.queue[count:]
        self.on_standings(told)
        for _, then in durable:
            if then is not None:
                then()


class Open(msgspec.Struct):
    """A request of the model: what it has set aside, and what it used once it is settled."""

    admission: Admission
    tokens: int
    started_ms: int
    used: int = 0
    waits: bool = False
    """Settled, its row not acknowledged."""
    committed: bool = False


class Model(msgspec.Struct):
    """What must be true, in the plainest form."""

    prepaid_nano: int = 0
    packages: dict[str, list[int]] = {}
    """By id: expiry in ms, nano left."""
    rows: dict[str, tuple[int, int]] = {}
    """Durable rows: started in ms, tokens."""

    def funds_nano(self, now_ms: int) -> int:
        return self.prepaid_nano + sum(left for end, left in self.packages.values() if end > now_ms)

    def charge(self, name: str, started_ms: int, tokens: int, now_ms: int) -> None:
        if name in self.rows:
            return
        self.rows[name] = started_ms, tokens
        due = tokens * NANO_PER_TOKEN
        for package in sorted(self.packages):
            end, left = self.packages[package]
            part = min(left, due) if end > started_ms and end + EXPIRY_GRACE_MS > now_ms else 0
            self.packages[package][1] -= part
            due -= part
        self.prepaid_nano -= due

    def tokens_of_day(self, now_ms: int) -> int:
        return sum(tokens for at, tokens in self.rows.values() if at // 86_400_000 == now_ms // 86_400_000)

    def nano_of_month(self, now_ms: int) -> int:
        def month(at_ms: int) -> tuple[int, int]:
            at = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
            return at.year, at.month

        return NANO_PER_TOKEN * sum(n for at, n in self.rows.values() if month(at) == month(now_ms))


class Machine(RuleBasedStateMachine):
    """One gateway and one ledger."""

    @initialize()
    def start(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(standings_module, "REFRESH_INTERVAL_S", 0.0)
        self.patch.setattr(ledger_file, "time", self)  # its clock is ours
        self.folder = tempfile.TemporaryDirectory(prefix="sx-model-")
        self.runner = asyncio.Runner()
        self.now_ms = START_MS
        self.rates = PolicyRates(policy())
        self.file = LedgerFile(Path(self.folder.name, "ledger.db"))
        self.model = Model()
        self.open: dict[str, Open] = {}
        self.names = (f"r{number}" for number in itertools.count())
        self.start_gateway()

    def time_ns(self) -> int:
        return self.now_ms * 1_000_000

    def start_gateway(self) -> None:
        self.ledger = StepLedger(self.file, self.rates)
        self.governor = LocalGovernor(policy(), self.ledger, Registry(), lambda: self.now_ms)  # type: ignore[arg-type]
        self.principal = self.governor._by_key[KEY].principal

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def running(self) -> list[Open]:
        return [request for request in self.open.values() if not request.waits]

    # what may happen

    @rule(tokens=st.integers(1, 900))
    def admit(self, tokens: int) -> None:
        name = next(self.names)
        try:
            admission = self.do(self.governor.admit(self.principal, Claim(name, "m", "chat", tokens, 0)))
        except (InsufficientBalance, RateLimited):
            admission = None
        assert (admission is not None) == self.allows(tokens), "the governor and the model differ"
        if admission is not None:
            self.open[name] = Open(admission, tokens, self.now_ms)

    def allows(self, tokens: int) -> bool:
        """A hold counts until its row is acknowledged; a row counts from when it is in the books."""
        held = sum(request.tokens for request in self.open.values())
        model, now_ms = self.model, self.now_ms
        return (
            len(self.open) < AT_ONCE
            and model.tokens_of_day(now_ms) + held + tokens <= DAY_TOKENS
            and model.nano_of_month(now_ms) + (held + tokens) * NANO_PER_TOKEN <= MONTH_NANO
            and (held + tokens) * NANO_PER_TOKEN <= model.funds_nano(now_ms)
        )

    @precondition(lambda self: self.running())
    @rule(data=st.data(), part=st.floats(0, 1), waits=st.booleans(), again=st.booleans())
    def settle(self, data: st.DataObject, part: float, waits: bool, again: bool) -> None:
        """A request ends with some of what it set aside; a second end changes nothing."""
        request = data.draw(st.sampled_from(self.running()))
        request.used, request.waits = int(request.tokens * part), True
        outcome = Outcome(Usage(request.used, 0), "ok" if waits else "client_closed", 1)

        async def settle() -> None:
            if waits:
                waiter = asyncio.ensure_future(self.governor.settle(request.admission, outcome))
                await asyncio.sleep(0)
                waiter.cancel()  # who waited has left; the row goes its way
            else:
                self.governor.settle_soon(request.admission, outcome)
            if again:
                self.governor.settle_soon(request.admission, outcome)
                self.governor.refund(request.admission)

        self.do(settle())

    @precondition(lambda self: self.running())
    @rule(data=st.data(), again=st.booleans())
    def cancel(self, data: st.DataObject, again: bool) -> None:
        request = data.draw(st.sampled_from(self.running()))
        for _ in range(1 + again):
            self.governor.refund(request.admission)
        del self.open[request.admission.claim.request_id]

    @precondition(lambda self: self.ledger.queue)
    @rule(count=st.integers(1, 5), acknowledged=st.booleans())
    def commit(self, count: int, acknowledged: bool) -> None:
        """The ledger keeps the first rows of the queue. The acknowledgement may be lost: then the same rows
        come again later."""
        rows = [row for row, _ in self.ledger.queue[:count]]
        told = self.ledger.commit(count)
        for row in rows:
            self.model.charge(row.request_id, row.started_ms, row.input_tokens, self.now_ms)
        if acknowledged:
            self.ledger.acknowledge(count, told)
            for row in rows:
                del self.open[row.request_id]

    @rule()
    def crash(self) -> None:
        """The gateway dies: what it held and what it had not handed over is gone."""
        self.open.clear()
        self.start_gateway()

    @rule()
    def ledger_starts_anew(self) -> None:
        self.file.close()
        self.file = self.ledger.file = LedgerFile(Path(self.folder.name, "ledger.db"))

    @rule(amount=st.integers(1, 2_000_000), again=st.booleans())
    def top_up(self, amount: int, again: bool) -> None:
        transfer = Transfer(
            next(self.names), "top-up", CASH, prepaid_account(TENANT), amount, "USD", self.now_ms
        )
        for _ in range(1 + again):
            self.file.post([transfer], self.rates)
        self.model.prepaid_nano += amount

    @rule(amount=st.integers(1, 2_000_000), minutes=st.integers(1, 60))
    def buy_package(self, amount: int, minutes: int) -> None:
        end_ms, name = self.now_ms + minutes * 60_000, f"{self.now_ms + minutes * 60_000}{next(self.names)}"
        account = package_account(TENANT, name)
        sale = Transfer(name, "package", CASH, account, amount, "USD", self.now_ms, expires_ms=end_ms)
        self.file.post([sale], self.rates)
        self.model.packages[name] = [end_ms, amount]

    @rule(minutes=st.sampled_from([0.001, 1, 10, 30]))
    def time_passes(self, minutes: float) -> None:
        """Packages expire; an open request keeps its right to one for the hour of grace."""
        then_ms = self.now_ms + int(minutes * 60_000)
        if all(then_ms - request.started_ms < EXPIRY_GRACE_MS for request in self.open.values()):
            self.now_ms = then_ms

    @precondition(lambda self: not self.open)
    @rule()
    def a_day_passes(self) -> None:
        self.now_ms += 86_400_000

    # what always holds

    @invariant()
    def nothing_is_exceeded(self) -> None:
        model, now_ms = self.model, self.now_ms
        assert model.prepaid_nano >= 0, "the balance is below zero"
        assert all(left >= 0 for _, left in model.packages.values())
        assert model.tokens_of_day(now_ms) <= DAY_TOKENS
        assert model.nano_of_month(now_ms) <= MONTH_NANO

    @invariant()
    def the_books_are_the_models(self) -> None:
        db = self.file._db
        rows = dict(db.execute("SELECT request_id, cost_nano FROM usage"))
        assert rows == {name: tokens * NANO_PER_TOKEN for name, (_, tokens) in self.model.rows.items()}
        (standing,) = self.file.ask([f"tenant:{TENANT}"], self.rates)
        if standing.version:
            assert standing.funds_nano == self.model.funds_nano(self.now_ms)
        left = dict(db.execute("SELECT id, credits_nano - debits_nano FROM account"))
        assert left.get(prepaid_account(TENANT), 0) == self.model.prepaid_nano
        debits, credits_ = next(db.execute("SELECT sum(debits_nano), sum(credits_nano) FROM account"))
        assert debits == credits_

    @invariant()
    def no_hold_is_left(self) -> None:
        assert sum(self.governor.open_admissions.values()) == len(self.running())

    def teardown(self) -> None:
        self.file.close()
        self.folder.cleanup()
        self.runner.close()
        self.patch.undo()


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, derandomize=True, deadline=None)
TestModel = Machine.TestCase
