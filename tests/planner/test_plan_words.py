"""Every sentence of a plan has Chinese words, whatever is asked, and no number is lost on the way."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fake_speed import fake_predict

from sextant.cli.plan import tools_of
from sextant.cli.plan_answer import Answer, answer
from sextant.cli.plan_asked import described
from sextant.cli.plan_explain import explained
from sextant.cli.plan_html import page
from sextant.cli.plan_view import money_lines, warnings_of
from sextant.cli.plan_words import sentence
from sextant.planner.memory import GIB
from sextant.planner.options import Tools
from sextant.spec.facts import load_catalog
from sextant.spec.hardware import Host
from sextant.spec.hardware_prices import load_prices
from sextant.spec.planning import Question, StatedCosts, Targets, Wishes, Workload

CATALOG = load_catalog()
PRICES = load_prices()
REAL = tools_of(PRICES)
NAMES = {
    *(
        "token",
        "tokens",
        "llama",
        "vllm",
        "sglang",
        "embedded",
        "llamacpp",
        "mindie",
        "trtllm",
        "lora",
        "gptq",
    ),
    *("kv_precision", "attention_dp", "usd", "price", "staff", "space", "month", "sqrt", "flops", "prefix"),
    *(
        "ampere",
        "ascend",
        "hopper",
        "jetson",
        "kwh",
        "mtok",
        "saas",
        "ttft",
        "tpot",
        "gbit",
        "azure_conversations_slice",
        "csv",
        "pipe",
        "nvidia",
    ),
    *("wavespeed", "together", "deepseek", "fireworks"),
}
"""Words that are the same in both languages: units, flags, engines, makers."""
SMALL = Host(
    cpu_sockets=1, memory_bytes=GIB, storage_bytes=GIB, storage_bytes_per_s=1e8, network_bytes_per_s=1e6
)
CASES: dict[str, dict[str, Any]] = {
    "plain": {"costs": StatedCosts(staff_usd_per_month=1000, price_usd=30000)},
    "targets": {"targets": Targets(ttft_ms_p99=2000, tpot_ms_p99=80), "workload": Workload(requests_per_s=4)},
    "swing": {"workload": Workload(requests_per_s=60, swing=4, prefix_hit_share=0.5)},
    "host": {"host": SMALL},
    "count": {"wishes": Wishes(count=1)},
    "odd": {"wishes": Wishes(count=20)},
    "tp": {"wishes": Wishes(tp=3)},
    "pp": {"wishes": Wishes(pp=100)},
    "ep": {"wishes": Wishes(tp=8, ep=3)},
    "adp": {"wishes": Wishes(tp=8, attention_dp=3)},
    "most": {"wishes": Wishes(most=1, count=8)},
    "split": {"wishes": Wishes(split=True, most=1)},
    "apart": {"wishes": Wishes(split=True, count=32)},
    "few": {"wishes": Wishes(split=True, most=8)},
    "context": {"wishes": Wishes(context_tokens=2_000_000)},
    "crowd": {"wishes": Wishes(concurrency=100_000, count=8)},
    "slow": {"targets": Targets(tpot_ms_p99=0.01)},
    "late": {"targets": Targets(end_to_end_ms=1)},
    "heavy": {"workload": Workload(requests_per_s=100_000), "wishes": Wishes(most=8)},
    "budget": {"costs": StatedCosts(most_usd_per_month=10)},
}


def asked(model: str, *accelerators: str, precision: Any = None, **more: Any) -> Question:
    found = CATALOG.model(model)
    return Question(
        architecture=found,
        precision=precision or found.native_precision,
        kv_precision=found.usual_kv_precision,
        accelerators=tuple(CATALOG.accelerator(name) for name in accelerators),
        **more,
    )


def sentences(found: Answer) -> Iterator[str]:
    """All that is said in words."""
    plan = found.plan
    yield described(plan.question.workload)
    yield from warnings_of(found)
    for refusal in plan.refusals:
        yield refusal.first_break.text
        yield refusal.give_up
    for choice in plan.precisions:
        yield choice.accuracy
    for option in plan.options:
        yield option.layout.why
        yield from option.warnings
    for name, estimate in explained(found):
        yield name
        yield estimate.formula
    if found.shown is not None:
        for way in found.shown.money.ways:
            yield way.how
            yield from way.missing


def english(text: str) -> list[str]:
    """Words of English in a text, names aside."""
    ids = {one.casefold() for one in (*CATALOG.models, *CATALOG.accelerators)}
    bare = " ".join(word for word in text.split() if word.casefold().strip("，。；:：()（）") not in ids)
    bare = re.sub(r"--[a-z-]+|[\w./-]*\d[\w./-]*", " ", bare)
    return [word for word in re.findall(r"[A-Za-z_]{4,}", bare) if word.casefold() not in NAMES]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("model", "accelerators"), [("deepseek-r1", ("H100", "H200", "910B")), ("llama-3_1-8b", ("L4",))]
)
def test_every_sentence_has_chinese_words(name: str, model: str, accelerators: tuple[str, ...]) -> None:
    question = asked(model, *accelerators, **CASES[name])
    found = answer(question, catalog=CATALOG, prices=PRICES, tools=REAL)
    apis = {api.title for api in PRICES.apis}
    for text in sentences(found):
        if not text or text in apis:
            continue
        chinese = sentence(text, "zh")
        for api in apis:
            chinese = chinese.replace(api, "")
        assert english(chinese) == [], f"{text!r} became {chinese!r}"
        numbers = sorted(re.findall(r"\d[\d,.]*\d|\d", text))
        kept = re.findall(r"\d[\d,.]*\d|\d", sentence(text, "zh"))
        assert [number for number in numbers if number not in kept] == [], text


def test_formats_engines_and_small_devices_are_said_in_chinese_too() -> None:
    for question in (
        asked("deepseek-r1", "A100"),
        asked("deepseek-v4-flash", "H100"),
        asked("deepseek-r1", "Jetson-Thor", precision="bf16"),
        asked("sextant-nano", "cpu-desktop", precision="q8", engine="embedded"),
        asked("deepseek-r1", "H200", precision="q4", engine="llamacpp"),
    ):
        found = answer(question, catalog=CATALOG, prices=PRICES, tools=REAL)
        for text in sentences(found):
            chinese = sentence(text, "zh")
            for api in PRICES.apis:
                chinese = chinese.replace(api.title, "")
            assert english(chinese) == [], text


def test_money_is_said_in_chinese() -> None:
    costs = StatedCosts(price_usd=30000)
    found = answer(asked("deepseek-r1", "H200", costs=costs), catalog=CATALOG, prices=PRICES, tools=REAL)
    assert found.shown is not None
    for line in money_lines(found.shown.money, "zh"):
        bare = line
        for api in PRICES.apis:
            bare = bare.replace(api.title, "")
        assert english(bare) == [], line


def test_the_whole_report_is_chinese() -> None:
    costs = StatedCosts(price_usd=30000)
    load = Workload(requests_per_s=4, swing=3)
    question = asked("deepseek-r1", "H200", "910B", costs=costs, workload=load, host=SMALL)
    text = page(answer(question, catalog=CATALOG, prices=PRICES, tools=REAL), "zh")
    body = text.partition("<h1>")[2].partition("<h2>来源")[0]  # sources stay as they were published
    bare = html.unescape(re.sub(r"<[^>]+>", " ", body))
    for api in PRICES.apis:
        bare = bare.replace(api.title, "")
    assert english(bare) == []


def test_english_stays_and_what_is_not_known_stays() -> None:
    assert sentence("as wished", "en") == "as wished"
    assert sentence("an unheard-of sentence", "zh") == "an unheard-of sentence"
    fake = Tools(predict=fake_predict)
    found = answer(asked("deepseek-r1", "H200"), catalog=CATALOG, prices=PRICES, tools=fake)
    assert msgspec.json.encode(found.plan)
