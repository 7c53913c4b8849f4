"""An invoice as it is read: titles, facts, tables and notes in English or Chinese, the same for every format.

Neighbours: `invoices.py` (the figures), `invoice_files.py` (HTML, PDF and CSV of this).
"""

from __future__ import annotations

import datetime
import zoneinfo
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal, get_args

import msgspec

from sextant.base.errors import BadRequest
from sextant.operations.invoices import Invoice, InvoiceLine, Sums
from sextant.spec.money import decimal_of
from sextant.spec.policy import NANO, Price
from sextant.spec.transfer import Transfer

Language = Literal["en", "zh"]

_WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "invoice": "Invoice",
        "preview": "Preview: the month is not over, figures will change",
        "final": "Final",
        "number": "Number",
        "tenant": "Tenant",
        "month": "Month",
        "period": "Period",
        "state": "State",
        "made": "Made",
        "plan": "Price plan",
        "billing": "Billing",
        "free": "free",
        "prepaid": "prepaid",
        "postpaid": "postpaid",
        "usage": "Usage",
        "project": "Project",
        "model": "Model",
        "from": "Price from",
        "requests": "Requests",
        "input": "Input",
        "cached": "of it cached",
        "output": "Output",
        "reasoning": "of it reasoning",
        "prices": "Price per million tokens",
        "list": "List price",
        "charged": "Charged",
        "total": "Total",
        "summary": "Summary",
        "amount": "Amount",
        "currency": "Currency",
        "list_total": "Usage at list price",
        "discount": "Volume steps and off-peak hours",
        "packages": "Taken from packages",
        "balance": "Taken from the balance",
        "receivable": "To be paid later",
        "sla_credit": "Credit for missed availability",
        "due": "Due",
        "due_rounded": "Due, rounded to a hundredth",
        "paid": "Paid from",
        "account": "Account",
        "movements": "Account movements",
        "at": "Time",
        "kind": "Kind",
        "note": "Note",
        "availability": "Availability",
        "promised": "Promised",
        "reached": "Reached",
        "failed": "Failed requests",
        "credit_share": "Credit, share of charges",
        "volume_note": "{beyond} of the month's {tokens} tokens are beyond the volume line.",
        "estimate_note": "Estimate for the whole month: {amount} (an estimate: {basis}, {days} days seen).",
        "basis_none": "what was spent so far",
        "basis_linear": "mean of the days seen",
        "basis_weekday": "mean of each weekday",
        "posted_note": "The credit for missed availability is in the books.",
        "unposted_note": "The credit for missed availability is not in the books yet.",
        "exact_note": "Amounts are exact sums of the ledger. Engine failures and refusals are not charged.",
        "none": "none",
    },
    "zh": {
        "invoice": "账单",
        "preview": "预览:本月尚未结束,数字仍会变化",
        "final": "正式",
        "number": "编号",
        "tenant": "租户",
        "month": "月份",
        "period": "账期",
        "state": "状态",
        "made": "生成时间",
        "plan": "价格方案",
        "billing": "计费方式",
        "free": "免费",
        "prepaid": "预付费",
        "postpaid": "后付费",
        "usage": "用量",
        "project": "项目",
        "model": "模型",
        "from": "价格生效",
        "requests": "请求数",
        "input": "输入",
        "cached": "其中缓存命中",
        "output": "输出",
        "reasoning": "其中推理",
        "prices": "每百万 token 单价",
        "list": "原价",
        "charged": "应计",
        "total": "合计",
        "summary": "汇总",
        "amount": "金额",
        "currency": "币种",
        "list_total": "按原价计的用量",
        "discount": "用量阶梯与低谷时段优惠",
        "packages": "由套餐抵扣",
        "balance": "由余额抵扣",
        "receivable": "待后付",
        "sla_credit": "可用性未达标补偿",
        "due": "应付",
        "due_rounded": "应付(四舍六入五成双至分)",
        "paid": "付款来源",
        "account": "账户",
        "movements": "账户变动",
        "at": "时间",
        "kind": "类型",
        "note": "备注",
        "availability": "可用性",
        "promised": "承诺",
        "reached": "实际",
        "failed": "失败请求",
        "credit_share": "补偿比例",
        "volume_note": "本月 {tokens} 个 token 中有 {beyond} 个超出用量阶梯。",
        "estimate_note": "全月估算:{amount}(仅为估算:{basis},依据 {days} 天)。",
        "basis_none": "截至目前的花费",
        "basis_linear": "已知各天的平均",
        "basis_weekday": "各星期几的平均",
        "posted_note": "可用性补偿已入账。",
        "unposted_note": "可用性补偿尚未入账。",
        "exact_note": "金额为账本的精确合计;引擎故障与被拒绝的请求不计费。",
        "none": "无",
    },
}


