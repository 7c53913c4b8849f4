"""The first start: credentials made once, shown once, kept where they belong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from sextant.app.bootstrap import bootstrap, forget_first_run
from sextant.app.state import StateDir
from sextant.spec.snapshot import PolicySnapshot
from sextant.store.accounts import Accounts


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / "state")
    made.prepare()
    return made


def policy(state: StateDir) -> PolicySnapshot:
    return msgspec.json.decode(state.policy_file.read_bytes(), type=PolicySnapshot)


def test_the_first_start_makes_working_credentials(state: StateDir) -> None:
    first = bootstrap(state)
    assert first is not None
    keys = {key.sha256: key.name for key in policy(state).keys}
    assert keys[hashlib.sha256(first.key.encode()).hexdigest()] == "first"
    assert keys[hashlib.sha256(state.cli_key.read_bytes()).hexdigest()] == "local-cli"
    accounts = Accounts(state.accounts_db)
    assert accounts.verify_service_token(first.admin) is not None
    assert accounts.verify_service_token(state.admin_secret.read_text()) is not None
    accounts.close()
    for secret in (state.cli_key, state.admin_secret, state.secrets / "engine"):
        assert secret.stat().st_mode & 0o777 == 0o600
    assert first.key.encode() not in state.accounts_db.read_bytes()


def test_a_later_start_makes_none(state: StateDir) -> None:
    assert bootstrap(state) is not None
    forget_first_run(state)
    before = policy(state).keys
    assert bootstrap(state) is None
    assert policy(state).keys == before


def test_credentials_that_could_not_be_shown_are_kept_for_the_next_start(state: StateDir) -> None:
    first = bootstrap(state)
    assert bootstrap(state) == first
    forget_first_run(state)
    assert bootstrap(state) is None
    assert not state.first_run.exists()


@pytest.mark.parametrize("harm", ["remove", "change"])
def test_lost_local_credentials_are_made_again(state: StateDir, harm: str) -> None:
    bootstrap(state)
    for secret in (state.cli_key, state.admin_secret):
        if harm == "remove":
            secret.unlink()
        else:
            secret.write_text("sk-not-mine")
    bootstrap(state)
    keys = {key.sha256 for key in policy(state).keys}
    assert hashlib.sha256(state.cli_key.read_bytes()).hexdigest() in keys
    accounts = Accounts(state.accounts_db)
    assert accounts.verify_service_token(state.admin_secret.read_text()) is not None
    # the lost one is revoked
    assert sum(admin.name == "local-cli" for admin in accounts.list_service_tokens()) == 1
    accounts.close()


def test_the_engine_key_changes_at_every_start(state: StateDir) -> None:
    bootstrap(state)
    first = (state.secrets / "engine").read_text()
    bootstrap(state)
    assert (state.secrets / "engine").read_text() != first
