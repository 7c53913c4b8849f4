"""What the first start makes: the default tenant, one key, one admin credential, and the local command line's
own.

Runs in the supervisor before control exists, so that `accounts.db` has one writer. The credentials for people
are returned to be shown once; those of the local command line go to `secrets/` (mode 0600). A start that
fails before it could show them leaves them in `secrets/first-run` for the next.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import msgspec

from sextant.app.state import StateDir, write_private
from sextant.app.stores import here, located
from sextant.base.ids import new_secret
from sextant.spec.stores import StoreSettings
from sextant.store.accounts import DEFAULT_TENANT, Accounts, publish

FIRST_KEY_NAME = "first"
CLI_KEY_NAME = "local-cli"
FIRST_ADMIN_NAME = "first"
CLI_ADMIN_NAME = "local-cli"


FILES = StoreSettings()


class FirstRun(msgspec.Struct, frozen=True):
    """Credentials made just now; nobody can show them again."""

    key_id: str
    key: str
    admin: str


def bootstrap(state: StateDir, store: StoreSettings = FILES) -> FirstRun | None:
    """Brings accounts and secrets into order and publishes the policy. None when this is not the first
    start."""
    accounts = Accounts(located(store, state.accounts_db))
    cli_admin = CLI_ADMIN_NAME if store.is_sqlite else f"{CLI_ADMIN_NAME}-{here(state)}"
    try:
        accounts.migrate()
        first = _pending(state)
        if first is None and not accounts.list_service_tokens():
            record, key = accounts.create_key(DEFAULT_TENANT, FIRST_KEY_NAME)
            _, admin = accounts.create_service_token(FIRST_ADMIN_NAME)
            first = FirstRun(record.id, key, admin)
            write_private(state.first_run, msgspec.json.encode(first))
        admin_secret = _read(state.admin_secret)
        if not admin_secret or accounts.verify_service_token(admin_secret) is None:
            stale = [one for one in accounts.list_service_tokens() if one.name == cli_admin]
            write_private(state.admin_secret, accounts.create_service_token(cli_admin)[1].encode())
            for token in stale:
                accounts.revoke_service_token(token.id)
        known = {key.sha256 for key in accounts.policy_snapshot().keys}
        if hashlib.sha256(_read(state.cli_key).encode()).hexdigest() not in known:
            write_private(state.cli_key, accounts.create_key(DEFAULT_TENANT, CLI_KEY_NAME)[1].encode())
        write_private(state.secrets / "engine", new_secret("engine").encode())
        publish(accounts.policy_snapshot(), state.policy_file)
        return first
    finally:
        accounts.close()


def store_id(state: StateDir, store: StoreSettings) -> str:
    """See `Accounts.store_id`. Call after `bootstrap`."""
    accounts = Accounts(located(store, state.accounts_db))
    try:
        return accounts.store_id()
    finally:
        accounts.close()


def forget_first_run(state: StateDir) -> None:
    """Call once the credentials have been shown."""
    state.first_run.unlink(missing_ok=True)


def _pending(state: StateDir) -> FirstRun | None:
    try:
        return msgspec.json.decode(state.first_run.read_bytes(), type=FirstRun)
    except (OSError, msgspec.DecodeError):
        return None


def _read(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return ""
