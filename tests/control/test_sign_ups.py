"""Signing up over a real ledger and a real mail server: the same for everyone, bounded, and paid out once."""

from __future__ import annotations

import functools
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from control_under_test import Control, control_with_ledger
from starlette.testclient import TestClient
from typer.testing import CliRunner

from ledger_under_test import serving
from sextant.app.control_process import listener, with_portal
from sextant.base.errors import Misconfigured
from sextant.cli.admin import AdminApi
from sextant.cli.main import app
from sextant.control import signup
from sextant.control.settings import AgreementSettings, AlertSettings, PortalSettings
from sextant.control.signup import settle_owed
from sextant.spec.transfer import CREDIT, Transfer, prepaid_account
from sextant.store.accounts_people import NewPerson
from sextant.store.accounts_sign_ups import PER_MAILBOX_MAX
from sextant.store.balances import balance_of
from sextant.store.ledger_reading import ledger_view

NEW, KNOWN = "new@corp.example", "ann@corp.example"
PASSWORD = "a password of hers"
CREDIT_NANO = 5_000_000_000
URL = "https://portal.example.com"
OPEN = PortalSettings(url=URL, sign_up="open", plan="standard", credit_nano=CREDIT_NANO, sign_ups_per_day=30)


class Mails:
    """A mail server on loopback, in clear; refuses the recipients in `unknown`, and all while `away`."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.unknown: set[str] = set()
        self.away = False
        self.port = 0

    def token(self) -> str:
        """Of the newest message."""
        text = self.messages[-1].get_content()
        return next(word for word in text.split() if word.startswith("sxsignup-"))


@contextmanager
def mail_server() -> Iterator[Mails]:
    mails = Mails()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            say = functools.partial(self.connection.sendall)
            say(b"421 away\r\n" if mails.away else b"220 here\r\n")
            for line in self.rfile:
                word = line[:4].upper()
                if word == b"RCPT" and any(one.encode() in line for one in mails.unknown):
                    say(b"550 no such mailbox\r\n")
                elif word == b"DATA":
                    say(b"354 go on\r\n")
                    data = b"".join(iter(self.rfile.readline, b".\r\n"))
                    mails.messages.append(message_from_bytes(data, policy=policy.default))
                    say(b"250 taken\r\n")
                elif word == b"QUIT":
                    say(b"221 bye\r\n")
                    return
                else:
                    say(b"250 fine\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        mails.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield mails
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def mails() -> Iterator[Mails]:
    with mail_server() as found:
        yield found


def smtp(mails: Mails) -> AlertSettings:
    return AlertSettings(
        smtp_host="127.0.0.1", smtp_port=mails.port, smtp_sender="sextant@corp.example", smtp_security="none"
    )


@pytest.fixture
def control(tmp_path: Path, mails: Mails) -> Iterator[Control]:
    with control_with_ledger(tmp_path, alerts=smtp(mails), portal=OPEN) as made:
        made.accounts.create_person(NewPerson(KNOWN, "Ann"))
        yield made


def ask(control: Control, email: str = NEW, **more: Any) -> httpx.Response:
    return control.without().post("/v1/sign-ups", json={"email": email, "name": "New & Co", **more})


def confirm(control: Control, token: str, client: TestClient | None = None, **more: Any) -> httpx.Response:
    body = {"token": token, "password": PASSWORD, **more}
    return (client or control.without()).post("/v1/sign-ups/confirmations", json=body)


def balance_nano(control: Control, tenant_id: str) -> int:
    with ledger_view(control.settings.ledger_db) as view:
        return balance_of(view, tenant_id, "USD", now_ms=time.time_ns() // 1_000_000).prepaid_nano


def counted(control: Control) -> dict[str, int]:
    """Outcomes that are not zero, out of control's metrics."""
    control.write_status()
    lines = [line for line in control.client.get("/metrics").text.splitlines() if "sign_ups_total{" in line]
    found = {line.split('"')[1]: int(float(line.rpartition(" ")[2])) for line in lines}
    return {outcome: count for outcome, count in found.items() if count}


