"""The tiers and prices that come along are those of the specification; nonsense in such a file is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextant.base.errors import BadRequest, Misconfigured
from sextant.spec.billing_data import (
    SlaCredit,
    builtin_plans,
    builtin_tiers,
    read_plans,
    read_sla_credits,
    read_tiers,
    sla_credits,
)
from sextant.spec.money import decimal_of, nano_of

TIERS = {tier.id: tier for tier in builtin_tiers()}
PLAN = """
[[plan]]
id = "a"
currency = "USD"
[[plan.price]]
model = "*"
input_per_mtok = "3.00"
cached_per_mtok = "0.30"
output_per_mtok = "6"
reasoning_per_mtok = "6"
"""
TIER = '[[tier]]\nid = "a"\nkinds = ["text"]\n'


def test_the_tiers_are_those_of_the_specification() -> None:
    assert list(TIERS) == ["internal", "free", "professional", "enterprise"]
    assert TIERS["free"].limits.requests_per_s == 5.0
    assert TIERS["free"].kinds == ("text",)
    assert TIERS["professional"].pool == "professional"
    assert {"image", "audio"} <= set(TIERS["professional"].kinds)
    assert TIERS["enterprise"].own_models
    assert TIERS["enterprise"].sla_ppm == 999_000
    assert TIERS["internal"].limits == msgspec.structs.replace(TIERS["internal"].limits, requests_per_s=None)
    assert {"text", "image", "audio", "embeddings", "rerank"} == set(TIERS["internal"].kinds)


def test_the_prices_are_those_of_the_specification() -> None:
    standard, twin = builtin_plans()
    assert (standard.id, standard.currency, twin.id, twin.currency) == (
        "standard",
        "USD",
        "standard-cny",
        "CNY",
    )
    for plan, nano in ((standard, 3_000), (twin, 21_000)):
        (price,) = plan.prices
        assert price.input_nano_per_mtok == price.output_nano_per_mtok == nano * 1_000_000
        assert price.cached_nano_per_mtok == price.reasoning_nano_per_mtok == nano * 1_000_000
        assert plan.package_factor_ppm == 500_000
        assert [(step.over_tokens, step.factor_ppm) for step in plan.volume] == [(100_000_000, 600_000)]


def test_a_missed_sla_gives_back_more_the_worse_it_was() -> None:
    steps = sla_credits()
    assert steps[0] == SlaCredit(999_000, 100_000)
    assert [step.below_ppm for step in steps] == sorted((step.below_ppm for step in steps), reverse=True)
    assert [step.credit_ppm for step in steps] == sorted(step.credit_ppm for step in steps)
    text = (
        TIER + '[[sla_credit]]\nbelow = "95"\ncredit = "100"\n[[sla_credit]]\nbelow = "99.95"\ncredit = "5"\n'
    )
    assert read_sla_credits(text) == (SlaCredit(999_500, 50_000), SlaCredit(950_000, 1_000_000))


def test_a_plan_with_figures_that_make_no_sense_is_refused() -> None:
    assert read_plans(PLAN)[0].prices[0].cached_nano_per_mtok == 300_000_000
    with pytest.raises(Misconfigured, match=r"the price of \* is negative"):
        read_plans(PLAN.replace('"6"', '"-6"', 1))
    with pytest.raises(BadRequest, match="'3e5' is no amount"):
        read_plans(PLAN.replace("3.00", "3e5"))
    with pytest.raises(Misconfigured, match="plan a comes twice"):
        read_plans(PLAN + PLAN)
    with pytest.raises(Misconfigured, match=r"plan a: package_factor is 1\.5; expected 0 to 1"):
        read_plans(PLAN.replace('"USD"', '"USD"\npackage_factor = "1.5"'))
    with pytest.raises(msgspec.ValidationError, match="unknown field `input`"):
        read_plans(PLAN.replace("input_per_mtok", "input"))


def test_a_tier_with_figures_that_make_no_sense_is_refused() -> None:
    credit = '[[sla_credit]]\nbelow = "99"\ncredit = "1"\n'
    assert read_tiers(TIER + credit)[0].weight == 1
    with pytest.raises(Misconfigured, match="weight 0"):
        read_tiers(TIER + "weight = 0\n" + credit)
    with pytest.raises(Misconfigured, match="tier a: sla is 101; expected 0 to 100"):
        read_tiers(TIER + 'sla = "101"\n' + credit)
    with pytest.raises(msgspec.ValidationError, match="smell"):
        read_tiers(TIER.replace("text", "smell") + credit)


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0),
        ("3", 3 * 10**9),
        ("0.003", 3 * 10**6),
        ("-1.5", -(15 * 10**8)),
        ("0.000000001", 1),
        ("-0", 0),
    ],
)
def test_decimals_become_billionths(text: str, nano: int) -> None:
    assert nano_of(text) == nano


@pytest.mark.parametrize(
    "text", ["", ".5", "5.", "1e9", "1,5", " 1", "1\n", "٣", "0.0000000001", "+1", "nan", "9" * 16]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="is no amount") as caught:
        nano_of(text, "amount_usd")
    assert caught.value.field == "amount_usd"


@given(st.integers(-(10**23), 10**23))
def test_an_amount_is_shown_exactly(nano: int) -> None:
    assert nano_of(decimal_of(nano)) == nano


def test_an_amount_is_shown_with_cents() -> None:
    assert [decimal_of(nano) for nano in (0, 5 * 10**9, -1_500_000, 1)] == [
        "0.00",
        "5.00",
        "-0.0015",
        "0.000000001",
    ]
    assert decimal_of(5 * 10**9, 0) == "5"
