"""Each hard rule applied and just not applied; each contradiction found and, a little changed, not."""

from __future__ import annotations

import msgspec
import pytest

from sextant.planner.advise import advise
from sextant.spec.advice import Advice, Requirements
from sextant.spec.advice_data import modes_data

DATA = modes_data()


def names(advice: Advice) -> list[str]:
    return [rule.rule for rule in advice.rules]


def found(advice: Advice) -> list[str]:
    return [one.key for one in advice.contradictions]


RULES = [
    ("data-stays", {"stays": "network"}, {"stays": "country"}),
    ("data-stays", {"stays": "site"}, {"stays": "anywhere"}),
    ("edge-latency", {"latency_ms": 49.9, "network": "none"}, {"latency_ms": 50.0, "network": "none"}),
    (
        "edge-latency",
        {"latency_ms": 10.0, "network": "none"},
        {"latency_ms": 10.0, "network": "intermittent"},
    ),
    ("swinging-load", {"swing": 3.0}, {"swing": 2.99}),
    ("fast-iteration", {"releases": "weekly"}, {"releases": "monthly"}),
    ("fast-iteration", {"releases": "daily"}, {"releases": "quarterly"}),
    ("small-budget", {"upfront_usd": 49_999.0}, {"upfront_usd": 50_000.0}),
    ("small-budget", {"monthly_usd": 2_899.0}, {"monthly_usd": 2_900.0}),
    (
        "small-budget",
        {"upfront_usd": 1_000.0, "monthly_usd": 1_000.0},
        {"upfront_usd": 1_000.0, "monthly_usd": 9_000.0},
    ),
    ("no-network", {"network": "none"}, {"network": "intermittent"}),
    ("restricted-data", {"data": "restricted"}, {"data": "confidential"}),
    (
        "profile-manufacturing",
        {"profile": "manufacturing"},
        {"profile": "manufacturing", "latency_ms": 201.0},
    ),
    ("profile-logistics", {"profile": "logistics"}, {"profile": "government"}),
]


@pytest.mark.parametrize(("rule", "applies", "not_quite"), RULES, ids=lambda value: str(value)[:40])
def test_a_rule_applies_and_just_does_not(
    rule: str, applies: dict[str, object], not_quite: dict[str, object]
) -> None:
    advice = advise(Requirements(**applies), DATA)  # type: ignore[arg-type]
    assert rule in names(advice)
    assert rule not in names(advise(Requirements(**not_quite), DATA))  # type: ignore[arg-type]
    applied = next(one for one in advice.rules if one.rule == rule)
    by_mode = {one.mode: one for one in advice.ranking}
    assert all(rule in by_mode[mode].led_by for mode in applied.leads)
    assert all(rule in by_mode[mode].excluded_by and by_mode[mode].rank is None for mode in applied.excludes)
    assert applied.leads or applied.excludes


def test_every_rule_is_exercised() -> None:
    profiles = {f"profile-{name}" for name, own in DATA.profile.items() if own.leads or own.excludes}
    assert {rule for rule, _, _ in RULES} == {*DATA.rule, *profiles}


@pytest.mark.parametrize(
    ("asked", "mode"),
    [
        ({"latency_ms": 40.0, "network": "none"}, "edge"),
        ({"swing": 4.0}, "saas"),
        ({"swing": 4.0, "data": "restricted", "team": "expert"}, "hybrid"),
        ({"releases": "daily"}, "container"),
        ({"monthly_usd": 500.0, "data": "confidential"}, "saas"),
        ({"data": "restricted", "stays": "site", "team": "expert"}, "on-prem"),
        ({"data": "confidential"}, "private-cloud"),
        # Two rules for SaaS, one for the hybrid beside it.
        ({"swing": 4.0, "upfront_usd": 10_000.0, "data": "confidential"}, "saas"),
    ],
    ids=str,
)
def test_what_is_advised(asked: dict[str, object], mode: str) -> None:
    assert advise(Requirements(**asked), DATA).first == mode  # type: ignore[arg-type]


def test_a_rule_stands_above_the_score_and_that_is_said() -> None:
    advice = advise(Requirements(latency_ms=40.0, network="none"), DATA)
    assert advice.first == "edge"
    assert advice.ranking[0].score < advice.ranking[1].score
    assert "why.rules-over-score" in [one.key for one in advice.ranking[0].why]
    assert "why-not.led" in [one.key for one in advice.ranking[1].why]


LOAD = {"requests_per_s": 2.0, "input_tokens": 1000, "output_tokens": 200}

