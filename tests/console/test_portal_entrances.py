"""The ways into the portal and out of it, and everything that must not open it."""

from __future__ import annotations

import contextlib
import re
import socketserver
import threading
from collections.abc import Iterator
from email import message_from_string, policy
from pathlib import Path

import pytest

from portal_under_test import CSRF, PASSWORD, InProcess, Visitor, portal_in_process
from sextant.console.visit import FORM
from sextant.control.settings import AgreementSettings, AlertSettings, PortalSettings
from sextant.store.accounts_invitations import NewInvitation

HOME = "/portal/t/acme/"
URL = "https://portal.example.com"


class Mails(socketserver.StreamRequestHandler):
    """A mail server of one conversation at a time; keeps texts in the server's `texts`."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                self.server.texts.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 fine\r\n")
            if word == b"QUIT":
                return


@contextlib.contextmanager
def mail_server() -> Iterator[tuple[AlertSettings, list[str]]]:
    """Settings that lead to it, and the messages it took."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mails) as server:
        server.texts = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            port = server.server_address[1]
            yield (
                AlertSettings(
                    smtp_host="127.0.0.1", smtp_port=port, smtp_sender="s@corp.example", smtp_security="none"
                ),
                server.texts,  # type: ignore[attr-defined]
            )
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[InProcess]:
    with portal_in_process(tmp_path) as made:
        yield made


def cookies_of(answer: object) -> list[str]:
    return answer.headers.get_list("set-cookie")  # type: ignore[attr-defined, no-any-return]


def test_signing_in_keeps_the_session_out_of_reach_and_signing_out_ends_it(portal: InProcess) -> None:
    visitor = portal.visitor()
    answer = visitor.sign_in()
    kept = next(one for one in cookies_of(answer) if one.startswith("sextant-portal="))
    for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age="):
        assert part in kept
    assert "Secure" not in kept, "there is no TLS here"
    assert visitor.get(HOME).status_code == 200
    session = visitor.client.cookies["sextant-portal"]
    assert visitor.send("/portal/sign-out", HOME).headers["location"] == "/portal/sign-in?said=out"
    visitor.client.cookies.set("sextant-portal", session)
    assert visitor.get(HOME).headers["location"].startswith("/portal/sign-in?"), "the session itself is over"


def test_behind_tls_cookies_are_of_this_host_alone(portal: InProcess) -> None:
    visitor = portal.visitor(base_url="https://testserver")
    answer = visitor.sign_in()
    kept = next(one for one in cookies_of(answer) if one.startswith("__Host-sextant-portal="))
    assert "Secure" in kept
    assert "Domain" not in kept
    assert "max-age" in visitor.get(HOME).headers["strict-transport-security"]


def test_a_session_that_ended_leads_to_signing_in_and_back(portal: InProcess) -> None:
    visitor = portal.visitor("owner@acme.example")
    portal.accounts.close_session(visitor.client.cookies["sextant-portal"])
    sent = visitor.get("/portal/t/acme/usage?by=key")
    assert (
        sent.headers["location"] == "/portal/sign-in?said=ended&next=%2Fportal%2Ft%2Facme%2Fusage%3Fby%3Dkey"
    )
    assert "Your session has ended" in visitor.get(sent.headers["location"]).text
    back = visitor.send(
        "/portal/sign-in", sent.headers["location"], email="owner@acme.example", password=PASSWORD,
        next="/portal/t/acme/usage?by=key",
    )  # fmt: skip
    assert back.headers["location"] == "/portal/t/acme/usage?by=key"
    portal.accounts.close_session(visitor.client.cookies["sextant-portal"])
    swapped = visitor.get("/portal/t/acme/usage", headers={"HX-Request": "true"})
    assert swapped.headers["hx-redirect"].startswith("/portal/sign-in?"), "not into a corner of the page"


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example/", "//evil.example", "/portal//evil", "/portal/../v1/me", "/\\evil", "/v1/me"],
)
def test_nobody_is_sent_elsewhere_after_signing_in(portal: InProcess, elsewhere: str) -> None:
    visitor = portal.visitor()
    fields = {"email": "owner@acme.example", "password": PASSWORD, "next": elsewhere}
    answer = visitor.send("/portal/sign-in", "/portal/sign-in", **fields)
    assert answer.headers["location"] == "/portal/"
    assert (
        visitor.get("/portal/choose/theme/dark", params={"back": elsewhere}).headers["location"] == "/portal/"
    )


