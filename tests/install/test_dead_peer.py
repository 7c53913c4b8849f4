"""A host of a shared store is cut off in the middle of a transaction: the others must not wait for it.

The worst moment is between the statements of one pipeline: PostgreSQL then waits for the next one without any
timeout of its own, and holds the locks of those before.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from install import namespaces
from servers import PASSWORD, Postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "there are namespaces"),
]

DATABASE = "10.79.0.9"
KEEPS = """
import sys
from ledger_under_test import FlatRates, row
from sextant.base.errors import LedgerUnavailable
from sextant.store.ledger_postgres import LedgerDatabase
ledger = LedgerDatabase(sys.argv[1])
while True:
    try:
        ledger.append([row(sys.argv[2])], FlatRates())
        break
    except LedgerUnavailable as error:
        print(error, file=sys.stderr)
"""
ADDS = """
import sys
from sextant.base.errors import SextantError
from sextant.store.accounts import Accounts
accounts = Accounts(sys.argv[1])
accounts.migrate()
while True:
    try:
        accounts.create_tenant(sys.argv[2])
        break
    except SextantError as error:
        print(error, file=sys.stderr)
"""
HOLDS = """
import sys
import sqlalchemy
from sextant.store.accounts_schema import open_accounts
with open_accounts(sys.argv[1]).begin() as db:
    assert db.execute(sqlalchemy.text("SELECT * FROM policy_version FOR UPDATE")).fetchall()
    print("holds the locks", flush=True)
    sys.stdin.read()
"""
STANDS_STILL = """
import sys
from sextant.store.ledger_postgres import connected
db = connected(sys.argv[1])
with db.pipeline():
    assert db.execute("SELECT * FROM standing FOR UPDATE").fetchall()
    print("holds the locks", flush=True)
    sys.stdin.read()
"""


class Database(Postgres):
    """PostgreSQL at the network's own address."""

    def command(self) -> list[str]:
        return [word.replace("=127.0.0.1", f"={DATABASE}") for word in super().command()]


@contextlib.contextmanager
def _database(within: tuple[str, ...]) -> Iterator[str]:
    server = Database()
    server.within = within
    try:
        with (server.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.79.0.0/24 scram-sha-256\n")
        server.start()
        server.sql("CREATE DATABASE sextant")
        yield f"postgresql://sextant:{PASSWORD}@{DATABASE}:{server.port}/sextant?sslmode=disable"
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("works", "holds"), [(KEEPS, STANDS_STILL), (ADDS, HOLDS)], ids=["ledger", "accounts"]
)
def test_nobody_waits_for_a_host_that_is_cut_off(works: str, holds: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with (
        namespaces.network(f"{DATABASE}/24", lost="10.79.0.1/24", left="10.79.0.2/24") as net,
        _database(net.hub.enter) as url,
    ):
        keeps = [*net.machines["left"].enter, sys.executable, "-c", works, url]
        subprocess.run([*keeps, "first"], env=environment, check=True, timeout=60)
        lost = subprocess.Popen(
            [*net.machines["lost"].enter, sys.executable, "-c", holds, url],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert lost.stdin is not None and lost.stdout is not None
        try:
            assert lost.stdout.readline() == "holds the locks\n"
            net.link("lost", "down")
            began = time.monotonic()
            subprocess.run([*keeps, "second"], env=environment, check=True, timeout=60)
            print(f"kept {time.monotonic() - began:.1f} s after the other host was cut off")
        finally:
            lost.kill()
            lost.communicate()
