"""The plan as one HTML file: tables and inline SVG charts, nothing fetched, made to be printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from sextant.cli import plan_charts
from sextant.cli.plan_answer import Answer, Shown
from sextant.cli.plan_asked import described
from sextant.cli.plan_charts import Curve
from sextant.cli.plan_explain import explained
from sextant.cli.plan_view import (
    GIB,
    OPTION_COLUMNS,
    PRECISION_COLUMNS,
    WAY_COLUMNS,
    banded,
    host_line,
    layout_text,
    memory_rows,
    money_lines,
    number,
    option_cells,
    options_shown,
    precision_cells,
    swing_name,
    warnings_of,
    way_cells,
)
from sextant.cli.plan_words import sentence, word
from sextant.planner.cost import MONTHS, Way
from sextant.planner.money import Money, Sensitivity
from sextant.spec.planning import Option

SWINGS_SHOWN = 7
"""Bars of one mode's sensitivity."""
STYLE = """
:root{--ink:#1c2430;--dim:#5b6675;--line:#d5dae1;--paper:#fff;--free:#e3e7ec;--c1:#2f6fde;--c2:#e0862b;
--c3:#2a9d68;--c4:#b0489c;--c5:#c94a45;--c6:#6b7a90;--c7:#12939a;--c8:#8a6d3b}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#9aa5b4;--line:#3a4452;
--paper:#161b22;--free:#303946}}
body{font:15px/1.5 system-ui,"Noto Sans CJK SC","PingFang SC",sans-serif;color:var(--ink);
background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.82rem}
th,td{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--dim);font-weight:600}.dim{color:var(--dim);font-size:.85rem}
svg{width:100%;max-width:44rem;height:auto;display:block}svg text{font-size:12px;fill:var(--ink)}
svg .grid{stroke:var(--line)}section,tr,.chart{break-inside:avoid}.long{break-inside:auto}td{min-width:4em}
h3{font-size:.85rem;font-weight:600;color:var(--dim);margin:.8rem 0 .2rem}
@media print{body{margin:0;max-width:none;font-size:11px}@page{margin:15mm}.wide{overflow:visible}
svg{max-width:150mm}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def page(answer: Answer, language: str) -> str:
    """The whole page."""
    asked = answer.plan.question
    title = f"{word('Plan', language)}: {asked.architecture.id}"
    body = "".join(_sections(answer, language))
    load = sentence(described(asked.workload), language)
    line = f"{asked.precision}, KV {asked.kv_precision}, {asked.engine}; {load}"
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>{escape(line)}</p>{body}</body></html>\n"
    )


def _sections(answer: Answer, language: str) -> Iterator[str]:
    plan = answer.plan
    if plan.options:
        rows = [option_cells(plan, index, language) for index in options_shown(plan)]
        note = word("The numbers in brackets hold 80 % of the time.", language)
        yield _section("Options", _table(OPTION_COLUMNS, rows, language) + _dim(note), language)
    else:
        yield f"<p><b>{escape(word('No option meets this.', language))}</b></p>"
    if answer.shown is not None:
        yield from _shown(plan.options[answer.shown.index], answer.shown, language)
    if plan.options:
        rows = precision_cells(plan, language)
        yield _section("Precisions", _table(PRECISION_COLUMNS, rows, language), language)
    if plan.refusals:
        lines = [
            f"{refusal.accelerator.id}: {sentence(refusal.first_break.text, language)} → "
            f"{sentence(refusal.give_up, language)}"
            for refusal in plan.refusals
        ]
        yield _section("Closest, and what to give up", _paragraphs(lines), language)
    warnings = [sentence(warning, language) for warning in warnings_of(answer)]
    if warnings:
        yield _section("Warnings", _paragraphs(warnings), language)
    rows = [
        [sentence(name, language), f"{banded(estimate)} {estimate.unit}", word(estimate.basis, language),
         sentence(estimate.formula, language), "; ".join(estimate.sources)]
        for name, estimate in explained(answer)
    ]  # fmt: skip
    columns = ("what", "value", "basis", "formula", "source")
    yield _section("Sources", _table(columns, rows, language), language, breaks=True)


def _shown(option: Option, shown: Shown, language: str) -> Iterator[str]:
    heading = f"{option.count} x {option.accelerator.title}, {layout_text(option.layout)}"
    parts = [(word(name, language), size / GIB) for name, size in memory_rows(option.memory)]
    yield f"<h2>{escape(heading)}</h2><p>{escape(sentence(option.layout.why, language))}</p>"
    yield f"<p>{escape(host_line(option, language))}</p>"
    yield _section("Memory of one accelerator", plan_charts.stack(parts, "GiB"), language)
    curve = Curve(
        name=f"TPOT, {word('ms per token', language)}",
        points=tuple((point.output_tokens_per_s, point.tpot_ms) for point in shown.curve),
        band=tuple((point.tpot_ms_low, point.tpot_ms_high) for point in shown.curve),
    )
    axes = (word("output tokens per second", language), word("ms per token", language))
    yield _section("Throughput and latency", plan_charts.lines([curve], *axes), language)
    if shown.waits is not None:
        seen = shown.waits
        line = (
            f"TTFT {number(seen.ttft_ms_p50)} / {number(seen.ttft_ms_p99)} ms, "
            f"TPOT {number(seen.tpot_ms_p50)} / {number(seen.tpot_ms_p99)} ms "
            f"(p50 / p99; {seen.requests} {word('requests', language)}, {shown.waits_from})"
        )
        yield _section("Waiting, simulated", _paragraphs([line]), language)
    yield from _money(shown.money, language)


def _money(money: Money, language: str) -> Iterator[str]:
    rows = [way_cells(way, language) for way in money.ways]
    yield _section("Three years by mode", _table(WAY_COLUMNS, rows, language), language)
    curves = [
        Curve(
            name=_way_name(way, language),
            points=tuple(
                (month, way.upfront_usd.value + month * way.usd_per_month.value)
                for month in range(0, MONTHS + 1, 3)
            ),
        )
        for way in money.ways
        if way.upfront_usd is not None and way.usd_per_month is not None
    ]
    if curves:
        chart = plan_charts.lines(curves, word("months", language), "USD", range(0, MONTHS + 1, 6))
        yield _section("Cost over time", chart, language)
    ranges = [
        (_way_name(way, language), way.total_usd.low, way.total_usd.high)
        for way in money.ways
        if way.total_usd is not None
    ]
    if ranges:
        yield _section("Three years by mode, from low to high", plan_charts.ranges(ranges, "USD"), language)
    charts = [_tornado(one, language) for one in money.sensitivity if one.swings]
    if charts:
        yield _section("What moves the three-year cost", "".join(charts), language, breaks=True)
    yield _section("Break-even against APIs", _paragraphs(list(money_lines(money, language))), language)


def _tornado(one: Sensitivity, language: str) -> str:
    bars = [
        (swing_name(swing, language), swing.low_usd, swing.high_usd) for swing in one.swings[:SWINGS_SHOWN]
    ]
    title = f"{word(one.mode, language)}: {sentence(one.how, language)}"
    chart = plan_charts.tornado(bars, one.total_usd, "USD")
    return f'<div class="chart"><h3>{escape(title)}</h3>{chart}</div>'


def _way_name(way: Way, language: str) -> str:
    return f"{word(way.mode, language)}: {sentence(way.how, language)}"


def _section(title: str, inside: str, language: str, *, breaks: bool = False) -> str:
    kind = ' class="long"' if breaks else ""
    return f"<section{kind}><h2>{escape(word(title, language))}</h2>{inside}</section>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], language: str) -> str:
    head = "".join(f"<th>{escape(word(column, language))}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _dim(text: str) -> str:
    return f'<p class="dim">{escape(text)}</p>'
