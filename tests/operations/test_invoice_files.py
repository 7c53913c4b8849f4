"""An invoice as HTML, PDF and CSV: what hostile names become, and that Chinese is there."""

from __future__ import annotations

import csv
import html.parser
import io
from pathlib import Path

import msgspec
import pypdfium2
import pytest

from billing_under_test import NOVEMBER, USD, book, ms, package, policy, row, tenant, top_up
from sextant.base.errors import BadRequest
from sextant.operations.invoice_files import csv_of, html_of, invoice_file, pdf_of, usage_csv
from sextant.operations.invoice_sheet import sheet_of
from sextant.operations.invoices import Invoice, invoice_of
from sextant.spec.money import nano_of
from sextant.spec.policy import ProjectPolicy
from sextant.store.ledger_reading import ledger_view
from sextant.store.statements import UsageQuery, usage_lines

EVIL = ("=HYPERLINK(1)", "+1", "-2+3", "@SUM(A1)", "\t=1", "\uff1d1", " =1", "\r=1")
SCRIPT = '<script>alert("x")</script>'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [row(), row(model="deepseek-reasoner", project_id="chat"), row(outcome="engine_error")]
    return book(tmp_path / "ledger.db", rows, [*package(4_000_000), top_up(USD)])


def made(
    path: Path, *, now: str = "2026-12-02T00:00", name: str = "深度求索", project: str = "客服"
) -> Invoice:
    of = policy(tenant(name=name))
    of = msgspec.structs.replace(of, projects=(ProjectPolicy("search", "acme", project),))
    with ledger_view(path) as view:
        return invoice_of(view, of, "acme", NOVEMBER, now_ms=ms(now))


def pdf_text(content: bytes) -> str:
    document = pypdfium2.PdfDocument(content)
    try:
        return "\n".join(page.get_textpage().get_text_range() for page in document)
    finally:
        document.close()


class Elements(html.parser.HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_page_shows_the_same_as_the_paper(path: Path, language: str) -> None:
    invoice = made(path)
    sheet = sheet_of(invoice, language, "示例公司")  # type: ignore[arg-type]
    page, paper = Elements(html_of(sheet)).text, pdf_text(pdf_of(sheet)).replace("\r\n", "")
    for text in ("深度求索", "示例公司", "客服", "0.006 USD", "deepseek-reasoner", "66.6666 %", "wire"):
        assert text in page, text
        assert text in paper.replace("\n", ""), text
    word = {"en": "Taken from packages", "zh": "由套餐抵扣"}[language]
    assert word in page
    assert word in paper
    total = invoice.sums[0]
    assert (total.cost_nano, total.packages_nano) == (nano_of("0.006"), nano_of("0.004"))


def test_a_page_needs_nothing_and_runs_nothing(path: Path) -> None:
    page = html_of(sheet_of(made(path, name=SCRIPT, project=f'"{SCRIPT}')))
    found = Elements(page)
    assert found.tags <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "dl",
        "dt",
        "dd",
        "table",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "div",
        "p",
    }
    assert found.attributes <= {"lang", "charset", "name", "content", "class"}
    assert SCRIPT in found.text
    assert "url(" not in page
    assert "@import" not in page


def test_markup_in_names_stays_text_on_paper(path: Path) -> None:
    sheet = sheet_of(made(path, name='<font color="red">&amp;</b>', project="<b>unclosed"))
    text = pdf_text(pdf_of(sheet))
    assert '<font color="red">&amp;</b>' in text
    assert "<b>unclosed" in text


@pytest.mark.parametrize("evil", EVIL)
def test_a_spreadsheet_runs_nothing(path: Path, evil: str) -> None:
    text = csv_of(made(path, project=evil))
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert f"'{evil}" in [line["project"] for line in lines]
    assert not any(value.lstrip(" ").startswith(("=", "+", "@")) for line in lines for value in line.values())


def test_a_spreadsheet_adds_up(path: Path) -> None:
    content = invoice_file(made(path), "csv")
    assert content.startswith(b"\xef\xbb\xbf"), "spreadsheets take it for another encoding otherwise"
    lines = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    assert sum(nano_of(line["amount"]) for line in lines) == nano_of("0.006")
    assert [line["project"] for line in lines] == ["", "客服"]
    with ledger_view(path) as view:
        report = usage_csv(usage_lines(view, UsageQuery(20261101, 20261130)))
    rows = list(csv.DictReader(io.StringIO(report, newline="")))
    assert sum(nano_of(line["amount"]) for line in rows) == nano_of("0.006")
    assert {line["time"] for line in rows} == {"20261110"}


def test_a_preview_says_so(path: Path) -> None:
    preview = sheet_of(made(path, now="2026-11-20T00:00"))
    assert not preview.is_final
    assert "Preview" in dict(preview.facts)["State"]
    assert any("estimate" in note for note in preview.notes)
    assert 'body class="preview"' in html_of(preview)
    final = sheet_of(made(path))
    assert final.is_final
    assert not any("estimate" in note for note in final.notes)


def test_a_language_that_there_is_not(path: Path) -> None:
    with pytest.raises(BadRequest, match="no invoice in 'fr'; there is en and zh"):
        sheet_of(made(path), "fr")  # type: ignore[arg-type]


def test_the_same_invoice_is_the_same_file(path: Path) -> None:
    for form in ("html", "pdf", "csv"):
        assert invoice_file(made(path), form, "zh") == invoice_file(made(path), form, "zh")  # type: ignore[arg-type]


def test_a_long_invoice_has_its_heads_on_every_page(tmp_path: Path) -> None:
    rows = [row(model=f"model-{number:03d}") for number in range(120)]
    long = made(book(tmp_path / "long.db", rows, [top_up(USD)]))
    document = pypdfium2.PdfDocument(pdf_of(sheet_of(long)))
    texts = [page.get_textpage().get_text_range() for page in document]
    document.close()
    with_lines = [text for text in texts if "model-" in text]
    assert len(with_lines) >= 3
    assert all("Requests" in text for text in with_lines)
    assert sum(text.count("model-") for text in texts) == 120
