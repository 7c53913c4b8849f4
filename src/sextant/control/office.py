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

T = TypeVar("T")


class Office:
    """One control process's own."""

    def __init__(self, settings: ControlSettings, accounts: Accounts) -> None:
        self.settings = settings
        self.accounts = accounts
        self.publisher = PolicyPublisher(accounts, settings.policy_file)
        self.books = LedgerPosting(settings.ledger_socket)
        self.site_heard_ms: dict[str, int] = {}
        """When each site that has a record last asked this process something."""

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
