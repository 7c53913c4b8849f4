"""A connection to PostgreSQL that does not wait for ever.

A machine or process that stands still, and a link that swallows packets, keep their side of TCP: no timeout
of the server's comes, and the kernel's own come late or not at all. So the waits themselves have an end.
Neighbours: `ledger_postgres.py` (a whole transaction by a deadline), `accounts_schema.py` (each wait).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

WAIT_MAX_S = 10.0
"""For one answer where no other deadline is set."""

Given = TypeVar("Given")


class BoundedConnection(psycopg.Connection[tuple[Any, ...]]):
    """Each wait takes at most `WAIT_MAX_S`, or ends at the moment that `within` sets. Then it raises
    psycopg.OperationalError, and the connection is closed: what it was doing may come yet."""

    _until_s: float | None = None
    _wait_max_s: float | None = WAIT_MAX_S

    def within(self, timeout_s: float | None) -> None:
        """From now on all waiting together takes at most `timeout_s`; None: as long as it takes."""
        self._until_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._wait_max_s = None

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Inside, waiting takes as long as it takes: a migration waits for another's, and for its tables."""
        before = self._until_s, self._wait_max_s
        self.within(None)
        try:
            yield
        finally:
            self._until_s, self._wait_max_s = before

    def wait(self, gen: PQGen[Given], *given: Any, **named: Any) -> Given:
        """As psycopg's own; whoever waits for a time of their own (`timeout`) knows how long."""
        bound_s = self._wait_max_s
        if self._until_s is not None:
            bound_s = max(0.0, self._until_s - time.monotonic())
        if bound_s is None or len(given) > 1 or named.get("timeout") is not None:
            return super().wait(gen, *given, **named)
        until_s = time.monotonic() + bound_s
        try:
            return super().wait(gen, timeout=bound_s)
        except psycopg.OperationalError as error:
            if time.monotonic() < until_s:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError("it did not answer in time") from error
