"""Picking a value out of a small key–value text or JSON, and saying so when it is not there."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from sextant.workshop.nano.phrases import say
from sextant.workshop.nano.problem import Language, Problem, ask
from sextant.workshop.nano.words import code, key_name, name, value

NAME = "lookup"

_ASK = {
    "en": '[What is the|What is|What\'s the|Find the|Give me the|Tell me the|Which|what is the|Return the|Look up the|Read out the|I need the] [value of|value for|] [{k}|"{k}"|`{k}`][?|.|]',
    "zh": "[{k}是什么|{k}的值是什么|{k}是多少|请告诉我{k}的值|查一下{k}|请给出{k}|“{k}”的值是多少|“{k}”对应的值是什么|返回{k}的值|{k}等于什么][？|。|]",
}
_ASK_OF = {
    "en": "[What is|What's|Find|Give me|Tell me|Return] [{n}'s {k}|the {k} of {n}|the {k} for {n}][?|.|]",
    "zh": "[{n}的{k}是什么|{n}的{k}是多少|查一下{n}的{k}|请告诉我{n}的{k}|请给出{n}的{k}][？|。|]",
}
_LEAD = {
    "en": "[|Here is some data:\n|Data:\n|Given:\n|Given this data:\n|Look at this:\n|Record:\n|Use the following:\n|Config:\n|Settings:\n]",
    "zh": "[|数据如下：\n|数据：\n|已知：\n|请看下面的内容：\n|记录：\n|配置：\n|根据以下内容回答：\n|资料：\n]",
}
NOT_FOUND = {"en": "not found", "zh": "未找到"}


def make(rng: Random, language: Language) -> Problem:
    """One look-up: in lines, in a JSON object, or in records of several people or things."""
    draw = rng.random()
    if draw < 0.05:
        return _remembered(rng, language)
    return _flat(rng, language) if draw < 0.65 else _records(rng, language)


def _remembered(rng: Random, language: Language) -> Problem:
    """A fact told in an earlier turn."""
    if rng.random() < 0.5:
        key, told = ("name" if language == "en" else "名字"), name(rng, language)
    else:
        key, told = key_name(rng, language), value(rng, language)
    fact = say(
        rng,
        "[My {k} is {v}|Remember that my {k} is {v}|Please remember: my {k} is {v}|Hi, my {k} is {v}][.|]"
        if language == "en"
        else "[我的{k}是{v}|请记住，我的{k}是{v}|记住我的{k}是{v}][。|]",
        k=key,
        v=told,
    )
    question = say(
        rng,
        "[What is|What's|Do you remember|Tell me] my {k}[?|]"
        if language == "en"
        else "[我的{k}是什么|我的{k}是|你还记得我的{k}吗|告诉我我的{k}][？|]",
        k=key,
    )
    reply = rng.choice(
        ["OK.", "Hello!", "Nice to meet you!"] if language == "en" else ["好的。", "你好！", "很高兴认识你！"]
    )
    return Problem(
        family=NAME, language=language, key=f"remembered {key} {told}", answer=told, expected=told, check="text",
        messages=({"role": "user", "content": fact}, {"role": "assistant", "content": reply}, {"role": "user", "content": question}),
    )  # fmt: skip


def _pairs(rng: Random, language: Language) -> dict[str, str]:
    count = (
        rng.randint(2, 8)
        if rng.random() < 0.85
        else rng.randint(9, 20)
        if rng.random() < 0.9
        else rng.randint(21, 50)
    )
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        v = value(rng, language)
        if v not in pairs.values():
            pairs[key_name(rng, language)] = v
    return pairs


def _flat(rng: Random, language: Language) -> Problem:
    pairs = _pairs(rng, language)
    wanted = rng.choice(list(pairs))
    missing = rng.random() < 0.06
    answer = pairs[wanted]
    shown: dict[str, Any] = dict(pairs)
    if missing:
        del shown[wanted]
        answer = NOT_FOUND[language]
    text = _write(rng, shown, language)
    question = say(rng, _ASK[language], k=wanted)
    return _problem(rng, language, f"{wanted} in {sorted(shown.items())}", (text, question), (answer, ""))


def _write(rng: Random, pairs: dict[str, Any], language: Language) -> str:
    kind = rng.randrange(9)
    if kind <= 3:
        loose = {k: int(v) if v.isdigit() and (v == "0" or v[0] != "0") else v for k, v in pairs.items()}
        return json.dumps(loose, ensure_ascii=False, indent=rng.choice([None, None, 2]))
    if kind == 8:
        return ("，" if language == "zh" else ", ").join(
            f"{k}{rng.choice([': ', '='])}{v}" for k, v in pairs.items()
        )
    shape = {4: "{}: {}", 5: "{}={}", 6: "- {}: {}", 7: "{} = {}"}[kind]
    if language == "zh" and kind == 4:
        shape = "{}：{}"
    return "\n".join(shape.format(k, v) for k, v in pairs.items())


def _records(rng: Random, language: Language) -> Problem:
    people = list(
        dict.fromkeys(
            name(rng, language) if rng.random() < 0.7 else code(rng) for _ in range(rng.randint(2, 5))
        )
    )
    fields = list(dict.fromkeys(key_name(rng, language) for _ in range(rng.randint(1, 3))))
    rows = {p: {f: value(rng, language) for f in fields} for p in people}
    who, what = rng.choice(people), rng.choice(fields)
    kind = rng.choice([0, 1, 2, 2, 3])
    thinking = ""
    if kind == 0:
        text = json.dumps(
            [{("姓名" if language == "zh" else "name"): p, **r} for p, r in rows.items()], ensure_ascii=False
        )
    elif kind == 1:
        text = json.dumps(rows, ensure_ascii=False, indent=rng.choice([None, 2]))
    elif kind == 2:
        head = "| " + " | ".join(["姓名" if language == "zh" else "name", *fields]) + " |"
        rule = "|" + "---|" * (len(fields) + 1)
        text = "\n".join([head, rule, *("| " + " | ".join([p, *r.values()]) + " |" for p, r in rows.items())])
        thinking = f"{who}: " + "; ".join(f"{f} = {v}" for f, v in rows[who].items())
    elif language == "zh":
        text = "".join(f"{p}的{f}是{v}。" for p, r in rows.items() for f, v in r.items())
    else:
        text = " ".join(f"The {f} of {p} is {v}." for p, r in rows.items() for f, v in r.items())
    question = say(rng, _ASK_OF[language], n=who, k=what)
    return _problem(
        rng,
        language,
        f"{who} {what} in {sorted((p, sorted(r.items())) for p, r in rows.items())}",
        (text, question),
        (rows[who][what], thinking),
    )


def _problem(
    rng: Random, language: Language, key: str, parts: tuple[str, str], told: tuple[str, str]
) -> Problem:
    """A problem of data and question (`parts`), answered by an answer and the thinking before it (`told`)."""
    text, question = parts
    answer, thinking = told
    lead = say(rng, _LEAD[language])
    gap = rng.choice(["\n", "\n\n", "\n", " "])
    content = lead + text + gap + question if rng.random() < 0.75 else question + "\n" + text
    return Problem(
        family=NAME,
        language=language,
        key=key,
        messages=ask(content),
        answer=answer,
        expected=answer,
        check="text",
        thinking=thinking,
    )