def test_a_stranger_becomes_the_owner_of_a_tenant_with_credit(control: Control, mails: Mails) -> None:
    asked = ask(control)
    assert (asked.status_code, asked.json()) == (202, {"expires_in_s": 86_400})
    (mail,) = mails.messages
    assert (mail["To"], mail["From"]) == (NEW, "sextant@corp.example")
    assert f"{URL}/portal/confirm#{mails.token()}" in mail.get_content()
    made = confirm(control, mails.token())
    assert made.status_code == 201, made.text
    told = made.json()
    assert (told["credit_nano"], told["currency"], told["credit_pending"]) == (CREDIT_NANO, "USD", False)
    mine = control.with_token(told["token"])
    (tenant,) = mine.get("/v1/me").json()["tenants"]
    assert (tenant["id"], tenant["name"], tenant["billing"]) == (told["tenant_id"], "New & Co", "prepaid")
    assert mine.get(f"/v1/tenants/{tenant['id']}/balance").json()["prepaid_nano"] == CREDIT_NANO
    key = mine.post("/v1/keys", json={"tenant_id": tenant["id"], "name": "first"})
    assert key.status_code == 201, key.text
    assert mine.post("/v1/tenants", json={"id": "more"}).status_code == 403
    assert counted(control) == {"mailed": 1, "confirmed": 1}


def test_a_browser_gets_a_cookie_that_works(control: Control, mails: Mails) -> None:
    ask(control)
    client = control.without()
    made = confirm(control, mails.token(), client, cookie=True)
    assert "token" not in made.json()
    assert "HttpOnly" in made.headers["set-cookie"]
    told = made.json()
    body = {"tenant_id": told["tenant_id"], "name": "first"}
    assert client.post("/v1/keys", json=body).json()["error"]["code"] == "csrf"
    headers = {"X-CSRF-Token": told["csrf_token"]}
    assert client.post("/v1/keys", json=body, headers=headers).status_code == 201


def test_nobody_but_the_mailbox_learns_who_is_known(control: Control, mails: Mails) -> None:
    answers = [ask(control, email) for email in (KNOWN, NEW, "Ann+tag@corp.example")]
    assert len({(one.status_code, one.text) for one in answers}) == 1
    known, fresh, tagged = (mail.get_content() for mail in mails.messages)
    assert "sxsignup-" in fresh
    assert "sxsignup-" not in known + tagged
    assert "There is an account with it already" in known
    assert counted(control) == {"known": 2, "mailed": 1}


def test_the_message_is_in_the_language_asked_for_and_repeats_nothing_of_the_stranger(
    control: Control, mails: Mails
) -> None:
    spam = "Buy at http://evil.example now"
    answer = control.without().post("/v1/sign-ups", json={"email": NEW, "name": spam, "language": "zh"})
    assert answer.status_code == 202
    (mail,) = mails.messages
    assert mail["Subject"] == "您的注册"
    assert "24 小时内有效" in mail.get_content()
    assert "evil" not in mail.as_string()


def test_one_token_confirmed_at_once_from_two_places_pays_once(control: Control, mails: Mails) -> None:
    ask(control)
    together, token = threading.Barrier(3), mails.token()

    def one(_: int) -> httpx.Response:
        together.wait()
        return confirm(control, token)

    with ThreadPoolExecutor(3) as pool:
        answers = sorted(pool.map(one, range(3)), key=lambda answer: answer.status_code)
    assert [one.status_code for one in answers] == [201, 403, 403]
    assert answers[1].json()["error"]["code"] == "sign_up_refused"
    assert balance_nano(control, answers[0].json()["tenant_id"]) == CREDIT_NANO


def test_credit_follows_when_the_ledger_was_away_and_only_once(tmp_path: Path, mails: Mails) -> None:
    control = Control(tmp_path, alerts=smtp(mails), portal=OPEN)
    try:
        ask(control)
        made = confirm(control, mails.token())
        assert made.status_code == 201, made.text
        assert made.json()["credit_pending"] is True
        with serving(tmp_path / "ledger.db", tmp_path / "ledger.sock"):
            office = signup.Office(control.settings, control.accounts)
            (owed,) = control.accounts.owed_credits()
            signup._post(office, owed)  # as another replica that died before it noted it, and one that did
            signup._post(office, owed)
            assert settle_owed(office) == frozenset()
            assert control.accounts.owed_credits() == []
            assert balance_nano(control, made.json()["tenant_id"]) == CREDIT_NANO
        entries = control.client.get("/v1/audit").json()["audit"]
        assert [one["action"] for one in entries].count("balance.credit") == 1
    finally:
        control.close()


