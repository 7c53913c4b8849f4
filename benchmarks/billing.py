"""`make bench-billing`: reports over a ledger of a million rows: invoices, usage pages, a budget's state.

The ledger is a real one, written through the product's own code with the shipped prices: a month of requests,
half of them of one tenant, the rest spread over nineteen; a price changes in the middle of a day, so that an
invoice has to look at single rows too. Each question opens the ledger anew, as control does. SQLite in a
temporary folder, or PostgreSQL with `--store URL` (an empty database that the benchmark may fill).
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.processes import stop_cleanly_on_sigterm
from sextant.governance.pricing import PriceBook
from sextant.operations.invoice_files import invoice_file
from sextant.operations.invoices import invoice_of, tenant_estimate
from sextant.spec.billing_data import builtin_plans, builtin_tiers
from sextant.spec.policy import NANO, Price, PricePlan, TenantPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.transfer import CASH, Transfer, prepaid_account
from sextant.spec.usage import UsageRow
from sextant.store.ledger_file import LedgerFile
from sextant.store.ledger_reading import LedgerView, ledger_view
from sextant.store.statements import UsageQuery, usage_lines

ROWS = {"short": 100_000, "full": 1_000_000}
BATCH_ROWS = 5_000
TENANTS = 20
PROJECTS = 4
KEYS = 8
MODELS = ("deepseek-chat", "deepseek-reasoner", "sextant-nano")
FIRST_MS = 1_793_491_200_000
"""2026-11-01 00:00 UTC."""
MONTH_MS = 30 * 86_400_000
MONTH = 202611
CHANGE_MS = FIRST_MS + 14 * 86_400_000 + 12_345_678
REPEATS = 7
INVOICE_S = 2.0
PAGE_MS = 100.0
SEED = 20261122


def policy() -> PolicySnapshot:
    """Twenty tenants on the shipped plan, whose price rises by a tenth in the middle of the month."""
    plan = builtin_plans()[0]
    nano = plan.prices[0].input_nano_per_mtok * 11 // 10
    risen = Price("*", nano, nano, nano, nano, valid_from_ms=CHANGE_MS)
    plans = (PricePlan(plan.id, plan.currency, (*plan.prices, risen), plan.volume, plan.package_factor_ppm),)
    tenants = tuple(
        TenantPolicy(
            id=f"t{number}",
            name=f"Tenant {number}",
            tier="enterprise",
            billing="prepaid",
            plan=plan.id,
            currency="USD",
        )
        for number in range(TENANTS)
    )
    return PolicySnapshot(1, tenants=tenants, tiers=builtin_tiers(), plans=plans)


def rows(count: int) -> Iterator[UsageRow]:
    """Requests in the order of their time; every second one is the first tenant's."""
    dice = random.Random(SEED)
    for number in range(count):
        tenant = 0 if number % 2 == 0 else dice.randrange(1, TENANTS)
        project = dice.randrange(PROJECTS)
        yield UsageRow(
            request_id=f"req_{number:012d}",
            tenant_id=f"t{tenant}",
            project_id=f"t{tenant}.p{project}",
            key_id=f"t{tenant}.p{project}.k{dice.randrange(KEYS)}",
            model=MODELS[dice.randrange(len(MODELS))],
            endpoint="chat.completions",
            outcome="ok" if dice.random() < 0.9995 else "engine_error",
            started_ms=FIRST_MS + number * MONTH_MS // count,
            duration_ms=900,
            ttft_ms=120,
            input_tokens=dice.randrange(50, 1500),
            output_tokens=dice.randrange(10, 800),
            cached_tokens=dice.randrange(50),
            reasoning_tokens=dice.randrange(10),
            estimated=False,
        )


def fill(ledger: Any, count: int) -> float:
    """Writes the rows; returns rows a second."""
    rates = PriceBook(policy())
    top_ups = [
        Transfer(f"top{number}", "top-up", CASH, prepaid_account(f"t{number}"), 10**6 * NANO, "USD", FIRST_MS)
        for number in range(TENANTS)
    ]
    ledger.post(top_ups, rates)
    started_s = time.perf_counter()
    batch: list[UsageRow] = []
    for row in rows(count):
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            ledger.append(batch, rates)
            batch = []
    if batch:
        ledger.append(batch, rates)
    return count / (time.perf_counter() - started_s)


