"""An accounts database on each kind of store, and a clock that moves by itself."""

from __future__ import annotations

from pathlib import Path

import argon2
import pytest

from fresh_accounts import copy_accounts

STORES = ("sqlite", "postgresql")


CHEAP = argon2.profiles.CHEAPEST
"""For tests of what comes after a password; those of passwords themselves use the real parameters."""


class Clock:
    """Milliseconds; each look is one later."""

    ms = 1_795_000_000_000

    def __call__(self) -> int:
        self.ms += 1
        return self.ms


def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the accounts of a test live, by its `store` parameter: nothing is there yet."""
    if request.param == "sqlite":
        return str(tmp_path / "state" / "accounts.db")
    return str(request.getfixturevalue("database"))


def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same with accounts that are migrated already."""
    if request.param == "sqlite":
        path = tmp_path / "state" / "accounts.db"
        copy_accounts(path)
        return str(path)
    return str(request.getfixturevalue("accounts_database"))
