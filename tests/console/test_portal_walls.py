"""What the portal keeps apart: tenants, hosts, pages and control, scripts and text."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portal_under_test import InProcess, Visitor, portal_in_process
from sextant.console import ConsoleSettings, Portal, usage
from sextant.console.control_api import ANSWER_BYTES_MAX, Busy, ControlApi
from sextant.console.control_api import Visitor as Caller
from sextant.console.forms import FIELDS_MAX, FORM_BYTES_MAX
from sextant.control.settings import PortalSettings

PAGES = ("", "keys", "keys/new", "usage", "usage.csv", "billing", "members", "quickstart", "agreement")


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[InProcess]:
    with portal_in_process(tmp_path) as made:
        yield made


def test_another_tenants_pages_and_ids_are_not_there(portal: InProcess) -> None:
    owner, ids = portal.visitor("owner@acme.example"), portal.filled
    for path in PAGES:
        assert owner.get(f"/portal/t/rival/{path}").status_code == 404, path
        assert owner.get(f"/portal/t/nobody/{path}").status_code == 404, path
    for path in (
        f"keys/{ids.rival_key_id}",
        f"keys/{ids.rival_key_id}/revoke",
        f"members/{ids.rival_person_id}/remove",
    ):
        page = owner.get(f"/portal/t/acme/{path}")
        assert page.status_code == 404, path
        assert "Rival" not in page.text
    for path in (
        f"keys/{ids.rival_key_id}",
        f"keys/{ids.rival_key_id}/rotate",
        f"keys/{ids.rival_key_id}/revoke",
        f"members/{ids.rival_person_id}/remove",
        f"members/{ids.rival_person_id}/role",
        "budgets/budget_nobodys/delete",
        "invitations/invitation_nobodys/revoke",
    ):
        sent = owner.send(f"/portal/t/acme/{path}", "/portal/t/acme/keys", name="x", role="owner")
        assert sent.status_code == 404, path
    assert portal.accounts.key(ids.rival_key_id).revoked_ms == 0
    assert portal.accounts.key(ids.rival_key_id).name == "Rival's secret plan"


def test_in_each_tenant_only_its_own_is_there_also_for_somebody_with_both(portal: InProcess) -> None:
    person = next(one for one in portal.accounts.list_people() if one.email == "owner@rival.example")
    portal.accounts.grant_role(person.id, "owner", tenant_id="acme")
    hashed = next(iter([portal.accounts.passwords.hash("correct horse battery")]))
    portal.accounts.set_person(person.id, password_hash=hashed)
    both = portal.visitor("owner@rival.example")
    assert "Rival's secret plan" in both.get("/portal/t/rival/keys").text.replace("&#39;", "'")
    assert "secret plan" not in both.get("/portal/t/acme/keys").text
    assert both.get(f"/portal/t/rival/keys/{portal.filled.rival_key_id}").status_code == 200
    assert both.get(f"/portal/t/acme/keys/{portal.filled.rival_key_id}").status_code == 404
    assert "member@acme.example" not in both.get("/portal/t/rival/members").text


def test_members_are_invited_get_another_role_and_go(portal: InProcess) -> None:
    owner = portal.visitor("owner@acme.example")
    page = "/portal/t/acme/members"
    invited = owner.send("/portal/t/acme/invitations", page, email="new@acme.example", role="auditor")
    assert "sxinvite-" in invited.text, "no mail server: the token is handed over"
    assert "new@acme.example" in owner.get(page).text
    open_one = portal.accounts.list_invitations()[0]
    owner.send(f"/portal/t/acme/invitations/{open_one.id}/revoke", page)
    assert portal.accounts.list_invitations()[0].state == "revoked"
    member = next(one for one in portal.accounts.list_people() if one.email == "member@acme.example")
    there = f"/portal/t/acme/members/{member.id}"
    assert owner.send(f"{there}/role", page, role="operator").status_code == 303
    assert [one.role for one in portal.accounts.person(member.id).grants] == ["operator"]
    assert owner.send(f"{there}/role", page, role="emperor").status_code == 400
    assert [one.role for one in portal.accounts.person(member.id).grants] == ["operator"]
    assert owner.send(f"{there}/remove", f"{there}/remove").status_code == 303
    assert portal.accounts.person(member.id).grants == ()


def test_whoever_gives_no_roles_is_offered_those_that_control_takes_from_them(portal: InProcess) -> None:
    member = next(one for one in portal.accounts.list_people() if one.email == "member@acme.example")
    portal.accounts.grant_role(member.id, "operator", tenant_id="acme")
    operator = portal.visitor("member@acme.example")
    page = "/portal/t/acme/members"
    offered = re.findall(r'<option value="(\w+)"', operator.get(page).text)
    assert sorted(offered) == ["member", "operator"]
    for role in (*offered, "auditor"):
        there = operator.send(
            "/portal/t/acme/invitations", page, email=f"{role}@acme.example", role=role
        ).status_code
        assert there == (403 if role == "auditor" else 200), role
    assert len(re.findall(r'<option value="', portal.visitor("owner@acme.example").get(page).text)) > 2


def test_ones_account_calls_tenants_by_their_names(portal: InProcess) -> None:
    page = portal.visitor("owner@acme.example").get("/portal/account")
    assert "<dt>Acme 公司</dt><dd>Owner</dd>" in page.text


def test_budgets_are_made_and_deleted_and_usage_and_invoices_are_files(portal: InProcess) -> None:
    owner = portal.visitor("owner@acme.example")
    page = "/portal/t/acme/billing"
    wrong = owner.send("/portal/t/acme/budgets", page, name="Q4", amount="lots", emails="cfo@acme.example")
    assert (wrong.status_code, 'value="lots"' in wrong.text) == (400, True)
    made = owner.send("/portal/t/acme/budgets", page, name="Q4", amount="12.50", emails="cfo@acme.example")
    assert made.status_code == 303
    assert "of 12.50 USD" in owner.get(page).text
    found = re.findall(r'action="(/portal/t/acme/budgets/[^"]+/delete)"', owner.get(page).text)
    for path in found:
        assert owner.send(path, page).status_code == 303
    assert "No budgets." in owner.get(page).text
    month = re.findall(r"/portal/t/acme/invoices/(\d{4}-\d{2})\.pdf", owner.get(page).text)[0]
    for form, kind in (("pdf", "application/pdf"), ("csv", "text/csv"), ("html", "text/html")):
        file = owner.get(f"/portal/t/acme/invoices/{month}.{form}")
        assert (file.status_code, file.headers["content-type"].partition(";")[0]) == (200, kind)
        assert "script-src" not in file.headers["content-security-policy"]
    assert owner.get("/portal/t/acme/invoices/2026-13x").status_code == 404
    csv = owner.get("/portal/t/acme/usage.csv?from=2020-01-01&to=2020-01-31")
    assert csv.headers["content-disposition"] == 'attachment; filename="usage.csv"'
    assert "deepseek-chat" in owner.get("/portal/t/acme/usage.csv").text
    for span in (
        "from=2026-02-01&to=2026-01-01",
        "from=2020-01-01&to=2026-01-01",
        "from=soon",
        "to=9999-01-01",
    ):
        assert owner.get(f"/portal/t/acme/usage?{span}").status_code == 400, span


def test_a_long_file_has_every_line_once_or_is_refused(
    portal: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = portal.visitor("owner@acme.example")
    file = "/portal/t/acme/usage.csv"
    whole = owner.get(file)
    lines = whole.content.count(b"\n") - 1
    assert lines > 40
    monkeypatch.setattr(usage, "FILE_PAGES_MAX", lines)
    for at_once in (7, lines - 1, lines):
        monkeypatch.setattr(usage, "FILE_LINES", at_once)
        assert owner.get(file).content == whole.content, at_once
    monkeypatch.setattr(usage, "FILE_PAGES_MAX", 3)
    monkeypatch.setattr(usage, "FILE_LINES", lines // 4)
    refused = owner.get(file)
    assert refused.status_code == 400
    assert "Choose a shorter time" in refused.text


def test_every_answer_forbids_frames_foreign_sources_and_keeping(portal: InProcess) -> None:
    owner = portal.visitor("owner@acme.example")
    for path in (
        "/portal/sign-in",
        "/portal/t/acme/",
        "/portal/nowhere",
        "/portal/t/acme/usage.csv",
        "/portal/",
    ):
        answer = owner.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy or path.endswith("csv")
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    text = owner.get("/portal/t/acme/").text
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|https?://(?!api\.example)", text)
    for url in re.findall(r'(?:src|href)="(/portal/static/[^"]+)"', text):
        file = owner.get(url)
        assert file.status_code == 200
        assert "immutable" in file.headers["cache-control"]
        digest = url.split("/")[3]
        assert owner.get(url.replace(digest, "0" * 16)).status_code == 404
    assert owner.get("/portal/static/x/../../words/en.toml").status_code == 404


def test_the_admin_api_knows_nothing_of_the_portals_cookie(portal: InProcess) -> None:
    owner = portal.visitor("owner@acme.example")
    assert owner.get("/v1/me").status_code == 401
    assert owner.get("/nowhere").status_code == 401
    assert owner.get("/portals").status_code == 401
    assert owner.get("/").status_code == 401


def test_the_portals_own_host_leads_to_the_pages(tmp_path: Path) -> None:
    with portal_in_process(tmp_path, portal=PortalSettings(url="https://portal.example.com")) as made:
        visitor = Visitor(made.app, base_url="https://portal.example.com")
        assert visitor.get("/").headers["location"] == "/portal/"
        assert visitor.sign_in().status_code == 303
        assert visitor.get("/portal/t/acme/").status_code == 200
        assert visitor.get("/v1/me").status_code == 404


def test_long_forms_are_refused(portal: InProcess) -> None:
    visitor = portal.visitor()
    for body in (
        b"csrf=" + b"x" * FORM_BYTES_MAX,
        b"&".join(b"a%d=1" % n for n in range(FIELDS_MAX + 1)),
        b"\xff",
    ):
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = visitor.client.post("/portal/sign-in", content=body, headers=headers)
        assert answer.status_code in (400, 413), body[:20]


def test_while_the_books_are_away_the_pages_say_so(tmp_path: Path) -> None:
    with portal_in_process(tmp_path) as made:
        owner = made.visitor("owner@acme.example")
        (tmp_path / "ledger.sock").unlink()
        page = owner.get("/portal/t/acme/")
        assert page.status_code == 200
        assert "cannot be shown just now" in page.text


def busy_control(status: int, code: str, *, fails: bool = False) -> Any:
    """A control that answers everything like that."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if fails:
            raise RuntimeError("broken")
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"7")]
        body = b'{"error": {"message": "no place", "code": "%s", "param": null}}' % code.encode()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


