"""The advice as a whole: properties of the ranking, golden answers for industries, documents that load."""

from __future__ import annotations

import itertools
import re
import string
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.planner.advice_text import ranking_table, say, sections
from sextant.planner.advise import advise, place, weigh
from sextant.planner.start_document import start_document
from sextant.spec.advice import LEVELS, MODES, Advice, Mode, Requirements
from sextant.spec.advice_data import catalogue, modes_data
from sextant.spec.document import parse_document

GOLDEN = Path(__file__).parent / "golden"
DATA = modes_data()
PROFILES = LEVELS["profile"]
CASES = {
    "finance": Requirements(profile="finance", regulation=("pci-dss",), swing=2.0, upfront_usd=800_000.0),
    "healthcare": Requirements(profile="healthcare", regulation=("pipl",), stays="country", team="novice"),
    "manufacturing": Requirements(
        profile="manufacturing", network="none", latency_ms=40.0, output_tokens=200
    ),
    "government": Requirements(profile="government", regulation=("mlps-3",), releases="weekly"),
    "logistics": Requirements(
        profile="logistics", swing=4.0, requests_per_s=5.0, input_tokens=800, output_tokens=200
    ),
}
"""One case an industry; together they meet every kind of section."""

QUICKLY = settings(max_examples=50)


def maybe(field: str) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(LEVELS[field])


def amounts(most: float) -> st.SearchStrategy[float | None]:
    return st.none() | st.floats(1, most)


REQUIREMENTS = st.builds(
    Requirements,
    profile=maybe("profile"),
    data=maybe("data"),
    stays=maybe("stays"),
    regulation=st.lists(st.sampled_from(LEVELS["regulation"]), unique=True, max_size=3).map(tuple),
    upfront_usd=amounts(2e6),
    monthly_usd=amounts(1e5),
    latency_ms=amounts(1000),
    requests_per_s=amounts(100),
    input_tokens=st.none() | st.integers(1, 10_000),
    output_tokens=st.none() | st.integers(1, 10_000),
    swing=amounts(12),
    network=maybe("network"),
    team=maybe("team"),
    releases=maybe("releases"),
)


def position(advice: Advice, mode: Mode) -> int:
    """A mode's place among six, from 0, excluded or not."""
    return [one.mode for one in advice.ranking].index(mode)


def asked_with(asked: Requirements, **changed: object) -> Advice:
    return advise(msgspec.structs.replace(asked, **changed), DATA)


def pairs(field: str) -> st.SearchStrategy[tuple[str, str]]:
    """Two words of a requirement, the one that stands earlier first."""
    words = LEVELS[field]
    return st.tuples(st.sampled_from(words), st.sampled_from(words)).map(
        lambda pair: tuple(sorted(pair, key=words.index))
    )


@QUICKLY
@given(REQUIREMENTS)
def test_a_ranking_is_whole(asked: Requirements) -> None:
    advice = advise(asked, DATA)
    assert sorted(one.mode for one in advice.ranking) == sorted(MODES)
    in_order = [one for one in advice.ranking if not one.excluded_by]
    assert len(in_order) >= 4
    assert [one.rank for one in advice.ranking] == [*range(1, len(in_order) + 1)] + [None] * (
        6 - len(in_order)
    )
    assert sum(weight.share for weight in advice.weights) == pytest.approx(1)
    for one in advice.ranking:
        assert 0 <= one.score <= 100
        assert sum(one.points.values()) == pytest.approx(one.score, abs=0.1)
        assert one.why
    for better, worse in itertools.pairwise(in_order):
        assert (len(better.led_by), better.score) >= (len(worse.led_by), worse.score)


@QUICKLY
@given(REQUIREMENTS, pairs("data"))
def test_more_sensitive_data_never_ranks_saas_higher(asked: Requirements, data: tuple[str, str]) -> None:
    loose, strict = (asked_with(asked, data=one) for one in data)
    assert position(strict, "saas") >= position(loose, "saas")


@QUICKLY
@given(REQUIREMENTS, pairs("stays"))
def test_data_kept_closer_never_ranks_saas_higher(asked: Requirements, stays: tuple[str, str]) -> None:
    loose, strict = (asked_with(asked, stays=one) for one in stays)
    assert position(strict, "saas") >= position(loose, "saas")


@QUICKLY
@given(REQUIREMENTS, st.sampled_from(LEVELS["regulation"]))
def test_another_regulation_never_ranks_saas_higher(asked: Requirements, regulation: str) -> None:
    before = advise(asked, DATA)
    after = asked_with(asked, regulation=(*asked.regulation, regulation))
    assert position(after, "saas") >= position(before, "saas")


@QUICKLY
@given(REQUIREMENTS, st.sampled_from(["upfront_usd", "monthly_usd"]), st.floats(1, 2e6), st.floats(0, 1))
def test_a_smaller_budget_never_ranks_saas_lower(
    asked: Requirements, field: str, budget_usd: float, share: float
) -> None:
    large, small = (asked_with(asked, **{field: usd}) for usd in (budget_usd, budget_usd * share))
    assert position(small, "saas") <= position(large, "saas")


@QUICKLY
@given(REQUIREMENTS, st.floats(1, 12), st.floats(1, 3))
def test_a_load_that_swings_more_never_ranks_on_premises_higher(
    asked: Requirements, swing: float, factor: float
) -> None:
    steady, swinging = asked_with(asked, swing=swing), asked_with(asked, swing=swing * factor)
    assert position(swinging, "on-prem") >= position(steady, "on-prem")


