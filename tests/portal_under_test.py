"""A portal over real accounts and a real ledger: in this process, or as the control process that serves it.

Two tenants, `acme` with a month of use and `rival` with one key; `PEOPLE` may sign in with `PASSWORD`.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import argon2
import msgspec
from starlette.testclient import TestClient

from billing_under_test import ZONE, book, policy, row, tenant
from fresh_accounts import copy_accounts
from ledger_under_test import serving
from sextant.app.control_process import with_portal
from sextant.control.app import build_app
from sextant.control.settings import ControlSettings, PortalSettings
from sextant.spec.policy import LimitRules
from sextant.spec.snapshot import RouteTable, ServedModel
from sextant.spec.transfer import CASH, Transfer, prepaid_account
from sextant.store.accounts import Accounts
from sextant.store.accounts_keys import KeyScope
from sextant.store.accounts_people import NewPerson
from sextant.store.accounts_tenants import ProjectChange, TenantChange
from sextant.store.budgets import BudgetBook, BudgetTerms
from sextant.store.passwords import Passwords

PASSWORD = "correct horse battery"
PEOPLE = {
    "owner@acme.example": "owner",
    "billing@acme.example": "billing",
    "member@acme.example": "member",
}
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"
CSRF = re.compile(r'name="csrf" value="([^"]+)"')
UNIT = 10**9
DAY_MS = 86_400_000


class Filled(msgspec.Struct):
    """What a portal looks at: settings of its control, and the ids of what is there."""

    settings: ControlSettings
    key_id: str = ""
    rival_key_id: str = ""
    rival_person_id: str = ""
    operator: str = ""
    """A credential of whoever runs the deployment."""


def fill(folder: Path, **more: Any) -> Filled:
    """Writes accounts, routes and books into `folder`."""
    settings = ControlSettings(
        host="127.0.0.1",
        port=more.pop("port", 1),
        accounts_db=str(folder / "accounts.db"),
        ledger_db=str(folder / "ledger.db"),
        ledger_socket=str(folder / "ledger.sock"),
        policy_file=str(folder / "policy.json"),
        routes_file=str(folder / "routes.json"),
        status_file=str(folder / "status.json"),
        **{"portal": PortalSettings(api_url="https://api.example.com/v1", support="mailto:help@example.com")}
        | more,
    )
    copy_accounts(folder / "accounts.db")
    accounts = Accounts(settings.accounts_db)
    accounts.passwords = Passwords(argon2.profiles.CHEAPEST)
    try:
        found = _people_and_keys(accounts, settings)
    finally:
        accounts.close()
    models = [
        ServedModel("deepseek-chat", "embedded", (), context_tokens=65_536),
        ServedModel("r1", "embedded", ()),
    ]
    Path(settings.routes_file).write_bytes(msgspec.json.encode(RouteTable(1, tuple(models))))
    _books(folder, found)
    return found


def _people_and_keys(accounts: Accounts, settings: ControlSettings) -> Filled:
    terms = TenantChange(
        name="Acme 公司", tier="enterprise", billing="prepaid", plan="standard", time_zone=ZONE,
        limits=LimitRules(tokens_per_day=2_000_000, spend_nano_per_month=10 * UNIT),
    )  # fmt: skip
    accounts.create_tenant("acme", terms)
    accounts.create_tenant("rival", TenantChange(name="Rival", tier="free"))
    accounts.create_project("acme", ProjectChange(name="Search"), project_id="search")
    hashed = accounts.passwords.hash(PASSWORD)
    for email, role in PEOPLE.items():
        accounts.create_person(NewPerson(email, email.partition("@")[0].title(), hashed, role, "acme"))
    rival = accounts.create_person(NewPerson("owner@rival.example", "Rival owner", hashed, "owner", "rival"))
    key, _ = accounts.create_key("acme", "Website chat", KeyScope("search"))
    accounts.create_key("acme", "Nightly summaries", KeyScope(limits=LimitRules(tokens_per_day=500_000)))
    theirs, _ = accounts.create_key("rival", "Rival's secret plan")
    budgets = BudgetBook(accounts.engine)
    budgets.create("acme", BudgetTerms("tenant:acme", 5 * UNIT, "November", emails=("cfo@acme.example",)))
    _, operator = accounts.create_service_token("operator")
    return Filled(settings, key.id, theirs.id, rival.id, operator)


def _books(folder: Path, found: Filled) -> None:
    """A month of use, more on working days, and what was paid for it."""
    now_ms = time.time_ns() // 1_000_000
    rows = []
    for back in range(35):
        at_ms = now_ms - back * DAY_MS
        busy = 3 if datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).weekday() < 5 else 1
        for number in range(busy):
            used = {"input_tokens": 9_000 + 700 * back % 5000, "output_tokens": 2_500, "cached_tokens": 1_000}
            model = "deepseek-chat" if number else "r1"
            rows.append(row(started_ms=at_ms - number, key_id=found.key_id, model=model, **used))
    paid = Transfer(
        "top-1", "top-up", CASH, prepaid_account("acme"), 20 * UNIT, "USD", now_ms - 36 * DAY_MS, note="wire"
    )
    book(folder / "ledger.db", rows, [paid], policy(tenant("acme")))


class Visitor:
    """A browser without scripts: keeps cookies, fills forms in as their pages gave them."""

    def __init__(self, app: Any, language: str = "en", base_url: str = "http://testserver") -> None:
        self.client = TestClient(
            app, base_url=base_url, follow_redirects=False, headers={"Accept-Language": language}
        )

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, **more)

    def send(self, path: str, page: str, **fields: Any) -> Any:
        """The form of `page` with its token, sent to `path`."""
        found = CSRF.search(self.get(page).text)
        assert found is not None, f"no form on {page}"
        return self.client.post(path, data={"csrf": found[1], **fields})

    def sign_in(self, email: str = "owner@acme.example", password: str = PASSWORD) -> Any:
        return self.send("/portal/sign-in", "/portal/sign-in", email=email, password=password)


class InProcess:
    """A portal in this process, and its accounts."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.filled = fill(folder, **more)
        self.accounts = Accounts(self.filled.settings.accounts_db)
        self.accounts.passwords = Passwords(argon2.profiles.CHEAPEST)
        self.door = build_app(self.filled.settings, self.accounts)
        self.app: Any = with_portal(self.door, self.filled.settings)

    def visitor(self, email: str = "", **more: Any) -> Visitor:
        """Somebody new, signed in where an address is given."""
        made = Visitor(self.app, **more)
        if email:
            answer = made.sign_in(email)
            assert answer.status_code == 303, answer.text
        return made


@contextlib.contextmanager
def portal_in_process(folder: Path, **more: Any) -> Iterator[InProcess]:
    made = InProcess(folder, **more)
    try:
        with serving(folder / "ledger.db", folder / "ledger.sock"):
            yield made
    finally:
        made.accounts.close()


@contextlib.contextmanager
def portal_process(folder: Path, **more: Any) -> Iterator[tuple[str, Filled]]:
    """The control process itself on a port of this machine; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    filled = fill(folder, port=port, **more)
    settings = folder / "control.json"
    settings.write_bytes(msgspec.json.encode(filled.settings))
    settings.chmod(0o600)
    command = [sys.executable, "-m", "sextant.app.control_process", "--settings", str(settings)]
    with serving(folder / "ledger.db", folder / "ledger.sock"), (folder / "control.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            _answers(f"http://127.0.0.1:{port}/portal/sign-in", process)
            yield f"http://127.0.0.1:{port}", filled
        finally:
            process.terminate()
            process.wait(20)


def _answers(url: str, process: subprocess.Popen[bytes], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        assert process.poll() is None, "the control process ended"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(f"{url} did not answer within {within_s} s")