class Table(msgspec.Struct, frozen=True):
    """`numbers` are the columns that stand to the right."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int]
    total: tuple[str, ...] = ()


class Sheet(msgspec.Struct, frozen=True):
    """A whole invoice as text."""

    language: Language
    title: str
    is_final: bool
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]


def sheet_of(invoice: Invoice, language: Language = "en", issuer: str = "") -> Sheet:
    """`invoice` in words. `issuer` is who writes it. Raises BadRequest for another language."""
    if language not in get_args(Language):
        raise BadRequest(f"there is no invoice in {language!r}; there is en and zh", field="language")
    words = _WORDS[language]
    tables = [_usage(invoice, words), _summary(invoice, words)]
    if invoice.paid:
        tables.append(_paid(invoice, words))
    if invoice.movements:
        tables.append(_movements(invoice, words))
    if invoice.availability is not None:
        tables.append(_availability(invoice, words))
    return Sheet(
        language=language,
        title=f"{words['invoice']} {_month(invoice.month)}" + (f" · {issuer}" if issuer else ""),
        is_final=invoice.state == "final",
        facts=_facts(invoice, words),
        tables=tuple(tables),
        notes=tuple(_notes(invoice, words)),
    )


def _facts(invoice: Invoice, words: dict[str, str]) -> tuple[tuple[str, str], ...]:
    zone = invoice.time_zone
    period = f"{_moment(invoice.from_ms, zone)} – {_moment(invoice.until_ms, zone)} ({zone})"
    return (
        (words["number"], invoice.number),
        (words["tenant"], f"{invoice.tenant_name} ({invoice.tenant_id})"),
        (words["period"], period),
        (words["state"], words[invoice.state]),
        (words["plan"], invoice.plan or words["none"]),
        (words["billing"], words[invoice.billing]),
        (words["made"], _moment(invoice.made_ms, zone)),
    )


def _usage(invoice: Invoice, words: dict[str, str]) -> Table:
    heads = ("project", "model", "from", "requests", "input", "cached", "output", "reasoning", "prices")
    rows = tuple(_usage_row(line, invoice.time_zone) for line in invoice.lines)
    sums = [line.totals for line in invoice.lines]
    total = (
        words["total"],
        "",
        "",
        f"{sum(one.requests for one in sums):,}",
        f"{sum(one.input_tokens for one in sums):,}",
        f"{sum(one.cached_tokens for one in sums):,}",
        f"{sum(one.output_tokens for one in sums):,}",
        f"{sum(one.reasoning_tokens for one in sums):,}",
        "",
        *(" ".join(_money(getattr(one, name), one.currency) for one in invoice.sums) for name in _USAGE_SUMS),
    )
    return Table(
        title=words["usage"],
        heads=(*(words[head] for head in heads), words["list"], words["charged"]),
        rows=rows,
        numbers=frozenset(range(3, 11)),
        total=total,
    )


_USAGE_SUMS = ("list_nano", "cost_nano")


def _usage_row(line: InvoiceLine, zone: str) -> tuple[str, ...]:
    totals = line.totals
    return (
        line.project_name or line.project_id or "–",
        line.model,
        _moment(line.from_ms, zone),
        f"{totals.requests:,}",
        f"{totals.input_tokens:,}",
        f"{totals.cached_tokens:,}",
        f"{totals.output_tokens:,}",
        f"{totals.reasoning_tokens:,}",
        _prices(line.price),
        _money(totals.list_nano, line.currency),
        _money(totals.cost_nano, line.currency),
    )


def _prices(price: Price | None) -> str:
    """Input, cached input, output, reasoning; one figure where they are the same."""
    if price is None:
        return "–"
    each = (
        price.input_nano_per_mtok,
        price.cached_nano_per_mtok,
        price.output_nano_per_mtok,
        price.reasoning_nano_per_mtok,
    )
    shown = [decimal_of(nano) for nano in (each if len(set(each)) > 1 else each[:1])]
    return " / ".join(shown) + (f" + {decimal_of(price.request_nano)}" if price.request_nano else "")


def _summary(invoice: Invoice, words: dict[str, str]) -> Table:
    rows: list[tuple[str, ...]] = []
    for sums in invoice.sums:
        rows += _summary_rows(invoice, sums, words)
    return Table(words["summary"], ("", words["amount"]), tuple(rows), frozenset({1}))


def _summary_rows(invoice: Invoice, sums: Sums, words: dict[str, str]) -> list[tuple[str, ...]]:
    amounts = [
        ("list_total", sums.list_nano),
        ("discount", -sums.discount_nano),
        ("total", sums.cost_nano),
        ("packages", -sums.packages_nano),
        ("balance", -sums.prepaid_nano),
        ("sla_credit", -sums.sla_credit_nano if invoice.billing == "postpaid" else 0),
        ("due", sums.due_nano),
    ]
    shown: list[tuple[str, ...]] = [
        (words[name], _money(nano, sums.currency))
        for name, nano in amounts
        if nano or name in ("list_total", "total", "due")
    ]
    if sums.due_nano % (NANO // 100):
        cents = (Decimal(sums.due_nano) / NANO).quantize(Decimal("0.01"), ROUND_HALF_EVEN)
        shown.append((words["due_rounded"], f"{cents} {sums.currency}"))
    return shown


def _paid(invoice: Invoice, words: dict[str, str]) -> Table:
    kinds = {"prepaid": words["balance"], "receivable": words["receivable"]}
    rows = []
    for part in invoice.paid:
        kind, _, package = part.account.partition(":")[2].partition(":")[2].partition(":")
        rows.append(
            (kinds.get(kind, f"{words['packages']}: {package}"), _money(part.amount_nano, part.currency))
        )
    return Table(words["paid"], (words["account"], words["amount"]), tuple(rows), frozenset({1}))


def _movements(invoice: Invoice, words: dict[str, str]) -> Table:
    own = f"tenant:{invoice.tenant_id}:"

    def signed(one: Transfer) -> int:
        return one.amount_nano if one.credit.startswith(own) else -one.amount_nano

    rows = tuple(
        (_moment(one.at_ms, invoice.time_zone), one.kind, one.note, _money(signed(one), one.currency))
        for one in invoice.movements
    )
    heads = (words["at"], words["kind"], words["note"], words["amount"])
    return Table(words["movements"], heads, rows, frozenset({3}))


def _availability(invoice: Invoice, words: dict[str, str]) -> Table:
    found = invoice.availability
    assert found is not None
    heads = ("promised", "reached", "requests", "failed", "credit_share", "sla_credit")
    row = (
        _percent(found.promised_ppm),
        _percent(found.available_ppm),
        f"{found.requests:,}",
        f"{found.failed:,}",
        _percent(found.credit_ppm),
        " ".join(_money(sums.sla_credit_nano, sums.currency) for sums in invoice.sums),
    )
    return Table(words["availability"], tuple(words[head] for head in heads), (row,), frozenset(range(6)))


def _notes(invoice: Invoice, words: dict[str, str]) -> list[str]:
    notes = []
    if invoice.volume_tokens:
        beyond, tokens = f"{invoice.volume_tokens:,}", f"{invoice.month_tokens:,}"
        notes.append(words["volume_note"].format(beyond=beyond, tokens=tokens))
    estimate = invoice.estimate
    if estimate is not None:
        amount = _money(estimate.month_nano, invoice.sums[-1].currency)
        basis = words[f"basis_{estimate.basis}"]
        notes.append(words["estimate_note"].format(amount=amount, basis=basis, days=estimate.days_seen))
    if any(sums.sla_credit_nano for sums in invoice.sums):
        notes.append(words["posted_note" if invoice.sla_credit_posted else "unposted_note"])
    return [*notes, words["exact_note"]]


def _money(nano: int, currency: str) -> str:
    return f"{decimal_of(nano)} {currency}"


def _percent(ppm: int) -> str:
    return f"{decimal_of(ppm * 100_000, 0)} %"


def _month(month: int) -> str:
    return f"{month // 100}-{month % 100:02d}"


def _moment(at_ms: int, zone: str) -> str:
    return f"{datetime.datetime.fromtimestamp(at_ms / 1000, zoneinfo.ZoneInfo(zone)):%Y-%m-%d %H:%M}"
