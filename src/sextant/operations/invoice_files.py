"""An invoice as a file: HTML that prints well and needs nothing else, PDF, and CSV for spreadsheets.

All text comes from tenants and projects somewhere, so it is escaped in the way of each format: markup in
HTML, and in CSV a leading character that spreadsheets would take for a formula.
Neighbours: `invoice_sheet.py` (the words), `sextant.control` (serves the files).
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterable
from typing import Any, Literal

from sextant.operations.invoice_sheet import Language, Sheet, Table, sheet_of
from sextant.operations.invoices import Invoice
from sextant.spec.money import decimal_of
from sextant.store.statements import UsageLine

Format = Literal["csv", "html", "pdf"]
MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "pdf": "application/pdf",
}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What spreadsheets begin a formula with, full-width forms included (OWASP, CSV injection)."""
_SONG = "STSong-Light"
"""Adobe's Chinese font, which a PDF may name without carrying it: viewers put one of theirs in its place."""

_STYLE = """
body{font:13px/1.5 system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif;
color:#1a1a1a;max-width:1080px;margin:32px auto;padding:0 16px}
h1{font-size:22px;margin:0 0 16px}h2{font-size:15px;margin:24px 0 8px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:0}dt{color:#666}dd{margin:0}
table{border-collapse:collapse;width:100%}th,td{padding:4px 8px;border-bottom:1px solid #ddd;text-align:left;
vertical-align:top}th{font-weight:600;border-bottom:2px solid #999}.n{text-align:right;
font-variant-numeric:tabular-nums}td.n{white-space:nowrap}
tfoot td{font-weight:600;border-top:2px solid #999}
.preview h1::after{content:" (preview)";color:#b45309}:lang(zh) .preview h1::after{content:"(预览)"}
.notes{color:#555;margin-top:24px}
@page{size:A4 landscape;margin:14mm}
@media print{body{margin:0;max-width:none}thead{display:table-header-group}
tr{break-inside:avoid}}
"""


def invoice_file(invoice: Invoice, form: Format, language: Language = "en", issuer: str = "") -> bytes:
    """`invoice` in one of the formats. Raises BadRequest for a language that there is not."""
    if form == "csv":
        return csv_of(invoice).encode("utf-8-sig")
    sheet = sheet_of(invoice, language, issuer)
    return html_of(sheet).encode() if form == "html" else pdf_of(sheet)


def csv_of(invoice: Invoice) -> str:
    """The lines of the invoice with amounts as exact decimals, for programs and spreadsheets to add up."""
    rows = [
        (
            invoice.number,
            invoice.state,
            invoice.tenant_id,
            line.project_id,
            line.project_name,
            line.model,
            line.currency,
            line.from_ms,
            line.totals.requests,
            line.totals.input_tokens,
            line.totals.cached_tokens,
            line.totals.output_tokens,
            line.totals.reasoning_tokens,
            decimal_of(line.totals.list_nano),
            decimal_of(line.totals.cost_nano),
        )
        for line in invoice.lines
    ]
    return _csv(_INVOICE_HEADS, rows)


_INVOICE_HEADS = (
    "invoice",
    "state",
    "tenant_id",
    "project_id",
    "project",
    "model",
    "currency",
    "price_from_ms",
    "requests",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
    "list_amount",
    "amount",
)


def usage_csv(lines: Iterable[UsageLine]) -> str:
    """A usage report for spreadsheets."""
    rows = [
        (
            line.day or line.month or "",
            line.tenant_id,
            line.project_id,
            line.key_id,
            line.model,
            line.currency,
            line.totals.requests,
            line.totals.errors,
            line.totals.refused,
            line.totals.input_tokens,
            line.totals.cached_tokens,
            line.totals.output_tokens,
            line.totals.reasoning_tokens,
            decimal_of(line.totals.list_nano),
            decimal_of(line.totals.cost_nano),
        )
        for line in lines
    ]
    return _csv(_USAGE_HEADS, rows)


_USAGE_HEADS = (
    "time",
    "tenant_id",
    "project_id",
    "key_id",
    "model",
    "currency",
    "requests",
    "errors",
    "refused",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
    "list_amount",
    "amount",
)


def _csv(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(heads)
    writer.writerows([_harmless(one) for one in row] for row in rows)
    return out.getvalue()


def _harmless(value: object) -> object:
    """Text that a spreadsheet would run gets an apostrophe in front; numbers and amounts of ours stay."""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA_STARTS) and not _is_amount(value):
        return f"'{value}"
    return value


def _is_amount(text: str) -> bool:
    return text[:1] == "-" and text[1:].replace(".", "", 1).isdecimal() and text.isascii()


