"""Addition and subtraction of up to three digits, the column working written before the answer."""

from __future__ import annotations

from random import Random

from sextant.workshop.nano.phrases import say
from sextant.workshop.nano.problem import Language, Problem, ask
from sextant.workshop.nano.words import name, word

NAME = "arithmetic"

_EN = {
    "+": (
        "[What is|What's|what is|whats|Calculate|Compute|Work out|Find|Tell me|Evaluate|Please calculate|Can you compute|How much is|Solve|] {a}[+| + |+| plus ]{b}[?| ?|.| =|=|= ?|]",
        "[Add|Please add|Can you add|add] {a} [and|to|with] {b}[.|?|]",
        "[What is|Find|Compute|Give me|Calculate|] the [sum|total] of {a} and {b}[?|.|]",
        "If I [add|sum] {a} and {b}, what do I get?",
        "{name} has {a} {word}s and [buys|gets|finds|receives] {b} more. How many [does {name} have|{word}s are there] [now|in total|altogether]?",
        "There are {a} {word}s [on|in] one [shelf|box|room] and {b} [on|in] another. How many [in total|altogether]?",
        "[I need|Need|I want to know] {a} plus {b}[, please|. Show your working|. Thanks|]",
        "{a} + {b} [equals what|is what|makes how much]?",
    ),
    "-": (
        "[What is|What's|what is|whats|Calculate|Compute|Work out|Find|Tell me|Evaluate|Please calculate|Can you compute|How much is|Solve|] {a}[-| - |-| minus | − ]{b}[?| ?|.| =|=|= ?|]",
        "[Subtract|Take|Take away|Please subtract|subtract] {b} from {a}[.|?|]",
        "[What is|Find|Compute|Give me|Calculate|] the difference [of|between] {a} and {b}[?|.|]",
        "{name} has {a} {word}s and [gives away|loses|eats|sells] {b}. How many [are left|remain|does {name} have left]?",
        "If I [subtract|take] {b} from {a}, what [remains|do I get|is left]?",
        "[I need|Need|I want to know] {a} minus {b}[, please|. Show your working|. Thanks|]",
        "{a} - {b} [equals what|is what|makes how much]?",
    ),
}
_ZH = {
    "+": (
        "[计算|请计算|算一下|请问|帮我算|求|算算|麻烦算一下|]{a}[+| + |加|加上|＋]{b}[等于多少|是多少|等于几|=|＝|= ?|=？|的结果|][？|?|。|]",
        "{a}[与|和]{b}的和[是多少|是几|等于多少|][？|?|]",
        "把{a}和{b}[加起来|相加][是多少|等于多少|得多少|][？|。|]",
        "{name}有{a}个{word}，又[买了|得到|捡了|收到]{b}个，[现在|一共|总共]有多少个[{word}|]？",
        "一个盒子里有{a}个{word}，另一个里有{b}个，[一共|总共]多少个？",
        "[我想知道|请告诉我|告诉我]{a}加{b}[等于多少|是多少|的结果|]",
    ),
    "-": (
        "[计算|请计算|算一下|请问|帮我算|求|算算|麻烦算一下|]{a}[-| - |减|减去|−]{b}[等于多少|是多少|等于几|=|＝|= ?|=？|的结果|][？|?|。|]",
        "{a}[与|和|减]{b}的差[是多少|是几|等于多少|][？|?|]",
        "从{a}里[减去|去掉|拿走]{b}[还剩多少|等于多少|是多少|剩多少][？|。|]",
        "{name}有{a}个{word}，[吃了|送出|丢了|卖掉]{b}个，还[剩|有]多少个[{word}|]？",
        "[我想知道|请告诉我|告诉我]{a}减{b}[等于多少|是多少|的结果|]",
    ),
}
_BARE = {
    "en": "[ Just the number.| Only the number, please.| Answer with the number only.| Reply with only the number.| Give only the result.]",
    "zh": "[只回答数字。|只要数字。|只给出结果。|请只回复数字。| 只写结果]",
}
_PLACES = {"en": ("ones", "tens", "hundreds", "thousands"), "zh": ("个位", "十位", "百位", "千位")}


def operand(rng: Random) -> int:
    """A number of one to three digits, the long ones more often."""
    return rng.randrange(10 ** rng.choice([1, 2, 2, 3, 3, 3, 3]))


def make(rng: Random, language: Language) -> Problem:
    """One sum or difference."""
    a, b = operand(rng), operand(rng)
    sign = "+" if rng.random() < 0.45 else "-"
    if sign == "-" and a < b and rng.random() < 0.7:
        a, b = b, a
    patterns = _ZH if language == "zh" else _EN
    choices = patterns[sign]
    pattern = choices[0] if rng.random() < 0.4 else rng.choice(choices)
    if sign == "-" and a < b and "{name}" in pattern:
        pattern = choices[0]
    if "difference" in pattern or "的差" in pattern:
        a, b = max(a, b), min(a, b)
    question = say(rng, pattern, a=a, b=b, name=name(rng, language), word=word(rng, language))
    result = a + b if sign == "+" else a - b
    answer = f"{a} {sign} {b} = {result}"
    if rng.random() < 0.2:
        question += say(rng, _BARE[language])
        answer = str(result)
    return Problem(
        family=NAME, language=language, key=f"{a}{sign}{b}", messages=ask(question), answer=answer,
        expected=result, check="number", thinking=working(a, sign, b, language),
    )  # fmt: skip


def working(a: int, sign: str, b: int, language: Language) -> str:
    """The column working, as it stands inside the reasoning."""
    if sign == "+":
        return _sum_working(a, b, language)
    if a >= b:
        return _difference_working(a, b, language)
    flipped = _difference_working(b, a, language)
    return f"{a} < {b}, {'取负' if language == 'zh' else 'negative'}. {flipped} -> -{b - a}"


def _digits(n: int, width: int) -> list[int]:
    return [n // 10**i % 10 for i in range(width)]


def _sum_working(a: int, b: int, language: Language) -> str:
    width = max(len(str(a)), len(str(b)))
    carry, lines = 0, []
    for place, (x, y) in enumerate(zip(_digits(a, width), _digits(b, width), strict=True)):
        total = x + y + carry
        step = f"{_PLACES[language][place]} {x}+{y}{f'+{carry}' if carry else ''}={total}"
        carry = total // 10
        if language == "zh":
            lines.append(step + f" 写{total % 10}" + (f"进{carry}" if carry else ""))
        else:
            lines.append(step + f" write {total % 10}" + (f" carry {carry}" if carry else ""))
    if carry:
        lines.append(f"{_PLACES[language][width]} {carry}")
    return f"{a}+{b}: " + "; ".join(lines) + f" -> {a + b}"


def _difference_working(a: int, b: int, language: Language) -> str:
    width = len(str(a))
    borrow, lines = 0, []
    for place, (x, y) in enumerate(zip(_digits(a, width), _digits(b, width), strict=True)):
        step = f"{_PLACES[language][place]} {x}-{y}{f'-{borrow}' if borrow else ''}"
        difference = x - y - borrow
        if difference < 0:
            step += f" {'借' if language == 'zh' else 'borrow'} 1{x}-{y}{f'-{borrow}' if borrow else ''}={difference + 10}"
            borrow = 1
        else:
            step += f"={difference}"
            borrow = 0
        lines.append(step)
    return f"{a}-{b}: " + "; ".join(lines) + f" -> {a - b}"
