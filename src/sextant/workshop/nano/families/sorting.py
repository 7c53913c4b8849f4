"""Sorting numbers and words, and reversing lists and the letters of a word."""

from __future__ import annotations

from random import Random

from sextant.workshop.nano.phrases import say
from sextant.workshop.nano.problem import Language, Problem, ask
from sextant.workshop.nano.words import EN_WORDS, SPELLABLE, letters, pseudo_word, value, word

NAME = "sorting"

_SORT = {
    "en": (
        "[Sort|Please sort|Order|Arrange|Can you sort|sort|Put] [these|the|the following|these {what}|the following {what}|the {what}][ {order}|, {order}]: {many}[.|]",
        "[Sort|Order|Arrange] {many} {order}[.|]",
        "[List|Write|Give me] [these|the following|the] {what} {order}: {many}",
        "{many}\n[Sort|Order|Please sort|Arrange] [them|these|the {what}] {order}[.|]",
    ),
    "zh": (
        "[把|请把|将|请将][下列|下面的|这些|以下|][{what}|{what}][{order}|按{order}|{order}地]排[序|列|一下][：|:]{many}[。|]",
        "[请|帮我|]{order}排[列|序][下列|下面的|这些|]{what}：{many}",
        "{many}\n[请|]把[它们|上面的{what}]{order}排[列|序][。|]",
        "[给|请给|帮我给][这些|下面的|]{what}[排序|排个序]，{order}：{many}",
    ),
}
_ORDER = {
    (
        "en",
        "numbers",
        False,
    ): "[in ascending order|ascending|from smallest to largest|from low to high|in increasing order|from small to big]",
    (
        "en",
        "numbers",
        True,
    ): "[in descending order|descending|from largest to smallest|from high to low|in decreasing order|from big to small]",
    ("en", "words", False): "[alphabetically|in alphabetical order|from A to Z|by alphabet]",
    ("en", "words", True): "[in reverse alphabetical order|from Z to A|in descending alphabetical order]",
    ("zh", "numbers", False): "[从小到大|按从小到大的顺序|升序|由小到大]",
    ("zh", "numbers", True): "[从大到小|按从大到小的顺序|降序|由大到小]",
    ("zh", "words", False): "[按字母顺序|按字母表顺序|从A到Z]",
    ("zh", "words", True): "[按字母倒序|从Z到A|按字母表相反的顺序]",
}
_WHAT = {
    "en": {"numbers": "[numbers|values|integers]", "words": "[words|items|strings]"},
    "zh": {"numbers": "[数字|数|数值]", "words": "[单词|英文单词|词]"},
}
_REVERSE = {
    "en": (
        "[Reverse|Please reverse|reverse|Can you reverse] [the order of these {what}|this list|the list|the order of the list|these {what}|the following list|the order of]: {many}[.|]",
        "[Write|List|Give me|Repeat] [these {what}|this list|the following list] [in reverse order|backwards|in reversed order|from last to first]: {many}",
        "{many}\n[Reverse the list|Reverse the order|Write it in reverse order|In reverse order, please][.|]",
    ),
    "zh": (
        "[把|请把|将|请将][下列|下面的|这些|以下|]{what}[倒序|倒过来|反过来|逆序|按相反的顺序|颠倒顺序][排列|写出|列出|写|][：|:]{many}[。|]",
        "[反转|颠倒|请反转][下面的|这个|]列表[的顺序|][：|:]{many}",
        "{many}\n[请|]把[它们|上面的列表]的顺序[反过来|倒过来|颠倒][。|]",
    ),
}
_SPELL = {
    "en": (
        "[Reverse|Please reverse|reverse|Spell|Write] [the word|the letters of|the string|the letters in] [\"{w}\"|{w}|'{w}'][ backwards| in reverse||.]",
        "[What is|What's] [\"{w}\"|{w}|'{w}'] [backwards|spelled backwards|reversed|in reverse]?",
        "[Write|Spell] {w} backwards[.|]",
    ),
    "zh": (
        "[把|请把|将][单词|字符串|][“{w}”|{w}|\"{w}\"][倒过来|反过来|倒着|颠倒][写|拼写|拼|][。|]",
        "[“{w}”|{w}|\"{w}\"][倒过来|反过来|倒着拼|反写][是什么|怎么写]？",
        "[反转|颠倒][单词|字符串|][“{w}”|{w}|\"{w}\"][。|的字母|]",
    ),
}  # fmt: skip

