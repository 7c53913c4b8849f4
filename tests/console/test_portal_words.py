"""Both catalogues say the same and all that pages say is in them; amounts and times are right."""

from __future__ import annotations

import datetime
import hashlib
import random
import re
import tomllib
from pathlib import Path
from string import Formatter

import pytest

from sextant.console import shown
from sextant.console.quickstart import ERRORS, price_now
from sextant.console.words import preferred, read_sentences
from sextant.gateway import failures
from sextant.governance.pricing import price_at
from sextant.spec.policy import Price, PricePlan

CONSOLE = Path(__file__).parents[2] / "src/sextant/console"
WHOLE = re.compile(r'(?:\bt|words|maybe)\("([a-z_]+\.[a-z_0-9]+)"(?! ~)')
BEGUN = re.compile(r'(?:\bt|words|maybe)\(f?"([a-z_]+\.[a-z_]*)(?:" ~|\{)')
"""What has its end put in, as `role.`."""


def test_both_catalogues_have_the_same_sentences_with_the_same_gaps() -> None:
    english, chinese = read_sentences("en"), read_sentences("zh")
    assert list(english) == list(chinese)
    for key, sentence in english.items():
        gaps = {name for _, name, _, _ in Formatter().parse(sentence) if name}
        assert gaps == {name for _, name, _, _ in Formatter().parse(chinese[key]) if name}, key
        assert chinese[key] == sentence or re.search(r"[\u4e00-\u9fff]", chinese[key]), (
            f"{key} is not Chinese"
        )


def test_every_sentence_is_used_and_every_one_used_is_there() -> None:
    texts = "\n".join(one.read_text() for one in [*CONSOLE.rglob("*.html"), *CONSOLE.glob("*.py")])
    texts = texts.replace("'", '"')
    known = read_sentences("en")
    assert set(WHOLE.findall(texts)) - set(known) == set()
    begun = tuple({*BEGUN.findall(texts), "sign_in.title"})
    pages = ("overview", "keys", "usage", "billing", "members", "quickstart")
    titles = {f"{page}.title" for page in pages}
    spoken = {one for one in known if one.startswith("form.")}  # errors carry the key as their message
    unused = [one for one in known if f'"{one}"' not in texts and not one.startswith(begun)]
    assert [one for one in unused if one not in titles | spoken] == []


def test_what_is_not_ours_is_as_it_came_and_has_its_licence() -> None:
    folder = CONSOLE / "static"
    vendored = tomllib.loads((folder / "vendored.toml").read_text())
    ours = {"portal.js", "portal.css", "mark.svg", "vendored.toml"}
    assert {one.name for one in folder.iterdir() if one.suffix != ".LICENSE"} == ours | set(vendored)
    for name, told in vendored.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == told["sha256"], name
        assert (folder / told["licence"].partition(", ")[2]).stat().st_size > 500


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("de,en;q=0.8,zh;q=0.7", "en"),
        ("fr", "en"),
        ("en;q=x,zh;q=0.1", "zh"),
        ("zh;q=0", "en"),
    ],
)
def test_a_browsers_wish_decides(header: str, language: str) -> None:
    assert preferred(header) == language


def test_the_errors_that_callers_are_told_of_are_the_gateways() -> None:
    sources = [CONSOLE.parent / "base/errors.py", *CONSOLE.parent.glob("g*/**/*.py")]
    told = {code for one in sources for code in re.findall(r'code ?= ?"(\w+)"', one.read_text("utf-8"))}
    assert {code for _, code in ERRORS} - told == set()
    by_class = {kind.code: status for kind, status, _ in failures._BY_TYPE if "code" in vars(kind)}
    assert {code: status for status, code in ERRORS if code in by_class}.items() <= by_class.items()


def test_the_price_shown_is_the_one_that_the_books_take() -> None:
    pick = random.Random(7)
    for _ in range(300):
        prices = tuple(
            Price(
                pick.choice(["r1", "v3", "*"]),
                number,
                number,
                number,
                number,
                valid_from_ms=pick.randrange(4),
                valid_until_ms=pick.choice([0, 3, 5]),
            )
            for number in range(pick.randrange(6))
        )
        plan = PricePlan("standard", "USD", prices)
        for now_ms in range(6):
            assert price_now(plan, "r1", now_ms) == price_at(prices, "r1", now_ms), prices


def test_amounts_are_exact_and_times_have_their_zone() -> None:
    assert shown.money(1_234_500_000_001, "CNY") == "1,234.500000001 CNY"
    assert shown.money(-5_000_000, "USD") == "-0.005 USD"
    assert shown.rounded(1, "USD") == "< 0.01 USD"
    assert shown.rounded(0, "USD") == "0.00 USD"
    assert shown.rounded(-1, "USD") == "> -0.01 USD"
    assert shown.rounded(-1_239_000_000, "USD") == "-1.24 USD"
    assert (shown.share(1, 0), shown.share(5, 2), shown.share(-1, 2), shown.share(1, 3)) == (100, 100, 0, 33)
    assert shown.moment(0, "Asia/Shanghai") == "1970-01-01 08:00 UTC+8"
    assert shown.moment(0, "Asia/Kolkata") == "1970-01-01 05:30 UTC+5:30"
    assert shown.moment(1_700_000_000_000, "America/St_Johns") == "2023-11-14 18:43 UTC-3:30"
    assert shown.moment(0, "America/New_York") == "1969-12-31 19:00 UTC-5"
    assert shown.moment(0, "Nowhere/None") == "1970-01-01 00:00 UTC"
    assert shown.today(20 * 3_600_000, "Asia/Shanghai") == datetime.date(1970, 1, 2)
    assert (shown.count(12345), shown.count(0.5)) == ("12,345", "0.5")
