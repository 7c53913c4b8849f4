"""Comparing numbers: the larger, the smaller, yes or no, the sign between, the extreme of several."""

from __future__ import annotations

from random import Random

from sextant.workshop.nano.phrases import say
from sextant.workshop.nano.problem import Language, Problem, ask

NAME = "comparison"

_EN = {
    "max2": (
        "[Which is|Which number is|Which one is|What is|which is|Tell me which is] [larger|bigger|greater|the larger|the bigger one][,|:| -| of|] {a} or {b}[?|]",
        "[Compare|compare] {a} and {b}[.| and tell me|:] [which|Which] [is|one is] [larger|bigger|greater]?",
        "[Of|Between|From] {a} and {b}, [which is|pick|choose|give me] the [larger|bigger|greater] [one|number][.|?|]",
    ),
    "min2": (
        "[Which is|Which number is|Which one is|What is|which is|Tell me which is] [smaller|less|lower|the smaller|the lower one][,|:| -| of|] {a} or {b}[?|]",
        "[Compare|compare] {a} and {b}[.| and tell me|:] [which|Which] [is|one is] [smaller|lower]?",
        "[Of|Between|From] {a} and {b}, [which is|pick|choose|give me] the [smaller|lower] [one|number][.|?|]",
    ),
    "yes": (
        "Is {a} [{gt} than|{gt} than the number] {b}[?|]",
        "[True or not|Yes or no|Tell me yes or no]: {a} is {gt} than {b}[.|?|]",
        "[Check whether|Decide if] {a} is {gt} than {b}[. Answer yes or no|].",
    ),
    "sign": (
        "[Put|Write|Fill in|Insert] [<, > or =|the right sign|the correct sign (<, >, =)] between {a} and {b}[.|]",
        "[Compare|compare] {a} and {b}[.|] [using|with] [<, > or =|a sign][.|]",
        "{a} ? {b} [(<, > or =)|Which sign: <, > or =?]",
        "Compare {a} and {b}[.|]",
    ),
    "max": ("[What is|Find|Give me|Which is|Tell me|Pick] the [largest|biggest|greatest|maximum|highest] [number|one|value|] [of|among|in|from] [these: |]{many}[?|.|]", "[max|maximum] of {many}"),
    "min": ("[What is|Find|Give me|Which is|Tell me|Pick] the [smallest|lowest|minimum|least] [number|one|value|] [of|among|in|from] [these: |]{many}[?|.|]", "[min|minimum] of {many}"),
}  # fmt: skip
_ZH = {
    "max2": (
        "[请问|比较一下|]{a}[和|与|跟|、]{b}[哪个|谁|哪一个|哪个数][更大|大|比较大][？|?|]",
        "[比较|比一比]{a}[和|与]{b}[，|：][哪个大|谁更大|告诉我较大的数|选出较大的][？|。|]",
        "{a}[和|与]{b}中[较大的|更大的|大的][数|]是[哪个|多少|几]？",
    ),
    "min2": (
        "[请问|比较一下|]{a}[和|与|跟|、]{b}[哪个|谁|哪一个|哪个数][更小|小|比较小][？|?|]",
        "[比较|比一比]{a}[和|与]{b}[，|：][哪个小|谁更小|告诉我较小的数|选出较小的][？|。|]",
        "{a}[和|与]{b}中[较小的|更小的|小的][数|]是[哪个|多少|几]？",
    ),
    "yes": ("{a}[比|是不是比|是否比]{b}{gt}[吗|]？", "[判断|回答是或否|对不对]：{a}{gt}于{b}[。|？|]", "{a}{gt}于{b}[吗|，对吗|，是不是]？"),
    "sign": ("[在|请在]{a}和{b}之间[填上|写上|填入][<、>或=|正确的符号][。|]", "[用|请用][<、>或=|符号]比较{a}和{b}[。|]", "{a} ? {b}[，填<、>或=|（<、>、=）]", "比较{a}和{b}[。|的大小|]"),
    "max": ("{many}[中|里|当中][，|][最大的|最大的数|最大值]是[多少|哪个|几]？", "[找出|请找出|选出|求][：|]{many}[中|里][最大的数|的最大值|最大的][。|]"),
    "min": ("{many}[中|里|当中][，|][最小的|最小的数|最小值]是[多少|哪个|几]？", "[找出|请找出|选出|求][：|]{many}[中|里][最小的数|的最小值|最小的][。|]"),
}  # fmt: skip


