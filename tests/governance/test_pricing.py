"""The price book against a slow plain reference in fractions, and the figures that are promised by name."""

from __future__ import annotations

import datetime
import itertools
import time
import zoneinfo
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.base.errors import Misconfigured
from sextant.governance.pricing import LocalClock, PriceBook, Rated
from sextant.spec.billing_data import builtin_plans
from sextant.spec.policy import PPM, OffPeak, Price, PricePlan, TenantPolicy, VolumeStep
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.usage import UsageRow

UTC = datetime.UTC
NOON_MS = 1_795_348_800_000  # 2026-11-22 12:00 UTC
ROW = UsageRow(
    request_id="r1",
    tenant_id="acme",
    project_id="p",
    key_id="k",
    model="deepseek-chat",
    endpoint="chat.completions",
    outcome="ok",
    started_ms=NOON_MS,
    duration_ms=1,
    ttft_ms=1,
    input_tokens=0,
    output_tokens=0,
    cached_tokens=0,
    reasoning_tokens=0,
    estimated=False,
)


def row(**changes: Any) -> UsageRow:
    return msgspec.structs.replace(ROW, **changes)


def ms(text: str, zone: str = "UTC", fold: int = 0) -> int:
    local = datetime.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone), fold=fold)
    return int(local.timestamp() * 1000)


def price(model: str = "*", nano: int = 3_000_000_000, **changes: Any) -> Price:
    return msgspec.structs.replace(Price(model, nano, nano, nano, nano), **changes)


def book(*prices: Price, volume: tuple[VolumeStep, ...] = (), **tenant: Any) -> PriceBook:
    plan = PricePlan("plan", "USD", prices, volume)
    who: dict[str, Any] = {"billing": "prepaid", "plan": "plan", "currency": "USD", **tenant}
    return PriceBook(PolicySnapshot(1, tenants=(TenantPolicy("acme", "Acme", **who),), plans=(plan,)))


STANDARD = {plan.id: plan for plan in builtin_plans()}["standard"]
MILLION = 1_000_000


def standard(**tenant: Any) -> PriceBook:
    return book(*STANDARD.prices, volume=STANDARD.volume, **tenant)


# ---- what is promised by name ----------------------------------------------------------------------------


def test_a_thousand_tokens_cost_three_thousandths() -> None:
    assert standard().rate(row(input_tokens=600, output_tokens=400), 0) == Rated(3_000_000, 3_000_000, "USD")


def test_a_token_beyond_the_line_costs_1800() -> None:
    rated = standard().rate(row(input_tokens=1), 100 * MILLION)
    assert rated == Rated(1_800, 3_000, "USD")


@pytest.mark.parametrize(
    ("before", "cost"),
    [
        (100 * MILLION - 2, 6_000),
        (100 * MILLION - 1, 3_000 + 1_800),
        (100 * MILLION, 3_600),
        (100 * MILLION + 1, 3_600),
    ],
)
def test_a_request_across_the_line_is_split_at_the_token(before: int, cost: int) -> None:
    assert standard().rate(row(input_tokens=1, output_tokens=1), before).cost_nano == cost