def html_of(sheet: Sheet) -> str:
    """One page without scripts, links or anything fetched."""
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in sheet.facts)
    tables = "".join(_html_table(table) for table in sheet.tables)
    notes = "".join(f"<p>{_text(note)}</p>" for note in sheet.notes)
    state = "final" if sheet.is_final else "preview"
    return (
        f'<!doctype html><html lang="{sheet.language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_text(sheet.title)}</title><style>{_STYLE}</style></head>"
        f'<body class="{state}"><h1>{_text(sheet.title)}</h1><dl>{facts}</dl>{tables}'
        f'<div class="notes">{notes}</div></body></html>\n'
    )


def _html_table(table: Table) -> str:
    def cells(tag: str, row: Iterable[str]) -> str:
        classes = (' class="n"' if number in table.numbers else "" for number in range(len(table.heads)))
        return "".join(f"<{tag}{kind}>{_text(one)}</{tag}>" for kind, one in zip(classes, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    foot = f"<tfoot><tr>{cells('td', table.total)}</tr></tfoot>" if table.total else ""
    return (
        f"<h2>{_text(table.title)}</h2><table><thead><tr>{cells('th', table.heads)}</tr></thead>"
        f"<tbody>{body}</tbody>{foot}</table>"
    )


def _text(text: str) -> str:
    return html.escape(text)


def pdf_of(sheet: Sheet) -> bytes:
    """A4 pages, crosswise; the table heads stand on every page."""
    from reportlab.lib.pagesizes import A4, landscape
    from reportlab.lib.units import mm
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.platypus import CondPageBreak, Paragraph, SimpleDocTemplate, Spacer

    if _SONG not in pdfmetrics.getRegisteredFontNames():
        pdfmetrics.registerFont(UnicodeCIDFont(_SONG))
    style = _pdf_styles()
    story: list[Any] = [Paragraph(_pdf_text(sheet.title), style("title"))]
    story += [
        Paragraph(f"{_pdf_text(name)}: {_pdf_text(value)}", style("fact")) for name, value in sheet.facts
    ]
    width = landscape(A4)[0] - 28 * mm
    for table in sheet.tables:
        story += [CondPageBreak(30 * mm), Paragraph(_pdf_text(table.title), style("head"))]
        story.append(_pdf_table(table, width, style))
    story += [Spacer(1, 5 * mm), *(Paragraph(_pdf_text(note), style("note")) for note in sheet.notes)]
    out = io.BytesIO()
    SimpleDocTemplate(
        out,
        pagesize=landscape(A4),
        leftMargin=14 * mm,
        rightMargin=14 * mm,
        topMargin=14 * mm,
        bottomMargin=14 * mm,
        title=sheet.title,
        author="Sextant",
        invariant=1,
    ).build(story)
    return out.getvalue()


def _pdf_styles() -> Callable[[str], Any]:
    from reportlab.lib.colors import HexColor
    from reportlab.lib.styles import ParagraphStyle

    def styled(name: str, points: int, **more: Any) -> Any:
        leading = points * 1.35
        return ParagraphStyle(
            name, fontName="Helvetica", fontSize=points, leading=leading, wordWrap="CJK", **more
        )

    styles = {
        "title": styled("title", 16, spaceAfter=8),
        "fact": styled("fact", 9),
        "head": styled("head", 11, spaceBefore=12, spaceAfter=4),
        "cell": styled("cell", 7),
        "number": styled("number", 7, alignment=2),
        "note": styled("note", 8, textColor=HexColor("#555555")),
    }
    return styles.__getitem__


def _pdf_table(table: Table, width: float, style: Callable[[str], Any]) -> Any:
    from reportlab.lib.colors import HexColor
    from reportlab.platypus import LongTable, Paragraph, TableStyle

    def line(row: Iterable[str]) -> list[Any]:
        return [
            Paragraph(_pdf_text(one), style("number" if number in table.numbers else "cell"))
            for number, one in enumerate(row)
        ]

    rows = [line(table.heads), *map(line, table.rows), *([line(table.total)] if table.total else [])]
    looks = [
        ("LINEBELOW", (0, 0), (-1, 0), 1, HexColor("#999999")),
        ("LINEBELOW", (0, 1), (-1, -1), 0.3, HexColor("#dddddd")),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 3),
        ("RIGHTPADDING", (0, 0), (-1, -1), 3),
    ]
    columns = len(table.heads)
    return LongTable(rows, colWidths=[width / columns] * columns, repeatRows=1, style=TableStyle(looks))


def _pdf_text(text: str) -> str:
    """Markup escaped, and everything that Helvetica lacks set in the Chinese font."""
    parts: list[str] = []
    is_latin = True
    for character in text:
        fits = ord(character) < 0x100 or character in "–…"
        if fits != is_latin:
            parts.append("</font>" if fits else f'<font name="{_SONG}">')
            is_latin = fits
        parts.append(html.escape(character))
    return "".join(parts) + ("" if is_latin else "</font>")