def _number(rng: Random, near: str | None = None) -> str:
    if near is not None and rng.random() < 0.5:
        at = rng.randrange(len(near))
        return str(int(near[:at] + rng.choice("0123456789") + near[at + 1 :]))
    return str(rng.randrange(10 ** rng.choice([1, 2, 3, 3, 4, 5])))


def make(rng: Random, language: Language) -> Problem:
    """One comparison."""
    kind = rng.choice(["max2", "max2", "min2", "yes", "sign", "max", "min"])
    if kind in ("max", "min"):
        return _extreme(rng, language, kind)
    decimal = rng.random() < 0.2
    if decimal:
        whole = rng.randint(0, 20)
        a, b = (
            f"{whole if rng.random() < 0.8 else rng.randint(0, 20)}.{rng.randrange(10 ** rng.randint(1, 2))}"
            for _ in "ab"
        )
    else:
        a = _number(rng)
        b = a if kind in ("yes", "sign") and rng.random() < 0.08 else _number(rng, a)
    if float(a) == float(b) and kind in ("max2", "min2"):
        b = str(int(float(a)) + 1)
    greater = rng.random() < 0.5
    words = (
        (("greater", "larger", "bigger", "more") if greater else ("smaller", "less", "lower"))
        if language == "en"
        else (("大",) if greater else ("小",))
    )
    question = say(rng, rng.choice((_ZH if language == "zh" else _EN)[kind]), a=a, b=b, gt=rng.choice(words))
    sign = ">" if float(a) > float(b) else "<" if float(a) < float(b) else "="
    if kind == "yes":
        right = sign == (">" if greater else "<")
        answer = ("Yes" if right else "No") if language == "en" else ("是" if right else "否")
        key = f"{a} {'>' if greater else '<'} {b}?"
    elif kind == "sign":
        answer, key = f"{a} {sign} {b}", f"{a} ? {b}"
    else:
        answer = (a if sign == ">" else b) if kind == "max2" else (b if sign == ">" else a)
        key = f"{kind} {a} {b}"
    check = "number" if kind in ("max2", "min2") else "text"
    return Problem(
        family=NAME,
        language=language,
        key=key,
        messages=ask(question),
        answer=answer,
        expected=answer,
        check=check,
        thinking=working(a, b),
    )


def working(a: str, b: str) -> str:
    """Length first, then digit by digit, up to the first difference."""
    a_whole, _, a_part = a.partition(".")
    b_whole, _, b_part = b.partition(".")
    lines = []
    verdict = "="
    for x, y in ((a_whole, b_whole), (a_part, b_part)):
        if x == "" and y == "":
            break
        if x is a_part or y is b_part:
            width = max(len(x), len(y))
            x, y = x.ljust(width, "0"), y.ljust(width, "0")
            lines.append(f".{x} .{y}")
        elif len(x) != len(y):
            verdict = ">" if len(x) > len(y) else "<"
            lines.append(f"{len(x)} {verdict} {len(y)}")
            break
        for p, q in zip(x, y, strict=True):
            verdict = ">" if p > q else "<" if p < q else "="
            lines.append(f"{p} {verdict} {q}")
            if verdict != "=":
                break
        if verdict != "=":
            break
    return f"{a} ? {b}: " + "; ".join(lines) + f" -> {a} {verdict} {b}"


def _extreme(rng: Random, language: Language, kind: str) -> Problem:
    count = rng.randint(3, 6)
    top = 10 ** rng.choice([2, 3, 3, 4])
    numbers = rng.sample(range(top), count)
    joiner = "、" if language == "zh" and rng.random() < 0.5 else ", " if rng.random() < 0.9 else " "
    question = say(
        rng, rng.choice((_ZH if language == "zh" else _EN)[kind]), many=joiner.join(map(str, numbers))
    )
    best = numbers[0]
    steps = [str(best)]
    for n in numbers[1:]:
        better = n > best if kind == "max" else n < best
        steps.append(f"{n} {'>' if n > best else '<'} {best}")
        best = n if better else best
        steps.append(str(best))
    return Problem(
        family=NAME, language=language, key=f"{kind} {numbers}", messages=ask(question), answer=str(best),
        expected=str(best), check="number", thinking="; ".join(steps),
    )  # fmt: skip
