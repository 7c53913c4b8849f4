"""What a limiter is: it admits a request within all limits of its key, project and tenant, or says which one
refuses, and how long.

Flow 1 (serve): the governor makes an `Ask`, keeps the `Hold` while the request runs, and ends it once.
Neighbours: `memory.py` (one process) and `sextant.governance.shared` (Redis) implement it, `rules.py` makes
the rules, `rates.py` has the arithmetic that both follow.

What must hold, whoever implements it:
- All scopes are checked before any is charged; a refused request takes nothing.
- `settle` and `refund` together count once per hold; the second is a no-op.
- Requests a second: a request that was admitted counts, also when it is refunded.
- Tokens a minute: `tokens` are taken at admission, at most the bucket's capacity; `settle` gives back what
  was not used, or takes what was used beyond. A refund gives back all.
- Tokens of the day, spend of the month and funds: what the books say (`Standing`) and all open holds together
  never exceed the limit. A hold counts until it is ended, and it is ended after `take` has had the standing
  that counts its row: for a moment both count, never neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from sextant.spec.policy import Standing

NO_LIMIT = -1
LimitName = Literal[
    "requests_per_s",
    "tokens_per_min",
    "concurrent_requests",
    "tokens_per_day",
    "spend_nano_per_month",
    "funds",
]


class ScopeRules(msgspec.Struct, frozen=True):
    """The limits of one scope in whole numbers; `NO_LIMIT` where there is none."""

    scope: str
    """`key:ID`, `project:ID` or `tenant:ID`."""
    interval_us: int = NO_LIMIT
    """Microseconds that one request takes of the sustained rate."""
    burst_requests: int = 1
    tokens_per_min: int = NO_LIMIT
    concurrent_requests: int = NO_LIMIT
    tokens_per_day: int = NO_LIMIT
    nano_per_month: int = NO_LIMIT
    prepaid: bool = False
    """Whether its requests are paid from its funds."""

    @property
    def needs_books(self) -> bool:
        """Whether a `Standing` is needed to decide."""
        return self.prepaid or self.tokens_per_day != NO_LIMIT or self.nano_per_month != NO_LIMIT


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What one request wants at most."""

    request_id: str
    rules: tuple[ScopeRules, ...]
    tokens: int
    """Input and output tokens that it can use."""
    nano: int
    """What it can cost, in the tenant's currency."""
    day: int = 0
    """The day (20261122) and month (202611) in the tenant's time zone; 0 where no rule needs the books."""
    month: int = 0
    now_ms: int = 0
    """Unix time; funds that expired before it make their scope unknown. 0: trust them as they are."""


class Headroom(msgspec.Struct, frozen=True, gc=False):
    """What is left of the tightest limit of a kind: `limit` at most, `remaining` now, and all of it again
    after `reset_ms` without use."""

    limit: int
    remaining: int
    reset_ms: int


class Hold(msgspec.Struct, gc=False):
    """What one open request has set aside, and what it may be told. Each implementation keeps more in its own
    kind of hold."""

    requests: Headroom | None = None
    tokens: Headroom | None = None
    closed: bool = False


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A limit that is in the way; of several, the one that takes longest to give way."""

    scope: str
    limit: LimitName
    allowed: int
    """The limit: requests in a burst for `requests_per_s`, nano for money; the funds for `funds`."""
    needed: int
    available: int
    """How much of it is free now; less than `needed`."""
    retry_after_ms: int = 0
    """Exactly when the same request would pass if nothing else came. 0: not known, or not by waiting."""
    held: bool = False
    """Whether only open requests are in the way: it may pass when they end."""


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """Scopes whose standing must be asked of the ledger (and given to `take`) before this can be decided."""

    scopes: tuple[str, ...]


class Limiter(Protocol):
    """Belongs to one event loop."""

    def admit_now(self, ask: Ask) -> Hold | None:
        """The same as `admit` where that needs nobody else and nothing is in the way; None: nothing was set
        aside, ask `admit`."""

    async def admit(self, ask: Ask) -> Hold | Refused | Unknown:
        """Sets aside what the request can use, in all its scopes at once, or in none. Raises
        LimitsUnavailable when it can neither admit nor refuse."""

    def settle(self, hold: Hold, tokens: int) -> None:
        """The request used so many tokens and its row is durable: ends the hold. Never raises."""

    def refund(self, hold: Hold) -> None:
        """Nothing was run: gives all back but the request itself. Never raises."""

    def take(self, standings: Sequence[Standing]) -> None:
        """What the books say now; of each scope the newest version counts."""

    @property
    def trouble(self) -> str:
        """Why it admits nobody, in words for an operator; empty while it works."""

    @property
    def degraded(self) -> str:
        """What it cannot keep as configured although it goes on; empty while all is well."""