def test_a_credit_that_the_books_refuse_is_told_once_and_stands_in_nobodys_way(
    control: Control, mails: Mails, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    with monkeypatch.context() as away:
        away.setattr(signup, "_credited", lambda *_given: False)
        for email in ("one@corp.example", "two@corp.example"):
            ask(control, email)
            made[email] = confirm(control, mails.token()).json()["tenant_id"]
    first, second = control.accounts.owed_credits()
    taken = Transfer(
        f"credit-{first.tenant_id}-sign-up", "credit", CREDIT, prepaid_account("default"), 1, "USD", 1
    )
    office = signup.Office(control.settings, control.accounts)
    office.books.post([taken])
    refused = settle_owed(office)
    assert refused == {first.id}
    assert balance_nano(control, second.tenant_id) == CREDIT_NANO
    assert settle_owed(office, refused) == refused
    assert [one.message for one in caplog.records if "refuse the credit" in one.message] == [
        f"the books refuse the credit of tenant {first.tenant_id}: the id {taken.id} is that of another "
        f"transfer; give this one its own"
    ]


def test_so_many_messages_leave_and_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signup, "MAIL_WAIT_S", 60.0)
    room = signup.MailRoom()
    assert all(room.enter() for _ in range(signup.MAILS_AT_ONCE))
    with ThreadPoolExecutor(signup.MAILS_WAITING_MAX + 1) as threads:
        asked = [threads.submit(room.enter) for _ in range(signup.MAILS_WAITING_MAX + 1)]
        done, waiting = wait(asked, timeout=30, return_when=FIRST_COMPLETED)
        assert [one.result() for one in done] == [False], "one too many is told at once"
        for _ in waiting:
            room.leave()
        assert all(one.result() for one in waiting)


def test_a_bound_is_told_in_the_same_words_whoever_is_meant(control: Control, mails: Mails) -> None:
    for email in (KNOWN, NEW):
        for _ in range(PER_MAILBOX_MAX):
            assert ask(control, email).status_code == 202
    told = [ask(control, email) for email in (KNOWN, NEW)]
    assert {one.status_code for one in told} == {429}
    assert told[0].text == told[1].text
    assert int(told[0].headers["Retry-After"]) > 0
    assert len(mails.messages) == 2 * PER_MAILBOX_MAX
    assert counted(control)["limited"] == 2


def test_one_address_asks_for_so_many_and_another_still_may(control: Control) -> None:
    here = TestClient(control.app, client=("192.0.2.1", 1))
    there = TestClient(control.app, client=("192.0.2.2", 1))
    body = {"name": "x"}
    for number in range(OPEN.sign_ups_per_source_per_day):
        assert here.post("/v1/sign-ups", json={**body, "email": f"a{number}@corp.example"}).status_code == 202
    assert here.post("/v1/sign-ups", json={**body, "email": "b@corp.example"}).status_code == 429
    assert there.post("/v1/sign-ups", json={**body, "email": "b@corp.example"}).status_code == 202


def test_domains_that_may_and_that_may_not(tmp_path: Path, mails: Mails) -> None:
    portal = PortalSettings(
        url=URL, sign_up="open", allowed_domains=("corp.example",), blocked_domains=("old.corp.example",)
    )
    control = Control(tmp_path, alerts=smtp(mails), portal=portal)
    try:
        assert ask(control, "a@corp.example").status_code == 202
        assert ask(control, "a@hq.corp.example").status_code == 202
        for email in ("a@other.example", "a@evilcorp.example", "a@x.old.corp.example"):
            refused = ask(control, email)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "domain_refused"), email
        assert control.without().get("/v1/portal").json()["allowed_domains"] == ["corp.example"]
    finally:
        control.close()


def test_closed_is_closed(tmp_path: Path, mails: Mails) -> None:
    control = Control(tmp_path, alerts=smtp(mails))
    try:
        for answer in (ask(control), confirm(control, "sxsignup-x")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "sign_up_closed")
        shown = control.without().get("/v1/portal").json()
        assert (shown["sign_up"], shown["agreement_version"], shown["oidc"]) == ("closed", None, False)
        assert mails.messages == []
    finally:
        control.close()


def test_another_sites_form_signs_nobody_up(control: Control, mails: Mails) -> None:
    for path in ("/v1/sign-ups", "/v1/sign-ups/confirmations"):
        body = b'{"email": "a@corp.example", "name": "x", "token": "x", "password": "a long password"}'
        headers = {"Content-Type": "text/plain"}
        answer = control.without().post(path, content=body, headers=headers)
        assert answer.status_code in (403, 422), answer.text
    assert mails.messages == []


def test_a_mail_server_that_is_away_is_told_and_counts_nothing(control: Control, mails: Mails) -> None:
    mails.away = True
    for _ in range(PER_MAILBOX_MAX + 1):
        refused = ask(control)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "mail_unavailable")
    mails.away = False
    assert ask(control).status_code == 202