def test_wrong_passwords_are_throttled_as_control_does_it(portal: InProcess) -> None:
    visitor = portal.visitor()
    answers = [visitor.sign_in("owner@acme.example", "wrong") for _ in range(12)]
    assert answers[0].status_code == 401
    assert "E-mail address or password is wrong." in answers[0].text
    assert answers[-1].status_code == 429
    assert "Too many wrong passwords" in answers[-1].text
    assert visitor.sign_in().status_code == 429, "the right one does not help now"
    assert 'value="wrong"' not in answers[0].text


def test_a_person_who_is_switched_off_is_out_at_once(portal: InProcess) -> None:
    visitor = portal.visitor("member@acme.example")
    person = next(one for one in portal.accounts.list_people() if one.email == "member@acme.example")
    portal.accounts.set_person(person.id, enabled=False)
    assert visitor.get(HOME).headers["location"].startswith("/portal/sign-in")
    assert visitor.sign_in("member@acme.example").status_code == 401


def test_a_form_without_this_browsers_token_changes_nothing(portal: InProcess) -> None:
    visitor = portal.visitor("owner@acme.example")
    for token in ("", "0" * 64, CSRF.findall(portal.visitor("owner@acme.example").get(HOME).text)[0]):
        refused = visitor.client.post("/portal/t/acme/keys", data={"csrf": token, "name": "forged"})
        assert refused.status_code == 403, token
        assert "This form has expired" in refused.text
    right = CSRF.findall(visitor.get(HOME).text)[0]
    other = visitor.client.post(
        "/portal/t/acme/keys",
        data={"csrf": right, "name": "forged"},
        headers={"Sec-Fetch-Site": "cross-site"},
    )
    assert other.status_code == 403
    assert "forged" not in [one.name for one in portal.accounts.list_keys()]
    stranger = portal.visitor()
    fields = {"email": "owner@acme.example", "password": PASSWORD, "csrf": "x"}
    assert stranger.client.post("/portal/sign-in", data=fields).status_code == 403, (
        "signed in as somebody else"
    )
    assert visitor.client.post("/portal/t/acme/keys", json={"name": "forged"}).status_code == 400


def test_a_form_cookie_that_is_no_token_of_ours_is_replaced(portal: InProcess) -> None:
    for planted in ("short", '"a\\012Set-Cookie: b"', "x" * 4000):
        page = Visitor(portal.app).client.get("/portal/sign-in", headers={"Cookie": f"{FORM}={planted}"})
        assert page.status_code == 200
        (token,) = CSRF.findall(page.text)
        assert len(token) == 32
        assert page.cookies[FORM] == token


def test_an_invitation_is_redeemed_with_a_first_password(portal: InProcess) -> None:
    invited = portal.accounts.invite(NewInvitation("new@acme.example", "billing", "acme"), mailed=True)
    visitor = portal.visitor()
    fields = {"token": invited.secret, "email": "new@acme.example", "name": "New", "password": "short"}
    again = visitor.send("/portal/redeem", "/portal/redeem", **fields)
    assert again.status_code in (400, 403)
    assert 'value="new@acme.example"' in again.text
    done = visitor.send("/portal/redeem", "/portal/redeem", **{**fields, "password": PASSWORD})
    assert done.headers["location"] == "/portal/"
    assert visitor.get("/portal/").headers["location"] == HOME
    assert invited.secret not in str(visitor.get("/portal/t/acme/").text)
    late = portal.visitor().send("/portal/redeem", "/portal/redeem", **{**fields, "password": PASSWORD})
    assert late.status_code == 403


def test_a_stranger_signs_up_agrees_and_is_in(tmp_path: Path) -> None:
    (tmp_path / "agreement.md").write_text("What is agreed: <b>数据</b>.")
    agreement = AgreementSettings(str(tmp_path / "agreement.md"), "2026-11")
    open_to_all = PortalSettings(url=URL, sign_up="open", agreement=agreement)
    with (
        mail_server() as (alerts, texts),
        portal_in_process(tmp_path, portal=open_to_all, alerts=alerts) as made,
    ):
        visitor = made.visitor(language="zh")
        assert "/portal/sign-up" in visitor.get("/portal/sign-in").text
        sent = visitor.send("/portal/sign-up", "/portal/sign-up", email="new@corp.example", name="新公司")
        assert "请查看邮箱" in sent.text
        message = message_from_string(texts[0], policy=policy.default).get_content()
        token = next(word for word in message.split() if word.startswith("sxsignup-"))
        page = visitor.get("/portal/confirm")
        assert "&lt;b&gt;数据&lt;/b&gt;" in page.text
        fields = {"token": token, "password": PASSWORD, "person_name": "新人"}
        refused = visitor.send("/portal/confirm", "/portal/confirm", **fields)
        assert refused.status_code == 403
        assert "请先接受现行协议" in refused.text
        done = visitor.send("/portal/confirm", "/portal/confirm", **fields, agreement="2026-11")
        assert done.headers["location"] == "/portal/", done.text
        first = visitor.get(visitor.get("/portal/").headers["location"])
        assert "新公司" in first.text
        steps = visitor.get(re.search(r'href="(\S+/quickstart)"', first.text)[1])  # type: ignore[index]
        there = re.search(r'href="(\S+/agreement)">协议 2026-11<', steps.text)
        assert there is not None, "who has accepted it finds it again"
        assert "new@corp.example" in visitor.get(there[1]).text
        again = made.visitor().send("/portal/confirm", "/portal/confirm", **fields, agreement="2026-11")
        assert again.status_code == 403
        _an_owner_accepts_for_a_tenant(made)


