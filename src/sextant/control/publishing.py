"""The policy that gateways read, kept in step with the accounts database.

After each change of its own, control publishes at once; a change by another host's control on the same
PostgreSQL is seen by the version that a look at the database finds, twice a second.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from sextant.base.errors import Retryable
from sextant.store.accounts import Accounts, publish

LOOK_EVERY_S = 0.5
_log = logging.getLogger(__name__)


class PolicyPublisher:
    """Writes the policy file, one at a time and never an older one over a newer."""

    def __init__(self, accounts: Accounts, policy_file: str) -> None:
        self._accounts = accounts
        self._policy_file = policy_file
        self._one_at_a_time = threading.Lock()
        self._published = -1

    def publish(self) -> None:
        """Publishes what is not published yet. Raises OSError, LedgerUnavailable."""
        with self._one_at_a_time:
            if self._accounts.policy_version() != self._published:
                policy = self._accounts.policy_snapshot()
                publish(policy, self._policy_file)
                self._published = policy.version

    async def follow(self) -> None:
        """Publishes whenever the version has changed, until cancelled; trouble is logged once."""
        trouble = ""
        while True:
            try:
                await asyncio.to_thread(self.publish)
                trouble = ""
            except (OSError, Retryable) as error:
                if str(error) != trouble:
                    _log.warning("cannot publish the policy: %s", error)
                trouble = str(error)
            await asyncio.sleep(LOOK_EVERY_S)
