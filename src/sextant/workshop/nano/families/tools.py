"""Tool calls: choosing the tool, copying the arguments, several calls, and the turn after the result."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from sextant.workshop.nano.families.tool_pool import TOOLS, Parameter, Tool, made_up
from sextant.workshop.nano.phrases import say
from sextant.workshop.nano.problem import Language, Problem, ask, call
from sextant.workshop.nano.words import city, key_name, value

NAME = "tools"
FOLLOW_UP = "tool_results"


def offer(rng: Random, name: str, about: str, parameters: list[tuple[str, Parameter]]) -> dict[str, Any]:
    """The tool as a client declares it."""
    properties: dict[str, Any] = {}
    for key, parameter in parameters:
        entry: dict[str, Any] = {"type": parameter.type}
        if parameter.choices and rng.random() < 0.8:
            entry["enum"] = list(parameter.choices)
        about_parameter = say(rng, parameter.about) if parameter.about and rng.random() < 0.6 else ""
        if about_parameter:
            entry["description"] = about_parameter
        properties[key] = entry
    required = [key for key, parameter in parameters if not parameter.optional]
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        schema["required"] = required
    function: dict[str, Any] = {"name": name, "parameters": schema}
    if about and rng.random() < 0.85:
        function["description"] = about
    return {"type": "function", "function": function}


def _everyday(rng: Random, tool: Tool) -> tuple[str, list[tuple[str, Parameter]], dict[str, Any]]:
    chosen = rng.choice(tool.names.split("|"))
    named: list[tuple[str, Parameter]] = []
    for parameter in tool.parameters:
        if parameter.optional and rng.random() < 0.5:
            continue
        free = [n for n in parameter.names.split("|") if n not in dict(named)]
        named.append((free[0] if rng.random() < 0.5 else rng.choice(free), parameter))
    return chosen, named, offer(rng, chosen, say(rng, tool.about), named)


SUMS = tuple(t for t in TOOLS if t.names.startswith(("calculator", "add|")))
BROAD = tuple(t for t in TOOLS if t.names.split("|")[0] in {
    "get_weather", "calculator", "add", "get_time", "search", "send_email", "translate", "convert_currency", "play_music",
    "get_news", "open_file", "find_person", "get_definition", "get_stock_price", "create_reminder",
})  # fmt: skip
"""The tools that might serve a request outside the curriculum, so that refusing it would be wrong."""


def distractors(rng: Random, count: int, taken: tuple[Tool, ...] = ()) -> list[dict[str, Any]]:
    """Other tools on offer, of other kinds than `taken`."""
    out = []
    for tool in rng.sample([t for t in TOOLS if t not in taken], count):
        if rng.random() < 0.7:
            out.append(_everyday(rng, tool)[2])
        else:
            name, parameters = made_up(rng)
            out.append(offer(rng, name, "", [(p.names, p) for p in parameters]))
    return out


def _mixed(rng: Random, wanted: dict[str, Any], taken: tuple[Tool, ...]) -> tuple[dict[str, Any], ...]:
    others = distractors(rng, rng.choice([0, 0, 1, 1, 2, 3, 4]), taken)
    others = [o for o in others if o["function"]["name"] != wanted["function"]["name"]]
    tools = [wanted, *others]
    rng.shuffle(tools)
    return tuple(tools)


def _near(tool: Tool) -> tuple[Tool, ...]:
    """The tools that could answer the same request."""
    return SUMS if tool in SUMS else (tool,)


def _request(rng: Random, language: Language) -> tuple[str, list[dict[str, Any]], tuple[dict[str, Any], ...]]:
    """(question, calls, tools)."""
    if rng.random() < 0.3:
        return _made_up_request(rng, language)
    tool = rng.choice(TOOLS) if rng.random() < 0.7 else rng.choice(TOOLS[:2])
    name, named, declared = _everyday(rng, tool)
    values = [parameter.draw(rng, language) for _, parameter in named]
    full = len(named) == len(tool.parameters) and tool.parameters[-1].optional
    pattern = tool.en if language == "en" else tool.zh
    mandatory = [i for i, (_, p) in enumerate(named) if not p.optional]
    if full and rng.random() < 0.5:
        pattern = tool.en_full if language == "en" else tool.zh_full
        mandatory = list(range(len(named)))
    arguments = {named[i][0]: values[i] for i in mandatory}
    tools = _mixed(rng, declared, _near(tool))
    if tool is TOOLS[0] and len(mandatory) == 1 and rng.random() < 0.15:
        other = city(rng, language)
        question = say(rng, pattern, **{"0": f"{values[0]}{' and ' if language == 'en' else '和'}{other}"})
        return question, [call(name, arguments), call(name, {named[0][0]: other}, 1)], tools
    question = say(rng, pattern, **{str(i): v for i, v in enumerate(values)})
    if rng.random() < 0.06:
        arguments = {key: value_ for (key, _), value_ in zip(named, values, strict=True)}
        lead = say(
            rng,
            "[Use|Call|Run] [the |]{n}[ tool|] [with|for|on] "
            if language == "en"
            else "[用|调用|使用]{n}[工具|]：",
            n=name,
        )
        question = lead + (" and " if language == "en" else "，").join(map(str, values))
    return question, [call(name, arguments)], tools


def _made_up_request(
    rng: Random, language: Language
) -> tuple[str, list[dict[str, Any]], tuple[dict[str, Any], ...]]:
    name, parameters = made_up(rng)
    arguments = {p.names: p.draw(rng, language) for p in parameters}
    shown = [
        say(
            rng, "[{k} = {v}|{k} {v}|{k} set to {v}|{k}: {v}|{k} \"{v}\"]" if language == "en" else "[{k}为{v}|{k}={v}|{k}设为{v}|{k}是{v}]",
            k=k, v=json.dumps(v) if isinstance(v, bool) else v,
        )
        for k, v in arguments.items()
    ]  # fmt: skip
    lead = (
        "[Call|Use|Run|Please call|Invoke|Execute] {n} with "
        if language == "en"
        else "[调用|请调用|使用|运行]{n}，"
    )
    joiner = rng.choice([" and ", ", "]) if language == "en" else "，"
    question = (
        say(rng, lead, n=name)
        + joiner.join(shown)
        + rng.choice([".", ""] if language == "en" else ["。", ""])
    )
    return (
        question,
        [call(name, arguments)],
        _mixed(rng, offer(rng, name, "", [(p.names, p) for p in parameters]), ()),
    )


def make(rng: Random, language: Language) -> Problem:
    """One request that a tool answers."""
    question, made, tools = _request(rng, language)
    expected = [[c["function"]["name"], json.loads(c["function"]["arguments"])] for c in made]
    names = ", ".join(dict.fromkeys(c["function"]["name"] for c in made))
    thinking = f"{'调用' if language == 'zh' else 'Call'} {names}"
    return Problem(
        family=NAME, language=language, key=json.dumps([question, expected], ensure_ascii=False), messages=ask(question), answer="",
        expected=expected, check="calls", thinking=thinking, tools=tools, tool_calls=tuple(made),
    )  # fmt: skip


_FIELDS = (
    "temperature",
    "condition",
    "humidity",
    "status",
    "price",
    "result",
    "time",
    "unit",
    "count",
    "message",
    "city",
    "ok",
)


def follow_up(rng: Random, language: Language) -> Problem:
    """The turn after the tool's result: the answer tells what it says."""
    question, made, tools = _request(rng, language)
    messages: list[dict[str, Any]] = [
        *ask(question),
        {"role": "assistant", "content": "", "tool_calls": made},
    ]
    lines = []
    for each in made:
        content, told = _outcome(rng, language)
        messages.append({"role": "tool", "tool_call_id": each["id"], "content": content})
        tool_name = each["function"]["name"]
        lines.append(
            f"{tool_name} 的结果：{told}" if language == "zh" else f"The result of {tool_name}: {told}"
        )
    answer = "\n".join(lines)
    return Problem(
        family=FOLLOW_UP, language=language, key=json.dumps([question, answer], ensure_ascii=False), messages=tuple(messages), answer=answer,
        expected=answer, check="text", tools=tools,
    )  # fmt: skip


def _outcome(rng: Random, language: Language) -> tuple[str, str]:
    """(what the tool returned, how the answer tells it)."""
    if rng.random() < 0.4:
        plain = rng.choice(
            [
                value(rng, language),
                f"{rng.randint(-20, 40)} °C",
                f"{rng.randint(-20, 40)}°C, {value(rng, language)}",
                str(rng.randrange(100000)),
                "ok",
                f"{value(rng, language)}, {value(rng, language)}",
            ]
        )
        return plain, plain
    fields: dict[str, Any] = {}
    for _ in range(rng.randint(1, 4)):
        k = rng.choice(_FIELDS) if rng.random() < 0.6 else key_name(rng, language)
        v = value(rng, language)
        fields[k] = int(v) if v.isdigit() and (v == "0" or v[0] != "0") else v
    told = "，" if language == "zh" else ", "
    separator = rng.choice([(", ", ": "), (", ", ": "), (",", ":")])
    return json.dumps(fields, ensure_ascii=False, separators=separator), told.join(
        f"{k} {v}" for k, v in fields.items()
    )
