"""A plan on the terminal: the options, the one that is shown in detail, and with `--explain` each number's
formula and source. The words are in `plan_words.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from sextant.cli.output import out
from sextant.cli.plan_answer import Answer, Shown
from sextant.cli.plan_asked import described
from sextant.cli.plan_words import ASSUMPTIONS, sentence, word
from sextant.planner.money import Money, Swing
from sextant.spec.planning import Cost, Estimate, Layout, MemoryUse, Option, Plan

OPTIONS_SHOWN = 12
GIB = 1024**3
MEMORY_PARTS = (
    ("weights", "weights_bytes"),
    ("KV cache", "kv_cache_bytes"),
    ("activations", "activations_bytes"),
    ("runtime", "runtime_bytes"),
    ("graphs", "graphs_bytes"),
    ("fragmentation", "fragmentation_bytes"),
    ("reserve", "reserve_bytes"),
)
ELLIPSIS = "-"
WAY_COLUMNS = (
    *("mode", "how", "up front", "per month", "three years", "output tokens per USD"),
    "not known or left out",
)


def show(answer: Answer, language: str, *, explain: bool) -> None:
    """Prints all of it."""
    plan = answer.plan
    console = out()
    asked = plan.question
    console.print(
        f"[bold]{escape(asked.architecture.id)}[/] {asked.precision}, KV {asked.kv_precision}, "
        f"{asked.engine}; {escape(sentence(described(asked.workload), language))}"
    )
    if plan.options:
        _options(plan, language)
    else:
        console.print(f"\n[red]{word('No option meets this.', language)}[/]")
    if answer.shown is not None:
        _detail(plan, answer.shown, language)
    if plan.refusals:
        console.print(f"\n[bold]{word('Closest, and what to give up', language)}[/]")
        for refusal in plan.refusals:
            console.print(
                f"  {refusal.accelerator.id}: {sentence(refusal.first_break.text, language)}", markup=False
            )
            console.print(f"    → {sentence(refusal.give_up, language)}", markup=False)
    for warning in warnings_of(answer):
        console.print(f"[yellow]![/] {escape(sentence(warning, language))}")
    if explain:
        from sextant.cli.plan_explain import show_working

        show_working(answer, language)


def warnings_of(answer: Answer) -> list[str]:
    """Of the plan and of the option that is shown, each once."""
    found = list(answer.plan.warnings)
    if answer.shown is not None:
        option = answer.plan.options[answer.shown.index]
        found += [*option.warnings, *option.speed.warnings]
        places, most = answer.shown.places, answer.shown.requests_per_s_simulated
        if places.wait_ms_p99 is None:
            found.append(
                f"{places.places} requests find a place at once; they carry "
                f"{number(places.requests_per_s_most)} requests/s, less than what arrives at the peak"
            )
        if most is not None:
            found.append(
                f"a target is missed when requests arrive as unevenly as in {answer.shown.waits_from}: "
                f"so, this option carries {number(most)} requests/s"
            )
    return list(dict.fromkeys(found))


def layout_text(layout: Layout) -> str:
    """`TP8 DP2 EP8`, or both halves of a split."""
    if layout.prefill is not None and layout.decode is not None:
        return f"P[{layout_text(layout.prefill)}] D[{layout_text(layout.decode)}]"
    parts = [f"TP{layout.tp}"]
    for name, value in (
        ("PP", layout.pp),
        ("DP", layout.dp),
        ("EP", layout.ep),
        ("attn-DP", layout.attention_dp),
    ):
        if value > 1:
            parts.append(f"{name}{value}")
    return " ".join(parts)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 0.095:
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{value:.4f}".rstrip("0").rstrip(".")


def banded(estimate: Estimate | None) -> str:
    """`value (low-high)`; a dash where it is not known."""
    if estimate is None:
        return ELLIPSIS
    if estimate.low == estimate.high:
        return number(estimate.value)
    return f"{number(estimate.value)} ({number(estimate.low)}-{number(estimate.high)})"


def option_cells(plan: Plan, index: int, language: str) -> list[str]:
    """One row of the table of options."""
    option = plan.options[index]
    titles = [
        word(title, language)
        for title, which in (
            ("cheapest", plan.cheapest), ("fastest", plan.fastest), ("most efficient", plan.most_efficient)
        )
        if which == index
    ]  # fmt: skip
    cost = option.cost
    return [
        option.accelerator.id,
        str(option.count),
        layout_text(option.layout),
        banded(option.speed.ttft_ms),
        banded(option.speed.tpot_ms),
        number(option.speed.requests_per_s_max.value),
        _hour(cost, language),
        number(cost.usd_per_mtok.value) if cost and cost.usd_per_mtok else ELLIPSIS,
        word(option.speed.tpot_ms.basis, language),
        ", ".join(titles),
    ]


def _hour(cost: Cost | None, language: str) -> str:
    """What an hour costs, and whether that is of what is bought: it then leaves out what is not stated."""
    if cost is None or cost.usd_per_h is None:
        return ELLIPSIS
    bought = cost.usd_per_h.formula.startswith("bought")
    return number(cost.usd_per_h.value) + (f" {word('bought', language)}" if bought else "")


OPTION_COLUMNS = (
    "accelerator", "count", "layout", "TTFT ms", "TPOT ms", "max req/s", "USD/h", "USD/Mtok", "basis", "",
)  # fmt: skip


def options_shown(plan: Plan) -> list[int]:
    """Indexes of the options worth a row: the named ones, then by price."""
    named = [index for index in (plan.cheapest, plan.fastest, plan.most_efficient) if index is not None]

    def rank(index: int) -> tuple[bool, float]:
        cost = plan.options[index].cost
        known = cost is not None and cost.usd_per_h is not None
        return not known, cost.usd_per_h.value if cost and cost.usd_per_h else plan.options[index].count

    rest = sorted(range(len(plan.options)), key=rank)
    return list(dict.fromkeys([*named, *rest]))[:OPTIONS_SHOWN]


def memory_rows(use: MemoryUse) -> list[tuple[str, int]]:
    """(part, bytes) of one accelerator, what is free last."""
    rows = [(name, int(getattr(use, field))) for name, field in MEMORY_PARTS]
    used = sum(size for _, size in rows)
    return [*rows, ("free", max(0, use.capacity_bytes - used))]


def _options(plan: Plan, language: str) -> None:
    console = out()
    table = Table(box=None, pad_edge=False)
    for column in OPTION_COLUMNS:
        table.add_column(word(column, language), justify="left", no_wrap=True)
    for index in options_shown(plan):
        table.add_row(*(escape(cell) for cell in option_cells(plan, index, language)))
    console.print()
    console.print(table)
    hidden = len(plan.options) - OPTIONS_SHOWN
    more = f"{hidden} {word('more', language)}: --json. " if hidden > 0 else ""
    console.print(f"[dim]{more}{word('The numbers in brackets hold 80 % of the time.', language)}[/]")


def _detail(plan: Plan, shown: Shown, language: str) -> None:
    console = out()
    option = plan.options[shown.index]
    heading = f"{option.count} x {option.accelerator.title}, {layout_text(option.layout)}"
    console.print(f"\n[bold]{escape(heading)}[/]  {escape(sentence(option.layout.why, language))}")
    parts = ", ".join(f"{word(name, language)} {size / GIB:.1f}" for name, size in memory_rows(option.memory))
    console.print(f"{word('Memory of one accelerator', language)} (GiB): {parts}", markup=False)
    if shown.waits is not None:
        seen = shown.waits
        console.print(
            f"{word('Waiting, simulated', language)} (p50 / p99): TTFT {number(seen.ttft_ms_p50)} / "
            f"{number(seen.ttft_ms_p99)} ms, "
            f"TPOT {number(seen.tpot_ms_p50)} / {number(seen.tpot_ms_p99)} ms; "
            f"{number(seen.end_to_end_ms_p50)} / {number(seen.end_to_end_ms_p99)} ms "
            f"{word('in all', language)}",
            markup=False,
        )
    console.print(host_line(option, language), markup=False)
    _precisions(plan, language)
    _money(shown.money, language)


def host_line(option: Option, language: str) -> str:
    """What each server of the option must have beside its accelerators."""
    host = option.host
    network = None if host.network_bytes_per_s is None else host.network_bytes_per_s * 8 / 1e9
    parts = (
        (host.cpu_sockets, "CPU sockets"),
        (host.memory_bytes and host.memory_bytes / GIB, "GiB of memory"),
        (host.storage_bytes and host.storage_bytes / GIB, "GiB of disk"),
        (network, "Gbit/s between servers"),
    )
    said = ", ".join(f"{value:,.0f} {word(name, language)}" for value, name in parts if value)
    return f"{word('Each server needs', language)}: {said}"


PRECISION_COLUMNS = ("precision", "GiB of weights", "", "expected loss of accuracy")


def precision_cells(plan: Plan, language: str) -> list[list[str]]:
    """A row for each way to keep the weights."""
    return [
        [
            choice.precision,
            f"{choice.weights_bytes / GIB:,.3g}" if choice.weights_bytes < GIB else
            f"{choice.weights_bytes / GIB:,.0f}",
            word("measured" if choice.measured else "computed", language),
            sentence(choice.accuracy, language),
        ]
        for choice in plan.precisions
    ]  # fmt: skip


def _precisions(plan: Plan, language: str) -> None:
    console = out()
    console.print(f"\n[bold]{word('Precisions', language)}[/]")
    table = Table(box=None, pad_edge=False)
    for column in PRECISION_COLUMNS:
        table.add_column(word(column, language), no_wrap=True)
    for row in precision_cells(plan, language):
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def _money(money: Money, language: str) -> None:
    console = out()
    console.print(f"\n[bold]{word('Three years by mode', language)}[/] (USD)")
    table = Table(box=None, pad_edge=False)
    for column in WAY_COLUMNS:
        table.add_column(word(column, language), no_wrap=True)
    for way in money.ways:
        table.add_row(*(escape(cell) for cell in way_cells(way, language)))
    console.print(table)
    for line in (*money_lines(money, language), *swing_lines(money, language)):
        console.print(line, markup=False)


def way_cells(way: Any, language: str) -> list[str]:
    """One row of the table of modes."""
    return [
        word(way.mode, language),
        sentence(way.how, language),
        banded(way.upfront_usd),
        banded(way.usd_per_month),
        banded(way.total_usd),
        ELLIPSIS if way.tokens_per_usd is None else f"{way.tokens_per_usd:,.0f}",
        sentence("; ".join(way.missing), language),
    ]


def money_lines(money: Money, language: str) -> Iterator[str]:
    """Break-even, energy and savings, a sentence each."""
    for one in money.break_evens:
        sold = "" if one.sold else f" ({word('no longer sold', language)})"
        from_load = word("never at this capacity", language)
        if one.tokens_per_s is not None and one.capacity_share is not None:
            from_load = (
                f"{word('cheaper here from', language)} {number(one.tokens_per_s)} "
                f"{word('output tok/s', language)} ({one.capacity_share:.0%} {word('of capacity', language)})"
            )
        yield (
            f"{one.api}{sold}: {word('there, per month', language)} {number(one.api_usd_per_month)}, "
            f"{word('here, per month', language)} {number(one.own_usd_per_month)} USD; {from_load}"
        )
    energy = money.energy
    yield (
        f"{word('Energy', language)} {word('per million output tokens', language)}: "
        f"{banded(energy.kwh_per_mtok)} kWh, {banded(energy.co2_g_per_mtok)} g CO2 (PUE {energy.pue:g}); "
        f"{number(energy.liquid_kwh_per_mtok)} kWh, "
        f"{word('liquid cooling', language)} (PUE {energy.liquid_pue:g}); "
        f"{word('power', language)} {banded(energy.watts)} W"
    )
    cap = money.capping
    yield (
        f"{word('capping off-peak', language)} {number(cap.from_w)} -> {number(cap.to_w)} W, "
        f"{cap.hours_per_day:g} h: "
        f"{word('saves', language)} {banded(cap.usd_per_year)} USD {word('a year', language)}"
    )
    tuning = money.fine_tuning
    said = f"all weights on {tuning.all_weights} accelerators, LoRA on {tuning.lora}"
    yield f"{word('fine-tuning', language)}: {sentence(said, language)}"
    spot = money.spot_training
    if spot is not None:
        yield (
            f"{word('spot training', language)}: {spot.spot_usd_per_h:.2f} / "
            f"{spot.on_demand_usd_per_h:.2f} USD/h, "
            f"x{spot.slowdown.value:.2f}; {word('saves', language)} {spot.saving_share.value:.0%} "
            f"({spot.saving_share.low:.0%} {word('to', language)} {spot.saving_share.high:.0%})"
        )


def swing_lines(money: Money, language: str) -> Iterator[str]:
    """For each mode the assumption that moves its three years most."""
    for one in money.sensitivity:
        if one.swings:
            most = one.swings[0]
            ends = sorted((most.low_usd, most.high_usd))
            yield (
                f"{word('moves most', language)}: {word(one.mode, language)} "
                f"({sentence(one.how, language)}): {swing_name(most, language)}: "
                f"{number(ends[0])}-{number(ends[1])} USD"
            )


def swing_name(swing: Swing, language: str) -> str:
    """An assumption with its two ends."""
    return f"{word(ASSUMPTIONS[swing.assumption], language)} {number(swing.low)}-{number(swing.high)}"
