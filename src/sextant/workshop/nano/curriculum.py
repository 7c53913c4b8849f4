"""What the model is taught: the families, their weights, and the conversations around a problem.

`conversation` dresses a problem for training (system prompts, earlier turns, tools that are not needed,
thinking
on and off); `held_out` yields the problems of the examination, which training never draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from sextant.workshop.nano import template
from sextant.workshop.nano.families import (
    arithmetic,
    calendar_sums,
    comparison,
    fill,
    json_answers,
    lookup,
    persona,
    sorting,
    tools,
    units,
)
from sextant.workshop.nano.phrases import say
from sextant.workshop.nano.problem import LANGUAGES, Language, Message, Problem
from sextant.workshop.nano.words import word

Maker = Callable[[Random, Language], Problem]

FAMILIES: dict[str, Maker] = {
    "arithmetic": arithmetic.make,
    "comparison": comparison.make,
    "sorting": sorting.make,
    "lookup": lookup.make,
    "json": json_answers.make,
    "tools": tools.make,
    "tool_results": tools.follow_up,
    "units": units.make,
    "calendar": calendar_sums.make,
    "identity": persona.identity,
    "greeting": persona.greeting,
    "outside": persona.outside,
    "repeat": persona.repeat,
}
GOAL_FAMILIES = ("arithmetic", "comparison", "sorting", "lookup", "json", "tools")
"""The families that must reach the goal in both languages."""

WEIGHTS: dict[str, float] = {
    "arithmetic": 16, "comparison": 9, "sorting": 17, "lookup": 15, "json": 11, "tools": 14, "tool_results": 5,
    "units": 5, "calendar": 8, "identity": 2, "greeting": 2, "outside": 5, "repeat": 3,
}  # fmt: skip
FILL_SHARE = 0.02
_EARLIER = (
    "arithmetic",
    "comparison",
    "sorting",
    "lookup",
    "units",
    "calendar",
    "identity",
    "greeting",
    "greeting",
    "outside",
    "repeat",
)

_SYSTEM = {
    "en": "[You are a helpful assistant.|You are a helpful AI assistant.|You are Sextant.|Be concise.|Answer briefly.|You are an assistant.|You are a friendly chatbot.|Answer the question.|You are a test assistant. Be brief.|Always answer in English.|You are a customer support agent.|Follow the instructions carefully.|You are a helpful assistant that can use tools.|Today is {d}. You are a helpful assistant.|You are a careful {w} expert.|You answer questions about data.|Think step by step.]",
    "zh": "[你是一个有用的助手。|你是一个乐于助人的AI助手。|请简洁回答。|你是Sextant。|请用中文回答。|你是一个友好的聊天机器人。|请回答问题。|你是客服。|请认真遵循指示。|今天是{d}。你是一个助手。|你是一个可以使用工具的助手。|你是一位{w}专家。|请一步一步思考。|You are a helpful assistant.]",
}


@dataclass(frozen=True)
class Sample:
    """One training text: `prompt` then `completion`; the loss falls on the completion and on earlier
    answers.
    """

    prompt: str
    completion: str


def problem(rng: Random, family: str, language: Language, *, held_out: bool = False) -> Problem:
    """A problem of the family, of the held-out set or never of it."""
    while True:
        made = FAMILIES[family](rng, language)
        if made.held_out == held_out:
            return made


def held_out(seed: int, family: str, language: Language, count: int) -> Iterator[Problem]:
    """`count` held-out problems with distinct identities."""
    rng = Random(f"{seed}/{family}/{language}")
    seen: set[str] = set()
    attempts = 0
    while len(seen) < count and attempts < 4000 * count:
        attempts += 1
        made = FAMILIES[family](rng, language)
        if made.held_out and made.key not in seen:
            seen.add(made.key)
            yield made


def system_prompt(rng: Random, language: Language) -> str:
    date = f"20{rng.randint(24, 29)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    return say(rng, _SYSTEM[language], d=date, w=word(rng, language))


def dressed(rng: Random, made: Problem) -> Problem:
    """The problem inside a conversation: sometimes a system prompt, earlier turns, tools that are not
    needed.
    """
    messages: list[Message] = list(made.messages)
    has_system = messages[0]["role"] == "system"
    first = 1 if has_system else 0
    earlier: list[Message] = []
    if rng.random() < 0.2:
        for _ in range(rng.randint(1, 3) if rng.random() < 0.9 else rng.randint(4, 8)):
            language = made.language if rng.random() < 0.85 else rng.choice(LANGUAGES)
            past = problem(rng, rng.choice(_EARLIER), language)
            earlier += [*past.messages, {"role": "assistant", "content": past.answer}]
    offered = made.tools
    if not offered and rng.random() < 0.15:
        unfit = {"arithmetic": tools.SUMS, "json": tools.SUMS, "outside": tools.BROAD}.get(made.family, ())
        offered = tuple(tools.distractors(rng, rng.randint(1, 3), unfit))
    if not has_system and rng.random() < 0.4:
        messages.insert(0, {"role": "system", "content": system_prompt(rng, made.language)})
        first = 1
    return replace(made, messages=(*messages[:first], *earlier, *messages[first:]), tools=offered)


def conversation(rng: Random, family: str, language: Language) -> Sample:
    """One training text of the family."""
    made = dressed(rng, problem(rng, family, language))
    thinking = rng.random() < 0.8
    messages = list(made.messages)
    return Sample(
        prompt=template.render(messages, tools=made.tools, thinking=thinking),
        completion=template.completion(
            thinking=made.thinking if thinking else None, content=made.answer, tool_calls=made.tool_calls
        ),
    )


def samples(seed: str, weights: Sequence[float] = tuple(WEIGHTS.values())) -> Iterator[Sample]:
    """The endless training stream of one worker, determined by its seed.

    `weights`, in the order of WEIGHTS, is read for each sample: the trainer may raise those of weak families.
    """
    rng = Random(seed)
    names = list(WEIGHTS)
    while True:
        language = rng.choice(LANGUAGES)
        if rng.random() < FILL_SHARE:
            yield Sample(*fill.text(rng, language))
        else:
            yield conversation(rng, rng.choices(names, list(weights))[0], language)
