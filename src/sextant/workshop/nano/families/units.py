"""Unit conversion between whole numbers: powers of ten, and times 7, 12 and 60 with the working written out."""

from __future__ import annotations

from random import Random

from sextant.workshop.nano.phrases import say
from sextant.workshop.nano.problem import Language, Problem, ask

NAME = "units"

# (big unit, small unit, how many small ones make a big one); English singular and plural, symbol, Chinese.
_UNITS = {
    "km": ("kilometers", "km", "千米", "公里"), "m": ("meters", "m", "米", "米"), "cm": ("centimeters", "cm", "厘米", "厘米"),
    "mm": ("millimeters", "mm", "毫米", "毫米"), "kg": ("kilograms", "kg", "千克", "公斤"), "g": ("grams", "g", "克", "克"),
    "mg": ("milligrams", "mg", "毫克", "毫克"), "t": ("tonnes", "t", "吨", "吨"), "l": ("liters", "L", "升", "升"),
    "ml": ("milliliters", "mL", "毫升", "毫升"), "h": ("hours", "h", "小时", "小时"), "min": ("minutes", "min", "分钟", "分钟"),
    "s": ("seconds", "s", "秒", "秒"), "week": ("weeks", "weeks", "周", "星期"), "day": ("days", "days", "天", "天"),
    "year": ("years", "years", "年", "年"), "month": ("months", "months", "个月", "个月"),
}  # fmt: skip
_PAIRS = (
    ("km", "m", 1000), ("m", "cm", 100), ("m", "mm", 1000), ("cm", "mm", 10), ("kg", "g", 1000), ("g", "mg", 1000),
    ("t", "kg", 1000), ("l", "ml", 1000), ("h", "min", 60), ("min", "s", 60), ("week", "day", 7), ("year", "month", 12),
)  # fmt: skip
_ASK = {
    "en": (
        "[Convert|Please convert|convert|Change|Express] {n} {a} [to|into|in] {b}[.|]",
        "[How many|how many] {b} [are in|are there in|is|are|make] {n} {a}[?|]",
        "[What is|What's] {n} {a} in {b}[?|]",
        "{n} {a} [in|to|=|is how many|equals how many] {b}[?|]",
    ),
    "zh": (
        "{n}{a}[等于多少|是多少|有多少|合多少|=多少|等于几]{b}[？|]",
        "[把|请把|将]{n}{a}[换算成|转换为|换成|转换成]{b}[。|]",
        "[换算：|请换算：|]{n}{a}[=|等于|是]多少{b}[？|]",
    ),
}


def make(rng: Random, language: Language) -> Problem:
    """One conversion, from the bigger to the smaller unit or back where it comes out whole."""
    big, small, factor = rng.choice(_PAIRS)
    n = rng.randint(1, 999) if factor % 10 == 0 and factor != 60 else rng.randint(1, 400)
    down = rng.random() < 0.65
    source, target = (big, small) if down else (small, big)
    amount, result = (n, n * factor) if down else (n * factor, n)
    column = rng.choice([0, 1]) if language == "en" else rng.choice([2, 3])
    a, b = _UNITS[source][column], _UNITS[target][column]
    pattern = rng.choice(_ASK[language])
    question = say(rng, pattern, n=amount, a=a, b=b)
    gap = " " if language == "en" else ""
    return Problem(
        family=NAME, language=language, key=f"{amount} {source}->{target}", messages=ask(question),
        answer=f"{amount}{gap}{a} = {result}{gap}{b}", expected=result, check="number",
        thinking=_working(n, factor, down=down),
    )  # fmt: skip


def _working(n: int, factor: int, *, down: bool) -> str:
    if not down:
        back = _working(n, factor, down=True) if factor in (7, 12, 60) else ""
        return f"{n * factor} / {factor} = {n}" + (f"; {back}" if back else "")
    if factor in (10, 100, 1000):
        return f"{n} x {factor} = {n * factor}"
    if factor == 60:
        return f"{_times(n, 6)}; {n * 6} x 10 = {n * 60}"
    if factor == 12:
        return f"{_times(n, 2)}; {n} x 10 = {n * 10}; {n * 10} + {n * 2} = {n * 12}"
    return _times(n, factor)


def _times(n: int, digit: int) -> str:
    """Multiplication by one digit, from the right, with the carry."""
    carry, steps = 0, []
    for char in reversed(str(n)):
        total = int(char) * digit + carry
        steps.append(f"{char}x{digit}{f'+{carry}' if carry else ''}={total}")
        carry = total // 10
    return f"{n} x {digit}: " + ", ".join(steps) + f" -> {n * digit}"