@pytest.mark.parametrize(
    ("status", "code", "fails"),
    [(503, "overloaded", False), (429, "rate_limit_exceeded", False), (500, "", True)],
)
def test_a_busy_or_broken_control_is_a_page_that_says_when_to_come_back(
    status: int, code: str, fails: bool
) -> None:
    visitor = Visitor(Portal(busy_control(status, code, fails=fails), ConsoleSettings("sextant")))
    visitor.client.cookies.set("sextant-portal", "sxsession-x")
    page = visitor.get("/portal/t/acme/")
    assert page.status_code == (429 if status == 429 else 503)
    assert page.headers["retry-after"] == ("5" if fails else "7")
    assert "The service is busy" in page.text
    assert "broken" not in page.text


async def test_an_answer_that_never_ends_or_is_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        await asyncio.Event().wait()

    async def endless(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send(
                {"type": "http.response.body", "body": bytes(ANSWER_BYTES_MAX // 2), "more_body": True}
            )

    monkeypatch.setattr("sextant.console.control_api.TIMEOUT_S", 0.01)
    with pytest.raises(Busy, match="no answer within"):
        await ControlApi(silent, "c").ask(Caller(), "GET /v1/me")
    monkeypatch.setattr("sextant.console.control_api.TIMEOUT_S", 30.0)
    with pytest.raises(Busy):
        await ControlApi(endless, "c").ask(Caller(), "GET /v1/me")
