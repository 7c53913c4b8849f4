"""The guide's web page in a real browser: `deep-chat` from npm, served from another origin, streams.

The bad twins: from an origin that the document does not name, and with no origin named at all, the browser
refuses and no question reaches the model.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clients_guide import URL, blocks
from stack import RunningStack
from stack_under_test import Stack, until
from stack_under_test import stack as own_stack

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: run `make test-clients`")

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
BUNDLE = Path(__file__).parent / "node/node_modules/deep-chat/dist/deepChat.bundle.js"
ORIGIN_IN_GUIDE = "http://127.0.0.1:8080"
NOWHERE_ELSE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""The component asks for a font far away. Not `page.route`: with it Playwright answers preflights itself."""
ANSWER = ", ".join(str(number) for number in range(1, 21))
WATCH = """() => {
    const root = document.querySelector("deep-chat").shadowRoot;
    window.seen = [];
    new MutationObserver(() => {
        const said = [...root.querySelectorAll(".ai-message-text")].map((one) => one.innerText).join("");
        if (said && said !== window.seen.at(-1)) window.seen.push(said);
    }).observe(root, { subtree: true, childList: true, characterData: true });
}"""
"""Keeps every state of the answer that the page showed."""


@dataclass
class Visit:
    """What one question from a page came to."""

    shown: str = ""
    states: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    if CHROMIUM is None or not BUNDLE.is_file():
        pytest.skip("no Chromium, or no packages in tests/clients/node: run `make test-clients`")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu", NOWHERE_ELSE]
        )
        yield made
        made.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str, str]]:
    """A folder of static files, and two origins that serve it."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "deepChat.bundle.js").symlink_to(BUNDLE)
    handler = functools.partial(_Quiet, directory=str(folder))
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    first, second = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    yield folder, first, second
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_page_of_a_named_origin_streams_an_answer_and_another_origin_gets_none(
    browser: playwright.Browser, site: tuple[Path, str, str], tmp_path: Path
) -> None:
    folder, origin, stranger = site
    (document,) = blocks("yaml")
    (tmp_path / "deployment.yaml").write_text(document.replace(ORIGIN_IN_GUIDE, origin))
    with own_stack(document=tmp_path / "deployment.yaml") as made:
        _write_page(folder, f"http://127.0.0.1:{made.port}")
        good = _ask(browser, origin, made.key, picture=tmp_path / "page.png")
        # deep-chat may drop the last words of a fast stream, so the page's end is not compared
        assert good.states[-1].startswith("1, 2, 3")
        assert len(good.states) > 1, "it came at once, not as a stream"
        assert all(ANSWER.startswith(state) for state in good.states)
        assert (tmp_path / "page.png").stat().st_size > 1000
        until(lambda: _questions(made) == 1, "its row, which comes before the answer's last event")
        bad = _ask(browser, stranger, made.key)
        assert ANSWER not in bad.shown
        assert any("blocked by CORS policy" in line for line in bad.console)
        assert _questions(made) == 1


def test_without_any_named_origin_the_browser_refuses(
    browser: playwright.Browser, site: tuple[Path, str, str], stack: RunningStack
) -> None:
    folder, origin, _ = site
    _write_page(folder, stack.url)
    refused = _ask(browser, origin, stack.key)
    assert ANSWER not in refused.shown
    assert any("blocked by CORS policy" in line for line in refused.console)


def _write_page(folder: Path, url: str) -> None:
    (page,) = blocks("html")
    assert URL in page
    (folder / "index.html").write_text(page.replace(URL, url))


def _ask(browser: playwright.Browser, origin: str, key: str, picture: Path | None = None) -> Visit:
    """Opens the page, gives it the key, types the question and waits for an answer or an error."""
    visit = Visit()
    page = browser.new_page()
    try:
        page.on("console", lambda message: visit.console.append(message.text))
        page.on("dialog", lambda dialog: dialog.accept(key))
        page.goto(f"{origin}/index.html")
        box = page.locator("#text-input")
        box.wait_for()
        page.evaluate(WATCH)
        box.fill("Count from 1 to 20.")
        box.press("Enter")
        ended = page.get_by_text("1, 2, 3").or_(page.locator(".error-message-text"))
        ended.first.wait_for(timeout=60_000)
        visit.shown = page.locator("#messages").inner_text().strip()
        visit.states = page.evaluate("window.seen")
        if picture is not None:
            page.screenshot(path=picture)
    finally:
        page.close()
    return visit


def _questions(made: Stack) -> int:
    """Requests that the ledger has."""
    totals = made.ask("GET", "/v1/usage", port=made.control_port).json()["totals"]
    return sum(row["requests"] for row in totals)