_LETTERS = {
    "en": ("[Spell|Please spell|spell|Spell out] [the word|] [\"{w}\"|{w}|'{w}'][.| letter by letter.| letter by letter|]", "[List|Give me|Write] the letters [of|in] [the word|] [\"{w}\"|{w}][.|]"),
    "zh": ("[请|][拼写|逐个字母拼写|拼出]单词[“{w}”|{w}|\"{w}\"][。|]", "[列出|写出|给出][单词|][“{w}”|{w}]的[每个字母|所有字母|字母][。|]"),
}  # fmt: skip


def make(rng: Random, language: Language) -> Problem:
    """One list to sort or reverse, or a word to spell backwards."""
    draw = rng.random()
    if draw < 0.35:
        return _sort(rng, language, "numbers")
    if draw < 0.7:
        return _sort(rng, language, "words")
    return _reverse(rng, language) if draw < 0.82 else _spell(rng, language)


def _listing(rng: Random, things: list[str], language: Language) -> str:
    joiner = rng.choice(
        [", ", ", ", ", ", " ", ",", "、" if language == "zh" else "; ", "，" if language == "zh" else ", "]
    )
    text = joiner.join(things)
    return f"[{', '.join(things)}]" if rng.random() < 0.1 else text


def _sort(rng: Random, language: Language, what: str) -> Problem:
    down = rng.random() < 0.4 if what == "numbers" else rng.random() < 0.25
    if what == "numbers":
        numbers = rng.sample(range(10 ** rng.choice([2, 2, 3, 3, 4])), rng.randint(3, 8))
        things = [str(n) for n in numbers]
        ordered = [str(n) for n in sorted(numbers, reverse=down)]
        groups = [(n, [t for t in things if len(t) == n]) for n in range(1, 5)]
        thinking = (
            "; ".join(f"{n}: {' '.join(g)}" for n, g in groups if g)
            + " -> "
            + " < ".join(reversed(ordered) if down else ordered)
        )
    else:
        things = list(
            {
                pseudo_word(rng) if rng.random() < 0.15 else rng.choice(EN_WORDS): 0
                for _ in range(rng.randint(3, 7))
            }
        )
        rng.shuffle(things)
        ordered = sorted(things, reverse=down)
        thinking = "; ".join(f"{w} {' '.join(w[:3])}" for w in things) + " -> " + ", ".join(sorted(things))
    order = _ORDER[language, what, down]
    question = say(
        rng, rng.choice(_SORT[language]), many=_listing(rng, things, language),
        what=say(rng, _WHAT[language][what]), order=say(rng, order),
    )  # fmt: skip
    return _listed(language, f"sort {'down' if down else 'up'} {things}", question, ordered, thinking)


def _listed(language: Language, key: str, question: str, ordered: list[str], thinking: str) -> Problem:
    return Problem(
        family=NAME, language=language, key=key, messages=ask(question), answer=", ".join(ordered),
        expected=ordered, check="items", thinking=thinking,
    )  # fmt: skip


def _reverse(rng: Random, language: Language) -> Problem:
    draw = rng.random()

    def one() -> str:
        if draw < 0.3:
            return str(rng.randrange(1000))
        return word(rng, language) if draw < 0.8 else value(rng, language)

    drawn = dict.fromkeys(one() for _ in range(rng.randint(3, 7)))
    things = [thing for thing in drawn if "," not in thing and " " not in thing]
    if len(things) < 3:
        things = rng.sample(EN_WORDS, 3)
    what = say(rng, "[words|items|things|entries]" if language == "en" else "[词|词语|内容|项目]")
    question = say(rng, rng.choice(_REVERSE[language]), many=_listing(rng, things, language), what=what)
    thinking = " ".join(f"{i} {thing}" for i, thing in enumerate(things, 1))
    return _listed(language, f"reverse {things}", question, things[::-1], thinking)


def _spell(rng: Random, language: Language) -> Problem:
    draw = rng.random()
    w = rng.choice(SPELLABLE) if draw < 0.5 else pseudo_word(rng) if draw < 0.7 else letters(rng, 3, 8)
    if 0.1 < draw < 0.2:
        w += rng.choice(SPELLABLE)
    if 0.2 < draw < 0.25:
        w = w.capitalize()
    if rng.random() < 0.35:
        question = say(rng, rng.choice(_LETTERS[language]), w=w)
        return _listed(language, f"letters {w}", question, list(w), " ".join(w))
    question = say(rng, rng.choice(_SPELL[language]), w=w)
    thinking = " ".join(w) + " -> " + " ".join(reversed(w))
    return Problem(
        family=NAME, language=language, key=f"spell {w}", messages=ask(question), answer=w[::-1],
        expected=w[::-1], check="text", thinking=thinking,
    )  # fmt: skip