def test_the_log_says_what_a_mail_server_does_not_offer(
    tmp_path: Path, mails: Mails, caplog: pytest.LogCaptureFixture
) -> None:
    alerts = msgspec.structs.replace(smtp(mails), smtp_security="starttls")
    control = Control(tmp_path, alerts=alerts, portal=OPEN)
    try:
        assert ask(control).status_code == 503
    finally:
        control.close()
    said = "STARTTLS extension not supported by server. spec.alerts.smtp.security is `starttls`"
    assert said in caplog.text


def test_a_mail_password_that_is_gone_is_not_told_to_strangers(
    tmp_path: Path, mails: Mails, caplog: pytest.LogCaptureFixture
) -> None:
    alerts = msgspec.structs.replace(smtp(mails), smtp_password_ref=f"file:{tmp_path}/gone", smtp_user="x")
    control = Control(tmp_path, alerts=alerts, portal=OPEN)
    try:
        answer = ask(control)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "mail_unavailable")
        assert "gone" not in answer.text
        assert f"{tmp_path}/gone" in caplog.text
    finally:
        control.close()


def test_a_mailbox_that_there_is_not_is_told_and_counts(control: Control, mails: Mails) -> None:
    mails.unknown.add("gone@corp.example")
    for _ in range(PER_MAILBOX_MAX):
        refused = ask(control, "gone@corp.example")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "email")
    assert ask(control, "gone@corp.example").status_code == 429


def test_a_tier_that_is_gone_is_the_operators_trouble_not_the_strangers(
    tmp_path: Path, mails: Mails, caplog: pytest.LogCaptureFixture
) -> None:
    control = Control(
        tmp_path, alerts=smtp(mails), portal=PortalSettings(url=URL, sign_up="open", tier="gone")
    )
    try:
        answer = ask(control)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "sign_up_unavailable")
        assert "gone" not in answer.text
        assert "spec.portal.tier: there is no tier 'gone'" in caplog.text
    finally:
        control.close()


@pytest.fixture
def agreeing(tmp_path: Path, mails: Mails) -> Iterator[Control]:
    """Control with an agreement that is required."""
    (tmp_path / "agreement.md").write_text("What is agreed: 数据.")
    agreement = AgreementSettings(str(tmp_path / "agreement.md"), "2026-11")
    portal = PortalSettings(url=URL, sign_up="open", agreement=agreement)
    made = Control(tmp_path, alerts=smtp(mails), portal=portal)
    yield made
    made.close()


def test_signing_up_accepts_the_present_agreement(agreeing: Control, mails: Mails) -> None:
    text = agreeing.without().get("/v1/portal/agreement").json()
    assert (text["version"], text["text"]) == ("2026-11", "What is agreed: 数据.")
    ask(agreeing)
    refused = confirm(agreeing, mails.token())
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "agreement_required")
    old = confirm(agreeing, mails.token(), agreement="2026-10")
    assert (old.status_code, old.json()["error"]["code"]) == (400, "agreement_outdated")
    made = confirm(agreeing, mails.token(), agreement="2026-11").json()
    mine = agreeing.with_token(made["token"])
    (shown,) = mine.get("/v1/agreements").json()["agreements"]
    assert shown["present"] and shown["required"]
    (kept,) = shown["acceptances"]
    assert (kept["tenant_id"], kept["email"], kept["sha256"]) == (made["tenant_id"], NEW, text["sha256"])
    assert mine.get("/v1/me").json()["tenants"][0]["agreement_due"] == ""


def test_no_key_before_an_owner_has_accepted(agreeing: Control) -> None:
    agreeing.client.post("/v1/tenants", json={"id": "acme"}).raise_for_status()
    hashed = agreeing.accounts.passwords.hash(PASSWORD)
    people = {}
    for role in ("owner", "operator"):
        agreeing.accounts.create_person(NewPerson(f"{role}@corp.example", role, hashed, role, "acme"))
        _, secret = agreeing.accounts.sign_in(f"{role}@corp.example", PASSWORD, "bearer")
        people[role] = agreeing.with_token(secret)
    key, path = {"tenant_id": "acme", "name": "first"}, "/v1/agreements/2026-11/acceptances"
    refused = people["operator"].post("/v1/keys", json=key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "agreement_required")
    assert people["owner"].get("/v1/me").json()["tenants"][0]["agreement_due"] == "2026-11"
    assert agreeing.client.post("/v1/keys", json=key).status_code == 201, "those who run it may"
    for client in (people["operator"], agreeing.client, agreeing.token("owner", "acme")):
        assert client.post(path, json={"tenant_id": "acme"}).status_code == 403
    assert people["owner"].post(path, json={"tenant_id": "other"}).status_code == 404
    assert people["owner"].post(path.replace("11", "12"), json={"tenant_id": "acme"}).status_code == 404
    first = people["owner"].post(path, json={"tenant_id": "acme"})
    assert first.status_code == 201
    assert people["owner"].post(path, json={"tenant_id": "acme"}).json() == first.json()
    assert people["operator"].post("/v1/keys", json=key).status_code == 201
    listed = people["operator"].get(path).json()["acceptances"]
    assert listed == [first.json()]
    assert agreeing.client.get(path, params={"tenant_id": "default"}).json()["acceptances"] == []


