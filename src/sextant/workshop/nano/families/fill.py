"""Fill-in-the-middle: a missing number or word between a prefix and a suffix. Completion, not chat."""

from __future__ import annotations

from random import Random

from sextant.workshop.nano.families.calendar_sums import DAYS, MONTHS
from sextant.workshop.nano.problem import Language
from sextant.workshop.nano.template import BOS, EOS, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX
from sextant.workshop.nano.words import key_name, value


def make(rng: Random, language: Language) -> tuple[str, str, str]:
    """(prefix, middle, suffix): the middle follows from the two."""
    kind = rng.randrange(4)
    if kind == 0:
        a, b = rng.randrange(100), rng.randrange(100)
        parts = [str(a), " + ", str(b), " = ", str(a + b)]
        hole = rng.choice([0, 2, 4])
    elif kind == 1:
        line = (
            DAYS[language]
            if rng.random() < 0.5
            else MONTHS
            if language == "en"
            else tuple(f"{i}月" for i in range(1, 13))
        )
        start = rng.randrange(len(line))
        parts = _joined([line[(start + i) % len(line)] for i in range(rng.randint(4, 7))])
        hole = rng.randrange(2, len(parts) - 1, 2)
    elif kind == 2:
        start, step = rng.randrange(90), rng.choice([1, 1, 1, 2, 5, 10])
        parts = _joined([str(start + i * step) for i in range(rng.randint(4, 8))])
        hole = rng.randrange(2, len(parts) - 1, 2)
    else:
        k, v = key_name(rng, language), value(rng, language)
        parts = [f'{k} = "', v, f'"\nprint({k})  # ', v, "\n"]
        hole = rng.choice([1, 3])
    return "".join(parts[:hole]), parts[hole], "".join(parts[hole + 1 :])


def _joined(things: list[str]) -> list[str]:
    out: list[str] = []
    for thing in things:
        out += [thing, ", "]
    return out[:-1]


def text(rng: Random, language: Language) -> tuple[str, str]:
    """(prompt, completion) with the tokens that the engine puts around the parts, prefix first."""
    prefix, middle, suffix = make(rng, language)
    return BOS + FIM_PREFIX + prefix + FIM_SUFFIX + suffix + FIM_MIDDLE, middle + EOS
