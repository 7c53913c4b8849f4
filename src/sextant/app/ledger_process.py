"""The ledger process: `python -m sextant.app.ledger_process --socket PATH --db FILE --policy FILE`.

Joins what must not know each other: the books of `sextant.store` and the prices of `sextant.governance`. The
policy file is read at the start and followed; a batch of requests that a newer policy admitted is rated by
that one.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sextant.app.entry import run_entry
from sextant.app.snapshots import POLL_INTERVAL_S, SnapshotFile
from sextant.app.stores import located
from sextant.base.errors import Misconfigured
from sextant.base.scheduling import shorten_slice
from sextant.governance.pricing import PriceBook, Rated
from sextant.spec.policy import Billing
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.stores import StoreSettings
from sextant.spec.usage import UsageRow
from sextant.store.ledger import RatesFor, run_books, run_ledger, without_prices

_log = logging.getLogger(__name__)


class PolicyRates:
    """The rates of one policy; implements `store.books.Rates`. Tenants that the policy lacks are free, and
    said once."""

    def __init__(self, policy: PolicySnapshot) -> None:
        self.version = policy.version
        book = PriceBook(policy, self._stranger)
        self.rate: Callable[[UsageRow, int], Rated] = book.rate
        self.day_and_month: Callable[[str, int], tuple[int, int]] = book.day_and_month
        self.currency: Callable[[str], str] = book.currency
        self.billing: Callable[[str], Billing] = book.billing
        self._known: set[str] = set()

    def _stranger(self, row: UsageRow) -> None:
        if row.tenant_id not in self._known:
            self._known.add(row.tenant_id)
            _log.error(
                "request %s is of tenant %s, which policy %d lacks: it and those after it cost nothing",
                row.request_id,
                row.tenant_id,
                self.version,
            )


class PolicyFollower:
    """The rates of the policy file's present content; implements `store.ledger.RatesFor`."""

    def __init__(self, path: Path, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Raises Misconfigured when the file cannot be read or used."""
        self._file = SnapshotFile(str(path), PolicySnapshot, self._take)
        self._clock_s = clock_s
        self._looked_s = clock_s()
        self._take(self._file.load())

    def _take(self, policy: PolicySnapshot) -> None:
        self._rates = PolicyRates(policy)

    def __call__(self, policy_version: int) -> PolicyRates:
        now_s = self._clock_s()
        if self._rates.version < policy_version or now_s - self._looked_s >= POLL_INTERVAL_S:
            self._looked_s = now_s
            self._file.poll()
        return self._rates


def _url_in(store_file: Path) -> str:
    """The URL stands in a file since it may hold a password, which a command line would show to everybody."""
    try:
        return store_file.read_text().strip()
    except OSError as error:
        raise Misconfigured(f"cannot read the database's URL in {store_file}: {error.strerror}") from error


def _run_on_server(url: str, socket_path: Path, rates_for: RatesFor) -> None:
    from sextant.store.ledger_postgres import LedgerDatabase

    lock_path = socket_path.with_name(socket_path.name + ".lock")
    run_books(lambda: LedgerDatabase(url), lock_path, socket_path, rates_for)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sextant.app.ledger_process")
    books = parser.add_mutually_exclusive_group(required=True)
    books.add_argument("--db", type=Path, help="the ledger file")
    books.add_argument("--store", type=Path, help="a file with the URL of a PostgreSQL database")
    parser.add_argument("--socket", required=True, type=Path)
    parser.add_argument("--policy", type=Path, help="the policy snapshot; without one nothing has a price")
    parser.add_argument("--numbered", action="store_true", help="keep the order of rows, for a forwarder")
    parser.add_argument("--password", help="secret reference of that database's password")
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args(argv)
    shorten_slice()

    def run() -> None:
        rates_for = PolicyFollower(given.policy) if given.policy else without_prices
        if given.db:
            run_ledger(given.db, given.socket, rates_for, numbered=given.numbered)
        else:
            url = located(StoreSettings(_url_in(given.store), given.password), given.store)
            _run_on_server(url, given.socket, rates_for)

    return run_entry("ledger", run, log_level=given.log_level)


if __name__ == "__main__":
    sys.exit(main())
