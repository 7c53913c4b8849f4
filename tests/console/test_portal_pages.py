"""The portal's pages over a real control in this process: what each role sees and does, in both languages."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal_under_test import HOSTILE, PASSWORD, InProcess, portal_in_process
from sextant.spec.policy import LimitRules
from sextant.store.accounts_keys import KeyScope
from sextant.store.accounts_tenants import TenantChange

SECRET = re.compile(r'id="secret" readonly value="(sk-[^"]+)"')
TENANT_PAGES = ("", "keys", "keys/new", "usage", "billing", "members", "quickstart")
TITLES = {
    "en": ("Overview", "API keys", "New key", "Usage", "Billing", "Members", "Quickstart"),
    "zh": ("总览", "API 密钥", "新建密钥", "用量", "账单", "成员", "快速开始"),
}


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[InProcess]:
    with portal_in_process(tmp_path) as made:
        yield made


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_owner_sees_every_page_in_their_language(portal: InProcess, language: str) -> None:
    owner = portal.visitor("owner@acme.example", language=language)
    for path, title in zip(TENANT_PAGES, TITLES[language], strict=True):
        page = owner.get(f"/portal/t/acme/{path}")
        assert page.status_code == 200, page.text
        assert f"{title}</h1>" in page.text
        assert f'lang="{"zh-CN" if language == "zh" else "en"}"' in page.text
        assert "Acme 公司" in page.text


def test_the_first_page_leads_to_the_only_tenant_or_offers_a_choice(portal: InProcess) -> None:
    assert portal.visitor().get("/portal").headers["location"] == "/portal/"
    assert portal.visitor().get("/portal/").headers["location"] == "/portal/sign-in"
    owner = portal.visitor("owner@acme.example")
    assert owner.get("/portal/").headers["location"] == "/portal/t/acme/"
    person = next(one for one in portal.accounts.list_people() if one.email == "owner@acme.example")
    portal.accounts.grant_role(person.id, "member", tenant_id="rival")
    # the password came from nobody who may manage there, so control takes it: an owner gives a new one
    portal.accounts.set_person(person.id, password_hash=portal.accounts.passwords.hash(PASSWORD))
    choice = portal.visitor("owner@acme.example").get("/portal/")
    assert "/portal/t/acme/" in choice.text
    assert "/portal/t/rival/" in choice.text


def test_a_key_is_made_shown_once_changed_rotated_and_revoked(portal: InProcess) -> None:
    owner = portal.visitor("owner@acme.example")
    made = owner.send(
        "/portal/t/acme/keys", "/portal/t/acme/keys/new", name="CI", project_id="search",
        expires_in_days="30", models="r1", endpoints="chat.completions", networks="10.0.0.0/8",
        tokens_per_min="5000", requests_per_s="0.5", spend_per_month="2.50",
    )  # fmt: skip
    assert made.status_code == 200
    secret = SECRET.search(made.text)
    assert secret is not None
    assert made.headers["cache-control"] == "no-store"
    key = next(one for one in portal.accounts.list_keys() if one.name == "CI")
    assert (key.project_id, key.models, key.endpoints) == ("search", ("r1",), ("chat.completions",))
    assert (key.limits.tokens_per_min, key.limits.requests_per_s) == (5000, 0.5)
    assert key.limits.spend_nano_per_month == 2_500_000_000
    listed = owner.get("/portal/t/acme/keys")
    assert key.hint in listed.text
    assert secret[1] not in listed.text

    here = f"/portal/t/acme/keys/{key.id}"
    changed = owner.send(here, here, name="CI 2", models="r1", tokens_per_min="")
    assert changed.headers["location"] == f"{here}?said=key_changed"
    assert portal.accounts.key(key.id).name == "CI 2"
    assert portal.accounts.key(key.id).limits.tokens_per_min is None
    rotated = SECRET.search(owner.send(f"{here}/rotate", here, overlap_hours="1").text)
    assert rotated is not None
    assert rotated[1] != secret[1]
    assert portal.accounts.key(key.id).previous_until_ms > 0
    gone = owner.send(f"{here}/revoke", f"{here}/revoke")
    assert gone.headers["location"] == "/portal/t/acme/keys?said=key_revoked"
    assert portal.accounts.key(key.id).revoked_ms > 0


def test_a_form_that_is_sent_as_it_came_changes_nothing(portal: InProcess) -> None:
    owner = portal.visitor("owner@acme.example")
    limits = LimitRules(
        requests_per_s=1500.5, burst_requests=7, tokens_per_min=2_000_000, concurrent_requests=1000,
        tokens_per_day=30_000_000, spend_nano_per_month=1_234_567_890_123,
    )  # fmt: skip
    scope = KeyScope(
        "search", models=("r1", "gone"), endpoints=("rerank",), networks=("10.0.0.0/8",), limits=limits
    )
    key, _ = portal.accounts.create_key("acme", HOSTILE, scope)
    here = f"/portal/t/acme/keys/{key.id}"
    form = owner.get(here).text.partition(f'action="{here}"')[2].partition("</form>")[0]
    fields: dict[str, list[str]] = {}
    for tag in re.findall(r"<input [^>]*>", form):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        assert name is not None
        assert value is not None
        if 'type="checkbox"' not in tag or " checked" in tag:
            fields.setdefault(name[1], []).append(html.unescape(value[1]))
    assert owner.client.post(here, data=fields).status_code == 303
    assert portal.accounts.key(key.id) == key


def test_a_wrong_value_is_named_and_what_was_typed_stays(portal: InProcess) -> None:
    owner = portal.visitor("owner@acme.example")
    for field, value in (("tokens_per_min", "-5"), ("spend_per_month", "1e9"), ("networks", "nowhere")):
        again = owner.send("/portal/t/acme/keys", "/portal/t/acme/keys/new", name="typed", **{field: value})
        assert again.status_code == 400, field
        assert re.search(rf'id="{field}"[^>]*value="{re.escape(value)}"[^>]*aria-invalid="true"', again.text)
        assert 'value="typed"' in again.text
    for field in ("tokens_per_day", "spend_per_month"):  # more digits than Python reads as a number
        again = owner.send(
            "/portal/t/acme/keys", "/portal/t/acme/keys/new", name="typed", **{field: "9" * 5000}
        )
        assert again.status_code == 400, field
    assert "typed" not in [one.name for one in portal.accounts.list_keys()]


def test_a_member_sees_keys_and_usage_and_changes_nothing(portal: InProcess) -> None:
    member = portal.visitor("member@acme.example")
    keys = member.get("/portal/t/acme/keys")
    assert "Website chat" in keys.text
    for missing in ("keys/new", "/revoke", "/portal/t/acme/billing", "/portal/t/acme/members", "New project"):
        assert missing not in keys.text
    assert "USD" in member.get("/portal/t/acme/").text
    assert member.get("/portal/t/acme/keys/new").status_code == 403
    refused = member.send("/portal/t/acme/keys", "/portal/t/acme/keys", name="mine")
    assert refused.status_code == 403
    key = f"/portal/t/acme/keys/{portal.filled.key_id}"
    assert member.send(f"{key}/revoke", key).status_code == 403
    assert portal.accounts.key(portal.filled.key_id).revoked_ms == 0


def test_hostile_names_are_shown_as_text(portal: InProcess) -> None:
    portal.accounts.change_tenant("acme", TenantChange(name=HOSTILE), currencies_of=lambda _id: frozenset())
    owner = portal.visitor("owner@acme.example")
    made = owner.send("/portal/t/acme/keys", "/portal/t/acme/keys/new", name=HOSTILE)
    assert made.status_code == 200
    for page in (made, *(owner.get(f"/portal/t/acme/{path}") for path in TENANT_PAGES)):
        assert "<script>alert" not in page.text
        assert "{{7*7}}" in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