def test_cached_input_comes_first_then_input_then_reasoning_then_output() -> None:
    """Prices of 1, 10, 100 and 1000 a token, five of each sort, half price from the seventh token on."""
    prices = Price("*", 10 * MILLION, MILLION, 1000 * MILLION, 100 * MILLION)
    rated = book(prices, volume=(VolumeStep(6, PPM // 2),)).rate(
        row(input_tokens=10, cached_tokens=5, output_tokens=10, reasoning_tokens=5), 0
    )
    assert rated.cost_nano == 5 * 1 + 1 * 10 + (4 * 10 + 5 * 100 + 5 * 1000) // 2
    assert rated.list_nano == 5 + 50 + 500 + 5000


def test_several_lines_in_one_request() -> None:
    volume = (VolumeStep(20, 100_000), VolumeStep(10, 500_000))  # given in any order
    rated = book(price(nano=1000 * MILLION), volume=volume).rate(row(output_tokens=30), 0)
    assert rated.cost_nano == 10 * 1000 + 10 * 500 + 10 * 100


def test_what_is_not_billed() -> None:
    used = {"input_tokens": 1000, "output_tokens": 1000}
    free = Rated(0, 0, "CNY")
    assert standard(billing="free", currency="CNY").rate(row(**used), 0) == free
    assert standard(plan="", currency="CNY").rate(row(**used), 0) == free
    assert standard().rate(row(tenant_id="nobody", **used), 0).cost_nano == 0
    for outcome in ("engine_error", "refused"):
        assert standard().rate(row(outcome=outcome, **used), 0) == Rated(0, 0, "USD")
    assert standard().rate(row(outcome="client_closed", **used), 0).cost_nano == 6_000_000
    assert book(price("other")).rate(row(**used), 0) == Rated(0, 0, "USD")
    assert [standard().billing(who) for who in ("acme", "nobody")] == ["prepaid", "free"]
    assert book(price("other")).most_nano("acme", "deepseek-chat", 1, 1, NOON_MS) is None
    assert book(price("other")).most_nano("acme", "other", 1, 1, NOON_MS)
    assert standard(billing="free").most_nano("acme", "anything", 1, 1, NOON_MS) == 0


@pytest.mark.parametrize(("tokens", "cost"), [(1, 0), (3, 2), (5, 2), (7, 4), (9, 4), (11, 6)])
def test_halves_go_to_the_even_neighbour(tokens: int, cost: int) -> None:
    """Half a nano a token: 0.5, 1.5, 2.5, 3.5, … once a row, not once a token."""
    assert book(price(nano=500_000)).rate(row(output_tokens=tokens), 0).cost_nano == cost


def test_the_parts_are_rounded_together() -> None:
    each = {"input_tokens": 2, "cached_tokens": 1, "output_tokens": 2, "reasoning_tokens": 1}
    assert book(price(nano=400_000)).rate(row(**each), 0).cost_nano == 2  # 4 × 0.4, not 4 × 0


def test_huge_numbers_stay_exact() -> None:
    tokens = 10**18 + 7
    rated = standard().rate(row(input_tokens=tokens), 0)
    assert rated.list_nano == tokens * 3_000
    assert rated.cost_nano == 100 * MILLION * 3_000 + (tokens - 100 * MILLION) * 1_800


def test_a_part_is_never_more_than_its_whole() -> None:
    rated = standard().rate(row(input_tokens=5, cached_tokens=9, output_tokens=1, reasoning_tokens=4), 0)
    assert rated.cost_nano == 6 * 3_000


def test_a_request_has_a_price_of_its_own() -> None:
    windows = (OffPeak(0, 1439, "UTC", PPM // 2),)
    with_fee = book(price(nano=0, request_nano=70, off_peak=windows), volume=(VolumeStep(0, 0),))
    assert with_fee.rate(ROW, 0) == Rated(35, 70, "USD")


# ---- which price, when -------------------------------------------------------------------------------------


def test_a_price_holds_from_its_first_moment_to_the_one_before_its_last() -> None:
    prices = (
        price(nano=1 * MILLION, valid_from_ms=1000, valid_until_ms=2000),
        price(nano=2 * MILLION, valid_from_ms=2000),
        price("deepseek-chat", nano=9 * MILLION, valid_from_ms=3000, valid_until_ms=4000),
    )
    costs = {
        at: book(*prices).rate(row(started_ms=at, output_tokens=1), 0).cost_nano
        for at in (999, 1000, 1999, 2000, 2999, 3000, 3999, 4000)
    }
    assert costs == {999: 0, 1000: 1, 1999: 1, 2000: 2, 2999: 2, 3000: 9, 3999: 9, 4000: 2}
    assert book(*prices).rate(row(model="x", started_ms=3500, output_tokens=1), 0).cost_nano == 2


def test_the_newer_of_two_open_prices_holds() -> None:
    older, newer = price(nano=1 * MILLION), price(nano=2 * MILLION, valid_from_ms=2000)
    for prices in ((older, newer), (newer, older)):
        assert book(*prices).rate(row(started_ms=1999, output_tokens=1), 0).cost_nano == 1
        assert book(*prices).rate(row(started_ms=2000, output_tokens=1), 0).cost_nano == 2


def halved(from_minute: int, until_minute: int, zone: str) -> PriceBook:
    return book(price(nano=2 * MILLION, off_peak=(OffPeak(from_minute, until_minute, zone, PPM // 2),)))


@pytest.mark.parametrize(
    ("local", "cost"),
    [
        ("23:29", 2),
        ("23:30", 1),
        ("23:59:59.999", 1),
        ("00:00", 1),
        ("07:29:59", 1),
        ("07:30", 2),
        ("12:00", 2),
    ],
)
def test_a_window_over_midnight(local: str, cost: int) -> None:
    """DeepSeek's own off-peak hours were of this shape: 00:30 to 08:30 Beijing time is 16:30 to 00:30 UTC."""
    at = ms(f"2026-11-22T{local}", "Asia/Shanghai")
    assert halved(23 * 60 + 30, 7 * 60 + 30, "Asia/Shanghai").rate(
        row(started_ms=at, output_tokens=1), 0
    ) == Rated(cost, 2, "USD")


def test_a_window_follows_the_clock_on_the_wall() -> None:
    """02:00 to 03:00 does not exist on the spring day and comes twice on the autumn day."""
    night = halved(2 * 60, 3 * 60, "Europe/Berlin")

    def minutes(first: str, last: str) -> int:
        return sum(
            night.rate(row(started_ms=at, output_tokens=1), 0).cost_nano == 1
            for at in range(ms(first, "Europe/Berlin"), ms(last, "Europe/Berlin"), 60_000)
        )

    assert minutes("2026-03-29T00:00", "2026-03-30T00:00") == 0
    assert minutes("2026-10-25T00:00", "2026-10-26T00:00") == 120
    assert minutes("2026-11-22T00:00", "2026-11-23T00:00") == 60


def test_the_first_open_window_counts() -> None:
    windows = (OffPeak(0, 60, "UTC", PPM // 2), OffPeak(0, 120, "UTC", PPM // 4))
    prices = book(price(nano=4 * MILLION, off_peak=windows))
    costs = [
        prices.rate(row(started_ms=ms(f"2026-11-22T{at}"), output_tokens=1), 0).cost_nano
        for at in ("00:30", "01:30", "02:30")
    ]
    assert costs == [2, 1, 4]


# ---- days and months ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "at", "expected"),
    [
        ("UTC", "2026-11-30T23:59:59.999", (20261130, 202611)),
        ("UTC", "2026-12-01T00:00", (20261201, 202612)),
        ("Asia/Shanghai", "2026-11-30T15:59:59.999", (20261130, 202611)),
        ("Asia/Shanghai", "2026-11-30T16:00", (20261201, 202612)),
        ("America/New_York", "2026-11-01T03:59:59", (20261031, 202610)),
        ("America/New_York", "2026-11-01T04:00", (20261101, 202611)),
        ("America/New_York", "2026-12-01T04:59:59", (20261130, 202611)),
        ("America/New_York", "2026-12-01T05:00", (20261201, 202612)),
        ("Asia/Kathmandu", "2026-12-31T18:14:59", (20261231, 202612)),
        ("Asia/Kathmandu", "2026-12-31T18:15", (20270101, 202701)),
        ("Pacific/Kiritimati", "2026-12-31T10:00", (20270101, 202701)),
    ],
)
def test_the_month_is_that_of_the_tenant(zone: str, at: str, expected: tuple[int, int]) -> None:
    assert standard(time_zone=zone).day_and_month("acme", ms(at)) == expected
    assert standard(time_zone=zone).day_and_month("nobody", ms("2026-12-01T00:00")) == (20261201, 202612)


def test_the_bounds_of_a_month_are_its_first_and_last_moment() -> None:
    for zone in ("UTC", "Asia/Shanghai", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe"):
        clock = LocalClock(zone)
        for month in (202603, 202610, 202611, 202612):
            first, after = clock.month_bounds_ms(month)
            assert [clock.day_and_month(at)[1] == month for at in (first - 1, first, after - 1, after)] == [
                False,
                True,
                True,
                False,
            ]


@pytest.mark.slow
def test_no_zone_changes_its_clock_inside_a_minute() -> None:
    """What the clock's memory rests on, for every zone of the database until 2037."""
    wrong = []
    for name in sorted(zoneinfo.available_timezones()):
        zone = zoneinfo.ZoneInfo(name)
        wrong += [name for at in jumps(zone, 2020, 2038) if at % 60]
    assert wrong == []


def jumps(zone: zoneinfo.ZoneInfo, first_year: int, last_year: int) -> Iterator[int]:
    """The seconds at which a zone's offset changes, found by halving."""

    def offset_s(at: int) -> float:
        offset = datetime.datetime.fromtimestamp(at, zone).utcoffset()
        assert offset is not None
        return offset.total_seconds()

    step = 15 * 86_400
    low = int(datetime.datetime(first_year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime.datetime(last_year, 1, 1, tzinfo=UTC).timestamp())
    while low < end:
        if offset_s(low) != offset_s(low + step):
            left, right = low, low + step
            while right - left > 1:
                middle = (left + right) // 2
                left, right = (middle, right) if offset_s(middle) == offset_s(left) else (left, middle)
            yield right
        low += step


@given(
    at=st.integers(min_value=ms("2015-01-01"), max_value=ms("2037-12-31")),
    zone=st.sampled_from(
        [
            "UTC",
            "Asia/Shanghai",
            "America/St_Johns",
            "America/Sao_Paulo",
            "Australia/Lord_Howe",
            "Africa/Cairo",
        ]
    ),
)
def test_the_clock_agrees_with_the_plain_one(at: int, zone: str) -> None:
    local = datetime.datetime.fromtimestamp(at / 1000, zoneinfo.ZoneInfo(zone))
    clock = LocalClock(zone)
    for _ in range(2):  # looked up, then remembered
        assert clock.day_and_month(at) == (int(f"{local:%Y%m%d}"), int(f"{local:%Y%m}"))
        assert clock.minute(at) == local.hour * 60 + local.minute


# ---- against the reference --------------------------------------------------------------------------------

COUNTS = st.one_of(st.integers(0, 300), st.integers(0, 10**9), st.integers(0, 10**15))
NANOS = st.one_of(st.integers(0, 2_000_000), st.integers(0, 10**13))
PPMS = st.one_of(st.sampled_from([0, PPM // 2, PPM, 600_000, 2 * PPM]), st.integers(0, 3 * PPM))
MINUTES = st.integers(0, 1439)
WINDOWS = st.builds(
    OffPeak, MINUTES, MINUTES, st.sampled_from(["UTC", "Asia/Shanghai", "Europe/Berlin"]), PPMS
)
PRICES = st.builds(
    Price,
    model=st.just("*"),
    input_nano_per_mtok=NANOS,
    cached_nano_per_mtok=NANOS,
    output_nano_per_mtok=NANOS,
    reasoning_nano_per_mtok=NANOS,
    request_nano=NANOS,
    off_peak=st.lists(WINDOWS, max_size=2).map(tuple),
)
STEPS = st.lists(st.builds(VolumeStep, COUNTS, PPMS), max_size=3, unique_by=lambda one: one.over_tokens).map(
    tuple
)
ROWS = st.builds(
    row,
    started_ms=st.integers(ms("2026-01-01"), ms("2027-12-31")),
    input_tokens=COUNTS,
    output_tokens=COUNTS,
    cached_tokens=COUNTS,
    reasoning_tokens=COUNTS,
)


def reference(
    one: UsageRow, of: Price, steps: tuple[VolumeStep, ...], before: int
) -> tuple[Fraction, Fraction]:
    """The exact cost and list price, by cutting the month's tokens at every line."""
    cached, reasoning = min(one.cached_tokens, one.input_tokens), min(one.reasoning_tokens, one.output_tokens)
    parts = [
        (cached, of.cached_nano_per_mtok),
        (one.input_tokens - cached, of.input_nano_per_mtok),
        (reasoning, of.reasoning_nano_per_mtok),
        (one.output_tokens - reasoning, of.output_nano_per_mtok),
    ]
    cost = listed = Fraction(0)
    for count, nano in parts:
        cuts = sorted(
            {
                before,
                before + count,
                *(s.over_tokens for s in steps if before < s.over_tokens < before + count),
            }
        )
        for start, end in itertools.pairwise(cuts):
            passed = [step for step in steps if step.over_tokens <= start]
            factor = max(passed, key=lambda step: step.over_tokens).factor_ppm if passed else PPM
            cost += Fraction((end - start) * nano * factor, MILLION * PPM)
        listed += Fraction(count * nano, MILLION)
        before += count
    window = PPM
    for candidate in reversed(of.off_peak):
        local = datetime.datetime.fromtimestamp(one.started_ms / 1000, zoneinfo.ZoneInfo(candidate.time_zone))
        minute, low, high = local.hour * 60 + local.minute, candidate.from_minute, candidate.until_minute
        if (low <= minute < high) if low <= high else not (high <= minute < low):
            window = candidate.factor_ppm
    return (cost + of.request_nano) * Fraction(window, PPM), listed + of.request_nano


def half_even(exact: Fraction) -> int:
    with localcontext() as context:
        context.prec = 80
        return int(
            (Decimal(exact.numerator) / Decimal(exact.denominator)).quantize(Decimal(1), ROUND_HALF_EVEN)
        )


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(one=ROWS, of=PRICES, steps=STEPS, before=COUNTS)
def test_rating_agrees_with_fractions(
    one: UsageRow, of: Price, steps: tuple[VolumeStep, ...], before: int
) -> None:
    cost, listed = reference(one, of, steps, before)
    prices = book(of, volume=steps)
    rated = prices.rate(one, before)
    assert rated == Rated(half_even(cost), half_even(listed), "USD")
    most = prices.most_nano("acme", one.model, one.input_tokens, one.output_tokens, one.started_ms)
    assert most is not None and rated.cost_nano <= most


@given(tokens=st.lists(st.integers(0, 60 * MILLION), min_size=1, max_size=8))
def test_a_month_costs_the_same_however_it_is_cut(tokens: list[int]) -> None:
    """With the standard prices no row is rounded, so the order and cut of requests cannot matter."""
    prices, before, total = standard(), 0, 0
    for count in tokens:
        total += prices.rate(row(output_tokens=count), before).cost_nano
        before += count
    assert total == prices.rate(row(output_tokens=before), 0).cost_nano


def test_a_bound_that_is_met_is_no_larger_than_it_must_be() -> None:
    assert standard().most_nano("acme", "m", 10, 5, NOON_MS) == 15 * 3_000
    assert book(price(nano=1)).most_nano("acme", "m", 1, 0, NOON_MS) == 1  # a millionth of a nano, rounded up
    assert standard(billing="free").most_nano("acme", "m", 10, 5, NOON_MS) == 0
    assert standard().most_nano("nobody", "m", 10, 5, NOON_MS) == 0


# ---- what is refused, and how fast it is -------------------------------------------------------------------


def test_a_policy_that_names_no_plan_or_zone_of_the_world_is_refused() -> None:
    with pytest.raises(Misconfigured, match=r"tenant acme is charged by the plan 'gone'.*it has plan"):
        standard(plan="gone")
    for zone in ("Mars/Olympus", "../etc/passwd", "", "/etc/passwd"):
        with pytest.raises(Misconfigured, match="no time zone"):
            standard(time_zone=zone)
    with pytest.raises(Misconfigured, match="no time zone"):
        halved(0, 1, "Nowhere")


@pytest.mark.timing
def test_rating_is_fast() -> None:
    """Under 5 µs of CPU a row at the standard prices with a volume line (2.2 µs where this was written)."""
    prices, one, rounds = (
        standard(time_zone="Asia/Shanghai"),
        row(input_tokens=900, output_tokens=300),
        10_000,
    )

    def once_us() -> float:
        started = time.thread_time()
        for _ in range(rounds):
            prices.rate(one, 50 * MILLION)
        return (time.thread_time() - started) / rounds * 1e6

    assert min(once_us() for _ in range(10)) < 5
