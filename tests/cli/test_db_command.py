"""`sextant db` as people type it, on a state directory of its own."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest

from ledger_under_test import row
from sextant.app.state import StateDir
from sextant.store.accounts import Accounts
from sextant.store.ledger import NoRates
from sextant.store.ledger_file import LedgerFile
from stack_under_test import sextant

pytestmark = pytest.mark.slow


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    """A deployment that is stopped, with one row."""
    made = StateDir(tmp_path / "state")
    made.prepare()
    accounts = Accounts(made.accounts_db)
    accounts.migrate()
    accounts.close()
    file = LedgerFile(made.ledger_db)
    file.append([row("r1")], NoRates())
    file.close()
    return made


def test_there_and_back(state: StateDir) -> None:
    where = ("--state", str(state.root))
    made = sextant("db", "backup", "--json", *where)
    assert made.returncode == 0, made.stderr
    folder = json.loads(made.stdout)["backup"]
    assert "restorable" in sextant("db", "list", *where).stdout
    assert json.loads(sextant("db", "list", "--json", *where).stdout)[0]["backup"] == folder
    restored = sextant("db", "restore", folder, *where)
    assert restored.stdout.startswith(
        f"Restored {folder}. What was there is in {state.root}/backups/set-aside-"
    )
    assert sextant("db", "check", *where).stdout.startswith("Sound: accounts (schema ")
    assert sextant("db", "migrate", *where).stdout.startswith("Nothing to do: ")


def test_what_must_not_run_meanwhile_is_refused(state: StateDir) -> None:
    where = ("--state", str(state.root))
    folder = json.loads(sextant("db", "backup", "--json", *where).stdout)["backup"]
    with state.lock():
        for arguments in (("restore", folder), ("migrate",)):
            done = sextant("db", *arguments, *where)
            assert done.returncode == 1
            assert "Sextant runs with the state directory" in done.stderr
        assert sextant("db", "check", *where).returncode == 0


def test_faults_are_listed_and_fail(state: StateDir) -> None:
    db = apsw.Connection(str(state.ledger_db))
    db.execute("UPDATE usage_day SET output_tokens = output_tokens + 1")
    db.close()
    done = sextant("db", "check", "--state", str(state.root))
    assert done.returncode == 1
    assert "error: usage_day" in done.stderr
    assert json.loads(sextant("db", "check", "--json", "--state", str(state.root)).stdout)["sound"] is False


def test_a_folder_that_is_no_deployment_is_told_apart(tmp_path: Path) -> None:
    done = sextant("db", "check", "--state", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "there is no state directory" in done.stderr
    assert "is no backup" in sextant("db", "restore", str(tmp_path), "--state", str(tmp_path)).stderr
