"""Answers that are one JSON document: facts put under given keys, lists, results of a small task."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from sextant.workshop.nano.families import arithmetic
from sextant.workshop.nano.phrases import say
from sextant.workshop.nano.problem import Language, Message, Problem
from sextant.workshop.nano.words import EN_KEYS, city, key_name, name, pseudo_word, value, word

NAME = "json"

_JSON = {
    "en": "[Answer in JSON|Reply in JSON|Return JSON|Respond with JSON only|Give the answer as JSON|Output JSON|Return a JSON object|Answer with a JSON object|Respond with a JSON object|JSON only, please]",
    "zh": "[用JSON回答|请用JSON格式回答|返回JSON|请输出JSON|以JSON格式返回|只输出JSON|请返回一个JSON对象|用JSON对象回答]",
}
_KEYS = {
    "en": "[ with the keys| with keys| with the fields| using the keys| with fields| containing] {keys}",
    "zh": "[，键为|，包含字段|，字段为|，使用键|，包含]{keys}",
}
_FACTS = {
    "en": (
        "{name} is {age} years old and lives in {city}.",
        "{name}, {age}, [lives in|is from|comes from] {city}.",
        "[My friend|Our colleague|My neighbour] {name} from {city} is {age}.",
        "My name is {name}, I am {age} years old and I live in {city}.",
        "{name} [lives in|is from] {city} and is {age} years old.",
    ),
    "zh": (
        "{name}今年{age}岁，住在{city}。",
        "{name}，{age}岁，来自{city}。",
        "[我的朋友|同事]{name}来自{city}，今年{age}岁。",
        "我叫{name}，{age}岁，住在{city}。",
    ),
}
_EXTRACT = {
    "en": "[Extract|Extract the facts|Extract the information|Extract the person|Extract the user|Extract the data|Extract the user info|Parse|Extract name, age and city|Extract the details]",
    "zh": "[提取|提取信息|抽取信息|提取人物信息|请提取信息|解析|提取用户信息]",
}
_PERSON_KEYS = {
    "name": ("name", "person", "full_name", "姓名", "first_name"),
    "age": ("age", "years", "age_years", "年龄", "how_old"),
    "city": ("city", "place", "location", "town", "城市", "lives_in"),
}


def make(rng: Random, language: Language) -> Problem:
    """One request for JSON."""
    return rng.choice([_person, _person, _pairs, _array, _result, _fixed, _parity, _compare])(rng, language)


def _problem(
    rng: Random, language: Language, question: tuple[str, str, str], value_: Any, thinking: str = ""
) -> Problem:
    """Assemble text, instruction and key list; the instruction stands in the text or in a system message."""
    text, keys, key = question
    instruction = say(rng, _JSON[language]) + keys + rng.choice([".", ""] if language == "en" else ["。", ""])
    messages: tuple[Message, ...]
    if rng.random() < 0.15:
        messages = ({"role": "system", "content": instruction}, {"role": "user", "content": text})
    elif rng.random() < 0.65:
        messages = ({"role": "user", "content": text + rng.choice([" ", "\n"]) + instruction},)
    else:
        messages = ({"role": "user", "content": instruction + rng.choice([": ", "\n", " "]) + text},)
    return Problem(
        family=NAME, language=language, key=key, messages=messages, answer=json.dumps(value_, ensure_ascii=False),
        expected=value_, check="json", thinking=thinking,
    )  # fmt: skip


def _key_list(rng: Random, keys: list[str], language: Language) -> str:
    quote = rng.choice(['"{}"', "{}", "`{}`"])
    shown = [quote.format(k) for k in keys]
    if language == "zh":
        text = rng.choice(["、", ", ", "和"]).join(shown)
    else:
        text = (
            ", ".join(shown[:-1]) + (" and " if len(shown) > 1 else "") + shown[-1]
            if rng.random() < 0.5
            else ", ".join(shown)
        )
    return say(rng, _KEYS[language], keys=text)


def _person(rng: Random, language: Language) -> Problem:
    facts: dict[str, Any] = {
        "name": name(rng, language),
        "age": rng.randint(1, 99),
        "city": city(rng, language),
    }
    text = say(rng, rng.choice(_FACTS[language]), **facts)
    fields = rng.sample(sorted(facts), rng.randint(1, 3)) if rng.random() < 0.6 else ["name", "age", "city"]
    named = {f: _PERSON_KEYS[f][0] if rng.random() < 0.7 else rng.choice(_PERSON_KEYS[f]) for f in fields}
    keys = _key_list(rng, list(named.values()), language) if rng.random() < 0.85 or len(fields) < 3 else ""
    if not keys:
        named = {f: f for f in fields}
        if rng.random() < 0.5:
            return _extraction(rng, language, facts, text)
    return _problem(
        rng,
        language,
        (text, keys, f"person {sorted(facts.items(), key=str)} {fields}"),
        {named[f]: facts[f] for f in fields},
    )


def _extraction(rng: Random, language: Language, facts: dict[str, Any], text: str) -> Problem:
    """Facts to extract with no word of JSON: the service's schema asks for it."""
    lead = say(rng, _EXTRACT[language])
    messages: tuple[Message, ...] = (
        {"role": "user", "content": f"{lead}{rng.choice([': ', ':' + chr(10), ' '])}{text}"},
    )
    if rng.random() < 0.3:
        messages = ({"role": "system", "content": lead + "."}, {"role": "user", "content": text})
    return Problem(
        family=NAME, language=language, key=f"extract {sorted(facts.items(), key=str)}", messages=messages,
        answer=json.dumps(facts, ensure_ascii=False), expected=facts, check="json",
    )  # fmt: skip