CONTRADICTIONS = [
    ("rules", {"monthly_usd": 500.0, "stays": "site"}, {"stays": "country"}),
    ("rules", {"swing": 5.0, "network": "none"}, {"network": "stable"}),
    ("regulation", {"regulation": ("hipaa",), "data": "internal"}, {"data": "restricted"}),
    ("profile", {"profile": "healthcare", "stays": "country"}, {"stays": "site"}),
    ("restricted-anywhere", {"data": "restricted", "stays": "anywhere"}, {"stays": "country"}),
    ("public-stays", {"data": "public", "stays": "site"}, {"stays": "country"}),
    ("offline-releases", {"network": "none", "releases": "daily"}, {"releases": "monthly"}),
    ("latency-length", {"latency_ms": 50.0, "output_tokens": 500}, {"output_tokens": 400}),
    ("latency-saas", {"latency_ms": 49.0}, {"latency_ms": 50.0}),
    ("investment", {"upfront_usd": 10_000.0, "data": "restricted"}, {"upfront_usd": 100_000.0}),
    ("load-budget", {**LOAD, "monthly_usd": 10_000.0}, {"requests_per_s": 1.0}),
    ("load-budget", {**LOAD, "monthly_usd": 0.0}, {"monthly_usd": None}),
    ("team", {"team": "novice", "data": "restricted", "stays": "site"}, {"team": "capable"}),
]


@pytest.mark.parametrize(("key", "asked", "changed"), CONTRADICTIONS, ids=lambda value: str(value)[:40])
def test_a_contradiction_is_found_and_its_twin_is_not(
    key: str, asked: dict[str, object], changed: dict[str, object]
) -> None:
    wrong = Requirements(**asked)  # type: ignore[arg-type]
    assert f"contradiction.{key}" in found(advise(wrong, DATA))
    assert f"contradiction.{key}" not in found(advise(msgspec.structs.replace(wrong, **changed), DATA))


def test_the_load_as_saas_in_numbers() -> None:
    """2 requests/s of 1,200 tokens are 6,307.2 million tokens in 730 hours, 18,922 USD at 3 USD a million."""
    advice = advise(Requirements(**LOAD, monthly_usd=10_000.0), DATA)  # type: ignore[arg-type]
    said = next(one for one in advice.contradictions if one.key == "contradiction.load-budget")
    assert said.values["costs"] == 18_922


def test_a_regulation_raises_what_is_not_said_and_what_is() -> None:
    silent = advise(Requirements(regulation=("pipl", "hipaa")), DATA)
    assert (silent.effective.data, silent.effective.stays) == ("restricted", "country")
    assert found(silent) == []
    assert [one.key for one in silent.assumed].count("assumed.regulation") == 3
    spoken = advise(Requirements(regulation=("pipl",), data="public", stays="site"), DATA)
    assert (spoken.effective.data, spoken.effective.stays) == ("confidential", "site")
    assert found(spoken) == ["contradiction.regulation"]


def test_what_a_regulation_raises_is_not_said_to_stand() -> None:
    """Against the profile it would stand as said, and it does not: one sentence, not two that disagree."""
    advice = advise(Requirements(profile="healthcare", regulation=("hipaa",), data="public"), DATA)
    assert advice.effective.data == "restricted"
    assert found(advice) == ["contradiction.regulation"]


def test_what_the_user_says_stands_against_the_profile() -> None:
    advice = advise(Requirements(profile="finance", data="internal", stays="anywhere", team="novice"), DATA)
    effective = advice.effective
    assert (effective.data, effective.stays, effective.team) == ("internal", "anywhere", "novice")
    assert found(advice) == ["contradiction.profile", "contradiction.profile"]


@pytest.mark.parametrize("stays", ["network", "site"])
def test_a_private_cloud_must_be_where_the_data_stays(stays: str) -> None:
    advice = advise(Requirements(data="confidential", stays=stays, swing=2.9), DATA)  # type: ignore[arg-type]
    assert advice.first == "private-cloud"
    assert f"note.private-cloud.{stays}" in [one.key for one in advice.notes]


def test_saas_in_the_country_is_minded() -> None:
    advice = advise(Requirements(stays="country"), DATA)
    assert advice.first == "saas"
    assert "note.provider.country" in [one.key for one in advice.notes]


def test_a_swing_that_would_change_the_advice_is_named() -> None:
    advice = advise(Requirements(profile="finance"), DATA)
    swings = [(one.value, one.mode) for one in advice.changes if one.requirement == "swing"]
    assert swings == [(3.5, "private-cloud")]
    assert advise(Requirements(profile="finance", swing=3.4), DATA).first == "on-prem"
    assert advise(Requirements(profile="finance", swing=3.5), DATA).first == "private-cloud"


def test_no_change_goes_below_what_a_regulation_asks() -> None:
    advice = advise(Requirements(regulation=("hipaa",)), DATA)
    assert [one for one in advice.changes if one.requirement == "data"] == []


def test_a_tie_is_said() -> None:
    advice = advise(Requirements(data="confidential", swing=4.0), DATA)
    assert [one.mode for one in advice.ranking[:2]] == ["saas", "hybrid"]
    assert advice.ranking[0].score == advice.ranking[1].score
    assert advice.ranking[0].why[-1].key == "why.tie"