def test_the_command_line_shows_who_accepted(
    agreeing: Control, mails: Mails, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OverControl(AdminApi):
        """The command line's own client, over control in this process."""

        def __init__(self, _state: object) -> None:
            """No state directory is looked at."""

        def fetch(self, method: str, target: str, body: Any = None) -> tuple[str, bytes]:
            answer = agreeing.client.request(method, target, json=body)
            assert answer.status_code == 200, answer.text
            return "application/json", answer.content

    monkeypatch.setattr("sextant.cli.admin.AdminApi", OverControl)
    run = functools.partial(CliRunner().invoke, app)
    assert "Nobody has accepted it." in run(["agreement", "acceptances", "2026-11"]).output
    ask(agreeing)
    made = confirm(agreeing, mails.token(), agreement="2026-11").json()
    listed = run(["agreement", "list", "--json"])
    assert listed.exit_code == 0, listed.output
    (shown,) = json.loads(listed.output)
    assert (shown["version"], shown["present"], shown["required"]) == ("2026-11", True, True)
    (kept,) = json.loads(run(["agreement", "acceptances", "2026-11", "--json"]).output)
    assert (kept["tenant_id"], kept["email"]) == (made["tenant_id"], NEW)
    other = run(["agreement", "acceptances", "2026-11", "--tenant", "other & one", "--json"])
    assert json.loads(other.output) == []


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), (b"\xff\xfe", "UTF-8"), (b" \n", "expected a text")]
)
def test_an_agreement_that_cannot_be_shown_stops_control(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "agreement.md"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Misconfigured, match=said):
        Control(tmp_path, portal=PortalSettings(agreement=AgreementSettings(str(file), "1")))


def test_under_the_portals_name_the_admin_api_is_not_there(control: Control) -> None:
    outside = {"Host": "Portal.Example.com:443"}
    for path in ("/v1/me", "/v1/keys", "/openapi.json", "/metrics", "/v1/portal", "/v1/oidc/start"):
        assert control.client.get(path, headers=outside).status_code == 404, path
    assert (
        control.client.post("/v1/keys", json={}, headers={"Host": "portal.example.com."}).status_code == 404
    )
    assert control.client.get("/v1/me", headers={"Host": "127.0.0.1:8001"}).status_code == 200
    returned = control.client.get("/v1/oidc/callback", headers=outside).json()["error"]["message"]
    assert returned.startswith("GET /v1/oidc/callback"), "past the fence, where no provider is configured"


def test_a_portal_on_loopback_shares_its_name_with_the_admin_api(tmp_path: Path) -> None:
    control = Control(tmp_path, portal=PortalSettings(url="http://127.0.0.1:8001"))
    try:
        assert control.client.get("/v1/me", headers={"Host": "127.0.0.1:8001"}).status_code == 200
    finally:
        control.close()


def test_behind_a_trusted_proxy_each_stranger_has_a_bound_of_their_own(tmp_path: Path, mails: Mails) -> None:
    portal = PortalSettings(
        url=URL, sign_up="open", sign_ups_per_source_per_day=1, trusted_proxies=("10.244.0.0/16",)
    )
    control = Control(tmp_path, alerts=smtp(mails), portal=portal)
    served: Any = listener(with_portal(control.door, control.settings), control.settings).loaded_app

    def asked(number: int, proxy: str, caller: str) -> int:
        body = {"email": f"a{number}@corp.example", "name": "x"}
        headers = {"X-Forwarded-For": f"203.0.113.9, {caller}"}  # the first is what a stranger may write
        return (
            TestClient(served, client=(proxy, 1)).post("/v1/sign-ups", json=body, headers=headers).status_code
        )

    try:
        assert [asked(number, "10.244.3.7", f"192.0.2.{number}") for number in range(3)] == [202] * 3
        assert asked(4, "10.244.3.8", "192.0.2.0") == 429
        assert asked(5, "198.51.100.1", "192.0.2.77") == 202
        assert asked(6, "198.51.100.1", "192.0.2.78") == 429, "no proxy of ours: a stranger's word"
    finally:
        control.close()
