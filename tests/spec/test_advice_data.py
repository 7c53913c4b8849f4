"""The facts behind the advice: the specified matrix, sources, derived numbers; and reading requirements."""

from __future__ import annotations

import tomllib
from importlib import resources

import msgspec
import pytest

from sextant.base.errors import BadRequest
from sextant.spec.advice import BOUNDS, LEVELS, MODES, Requirements, read_requirements
from sextant.spec.advice_data import modes_data, read_modes

DATA = modes_data()
TEXT = resources.files("sextant.spec").joinpath("data/modes.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("criterion", "stars"),
    [
        ("investment", (5, 4, 3, 2, 2, 1)),
        ("complexity", (5, 4, 3, 2, 2, 1)),
        ("security", (5, 4, 3, 2, 2, 1)),
        ("elasticity", (1, 3, 4, 2, 4, 5)),
        ("threshold", (5, 4, 3, 3, 2, 1)),
    ],
)
def test_the_matrix_is_the_specified_one(criterion: str, stars: tuple[int, ...]) -> None:
    assert tuple(DATA.stars[mode][criterion] for mode in MODES) == stars  # type: ignore[index]


def test_every_fact_has_its_source() -> None:
    assert set(DATA.sources) == {"stars", "weights", "profiles"}
    said = [*DATA.sources.values(), *(one.source for one in DATA.threshold.values())]
    said += [one.source for one in DATA.regulation.values()]
    assert all(len(source) > 30 for source in said)
    assert all(one.unit for one in DATA.threshold.values())
    assert DATA.looked_up.year >= 2026


def test_every_level_has_its_weight_and_every_industry_its_data() -> None:
    assert tuple(DATA.weights.data) == LEVELS["data"]
    assert tuple(DATA.weights.stays) == LEVELS["stays"]
    assert set(DATA.weights.team) == set(LEVELS["team"])
    assert tuple(DATA.profile) == LEVELS["profile"]
    assert set(DATA.regulation) == set(LEVELS["regulation"])
    for weights in (DATA.weights.data, DATA.weights.stays):
        assert list(weights.values()) == sorted(weights.values())


def test_derived_thresholds_are_what_their_sources_say() -> None:
    assert DATA.at("monthly_small_usd") == pytest.approx(2 * 1.99 * 730, rel=0.01)
    assert DATA.at("monthly_large_usd") == pytest.approx(16 * 2.50 * 730, rel=0.01)
    assert DATA.at("token_floor_ms") == pytest.approx(0.9e9 / 7.7e12 * 1000, rel=0.05)
    prices = tomllib.loads(resources.files("sextant.spec").joinpath("data/prices.toml").read_text())
    assert DATA.at("saas_usd_per_mtok") == float(prices["plan"][0]["price"][0]["input_per_mtok"])


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ('leads = ["edge"]\nbasis', 'leads = ["edgy"]\nbasis'),
        ("value = 50.0", 'value = "fifty"'),
        ('basis = "specified"', 'basis = "guessed"'),
        ("swing_most = 8.0", "swing_most = 8.0\nextra = 1"),
    ],
)
def test_a_wrong_fact_is_refused(was: str, becomes: str) -> None:
    assert was in TEXT
    with pytest.raises(msgspec.ValidationError):
        read_modes(TEXT.replace(was, becomes, 1))


def test_requirements_as_typed() -> None:
    read = read_requirements(
        {
            "data": "Restricted",
            "regulation": ["pipl", "PIPL"],
            "upfront-usd": "1_000_000",
            "input_tokens": "1,200",
            "swing": 3,
            "team": None,
        }
    )
    assert read == Requirements(
        data="restricted", regulation=("pipl",), upfront_usd=1e6, input_tokens=1200, swing=3.0
    )
    assert read_requirements({"regulation": "gdpr"}).regulation == ("gdpr",)
    assert read_requirements({}) == Requirements()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sensitivity": "high"}, "sensitivity is no requirement; expected one of profile, data"),
        ({"swnig": 2}, "did you mean swing?"),
        (
            {"data": "restrictd"},
            "data is 'restrictd'; expected one of public, internal, confidential, restric",
        ),
        ({"network": False}, "network is False; expected one of none, intermittent, stable"),
        ({"regulation": 7}, "regulation is 7; expected a list of names"),
        ({"regulation": ["gdrp"]}, "did you mean gdpr?"),
        ({"swing": 0.5}, "swing is 0.5; expected a number from 1 to 10000"),
        ({"swing": "nan"}, "swing is 'nan'"),
        ({"swing": True}, "swing is True"),
        ({"latency_ms": "fast"}, "latency_ms is 'fast'"),
        ({"latency_ms": "inf"}, "latency_ms is 'inf'"),
        ({"upfront_usd": -1}, "upfront_usd is -1; expected a number from 0"),
        ({"input_tokens": 1.5}, "input_tokens is 1.5; expected a whole number"),
        ({"requests_per_s": [1]}, "requests_per_s is [1]"),
    ],
    ids=str,
)
def test_nonsense_is_refused_by_name(given: dict[str, object], said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_requirements(given, name="needs.yaml")
    assert said in refused.value.message
    assert refused.value.message.startswith("needs.yaml: ")
    assert refused.value.field in given


@pytest.mark.parametrize("field", BOUNDS)
def test_bounds_are_inclusive(field: str) -> None:
    for bound in BOUNDS[field]:
        assert getattr(read_requirements({field: bound}), field) == bound