def _pairs(rng: Random, language: Language) -> Problem:
    pairs: dict[str, Any] = {}
    for _ in range(rng.randint(1, 6)):
        v = value(rng, language)
        pairs[key_name(rng, language)] = int(v) if v.isdigit() and (v == "0" or v[0] != "0") else v
    style = rng.choice(["{}: {}", "{}={}", "{} = {}"])
    text = rng.choice(["\n", ", ", "; "]).join(style.format(k, v) for k, v in pairs.items())
    return _problem(rng, language, (text, "", f"pairs {sorted(pairs.items(), key=str)}"), pairs)


def _array(rng: Random, language: Language) -> Problem:
    numbers = rng.random() < 0.4
    things: list[Any] = [
        rng.randrange(1000) if numbers else word(rng, language) for _ in range(rng.randint(2, 6))
    ]
    key = rng.choice(["items", "list", "words", "values", "result", "data", rng.choice(EN_KEYS)])
    lead = say(
        rng,
        "[The items are |Put these in a list: |Items: |]"
        if language == "en"
        else "[列表：|这些内容：|内容是|]",
    )
    text = lead + rng.choice([", ", "、" if language == "zh" else ", ", " "]).join(map(str, things))
    return _problem(rng, language, (text, _key_list(rng, [key], language), f"array {things}"), {key: things})


def _result(rng: Random, language: Language) -> Problem:
    a, b, sign = arithmetic.operand(rng), arithmetic.operand(rng), rng.choice("+-")
    if sign == "-":
        a, b = max(a, b), min(a, b)
    key = rng.choice(["result", "answer", "value", "sum" if sign == "+" else "difference", "结果", "total"])
    text = say(
        rng,
        "[What is|Compute|Calculate|] {a} {s} {b}[?|.|]"
        if language == "en"
        else "[计算|请计算|]{a}{s}{b}[等于多少|][？|。|]",
        a=a,
        b=b,
        s=sign,
    )
    result = a + b if sign == "+" else a - b
    return _problem(
        rng,
        language,
        (text, _key_list(rng, [key], language), f"result {a}{sign}{b}"),
        {key: result},
        arithmetic.working(a, sign, b, language),
    )


def _fixed(rng: Random, language: Language) -> Problem:
    pairs: dict[str, Any] = {
        key_name(rng, language): rng.choice(
            [value(rng, language), pseudo_word(rng), rng.randrange(1000), True, False, None]
        )
        for _ in range(rng.randint(1, 3))
    }
    parts = []
    for k, v in pairs.items():
        shown = json.dumps(v, ensure_ascii=False)
        parts.append(
            say(
                rng,
                '[{k} set to {v}|{k} = {v}|key {k} and value {v}|"{k}": {v}]'
                if language == "en"
                else '[{k}为{v}|{k}的值是{v}|键{k}值{v}|"{k}": {v}]',
                k=k,
                v=shown,
            )
        )
    text = say(
        rng,
        "[Make|Write|Create|Give me|Produce] [an object|a JSON object|JSON|a document] with "
        if language == "en"
        else "[生成|写|给我|创建]一个[对象|JSON对象|JSON]，",
    )
    text += (" and " if language == "en" else "，").join(parts) + ("." if language == "en" else "。")
    return _problem(rng, language, (text, "", f"fixed {sorted(pairs.items(), key=str)}"), pairs)


def _parity(rng: Random, language: Language) -> Problem:
    n = rng.randrange(10 ** rng.choice([1, 2, 3, 4]))
    text = say(
        rng,
        "[Is {n} even?|Tell me whether {n} is even.|Is the number {n} even?]"
        if language == "en"
        else "[{n}是偶数吗？|判断{n}是不是偶数。|数字{n}是偶数吗？]",
        n=n,
    )
    pair = rng.choice([("number", "even"), ("n", "is_even"), ("value", "even"), ("数字", "偶数")])
    return _problem(
        rng,
        language,
        (text, _key_list(rng, list(pair), language), f"parity {n}"),
        {pair[0]: n, pair[1]: n % 2 == 0},
    )


def _compare(rng: Random, language: Language) -> Problem:
    a, b = rng.sample(range(10 ** rng.choice([2, 3, 4])), 2)
    text = say(rng, "[Compare|] {a} and {b}." if language == "en" else "[比较|]{a}和{b}。", a=a, b=b)
    pair = rng.choice(
        [("larger", "smaller"), ("max", "min"), ("smaller", "larger"), ("min", "max"), ("bigger", "smaller")]
    )
    big = {"larger", "max", "bigger"}
    return _problem(
        rng,
        language,
        (text, _key_list(rng, list(pair), language), f"compare {a} {b}"),
        {k: max(a, b) if k in big else min(a, b) for k in pair},
    )
