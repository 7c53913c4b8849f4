"""Balances, packages, usage, invoices and the policy's publication, over a real ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from control_under_test import Control, control_with_ledger

from sextant.control.publishing import PolicyPublisher
from sextant.control.settings import AlertSettings
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.transfer import CREDIT, Transfer, receivable_account
from sextant.store.accounts import Accounts
from sextant.store.accounts_tenants import TenantChange
from sextant.store.ledger_posting import LedgerPosting

UNIT = 10**9


def owes(control: Control, amount_nano: int) -> None:
    """Gives acme a debt, as its calls do while it is postpaid."""
    sides = receivable_account("acme"), CREDIT
    debt = Transfer("debt-1", "adjustment", *sides, amount_nano, "USD", time.time_ns() // 1_000_000)
    LedgerPosting(control.settings.ledger_socket).post([debt])


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with control_with_ledger(tmp_path) as made:
        made.accounts.create_tenant("acme", TenantChange(billing="prepaid", plan="standard"))
        yield made


def balance(control: Control) -> dict[str, Any]:
    return control.client.get("/v1/tenants/acme/balance").json()


def moved(control: Control, what: str, **body: Any) -> Any:
    return control.client.post(f"/v1/tenants/acme/{what}", json=body)


def test_money_comes_and_goes_and_each_request_counts_once(control: Control) -> None:
    assert balance(control)["funds_nano"] == 0
    for _ in range(2):
        assert moved(control, "top-ups", amount_nano=5 * UNIT, id="bank-17").status_code == 201
    assert balance(control)["prepaid_nano"] == 5 * UNIT
    other = moved(control, "top-ups", amount_nano=6 * UNIT, id="bank-17")
    assert (other.status_code, balance(control)["prepaid_nano"]) == (400, 5 * UNIT)
    assert "the id bank-17 is that of another transfer" in other.text
    assert moved(control, "refunds", amount_nano=2 * UNIT).json()["prepaid_nano"] == 3 * UNIT
    too_much = moved(control, "refunds", amount_nano=4 * UNIT)
    assert (too_much.status_code, balance(control)["prepaid_nano"]) == (400, 3 * UNIT)
    assert "takes 4.00 USD from tenant:acme:prepaid, which has 3.00;" in too_much.text
    assert moved(control, "credits", amount_nano=UNIT).json()["prepaid_nano"] == 4 * UNIT
    assert moved(control, "adjustments", amount_nano=-5 * UNIT, note="typo").json()["prepaid_nano"] == -UNIT
    actions = [one["action"] for one in control.client.get("/v1/audit?limit=2").json()["audit"]]
    assert actions == ["balance.adjustment", "balance.credit"]


def test_a_payment_is_for_who_pays_later_or_owes(control: Control) -> None:
    refused = moved(control, "payments", amount_nano=UNIT)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tenant_id")
    assert "is prepaid and owes nothing" in refused.text
    assert "/v1/tenants/acme/top-ups" in refused.text
    assert balance(control)["receivable_nano"] == 0
    assert changed(control, billing="postpaid").status_code == 200
    for _ in range(2):
        paid = moved(control, "payments", amount_nano=UNIT, id="bank-1")
        assert (paid.status_code, paid.json()["receivable_nano"]) == (201, -UNIT)
    assert changed(control, billing="prepaid").status_code == 200
    assert moved(control, "payments", amount_nano=UNIT).status_code == 400
    owes(control, 3 * UNIT)
    assert moved(control, "payments", amount_nano=2 * UNIT).json()["receivable_nano"] == 0
    assert moved(control, "payments", amount_nano=UNIT).status_code == 400


@pytest.mark.parametrize("billing", ["postpaid", "free"])
def test_a_top_up_is_for_who_pays_ahead(control: Control, billing: str) -> None:
    assert changed(control, billing=billing).status_code == 200
    refused = moved(control, "top-ups", amount_nano=UNIT)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tenant_id")
    assert f"is {billing} and would never use a balance" in refused.text
    assert "/v1/tenants/acme/payments" in refused.text
    assert balance(control)["prepaid_nano"] == 0
    missing = control.client.post("/v1/tenants/nobody/top-ups", json={"amount_nano": UNIT})
    assert missing.status_code == 404


def test_the_audit_trail_names_who_did_it(control: Control) -> None:
    token, secret = control.accounts.create_service_token("ci of billing", "owner")
    assert control.with_token(secret).post("/v1/projects", json={"tenant_id": "acme", "name": "x"}).is_success
    control.client.delete(f"/v1/service-tokens/{token.id}")
    found = control.client.get("/v1/audit?limit=2").json()["audit"]
    assert [(one["action"], one["actor_name"]) for one in found] == [
        ("token.revoke", "test"),
        ("project.create", "ci of billing"),
    ]
    seen = control.token("auditor", "acme").get("/v1/audit?limit=2").json()["audit"]
    assert [(one["action"], one["actor_name"]) for one in seen] == [
        ("token.create", ""),
        ("project.create", ""),
    ]


def changed(control: Control, **wanted: Any) -> Any:
    return control.client.patch("/v1/tenants/acme", json=wanted)


@pytest.mark.parametrize("billing", ["prepaid", "postpaid"])
def test_whoever_pays_has_a_plan_in_its_currency(control: Control, billing: str) -> None:
    control.accounts.create_tenant("trial")
    for wanted, field in (
        ({"billing": billing}, "plan"),
        ({"billing": billing, "plan": "standrad"}, "plan"),
        ({"billing": billing, "plan": "standard", "currency": "CNY"}, "plan"),
        ({"currency": "Yen"}, "currency"),
    ):
        answer = control.client.patch("/v1/tenants/trial", json=wanted)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert control.accounts.tenant("trial").billing == "free"
    fits = control.client.patch("/v1/tenants/trial", json={"billing": billing, "plan": "standard"})
    assert (fits.status_code, fits.json()["currency"]) == (200, "USD")


def test_money_that_has_moved_fixes_the_currency(control: Control) -> None:
    assert changed(control, currency="CNY", plan="standard-cny").status_code == 400
    assert changed(control, billing="free", plan="").status_code == 200
    for currency in ("CNY", "USD"):  # nothing was paid or used yet
        assert changed(control, currency=currency).json()["currency"] == currency
    assert changed(control, billing="prepaid", plan="standard").status_code == 200
    assert moved(control, "top-ups", amount_nano=UNIT).status_code == 201
    assert moved(control, "refunds", amount_nano=UNIT).json()["prepaid_nano"] == 0
    assert changed(control, billing="free", plan="").status_code == 200
    for wanted in ({"currency": "CNY"}, {"billing": "prepaid", "plan": "standard-cny"}):
        refused = changed(control, **wanted)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "currency")
        assert "has paid or used in USD already" in refused.json()["error"]["message"]
    assert changed(control, billing="prepaid", plan="standard").status_code == 200


def test_the_currency_stays_while_the_books_cannot_be_asked(control: Control) -> None:
    changed(control, billing="free", plan="")
    Path(control.settings.ledger_db).rename(Path(control.settings.ledger_db).with_suffix(".away"))
    assert changed(control, currency="CNY").status_code >= 400
    assert control.accounts.tenant("acme").currency == "USD"
    assert changed(control, name="Acme").status_code == 200


def test_a_package_costs_what_the_plan_says_and_gives_its_face(control: Control) -> None:
    for _ in range(2):
        made = moved(control, "packages", face_nano=1000 * UNIT, id="y1", days=365)
        assert made.status_code == 201, made.text
    other = moved(control, "packages", face_nano=UNIT, id="y1")
    assert (other.status_code, "the id y1 is that of another transfer" in other.text) == (400, True)
    (package,) = made.json()["packages"]
    assert (package["id"], package["face_nano"], package["left_nano"]) == ("y1", 1000 * UNIT, 1000 * UNIT)
    assert package["expires_ms"] > time.time() * 1000 + 364 * 86_400_000
    assert made.json()["funds_nano"] == 1000 * UNIT
    month = time.strftime("%Y-%m", time.gmtime())
    shown = control.client.get(f"/v1/invoices/acme/{month}").json()
    assert sorted((one[1], one[4]) for one in shown["movements"]) == [
        ("discount", 500 * UNIT),
        ("package", 500 * UNIT),
    ]


def test_a_budget_says_that_its_mail_goes_nowhere(control: Control, tmp_path: Path) -> None:
    body = {"scope": "tenant:acme", "amount_nano": UNIT, "emails": ["a@example.com", "b@example.com"]}
    made = control.client.post("/v1/budgets", json=body)
    assert made.status_code == 201
    assert made.json()["warning"].startswith("no e-mail will reach a@example.com, b@example.com: no mail")
    assert len(control.client.get("/v1/budgets").json()["budgets"]) == 1
    hooked = {**body, "emails": [], "webhook_url": "https://example.com/"}
    assert control.client.post("/v1/budgets", json=hooked).json()["warning"] == ""
    server = AlertSettings(smtp_host="mail.example.com", smtp_sender="s@example.com")
    (tmp_path / "mailed").mkdir(mode=0o700)
    with control_with_ledger(tmp_path / "mailed", alerts=server) as mailed:
        mailed.accounts.create_tenant("acme")
        assert mailed.client.post("/v1/budgets", json=body).json()["warning"] == ""


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("top-ups", {"amount_nano": 0}),
        ("top-ups", {"amount_nano": -1}),
        ("top-ups", {"amount_nano": 2**63}),
        ("top-ups", {"amount_nano": 1.5}),
        ("top-ups", {"amount_nano": "1"}),
        ("top-ups", {"amount_nano": 1, "id": "a:b"}),
        ("adjustments", {"amount_nano": 1}),
        ("packages", {"face_nano": 1, "days": 0}),
    ],
)
def test_a_wrong_amount_moves_nothing(control: Control, what: str, body: dict[str, Any]) -> None:
    answer = moved(control, what, **body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] in ("amount_nano", "id", "days", "note")
    assert "$" not in answer.json()["error"]["message"].replace("}$'", "")
    assert balance(control)["funds_nano"] == 0


def test_an_invoice_comes_in_every_form(control: Control) -> None:
    month = time.strftime("%Y-%m", time.gmtime())
    for form, media, start in (
        ("", "application/json", b"{"),
        (".json", "application/json", b"{"),
        (".csv", "text/csv", b"\xef\xbb\xbfinvoice"),
        (".html", "text/html", b"<!doctype html>"),
        (".pdf", "application/pdf", b"%PDF"),
    ):
        answer = control.client.get(f"/v1/invoices/acme/{month}{form}?lang=zh")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith(media)
        assert answer.content.startswith(start)
    assert answer.headers["x-content-type-options"] == "nosniff"
    for wrong in ("2026-13", "2026-1", "x", "2026-11.exe", "9999-12"):
        assert control.client.get(f"/v1/invoices/acme/{wrong}").status_code in (400, 404)


@pytest.mark.parametrize("by", ["day", "month", "tenant,model", "key"])
def test_usage_is_told_apart_by_what_is_asked(control: Control, by: str) -> None:
    assert control.client.get(f"/v1/usage?by={by}").json()["totals"] == []
    assert control.client.get(f"/v1/usage.csv?by={by}").status_code == 200


@pytest.mark.parametrize(
    "query", ["by=colour", "by=", "limit=0", "limit=x", "tenat_id=acme", "since_ms=9&until_ms=5"]
)
def test_a_wrong_question_about_usage_is_refused(control: Control, query: str) -> None:
    assert control.client.get(f"/v1/usage?{query}").status_code in (400, 422)


def test_lists_are_paged_to_their_end(control: Control) -> None:
    for number in range(5):
        control.accounts.create_key("acme", f"key {number}")
    names: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = control.client.get(f"/v1/keys?tenant_id=acme&limit=2&cursor={cursor}").json()
        assert len(page["keys"]) <= 2
        names += [key["name"] for key in page["keys"]]
        cursor = page["next"]
    assert names == [f"key {number}" for number in range(5)]
    assert control.client.get("/v1/keys?limit=1001").status_code == 422


def test_a_body_that_is_too_long_is_refused(control: Control) -> None:
    answer = control.client.post("/v1/tenants", content=b'{"id": "' + b"x" * 2**21 + b'"}')
    assert answer.status_code == 413


async def test_two_controls_on_one_database_publish_each_others_changes(
    tmp_path: Path, database: str
) -> None:
    """The second control's gateways follow what the first has changed."""
    first, second = Accounts(database), Accounts(database)
    first.migrate()
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    publishers = [PolicyPublisher(one, str(file)) for one, file in zip((first, second), files, strict=True)]
    following = [asyncio.create_task(one.follow()) for one in publishers]
    try:
        _, secret = await asyncio.to_thread(first.create_key, "default", "of the first")
        assert secret
        publishers[0].publish()
        async with asyncio.timeout(20):
            while not files[1].exists() or keys_of(files[1]) != ["of the first"]:
                await asyncio.sleep(0.02)
        assert keys_of(files[0]) == ["of the first"]
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        first.close()
        second.close()


def keys_of(file: Path) -> list[str]:
    return [key.name for key in msgspec.json.decode(file.read_bytes(), type=PolicySnapshot).keys]
