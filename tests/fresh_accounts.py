"""Accounts as they are after the first start: migrated once per test process, then copied for each test.

A migration takes as long as a hundred tests of what comes after it. What is tested here is that: tests of
migrations themselves begin with an empty file, or with the fixture `database`.
Neighbours: `servers.py` (PostgreSQL), `store/accounts_under_test.py`.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import Postgres
from sextant.store.accounts import Accounts

BEGAN_MS = 1_795_000_000_000
"""When the books of every copy began."""


def copy_accounts(path: Path) -> None:
    """Writes migrated accounts to `path`, where no file is yet."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("xb") as file:
        path.chmod(0o600)
        file.write(_migrated_file())


@pytest.fixture(scope="session")
def _accounts_template(_postgres: Postgres) -> str:
    """The URL of a database with migrated accounts, which nobody is connected to."""
    _postgres.start()
    url = _postgres.create_database()
    _migrate(url)
    return url


@pytest.fixture
def accounts_database(postgres: Postgres, _accounts_template: str) -> Iterator[str]:
    """The URL of a new database with migrated accounts (with its password), dropped after the test."""
    url = postgres.create_database(_accounts_template)
    yield url
    postgres.start()
    postgres.drop_database(url)


@functools.cache
def _migrated_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "accounts.db")
        _migrate(str(path))
        return path.read_bytes()


def _migrate(url_or_path: str) -> None:
    made = Accounts(url_or_path, lambda: BEGAN_MS)
    made.migrate()
    made.close()