@QUICKLY
@given(REQUIREMENTS, pairs("team"))
def test_a_better_team_never_ranks_on_premises_lower(asked: Requirements, team: tuple[str, str]) -> None:
    weak, strong = (asked_with(asked, team=one) for one in team)
    assert position(strong, "on-prem") <= position(weak, "on-prem")


@QUICKLY
@given(REQUIREMENTS)
def test_what_is_said_to_change_the_advice_does(asked: Requirements) -> None:
    advice = advise(asked, DATA)
    for change in advice.changes:
        value = change.value
        if isinstance(value, float) and change.requirement != "swing":
            beyond = change.direction == "up" and change.requirement == "latency_ms"
            value = value + 1 if beyond else value if change.direction == "up" else value * 0.999
        other = asked_with(advice.effective, **{change.requirement: value})
        assert other.first == change.mode != advice.first


@QUICKLY
@given(REQUIREMENTS)
def test_every_advice_can_be_said_in_both_languages(asked: Requirements) -> None:
    advice = advise(asked, DATA)
    for language in ("en", "zh"):
        said = sections(advice, catalogue(language))
        assert len(said) >= 5
        assert not [line for one in said for line in one.lines if "{" in line or "@" in line]


@QUICKLY
@given(REQUIREMENTS)
def test_every_document_loads(asked: Requirements) -> None:
    advice = advise(asked, DATA)
    document = parse_document(start_document(advice, catalogue("en")))
    assert document.spec.workload.output_tokens == asked.output_tokens
    assert (document.spec.mode, document.spec.profile) == (advice.first, advice.effective.profile)
    planning = document.spec.planning
    assert planning.end_to_end_ms == pytest.approx(advice.effective.latency_ms)
    assert planning.swing == pytest.approx(advice.effective.swing)
    if advice.first != "saas":
        assert planning.costs.most_usd_per_month == pytest.approx(asked.monthly_usd)


def test_the_document_says_the_mode_and_the_industry() -> None:
    advice = advise(Requirements(profile="logistics", swing=4.0), DATA)
    assert "\n  mode: hybrid\n  profile: logistics\n" in start_document(advice, catalogue("en"))


def test_nothing_said_is_advice_too() -> None:
    advice = advise(Requirements(), DATA)
    assert advice.first == "saas"
    assert {say(one, catalogue("en")) for one in advice.assumed} >= {
        "team: capable",
        "swing of the load: 1.5",
    }


def test_equal_scores_go_to_the_lighter_mode() -> None:
    """With weights 1 for security against investment alone, all modes but one have the same score."""
    weights = weigh(advise(Requirements(), DATA).effective, DATA)
    level = [
        msgspec.structs.replace(one, share=0.5 if one.criterion in ("investment", "security") else 0.0)
        for one in weights
    ]
    placed = place(level, (), DATA)
    assert {round(one.score, 6) for one in placed} == {50.0}
    assert [one.mode for one in placed] == ["saas", "container", "edge", "hybrid", "private-cloud", "on-prem"]


def written(profile: str, language: str) -> str:
    """All that `sextant advise` decides for a case, as text."""
    words = catalogue(language)  # type: ignore[arg-type]
    advice = advise(CASES[profile], DATA)
    columns, rows = ranking_table(advice, words)
    parts = [" | ".join(columns), *(" | ".join(row) for row in rows)]
    for section in sections(advice, words):
        parts += ["", section.title, *(f"  {line}" for line in section.lines)]
    document = start_document(advice, words)
    return "\n".join([*parts, "", document])


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("profile", PROFILES)
def test_the_advice_for_each_industry(profile: str, language: str) -> None:
    golden = GOLDEN / f"advise-{profile}.{language}.txt"
    assert written(profile, language) == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("profile", "mode"),
    [
        ("finance", "on-prem"),
        ("healthcare", "on-prem"),
        ("manufacturing", "edge"),
        ("government", "on-prem"),
        ("logistics", "private-cloud"),
    ],
)
def test_an_industry_alone(profile: str, mode: str) -> None:
    assert advise(Requirements(profile=profile), DATA).first == mode  # type: ignore[arg-type]


def test_both_catalogues_say_the_same_things() -> None:
    def names(text: str) -> list[str]:
        return sorted({name for _, name, _, _ in string.Formatter().parse(text) if name})

    english, chinese = catalogue("en"), catalogue("zh")
    assert list(english) == list(chinese)
    assert [key for key in english if names(english[key]) != names(chinese[key])] == []
    untranslated = [
        key for key in english if english[key] == chinese[key] and not key.startswith("regulation.")
    ]
    assert untranslated == ["mode.saas"]


def test_every_message_can_be_said() -> None:
    """A key that no source names, whole or by its first words, is dead."""
    root = Path(__file__).parents[2] / "src/sextant"
    source = "\n".join(
        file.read_text() for folder in ("planner", "cli") for file in sorted((root / folder).glob("*.py"))
    )
    computed = set(re.findall(r"""["'@]([a-z-]+\.(?:[a-z-]+\.)?)\{""", source)) | {f"{f}." for f in LEVELS}
    keys = [key for key in catalogue("en") if not key.startswith(tuple(computed))]
    assert [key for key in keys if not re.search(f"[\"']{key}[\"']", source)] == []
    assert len(keys) > 30
