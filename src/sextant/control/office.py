"""What the routes of the admin API work with: accounts, the policy's publisher, the
books, settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sextant.control.access import Allowed
from sextant.control.publishing import PolicyPublisher
from sextant.control.settings import ControlSettings
from sextant.store.accounts import Accounts
from sextant.store.accounts_database import wall_clock_ms
from sextant.store.balances import currencies_of
from sextant.store.ledger_posting import LedgerPosting
from sextant.store.ledger_reading import ledger_view
from sextant.telemetry.table import Registry

T = TypeVar("T")

SIGN_UP_OUTCOMES = ("mailed", "known", "limited", "domain", "unmailed", "refused", "confirmed", "unusable")
"""A message left; one to somebody known; too many; a mail domain that may not; no message left; a wrong or
old token; a tenant was made; the tier or plan of `spec.portal` is not there."""


class SignUpCounts:
    """What became of the sign-ups that this process was asked for."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._counter = self._registry["sextant_control_sign_ups"]
        for outcome in SIGN_UP_OUTCOMES:  # from zero on: a rate needs the sample before the first
            self._counter.labels(outcome)

    def add(self, outcome: str) -> None:
        """One more, of `SIGN_UP_OUTCOMES`."""
        self._counter.labels(outcome).inc()

    def exposition(self) -> bytes:
        """The Prometheus text."""
        return self._registry.exposition()


class Office:
    """One control process's own."""

    def __init__(self, settings: ControlSettings, accounts: Accounts) -> None:
        self.settings = settings
        self.accounts = accounts
        self.publisher = PolicyPublisher(accounts, settings.policy_file)
        self.books = LedgerPosting(settings.ledger_socket)
        self.site_heard_ms: dict[str, int] = {}
        """When each site that has a record last asked this process something."""
        self.sign_ups = SignUpCounts()

    @property
    def secure(self) -> bool:
        """Whether the admin API is served over TLS."""
        return self.settings.tls is not None

    def by(self, allowed: Allowed) -> Accounts:
        """The accounts, whose changes the audit trail gives to the caller."""
        return self.accounts.by(allowed.actor)

    def changed(self, change: Callable[[], T]) -> T:
        """Makes a change that the policy shows, and publishes it before the caller is told. Raises what
        `change` raises."""
        made = change()
        self.publisher.publish()
        return made

    def currencies_of(self, tenant_id: str) -> frozenset[str]:
        """Those in which the books have moved money of a tenant. Raises Misconfigured, LedgerUnavailable."""
        with ledger_view(self.settings.ledger_db) as view:
            return currencies_of(view, tenant_id)

    @staticmethod
    def now_ms() -> int:
        """Unix milliseconds."""
        return wall_clock_ms()
