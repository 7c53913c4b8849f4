"""The task generators: determinism, both languages, checkers that accept the answer and reject a wrong
one, and a
held-out set that training never meets."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from random import Random

import pytest

from sextant.workshop.nano import curriculum, template
from sextant.workshop.nano.checks import Reply, accepts
from sextant.workshop.nano.phrases import parse, say
from sextant.workshop.nano.problem import LANGUAGES, Problem, is_held_out

PAIRS = [(family, language) for family in curriculum.FAMILIES for language in LANGUAGES]


def taught_reply(problem: Problem) -> Reply:
    calls = tuple((c["function"]["name"], c["function"]["arguments"]) for c in problem.tool_calls)
    return Reply(problem.answer, calls)


@pytest.mark.parametrize(("family", "language"), PAIRS)
def test_same_seed_same_problems(family, language):
    first = [curriculum.FAMILIES[family](rng, language) for rng in [Random(7)] for _ in range(20)]
    again = [curriculum.FAMILIES[family](rng, language) for rng in [Random(7)] for _ in range(20)]
    assert first == again


@pytest.mark.parametrize(("family", "language"), PAIRS)
def test_checker_accepts_the_taught_answer_and_rejects_others(family, language):
    rng = Random(f"{family}{language}")
    for _ in range(200):
        problem = curriculum.FAMILIES[family](rng, language)
        assert problem.language == language
        assert accepts(problem.check, taught_reply(problem), problem.expected), problem
        for wrong in wrong_replies(problem):
            assert not accepts(problem.check, wrong, problem.expected), (problem, wrong)


def wrong_replies(problem: Problem) -> list[Reply]:
    right = taught_reply(problem)
    wrong = [Reply(""), Reply("\x00 something else 0.123456")]
    if problem.check == "calls":
        name, arguments = right.tool_calls[0]
        wrong += [
            Reply("", (("another_tool", arguments), *right.tool_calls[1:])),
            Reply("", ((name, json.dumps({**json.loads(arguments), "extra": 1})), *right.tool_calls[1:])),
            Reply("", ((name, "{not json"), *right.tool_calls[1:])),
            Reply("", (*right.tool_calls, right.tool_calls[0])),
            Reply(right.content),
        ]
    else:
        wrong.append(Reply(right.content, (("get_weather", "{}"),)))
    if problem.check == "number":
        wrong += [Reply(right.content + "1"), Reply(right.content + " or 7777777")]
    if problem.check == "items" and len(set(problem.expected)) > 1:
        swapped = [problem.expected[-1], *problem.expected[1:-1], problem.expected[0]]
        wrong.append(Reply(", ".join(map(str, swapped))) if swapped != problem.expected else Reply("x, y"))
    if problem.check == "json":
        wrong += [Reply("```json\n" + right.content + "\n```"), Reply(right.content[:-1])]
    return wrong


def test_json_check_tells_types_apart():
    assert accepts("json", Reply('{"b":[1],"a":true}'), {"a": True, "b": [1]})
    assert not accepts("json", Reply('{"a":1}'), {"a": True})
    assert not accepts("json", Reply('{"a":"1"}'), {"a": 1})


def test_arithmetic_answers_are_right():
    rng = Random(3)
    for _ in range(500):
        problem = curriculum.FAMILIES["arithmetic"](rng, "en")
        left, sign, right = next(problem.key.partition(s) for s in "+-" if s in problem.key)
        value = int(left) + int(right) if sign == "+" else int(left) - int(right)
        assert value == problem.expected
        assert problem.thinking.endswith(f"-> {value}")


@pytest.mark.parametrize(("family", "language"), PAIRS)
def test_training_never_draws_a_held_out_problem(family, language):
    examined = {p.key for p in curriculum.held_out(2026, family, language, 60)}
    assert all(is_held_out(family, key) for key in examined)
    rng = Random(11)
    drawn = {curriculum.problem(rng, family, language).key for _ in range(300)}
    assert not drawn & examined
    assert not any(is_held_out(family, key) for key in drawn)


def test_earlier_turns_of_a_conversation_are_training_problems_too(monkeypatch):
    seen = []
    genuine = curriculum.problem

    def recorded(rng, family, language, **options):
        made = genuine(rng, family, language, **options)
        seen.append(made)
        return made

    monkeypatch.setattr(curriculum, "problem", recorded)
    for _ in islice(curriculum.samples("conversations"), 400):
        pass
    assert len(seen) > 450, "some samples must have had earlier turns"
    assert not any(made.held_out for made in seen)


def test_held_out_is_about_one_in_eight_and_ignores_wording_and_language():
    share = sum(is_held_out("arithmetic", f"{a}+{b}") for a in range(100) for b in range(100)) / 10_000
    assert 0.11 < share < 0.14
    problem = curriculum.FAMILIES["arithmetic"](Random(1), "en")
    assert replace(problem, language="zh", messages=()).held_out == problem.held_out


@pytest.mark.slow
def test_there_are_five_hundred_held_out_problems_for_each_goal():
    for family in curriculum.GOAL_FAMILIES:
        for language in LANGUAGES:
            assert len({p.key for p in curriculum.held_out(2026, family, language, 500)}) == 500


def test_training_stream_is_deterministic_and_varied():
    first = list(islice(curriculum.samples("s"), 300))
    assert first == list(islice(curriculum.samples("s"), 300))
    assert first != list(islice(curriculum.samples("t"), 300))
    prompts = "".join(s.prompt for s in first)
    assert template.FIM_PREFIX in prompts
    assert "## Tools" in prompts
    assert any(s.prompt.endswith(template.THINK) for s in first)
    assert any(s.prompt.endswith(template.THINK + template.END_THINK) for s in first)


def test_weights_decide_what_is_drawn():
    only = [1.0 if name == "greeting" else 0.0 for name in curriculum.WEIGHTS]
    texts = [s.completion for s in islice(curriculum.samples("w", only), 100)]
    assert not any("->" in text for text in texts)


@pytest.mark.parametrize("pattern", ["[a|b", "a]b", "[a|[b]"])
def test_a_broken_phrase_is_refused(pattern):
    with pytest.raises(ValueError, match="unmatched"):
        parse(pattern)


def test_phrases_choose_and_fill():
    said = {say(Random(i), "[Say|Tell [me|us]] {x}[!|]", x="{y}") for i in range(100)}
    assert said == {a + " {y}" + b for a in ("Say", "Tell me", "Tell us") for b in ("!", "")}
