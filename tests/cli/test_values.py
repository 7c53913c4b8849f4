"""What people type for limits, amounts, factors and times."""

from __future__ import annotations

from typing import Any

import pytest

from sextant.base.errors import BadRequest
from sextant.cli import values


def test_limits_are_put_over_those_before() -> None:
    before: dict[str, Any] = {"requests_per_s": 5.0, "tokens_per_day": 7, "spend_nano_per_month": None}
    given = ["requests-per-s=2.5", "tokens_per_day=none", "spend_per_month=12.50", "tokens_per_min=1_000_000"]
    assert values.limits_of(given, before) == {
        "requests_per_s": 2.5,
        "spend_nano_per_month": 12_500_000_000,
        "tokens_per_min": 1_000_000,
    }
    assert before == {"requests_per_s": 5.0, "tokens_per_day": 7, "spend_nano_per_month": None}


def test_limits_read_as_they_are_typed() -> None:
    given = ["requests_per_s=0.5", "burst_requests=3", "concurrent_requests=0", "spend_per_month=0.003"]
    shown = values.limits_shown(values.limits_of(given))
    assert shown == ", ".join(given)
    assert values.limits_of(shown.split(", ")) == values.limits_of(given)
    assert values.limits_shown({"burst_requests": 0, "tokens_per_min": None}) == "none"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("requests=5", "expected NAME=VALUE, with NAME one of requests_per_s"),
        ("tokens_per_min", "expected NAME=VALUE"),
        ("tokens_per_min=many", "expected a whole number from 0, or none"),
        ("tokens_per_min=1.5", "expected a whole number"),
        ("requests_per_s=-1", "expected a number from 0"),
        ("requests_per_s=nan", "expected a number from 0"),
        ("requests_per_s=inf", "expected a number from 0"),
        ("spend_per_month=1e3", "write a decimal as 12.50"),
    ],
)
def test_wrong_limits_say_what_was_expected(option: str, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        values.limits_of([option])
    assert said in caught.value.message


def test_amounts() -> None:
    assert values.amount_nano("1_234.5") == 1_234_500_000_000
    assert values.amount(1_234_500_000_000, "USD") == "1234.50 USD"
    assert values.amount(-3_000_000) == "-0.003"


@pytest.mark.parametrize("text", ["12,50", "1,234.5", "0,01", "1,000"])
def test_a_comma_may_be_a_decimal_point_and_is_not_guessed(text: str) -> None:
    with pytest.raises(BadRequest, match="write a decimal as"):
        values.amount_nano(text)
    with pytest.raises(BadRequest, match="expected a number from 0"):
        values.limits_of([f"requests_per_s={text}"])


@pytest.mark.parametrize("text", ["0", "-5", "0.00", "4611686019", "999999999999999"])
def test_money_that_moves_is_more_than_nothing_and_fits_the_books(text: str) -> None:
    with pytest.raises(BadRequest, match="expected more than 0 and at most 4611686018"):
        values.paid_nano(text)


def test_factors_months_and_moments() -> None:
    assert values.factor_ppm("0.6", "--volume") == 600_000
    assert values.month_of("2026-12") == "2026-12"
    assert values.moment_ms("2026-12-01", "--from") == 1_796_083_200_000
    assert values.moment_ms("2026-12-01T08:00+08:00", "--from") == 1_796_083_200_000
    for wrong in (
        lambda: values.factor_ppm("half", "--volume"),
        lambda: values.factor_ppm("0.1234567", "--volume"),
        lambda: values.month_of("2026-13"),
        lambda: values.month_of("2026-1"),
        lambda: values.moment_ms("tomorrow", "--from"),
        lambda: values.day_of("2026-02-30", "--since"),
    ):
        with pytest.raises(BadRequest, match="expected"):
            wrong()


def test_a_part_of_a_path_stays_one() -> None:
    assert values.path_part("a/../b?c") == "a%2F..%2Fb%3Fc"
