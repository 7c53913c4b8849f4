"""Calendar sums: weekdays, months, dates and clock times so much later or earlier."""

from __future__ import annotations

from random import Random

from sextant.workshop.nano.phrases import say
from sextant.workshop.nano.problem import Language, Problem, ask

NAME = "calendar"

DAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "zh": ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"),
}
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")  # fmt: skip
LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def make(rng: Random, language: Language) -> Problem:
    """One calendar sum."""
    return rng.choice([_weekday, _weekday, _month, _date, _date, _clock, _clock])(rng, language)


def _problem(language: Language, key: str, question: str, answer: str, thinking: str) -> Problem:
    return Problem(
        family=NAME,
        language=language,
        key=key,
        messages=ask(question),
        answer=answer,
        expected=answer,
        check="text",
        thinking=thinking,
    )


def _weekday(rng: Random, language: Language) -> Problem:
    start, back = rng.randrange(7), rng.random() < 0.3
    n = rng.randint(1, 30) if rng.random() < 0.4 else rng.randint(1, 365)
    day = DAYS[language][start]
    if language == "en":
        pattern = (
            "[Today is|It is|If today is|Suppose today is] {d}[. |, ][What|what|Which] [day|weekday|day of the week] [was it|was] {n} days ago?"
            if back
            else "[Today is|It is|If today is|Suppose today is] {d}[. |, ][What|what|Which] [day|weekday|day of the week] [is it|will it be|comes] [in {n} days|{n} days later|{n} days from now|after {n} days]?"
        )
    else:
        pattern = (
            "[今天是|如果今天是|假设今天是]{d}，{n}天[前|之前]是星期几？"
            if back
            else "[今天是|如果今天是|假设今天是]{d}，[{n}天后|再过{n}天|过{n}天|{n}天之后]是星期几？"
        )
    rest = n % 7
    walk = [DAYS[language][(start + (-i if back else i)) % 7] for i in range(rest + 1)]
    thinking = f"{n} = {n // 7} x 7 + {rest}; " + " ".join(f"{i} {d}" for i, d in enumerate(walk))
    return _problem(
        language,
        f"weekday {start} {'-' if back else '+'}{n}",
        say(rng, pattern, d=day, n=n),
        walk[-1],
        thinking,
    )


def _month(rng: Random, language: Language) -> Problem:
    start, n, back = rng.randrange(12), rng.randint(1, 36), rng.random() < 0.35
    if language == "en":
        pattern = (
            "[It is|If it is|Now it is] {m}[. |, ][What|what|Which] month was it {n} months ago?"
            if back
            else "[It is|If it is|Now it is] {m}[. |, ][What|what|Which] month [is it|will it be] [in {n} months|{n} months later|{n} months from now]?"
        )
        names: tuple[str, ...] = MONTHS
    else:
        pattern = (
            "[现在是|如果现在是]{m}，{n}个月[前|之前]是几月？"
            if back
            else "[现在是|如果现在是]{m}，[{n}个月后|再过{n}个月]是几月？"
        )
        names = tuple(f"{i}月" for i in range(1, 13))
    rest = n % 12
    walk = [names[(start + (-i if back else i)) % 12] for i in range(rest + 1)]
    thinking = f"{n} = {n // 12} x 12 + {rest}; " + " ".join(f"{i} {m}" for i, m in enumerate(walk))
    return _problem(
        language,
        f"month {start} {'-' if back else '+'}{n}",
        say(rng, pattern, m=names[start], n=n),
        walk[-1],
        thinking,
    )


def _date(rng: Random, language: Language) -> Problem:
    month, n = rng.randrange(12), rng.randint(1, 31)
    day = rng.randint(1, LENGTHS[month])
    total, length = day + n, LENGTHS[month]
    next_month = (month + 1) % 12

    def show(m: int, d: int) -> str:
        return f"{MONTHS[m]} {d}" if language == "en" else f"{m + 1}月{d}日"

    steps = f"{day} + {n} = {total}; {MONTHS[month] if language == 'en' else f'{month + 1}月'} {length}; "
    if total <= length:
        answer, steps = show(month, total), steps + f"{total} <= {length}"
    else:
        over = total - length
        steps += f"{total} - {length} = {over}"
        if over > LENGTHS[next_month]:
            steps += f"; {over} - {LENGTHS[next_month]} = {over - LENGTHS[next_month]}"
            over, next_month = over - LENGTHS[next_month], (next_month + 1) % 12
        answer = show(next_month, over)
    if language == "en":
        pattern = rng.choice(
            [
                "[What date is|What is the date|Which date is] {n} days after {d}[?| (not a leap year)?]",
                "[Today is|It is|If today is] {d}[. |, ][What|what] [is the date|date is it|will the date be] [in {n} days|{n} days later|{n} days from now]?",
            ]
        )
    else:
        pattern = "[今天是|如果今天是|]{d}[，|][{n}天后|再过{n}天|过{n}天][是几月几日|是哪一天|是几号][？|（平年）？]"
    return _problem(
        language, f"date {month + 1}-{day} +{n}", say(rng, pattern, d=show(month, day), n=n), answer, steps
    )


def _clock(rng: Random, language: Language) -> Problem:
    hour, minute, n = rng.randrange(24), rng.randrange(60), rng.randint(1, 59)
    hours = rng.randint(1, 12) if rng.random() < 0.3 else 0
    start = f"{hour:02d}:{minute:02d}"
    total = minute + n
    carry = total // 60
    end_hour = hour + hours + carry
    answer = f"{end_hour % 24:02d}:{total % 60:02d}"
    thinking = f"{minute} + {n} = {total}; " + (f"{total} - 60 = {total - 60}; " if carry else "")
    thinking += f"{hour} + {hours} + {carry} = {end_hour}" + (
        f"; {end_hour} - 24 = {end_hour - 24}" if end_hour >= 24 else ""
    )
    if language == "en":
        span = (
            f"{hours} hour{'s' if hours > 1 else ''} and " if hours else ""
        ) + f"{n} minute{'s' if n > 1 else ''}"
        pattern = "[It is|It's|Now it is|The time is|If it is] {t}[. |, ][What|what] time [is it|will it be] [in {s}|{s} later|after {s}]?"
    else:
        span = (f"{hours}小时" if hours else "") + f"{n}分钟"
        pattern = "[现在是|现在时间是|如果现在是]{t}，[{s}后|再过{s}|过{s}]是几点？"
    return _problem(
        language, f"clock {start} +{hours}:{n}", say(rng, pattern, t=start, s=span), answer, thinking
    )
