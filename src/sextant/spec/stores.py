"""Where state lives that processes share: the database of accounts and ledger, and the limits in Redis.

The supervisor makes these of the document and hands them to gateways, the ledger and control in their
settings files. No password stands in them: `password_ref` is a secret reference.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SQLITE = "sqlite:"


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url` is `sqlite:` (files in the state directory) or a PostgreSQL URL without a password."""

    url: str = SQLITE
    password_ref: str | None = None

    @property
    def is_sqlite(self) -> bool:
        return self.url == SQLITE


class SharedLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a gateway worker keeps limits in Redis."""

    url: str
    worker: str
    """Names this worker among all that share the limits; the same after a restart, so that it ends what its
    predecessor left."""
    username: str = ""
    password_ref: str | None = None
    ca_file: str | None = None
    store_id: str = ""
    """Names the books that standings come from: only gateways of the same ones share limits. Empty: any."""
    fail: Literal["closed", "local"] = "closed"
    name: str = "sextant"
    """Deployments with different names share a Redis without meeting."""
    timeout_s: float = 1.0
    """Longest wait for an answer; then the connection is given up."""
    lease_s: float = 5.0
    """A worker not heard of for so long is taken for dead, and what it held is free again."""
