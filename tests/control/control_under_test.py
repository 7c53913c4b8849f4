"""The admin API over real files and a real ledger in a thread, and clients of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import argon2
import msgspec
from starlette.testclient import TestClient

from fresh_accounts import copy_accounts
from ledger_under_test import serving
from sextant.control.app import build_app
from sextant.control.settings import ControlSettings, ProcessStatus, Status
from sextant.spec.snapshot import PolicySnapshot, RouteTable
from sextant.store.accounts import Accounts
from sextant.store.passwords import Passwords


class Control:
    """The app over real files, and a client with the credential of an owner."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.settings = ControlSettings(
            host="127.0.0.1",
            port=1,
            accounts_db=str(folder / "accounts.db"),
            ledger_db=str(folder / "ledger.db"),
            ledger_socket=str(folder / "ledger.sock"),
            policy_file=str(folder / "policy.json"),
            routes_file=str(folder / "routes.json"),
            status_file=str(folder / "status.json"),
            **more,
        )
        copy_accounts(folder / "accounts.db")
        self.accounts = Accounts(self.settings.accounts_db)
        self.accounts.passwords = Passwords(argon2.profiles.CHEAPEST)
        _, secret = self.accounts.create_service_token("test")
        self.door = build_app(self.settings, self.accounts)
        self.app: Any = self.door
        self.client = self.with_token(secret)
        self.secret = secret

    def with_token(self, secret: str) -> TestClient:
        return TestClient(self.app, headers={"Authorization": f"Bearer {secret}"})

    def without(self) -> TestClient:
        """A client that brings nothing but the cookies it gets."""
        return TestClient(self.app, follow_redirects=False)

    def token(self, role: str, tenant_id: str = "") -> TestClient:
        """A client with a new service token of this role."""
        name = f"{role} of {tenant_id or 'everything'}"
        return self.with_token(self.accounts.create_service_token(name, role, tenant_id=tenant_id)[1])

    def policy(self) -> PolicySnapshot:
        return msgspec.json.decode(Path(self.settings.policy_file).read_bytes(), type=PolicySnapshot)

    def write_status(self) -> None:
        """As a supervisor would."""
        engine = ProcessStatus("engine-m-0", "engine", "ready", 1, 0, "", 5, model="m", upstream="m-0")
        status = Status("1", 1, 1, "http://x", "http://y", (engine,))
        Path(self.settings.status_file).write_bytes(msgspec.json.encode(status))
        Path(self.settings.routes_file).write_bytes(msgspec.json.encode(RouteTable(1)))

    def close(self) -> None:
        self.client.close()
        self.accounts.close()


@contextlib.contextmanager
def control_with_ledger(folder: Path, **more: Any) -> Iterator[Control]:
    """Control, and the ledger process's work done by a thread."""
    made = Control(folder, **more)
    try:
        with serving(folder / "ledger.db", folder / "ledger.sock"):
            yield made
    finally:
        made.close()