def questions() -> dict[str, Callable[[LedgerView], object]]:
    """What is asked, by the name of its figure."""
    of, now_ms = policy(), FIRST_MS + MONTH_MS + 2 * 3_600_000
    page = UsageQuery(first_day=20261101, last_day=20261130)
    middle_ms = FIRST_MS + 20 * 86_400_000
    return {
        "invoice_of_half_the_rows": lambda view: invoice_of(view, of, "t0", MONTH, now_ms=now_ms),
        "invoice_of_a_small_tenant": lambda view: invoice_of(view, of, "t7", MONTH, now_ms=now_ms),
        "usage_page_all_sides": lambda view: usage_lines(view, page),
        "usage_page_of_a_tenant": lambda view: usage_lines(
            view, UsageQuery(20261101, 20261130, by=("day", "model"), tenant_id="t0")
        ),
        "usage_page_by_model": lambda view: usage_lines(
            view, UsageQuery(20261101, 20261130, by=("tenant", "model"))
        ),
        "estimate_of_the_month": lambda view: tenant_estimate(view, of.tenants[0], now_ms=middle_ms),
    }


def measure(location: str | Path) -> dict[str, tuple[float, float]]:
    """Each question's best of some repetitions, in milliseconds by the clock and of this process's CPU, each
    with a view of its own."""
    found = {}
    for name, ask in questions().items():
        times = []
        for _ in range(REPEATS):
            started_s, cpu_s = time.perf_counter(), time.process_time()
            with ledger_view(location) as view:
                ask(view)
            times.append(((time.perf_counter() - started_s) * 1e3, (time.process_time() - cpu_s) * 1e3))
        found[name] = (min(one[0] for one in times), min(one[1] for one in times))
    with ledger_view(location) as view:
        invoice = invoice_of(view, policy(), "t0", MONTH, now_ms=FIRST_MS + 2 * MONTH_MS)
    for form in ("html", "pdf", "csv"):
        started_s, cpu_s = time.perf_counter(), time.process_time()
        invoice_file(invoice, form, "zh")  # type: ignore[arg-type]
        taken_s = time.perf_counter() - started_s
        found[f"invoice_as_{form}"] = (taken_s * 1e3, (time.process_time() - cpu_s) * 1e3)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.billing")
    parser.add_argument("--form", choices=("short", "full"), default="full")
    parser.add_argument("--store", default="", help="postgresql://…, an empty database; else SQLite")
    given = parser.parse_args()
    stop_cleanly_on_sigterm()
    count = ROWS[given.form]
    with tempfile.TemporaryDirectory(prefix="sextant-bench-") as folder:
        location: str | Path = given.store or Path(folder) / "ledger.db"
        if given.store:
            from sextant.store.ledger_postgres import LedgerDatabase

            ledger: Any = LedgerDatabase(given.store)
        else:
            ledger = LedgerFile(location)
        filled_per_s = fill(ledger, count)
        ledger.close()
        figures = measure(location)
    print(
        f"{count:,} rows in {'PostgreSQL' if given.store else 'SQLite'}, written {filled_per_s:,.0f} a second"
    )
    print(f"{'':>28} {'ms':>8} {'CPU ms':>8}   best of {REPEATS}, load average {os.getloadavg()[0]:.1f}")
    for name, (taken_ms, cpu_ms) in figures.items():
        print(f"{name:>28} {taken_ms:8.1f} {cpu_ms:8.1f}")
    invoices = [best[0] for name, best in figures.items() if name.startswith("invoice_of")]
    pages = [best[0] for name, best in figures.items() if name.startswith("usage_page")]
    goals = [
        Goal("slowest_invoice_s", max(invoices) / 1e3, INVOICE_S, at_least=False),
        Goal("slowest_usage_page_ms", max(pages), PAGE_MS, at_least=False),
    ]
    print(
        last_line(
            "billing", {"rows": count, **{name: round(best[0], 2) for name, best in figures.items()}}, goals
        )
    )
    return exit_code(goals)


if __name__ == "__main__":
    sys.exit(main())
