"""The estimate of a month: what it rests on, and that it never forgets what was spent."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextant.operations.estimate import LOOK_BACK_DAYS, month_estimate
from sextant.spec.policy import PPM

DAY = datetime.timedelta(days=1)
TODAY = datetime.date(2026, 11, 22)  # a Sunday


def costs(days: int, of: object = None, until: datetime.date = TODAY) -> dict[datetime.date, int]:
    """So many whole days before `until`: weekdays at 100, Saturdays and Sundays at 10, or all at `of`."""
    every = [until - DAY * number for number in range(1, days + 1)]
    return {day: (of if isinstance(of, int) else 100 if day.weekday() < 5 else 10) for day in every}


def test_without_a_whole_day_nothing_is_expected() -> None:
    found = month_estimate({TODAY: 70}, TODAY, PPM // 2)
    assert (found.month_nano, found.basis, found.days_seen) == (70, "none", 0)
    assert month_estimate({}, TODAY, 0).month_nano == 0


def test_few_days_count_alike() -> None:
    found = month_estimate({**costs(4, 100), TODAY: 50}, TODAY, PPM // 2)
    assert (found.basis, found.days_seen) == ("linear", 4)
    assert found.month_nano == 4 * 100 + 50 + 50 + 8 * 100


def test_a_day_without_use_is_a_day() -> None:
    """Seen on the 18th, nothing since: the mean is of four days, three of them empty."""
    found = month_estimate({TODAY - 4 * DAY: 400}, TODAY, 0)
    assert (found.days_seen, found.month_nano) == (4, 400 + 100 + 8 * 100)


def test_from_two_weeks_on_each_weekday_counts_for_itself() -> None:
    found = month_estimate(costs(14), TODAY, 0)
    assert (found.basis, found.days_seen) == ("weekday", 14)
    spent = 10 * 100 + 4 * 10
    coming = 10 + 5 * 100 + 2 * 10 + 100  # Sunday, the week, the weekend, Monday the 30th
    assert found.month_nano == spent + coming
    assert month_estimate(costs(13), TODAY, 0).basis == "linear"


def test_the_month_before_is_looked_at_but_not_counted() -> None:
    first = datetime.date(2026, 12, 1)
    found = month_estimate(costs(28, until=first), first, 0)
    weekend = sum((first + DAY * number).weekday() >= 5 for number in range(31))
    assert found.month_nano == (31 - weekend) * 100 + weekend * 10


def test_what_is_long_ago_is_not_looked_at() -> None:
    old = {TODAY - DAY * (LOOK_BACK_DAYS + 1): 10**9}
    assert month_estimate(old, TODAY, 0).basis == "none"


def test_the_last_moment_of_a_month_is_what_was_spent() -> None:
    last = datetime.date(2026, 11, 30)
    assert month_estimate({**costs(20, 100, last), last: 7}, last, PPM).month_nano == 20 * 100 + 7


@pytest.mark.parametrize(
    "today", [datetime.date(2028, 2, 29), datetime.date(2026, 2, 28), datetime.date(2026, 12, 31)]
)
def test_months_of_all_lengths_end(today: datetime.date) -> None:
    spent = sum(cost for day, cost in costs(20, until=today).items() if day.month == today.month)
    assert month_estimate(costs(20, until=today), today, PPM).month_nano == spent


@given(
    given_costs=st.dictionaries(st.integers(-60, 0), st.integers(0, 10**18), max_size=40),
    day=st.integers(0, 27),
    elapsed_ppm=st.integers(0, PPM),
)
def test_never_less_than_spent_and_never_beyond_the_dearest_day(
    given_costs: dict[int, int], day: int, elapsed_ppm: int
) -> None:
    today = datetime.date(2026, 11, 1) + DAY * day
    found = {today + DAY * offset: cost for offset, cost in given_costs.items()}
    spent = sum(cost for one, cost in found.items() if (one.year, one.month) == (2026, 11))
    estimate = month_estimate(found, today, elapsed_ppm).month_nano
    assert spent <= estimate <= spent + 30 * max([*found.values(), 0])
