"""The portal in a real browser, over the control process itself: keys, usage and charts, in both languages.

The bad twins: a browser without scripts, which must do everything but draw; a tab whose session has ended.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portal_under_test import HOSTILE, PASSWORD, Filled, portal_process

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: run `make test-clients`")

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
WIDTHS = ((1280, 900), (390, 844))
PAGES = ("", "keys", "keys/new", "usage", "billing", "members", "quickstart")
NAMED = """() => [...document.querySelectorAll("input:not([type=hidden]), select, button, a, [role=region]")]
    .filter((one) => !one.closest("[aria-hidden=true]") && one.getAttribute("aria-hidden") !== "true")
    .filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim()))
    .map((one) => one.outerHTML)"""
"""What a screen reader could not name."""


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: run `make test-clients`")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        yield made
        made.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Filled]]:
    with portal_process(tmp_path_factory.mktemp("portal")) as made:
        yield made


class Tab:
    """One signed-in page of a browser of its own; `said` is what its console complained of."""

    def __init__(self, browser: playwright.Browser, url: str, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.url = url
        self.said: list[str] = []
        self.page.on("console", lambda one: self.said.append(one.text) if one.type == "error" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}/portal/t/acme/{path}")

    def sign_in(self, email: str = "owner@acme.example") -> None:
        self.page.goto(f"{self.url}/portal/")
        self.page.locator("#email").fill(email)
        self.page.locator("#password").fill(PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url("**/t/acme/")


@pytest.fixture
def tab(
    browser: playwright.Browser, site: tuple[str, Filled], request: pytest.FixtureRequest
) -> Iterator[Tab]:
    made = Tab(browser, site[0], **{"locale": "en-US", **getattr(request, "param", {})})
    made.sign_in()
    yield made
    made.context.close()


@pytest.mark.parametrize(
    "tab",
    [{"locale": "en-US"}, {"locale": "zh-CN", "color_scheme": "dark"}],
    indirect=True,
    ids=["en", "zh-dark"],
)
def test_every_page_fits_says_its_language_and_can_be_named(tab: Tab, tmp_path: Path) -> None:
    for width, height in WIDTHS:
        tab.page.set_viewport_size({"width": width, "height": height})
        for path in PAGES:
            tab.open(path)
            assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert tab.page.evaluate(NAMED) == [], path
            assert tab.page.locator("h1").count() == 1
    zh = tab.page.locator("html").get_attribute("lang") == "zh-CN"
    assert tab.page.locator("h1").inner_text() == ("快速开始" if zh else "Quickstart")
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(16, 21, 29)" if zh else "rgb(245, 246, 248)")
    assert tab.said == [], "the content security policy or a script complained"


def test_a_key_is_made_copied_used_as_a_filter_and_revoked_by_keyboard(tab: Tab) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.open("keys")
    tab.page.get_by_role("link", name="New key").click()
    tab.page.get_by_label("Name", exact=True).fill(HOSTILE)
    tab.page.keyboard.press("Enter")
    secret = tab.page.locator("#secret")
    secret.wait_for()
    assert re.fullmatch(r"sk-\w{20,}", secret.input_value())
    tab.page.get_by_role("button", name="Copy").click()
    tab.page.get_by_role("button", name="Copied").wait_for()
    assert tab.page.evaluate("navigator.clipboard.readText()") == secret.input_value()
    assert secret.input_value() not in tab.page.url
    tab.open("keys")
    assert tab.page.get_by_role("link", name=HOSTILE, exact=True).count() == 1
    tab.page.get_by_role("link", name=f"Revoke {HOSTILE}").press("Enter")
    tab.page.get_by_role("button", name="Revoke for good").press("Enter")
    tab.page.get_by_text("The key is revoked").wait_for()
    assert tab.page.get_by_role("link", name=HOSTILE, exact=True).count() == 0
    tab.page.get_by_label("Revoked ones too").check()  # the list alone is put in anew
    tab.page.get_by_role("link", name=HOSTILE, exact=True).wait_for()
    assert "revoked=1" in tab.page.url
    assert tab.said == []


def test_usage_is_drawn_and_a_filter_puts_in_only_the_result(tab: Tab) -> None:
    tab.open("usage")
    assert tab.page.locator("#result .plot canvas").count() == 2
    tab.page.evaluate("window.stays = true")
    tab.page.get_by_label("Told apart by").select_option("day")
    tab.page.get_by_role("heading", name="By: Day").wait_for()
    assert tab.page.evaluate("window.stays"), "the whole page was loaded anew"
    assert tab.page.locator("#result .plot canvas").count() == 2, "drawn again after the swap"
    assert "by=day" in tab.page.url
    with tab.page.expect_download() as download:
        tab.page.get_by_role("link", name="Download CSV").click()
    assert "deepseek-chat" in Path(download.value.path()).read_text()
    assert tab.said == []


def test_language_and_light_are_chosen_and_kept(tab: Tab) -> None:
    tab.open("billing")
    tab.page.get_by_role("link", name="中文").click()
    assert tab.page.locator("h1").inner_text() == "账单"
    assert tab.page.url.endswith("/portal/t/acme/billing"), "back where one was"
    tab.page.get_by_role("link", name="深色").click()
    tab.open("keys")
    assert tab.page.locator("html").get_attribute("data-theme") == "dark"
    assert tab.page.locator("h1").inner_text() == "API 密钥"


def test_a_token_in_the_fragment_is_put_in_and_reaches_no_address(
    browser: playwright.Browser, site: tuple[str, Filled]
) -> None:
    tab = Tab(browser, site[0])
    asked: list[str] = []
    tab.page.on("request", lambda one: asked.append(one.url))
    tab.page.goto(f"{site[0]}/portal/redeem#token=sxinvite-abc&email=new%40acme.example")
    assert tab.page.locator("#token").input_value() == "sxinvite-abc"
    assert tab.page.locator("#email").input_value() == "new@acme.example"
    assert tab.page.url == f"{site[0]}/portal/redeem"
    assert [one for one in asked if "sxinvite" in one.partition("#")[0]] == []
    assert [one for one in asked if not one.startswith(site[0])] == [], "fetched from elsewhere"
    tab.context.close()


@pytest.mark.parametrize("tab", [{"java_script_enabled": False}], indirect=True, ids=["no-scripts"])
def test_without_scripts_everything_but_drawing_works(tab: Tab) -> None:
    tab.open("usage")
    assert tab.page.locator(".plot").first.is_hidden()
    tab.page.get_by_label("Told apart by").select_option("day")
    tab.page.get_by_role("button", name="Show").click()
    tab.page.get_by_role("heading", name="By: Day").wait_for()
    tab.open("keys/new")
    tab.page.get_by_label("Name", exact=True).fill("plain")
    tab.page.get_by_role("button", name="Make the key").click()
    assert tab.page.locator("#secret").input_value().startswith("sk-")
    tab.page.get_by_role("button", name="Sign out").click()
    tab.page.get_by_text("You are signed out.").wait_for()


def test_a_session_that_has_ended_leads_out_of_the_middle_of_a_page(tab: Tab) -> None:
    tab.open("keys")
    tab.context.clear_cookies(name="sextant-portal")
    tab.page.get_by_label("Revoked ones too").click()
    tab.page.wait_for_url("**/portal/sign-in*")
    assert tab.page.locator("#password").is_visible()