def _an_owner_accepts_for_a_tenant(made: InProcess) -> None:
    """Of one that was there before the agreement was: no key until somebody has accepted."""
    owner, member = made.visitor("owner@acme.example"), made.visitor("member@acme.example")
    assert "/portal/t/acme/agreement" in owner.get(HOME).text
    refused = owner.send("/portal/t/acme/keys", "/portal/t/acme/keys/new", name="early")
    assert refused.status_code == 403
    assert "has to be accepted first" in refused.text
    assert "An owner of the tenant can accept it." in member.get("/portal/t/acme/agreement").text
    page = "/portal/t/acme/agreement"
    assert owner.send(page, page, version="2026-11", accept="yes").status_code == 303
    assert "Accepted by owner@acme.example" in owner.get(page).text
    assert owner.send("/portal/t/acme/keys", "/portal/t/acme/keys/new", name="late").status_code == 200


def test_somebody_signed_in_redeems_an_invitation_to_another_tenant(portal: InProcess) -> None:
    invited = portal.accounts.invite(NewInvitation("member@acme.example", "member", "rival"), mailed=True)
    visitor, page = portal.visitor("member@acme.example"), "/portal/account"
    assert visitor.send(f"{page}/invitations", page, token="sxinvite-none").status_code == 403
    assert visitor.send(f"{page}/invitations", page, token=invited.secret).headers["location"] == "/portal/"
    assert visitor.get("/portal/t/rival/").status_code == 200


def test_an_invitation_by_mail_leads_to_the_page_with_the_token_in_the_fragment(tmp_path: Path) -> None:
    own = PortalSettings(url=URL)
    with mail_server() as (alerts, texts), portal_in_process(tmp_path, portal=own, alerts=alerts) as made:
        owner = made.visitor("owner@acme.example", base_url=URL)
        page = "/portal/t/acme/members"
        sent = owner.send("/portal/t/acme/invitations", page, email="new+1@acme.example", role="member")
        assert "is on its way to new+1@acme.example" in sent.text
        assert "sxinvite-" not in sent.text
        message = message_from_string(texts[0], policy=policy.default).get_content()
    assert f"{URL}/portal/redeem#token=sxinvite-" in message
    assert "&email=new%2B1%40acme.example" in message


def test_where_sign_up_is_closed_there_is_no_page_for_it(portal: InProcess) -> None:
    visitor = portal.visitor()
    assert "/portal/sign-up" not in visitor.get("/portal/sign-in").text
    assert visitor.get("/portal/sign-up").status_code == 404
    token = visitor.client.cookies["sextant-portal-form"]
    sent = visitor.client.post("/portal/sign-up", data={"csrf": token, "email": "a@b.example", "name": "x"})
    assert sent.status_code == 404


def test_a_password_is_changed_and_ends_all_sessions(portal: InProcess) -> None:
    visitor, elsewhere = portal.visitor("owner@acme.example"), portal.visitor("owner@acme.example")
    page = "/portal/account"
    fields = {"present": PASSWORD, "new": "another good one", "again": "another bad one"}
    differ = visitor.send(f"{page}/password", page, **fields)
    assert (differ.status_code, "not the same" in differ.text) == (400, True)
    wrong = visitor.send(f"{page}/password", page, **{**fields, "present": "x", "again": fields["new"]})
    assert wrong.status_code == 401
    done = visitor.send(f"{page}/password", page, **{**fields, "again": fields["new"]})
    assert done.headers["location"] == "/portal/sign-in?said=password_changed"
    assert elsewhere.get(HOME).status_code == 303
    assert Visitor(portal.app).sign_in("owner@acme.example", fields["new"]).status_code == 303
