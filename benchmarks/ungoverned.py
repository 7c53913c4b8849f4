"""The gateway without governance: `python -m benchmarks.ungoverned --settings FILE`.

The real gateway process with a governor that knows the key and counts nothing, and no ledger: the feature
table's column `off`.
"""

from __future__ import annotations

import sys
from typing import Any

from sextant.app import gateway_process
from sextant.governance.door import Admission, Claim, Outcome, Principal
from sextant.governance.governor import LocalGovernor


class NoLedger:
    """Takes the place of the ledger client; nothing is sent anywhere."""

    ready, trouble, policy_version, pending_rows = True, "", 0, 0

    def __init__(self, *_: Any) -> None:
        self.on_standings: Any = None

    async def start(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to disconnect from."""


class Ungoverned(LocalGovernor):
    """Identifies as the real one does, and lets everybody in."""

    async def admit(self, principal: Principal, claim: Claim) -> Admission:
        return Admission(principal, claim, 0)

    async def settle(self, admission: Admission, outcome: Outcome) -> None:
        """No row."""

    def settle_soon(self, admission: Admission, outcome: Outcome) -> None:
        """No row."""

    def refund(self, admission: Admission) -> None:
        """No hold."""

    def unserved(self, admission: Admission, outcome: Outcome) -> None:
        """No hold."""


def main() -> int:
    gateway_process.LedgerClient = NoLedger  # type: ignore[misc,assignment]
    gateway_process.LocalGovernor = Ungoverned  # type: ignore[misc]
    return gateway_process.main()


if __name__ == "__main__":
    sys.exit(main())
