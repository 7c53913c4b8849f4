"""Limits of many gateway processes, kept in Redis: the shared twin of `limits/memory.py`.

Flow 1 (serve). Everything that gathers while a call is under way travels in the next one, in two scripts sent
together: first what has ended and what the books say now, then who wants in. One call is in flight, so ten
thousand admissions a second are a few hundred round trips. A call whose answer is lost is sent again on the
next connection under a higher number; Redis refuses what still arrives from the older one, and knows each
hold by its request id, so nothing counts twice. Neighbours: `link.py` (the connection), `words.py` (what is
said), `state.lua` (what Redis keeps).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from sextant.base.errors import LimitsUnavailable, Misconfigured
from sextant.governance.limits.limiter import Ask, Hold, Refused, ScopeRules, Unknown
from sextant.governance.limits.memory import MemoryLimiter
from sextant.governance.shared.link import Link, LinkLost, Scripts, open_link
from sextant.governance.shared.words import (
    RuleSet,
    batch_of_asks,
    headroom_of,
    hold_to_record,
    pack,
    refusal_of,
    rule_set,
    standing_values,
    unpack,
)
from sextant.spec.policy import Standing
from sextant.spec.stores import SharedLimits
from sextant.telemetry.table import Registry

ASKS_PER_CALL = 512
ENDS_PER_CALL = 1024
"""Also standings in a call. Redis serves nobody else during a call, which takes some milliseconds."""
ASKS_WAITING = 65_536
"""Admissions waiting for an answer; a further one is refused."""
SCOPES_KEPT = 10_000
"""Rule sets and standings remembered; beyond that all are forgotten and come anew."""
FORGOTTEN_S = 600
"""How long Redis keeps what it was told of a scope that nobody uses: `FORGET_MS` of `state.lua`."""
RETRY_MIN_S, RETRY_MAX_S = 0.02, 1.0
"""Pause before connecting again; doubles in between."""
WARMING_LOOK_S = 0.05
BEATS_PER_LEASE = 5
_ADMITTED, _REFUSED, _MUST_BEGIN, _WARMING, _OTHER_BOOKS = 1, 0, 1, 2, 4
_STARTED_ANEW = "it has started anew, and others have yet to report what they hold"
_log = logging.getLogger(__name__)


class _Waiting(msgspec.Struct, gc=False):
    """One admission on its way."""

    ask: Ask
    rules: RuleSet
    future: asyncio.Future[Hold | Refused | Unknown]
    since_s: float


class _SharedHold(Hold):
    """A hold with its ask. `local` is its twin in memory, for one admitted while Redis was away; `recorded`
    says whether Redis may know it."""

    ask: Ask | None = None
    local: Hold | None = None
    recorded: bool = False


class SharedLimiter:
    """Implements `limits.limiter.Limiter`; one for each gateway worker. `start` it inside its event loop,
    `close` it there too."""

    def __init__(self, settings: SharedLimits, registry: Registry) -> None:
        self._settings = settings
        self._owner = f"{settings.worker}#{secrets.token_hex(8)}"
        self._generation = 0
        self._scripts = Scripts()
        self._memory = MemoryLimiter() if settings.fail == "local" else None
        self._rule_sets: dict[int, RuleSet] = {}
        self._waiting: list[_Waiting] = []
        self._flying: list[_Waiting] = []
        self._again = False
        self._open: dict[str, _SharedHold] = {}
        self._ends: dict[str, int] = {}
        self._latest: dict[str, Standing | None] = {}
        self._unsent: set[str] = set()
        self._asked: set[str] = set()
        self._beat_at_s = 0.0
        self._warming_until_s = 0.0
        self._trouble = "it has not answered yet"
        self._down_since_s = float("-inf")
        self._keeper: asyncio.Task[None] | None = None
        self._connected_metric = registry["sextant_limits_connected"]
        self._calls_metric = registry["sextant_limits_call_seconds"]
        self._local_metric = registry["sextant_limits_local_admissions"]
        self._reaped_metric = registry["sextant_limits_reaped_holds"]

    async def start(self) -> None:
        """Connects, or goes on trying in the background where Redis is away. Raises Misconfigured where it
        does not accept our credentials, or they cannot be read."""
        self._loop = asyncio.get_running_loop()
        self._work = asyncio.Event()
        first_try: asyncio.Future[None] = self._loop.create_future()
        self._keeper = self._loop.create_task(self._keep_connected(first_try), name="shared-limits")
        await first_try

    async def close(self, flush_s: float = 2.0) -> None:
        """Sends what has ended, at most for `flush_s`, then disconnects. Whoever still waits is refused."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(flush_s):
                while self._ends and not self._trouble:
                    self._work.set()
                    await asyncio.sleep(0.005)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._fail(self._flying + self._waiting)
        self._flying, self._waiting = [], []

    def admit_now(self, ask: Ask) -> Hold | None:
        """See `Limiter`: Redis must be asked."""
        return None

    async def admit(self, ask: Ask) -> Hold | Refused | Unknown:
        """See `Limiter`."""
        if self._is_down():
            return await self._admit_without(ask)
        if len(self._waiting) >= ASKS_WAITING:
            raise LimitsUnavailable(
                f"{len(self._waiting)} admissions wait for the limits store, the most that are kept",
                retry_after_s=1.0,
            )
        future: asyncio.Future[Hold | Refused | Unknown] = self._loop.create_future()
        self._waiting.append(_Waiting(ask, self._rule_set(ask.rules), future, self._loop.time()))
        self._work.set()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                given = future.result()
                if isinstance(given, Hold):
                    self.refund(given)
            raise
        except LimitsUnavailable:
            if self._memory is None:
                raise
            return await self._admit_without(ask)

    def settle(self, hold: Hold, tokens: int) -> None:
        """See `Limiter`."""
        self._end(hold, tokens)

    def refund(self, hold: Hold) -> None:
        """See `Limiter`."""
        self._end(hold, 0)

    def take(self, standings: Sequence[Standing]) -> None:
        """See `Limiter`. Travels with the next call, before what has ended."""
        for standing in standings:
            if standing.scope not in self._latest:
                continue
            known = self._latest[standing.scope]
            if known is None or known.version <= standing.version:
                self._latest[standing.scope] = standing
                self._unsent.add(standing.scope)
        if self._memory is not None:
            self._memory.take(standings)

    @property
    def trouble(self) -> str:
        """See `Limiter`. Always empty with `fail: local`; see `degraded`."""
        return "" if self._memory is not None else self._words()

    @property
    def degraded(self) -> str:
        """Why limits are those of this process alone; empty while they are shared, or nobody is admitted."""
        return self._words() if self._memory is not None else ""

    def _words(self) -> str:
        why = self._trouble if self._is_down() else ""
        if not self._trouble and self._is_warming():
            why = _STARTED_ANEW
        return f"limits cannot be checked in Redis: {why}" if why else ""

    def _is_down(self) -> bool:
        """Away for longer than a call may take; until then admissions wait for it."""
        return bool(self._trouble) and self._loop.time() - self._down_since_s >= self._settings.timeout_s

    async def _admit_without(self, ask: Ask) -> Hold | Refused | Unknown:
        """While Redis is away: nobody, or whoever is within the limits of this process alone."""
        if self._memory is None:
            raise LimitsUnavailable(
                f"limits cannot be checked now ({self._trouble}); try again shortly", retry_after_s=1.0
            )
        found = await self._memory.admit(ask)
        if not isinstance(found, Hold):
            return found
        self._local_metric.inc()
        for rule in ask.rules:
            if rule.needs_books:
                self._latest.setdefault(rule.scope, None)
        hold = self._open[ask.request_id] = _SharedHold(
            found.requests, found.tokens, ask=ask, local=found, recorded=False
        )
        return hold

    def _rule_set(self, rules: tuple[ScopeRules, ...]) -> RuleSet:
        found = self._rule_sets.get(id(rules))
        if found is None or found.given is not rules:
            if len(self._rule_sets) >= SCOPES_KEPT:
                self._rule_sets.clear()
                self._forget_standings()
            found = self._rule_sets[id(rules)] = rule_set(rules)
            for scope in found.books:
                self._latest.setdefault(scope, None)
        return found

    def _forget_standings(self) -> None:
        """Those that Redis has and no open request here needs."""
        needed = {rule.scope for hold in self._open.values() if hold.ask for rule in hold.ask.rules}
        self._latest = {
            scope: standing
            for scope, standing in self._latest.items()
            if scope in needed or scope in self._unsent
        }

    def _end(self, hold: Hold, tokens: int) -> None:
        if hold.closed or not isinstance(hold, _SharedHold) or hold.ask is None:
            return
        hold.closed = True
        request_id = hold.ask.request_id
        self._open.pop(request_id, None)
        if hold.local is not None and self._memory is not None:
            self._memory.settle(hold.local, tokens)
        if hold.recorded:
            self._ends[request_id] = tokens
            self._work.set()

    # The connection's life.

    async def _keep_connected(self, first_try: asyncio.Future[None]) -> None:
        """Connects, serves until the connection is lost, and so on until cancelled."""
        pause_s, told = RETRY_MIN_S, ""
        while True:
            try:
                link = await open_link(self._settings, self._scripts)
                try:
                    await self._begin(link)
                    pause_s, told = RETRY_MIN_S, ""
                    _set_once(first_try)
                    await self._serve(link)
                finally:
                    await link.close()
            except (LinkLost, Misconfigured) as error:
                self._on_lost(str(error))
                if isinstance(error, Misconfigured) and not first_try.done():
                    first_try.set_exception(error)
                    return
                if self._trouble != told:
                    _log.warning("limits are not shared now, Redis: %s", self._trouble)
                told = self._trouble
            _set_once(first_try)
            self._fail_overdue()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            self._fail_overdue()
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    def _on_lost(self, why: str) -> None:
        if not self._trouble:
            self._down_since_s = self._loop.time()
        self._trouble = why
        self._connected_metric.set(0)
        self._waiting = self._flying + self._waiting
        self._again = self._again or bool(self._flying)
        self._flying = []

    async def _begin(self, link: Link) -> None:
        """Reports this worker and what it holds. Raises LinkLost; Misconfigured where these are the limits of
        other books."""
        self._generation += 1
        kept: dict[str, Sequence[Any]] = dict.fromkeys(self._ends, ())
        kept.update({entry.ask.request_id: () for entry in self._waiting} if self._again else {})
        for request_id, hold in self._open.items():
            if hold.ask is not None:
                kept[request_id] = hold_to_record(hold.ask)
                hold.recorded = True
        lease_us = int(self._settings.lease_s * 1_000_000)
        books = self._settings.store_id
        argument = pack((self._settings.worker, lease_us, link.run_id, list(kept.items()), books))
        answer = await self._call(link, [("begin", argument)])
        if not isinstance(answer[0], Exception) and answer[0][0] == _OTHER_BOOKS:
            raise Misconfigured(_of_other_books(self._settings), field="spec.limits.name")
        if answer[0][0] == _MUST_BEGIN:
            raise LinkLost("another connection of this worker came in between")
        self._reaped_metric.inc(answer[0][1])
        self._note_wait(answer[0][2])
        self._unsent = {scope for scope, standing in self._latest.items() if standing is not None}
        self._beat_at_s = 0.0
        if self._trouble and self._down_since_s > 0:
            _log.warning("limits are shared again")
        self._trouble = ""
        self._connected_metric.set(1)

    async def _serve(self, link: Link) -> None:
        """Call after call, until the connection is lost. Raises LinkLost."""
        beat_s = self._settings.lease_s / BEATS_PER_LEASE
        while True:
            await self._until_work(beat_s)
            now_s = self._loop.time()
            warming = self._is_warming()
            if not warming:
                self._flying, self._waiting = self._waiting[:ASKS_PER_CALL], self._waiting[ASKS_PER_CALL:]
            beat = now_s >= self._beat_at_s or warming
            ends = self._ends_of_call()
            told = list(self._unsent)[:ENDS_PER_CALL]
            calls = []
            if ends or told or beat:
                calls.append(("settle", self._settlement(ends, told, beat=beat)))
            if self._flying:
                asks = [(entry.ask, entry.rules) for entry in self._flying]
                calls.append(("admit", batch_of_asks(asks, again=self._again)))
            if not calls:
                self._fail_overdue()
                continue
            answers = await self._call(link, calls)
            if calls[0][0] == "settle":
                self._on_settled(answers.pop(0), ends, told)
                if beat:
                    self._beat_at_s = now_s + beat_s
            if answers:
                self._on_answers(answers[0])
            if self._ends or self._unsent or (self._waiting and not self._is_warming()):
                self._work.set()
            self._fail_overdue()

    def _ends_of_call(self) -> dict[str, int]:
        """What has ended, as much as goes with one call; first what asks again in the same one: a request
        keeps its id when it begins again with another model, and its old hold must not end its new one."""
        if len(self._ends) <= ENDS_PER_CALL:
            return dict(self._ends)
        asking = [entry.ask.request_id for entry in self._flying]
        first = {request_id: self._ends[request_id] for request_id in asking if request_id in self._ends}
        rest = itertools.islice(self._ends.items(), ENDS_PER_CALL)
        return dict(itertools.islice({**first, **dict(rest)}.items(), ENDS_PER_CALL))

    async def _until_work(self, beat_s: float) -> None:
        """Until something is to be sent, or a heartbeat is due."""
        if not self._work.is_set():
            timeout_s = (
                WARMING_LOOK_S if self._is_warming() else max(0.0, self._beat_at_s - self._loop.time())
            )
            timer = self._loop.call_later(min(timeout_s, beat_s), self._work.set)
            try:
                await self._work.wait()
            finally:
                timer.cancel()
        self._work.clear()

    def _note_wait(self, wait_ms: int) -> None:
        self._warming_until_s = self._loop.time() + wait_ms / 1000

    def _is_warming(self) -> bool:
        return self._loop.time() < self._warming_until_s

    def _settlement(self, ends: dict[str, int], told: list[str], *, beat: bool) -> bytes:
        standings = []
        for scope in told:
            standing = self._latest.get(scope)
            if standing is not None:
                standings.append(standing_values(standing, asked=scope in self._asked))
        lease_us = int(self._settings.lease_s * 1_000_000)
        self._told_standings = {scope: self._latest.get(scope) for scope in told}
        return pack((standings, list(ends.items()), lease_us, beat))

    async def _call(self, link: Link, calls: Sequence[tuple[str, bytes]]) -> list[Any]:
        """The scripts' answers, decoded; an error in the place of its answer. Raises LinkLost."""
        sent_s = time.perf_counter()
        words = [(name, self._owner, self._generation, argument) for name, argument in calls]
        answers = await link.call(words)
        self._calls_metric.observe(time.perf_counter() - sent_s)
        return [unpack(answer) if isinstance(answer, bytes) else answer for answer in answers]

    def _on_settled(self, answer: Any, ends: dict[str, int], told: list[str]) -> None:
        if isinstance(answer, Exception):
            raise LinkLost(str(answer))
        if answer[0] == _MUST_BEGIN:
            raise LinkLost("it had taken this worker for dead, or forgotten it")
        if answer[1]:
            _log.warning("ended %d holds of a worker that is gone", answer[1])
            self._reaped_metric.inc(answer[1])
        self._note_wait(answer[2])
        for request_id in ends:
            self._ends.pop(request_id, None)
        for scope in told:
            if self._latest.get(scope) is self._told_standings.get(scope):
                self._unsent.discard(scope)
                self._asked.discard(scope)

    def _on_answers(self, answer: Any) -> None:
        """Answers whoever flew, each in a step of its own."""
        if isinstance(answer, Exception):
            self._fail(self._flying, f"Redis: {answer}")
            self._flying = []
            return
        if answer[0] == _MUST_BEGIN:
            raise LinkLost("it had taken this worker for dead, or forgotten it")
        flown, self._flying = self._flying, []
        if answer[0] == _WARMING:
            self._note_wait(answer[1])
            self._waiting = flown + self._waiting
            return
        self._again = False
        now_us = answer[1]
        for entry, said in zip(flown, answer[2], strict=True):
            self._deliver(entry, said, now_us)

    def _deliver(self, entry: _Waiting, said: Sequence[Any], now_us: int) -> None:
        ask, rules = entry.ask, entry.rules.rules
        if said[0] == _ADMITTED:
            hold = _SharedHold(*headroom_of(said, rules, now_us), ask=ask, recorded=True)
            self._open[ask.request_id] = hold
            if entry.future.done():  # nobody waits for it any longer
                self.refund(hold)
            else:
                entry.future.set_result(hold)
        elif entry.future.done():
            return
        elif said[0] == _REFUSED:
            entry.future.set_result(refusal_of(said, rules, ask, now_us))
        else:
            scopes = tuple(rules[number - 1].scope for number in said[1:])
            self._asked.update(scopes)
            entry.future.set_result(Unknown(scopes))

    def _fail_overdue(self) -> None:
        """Tells whoever has waited too long; a call in flight has a time limit of its own."""
        overdue_s = self._loop.time() - self._settings.timeout_s
        late = [entry for entry in self._waiting if entry.since_s <= overdue_s or entry.future.done()]
        if late:
            self._waiting = [
                entry for entry in self._waiting if entry.since_s > overdue_s and not entry.future.done()
            ]
            self._fail(late)

    def _fail(self, entries: Sequence[_Waiting], why: str = "") -> None:
        why = why or self._trouble or (_STARTED_ANEW if self._is_warming() else "no answer in time")
        for entry in entries:
            if not entry.future.done():
                entry.future.set_exception(
                    LimitsUnavailable(
                        f"limits cannot be checked now ({why}); try again shortly", retry_after_s=1.0
                    )
                )


def _of_other_books(settings: SharedLimits) -> str:
    return (
        f"the limits named {settings.name!r} in Redis at {settings.url} are those of other books than this "
        f"deployment's, so that tenants, balances and counts would be mixed up: keep the books of all hosts "
        f"in one PostgreSQL (spec.store.url), or give each deployment a spec.limits.name of its own; where "
        f"the other books are gone for good, the name is free {FORGOTTEN_S // 60} minutes after their last "
        f"gateway"
    )


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
