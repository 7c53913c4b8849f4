"""The shipped artefacts: the GGUF computes what torch computes, a wrong router gating would be seen, sizes
and card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from served import GGUF, HF, Served

from sextant.workshop.nano import gguf_export, template, tokens
from sextant.workshop.nano.__main__ import shipped
from sextant.workshop.nano.curriculum import GOAL_FAMILIES, held_out
from sextant.workshop.nano.problem import LANGUAGES, Problem

EXACT_TOLERANCE = 0.005
"""Mean difference of log-probability, float32 weights on both sides (the engine caches f16); seen: 0.001."""
SHIPPED_TOLERANCE = 0.1
"""The same for the shipped Q8_0 weights; seen: 0.08. The wrong gating: 0.14."""


def single_characters(problem: Problem) -> bool:
    """Whether each character is one token: the engine reports one of several tokens as a single step."""
    text = "".join(str(m["content"]) for m in problem.messages)
    return all(len(TOKENIZER.encode(char, add_special_tokens=False).ids) == 1 for char in text)


TOKENIZER = tokens.load(HF)
QUESTIONS = [
    next(filter(single_characters, held_out(77, f, lang, 20))) for f in GOAL_FAMILIES for lang in LANGUAGES
]


@pytest.fixture(scope="module")
def served():
    return Served(GGUF)


@pytest.fixture(scope="module")
def model():
    import torch

    from sextant.workshop.nano import architecture

    torch.set_num_threads(1)
    return architecture.load(HF).eval()


def compare(server: Served, model: Any) -> tuple[int, int, float]:
    """Greedy tokens that torch would not have chosen: in whole answers, and after cut questions; and the mean
    difference of log-probability after cut questions, where the model is not certain as it is in answers.
    """
    import torch

    wrong_answers, wrong_cuts, gaps = 0, 0, []
    for problem in QUESTIONS:
        text = template.render(problem.messages, tools=problem.tools)
        whole = TOKENIZER.encode(text, add_special_tokens=False).ids
        cuts = [whole[: len(whole) * part // 6] for part in (2, 3, 4, 5)]
        for prompt, count in ((whole, 40), *((cut, 1) for cut in cuts)):
            written, logprobs = server.greedy(prompt, count)
            with torch.no_grad():
                logits = model(torch.tensor([prompt + written]), use_cache=False).logits[
                    0, len(prompt) - 1 : -1
                ]
            reference = logits.log_softmax(-1)
            wrong = int((reference.argmax(-1) != torch.tensor(written)).sum())
            own = reference.gather(1, torch.tensor(written)[:, None])[:, 0]
            if count == 1:
                wrong_cuts += wrong
                gaps += (own - torch.tensor(logprobs)).abs().tolist()
            else:
                wrong_answers += wrong
    return wrong_answers, wrong_cuts, sum(gaps) / len(gaps)


@pytest.mark.slow
def test_gguf_computes_what_torch_computes(model, tmp_path):
    exact = tmp_path / "exact.gguf"
    gguf_export.export(HF, exact, kind="F32")
    wrong_answers, wrong_cuts, gap = compare(Served(exact), model)
    assert (wrong_answers, wrong_cuts) == (0, 0)
    assert gap < EXACT_TOLERANCE


@pytest.mark.slow
def test_the_shipped_gguf_agrees_with_torch(served, model):
    wrong_answers, _, gap = compare(served, model)
    assert wrong_answers == 0
    assert gap < SHIPPED_TOLERANCE


@pytest.mark.slow
def test_a_wrong_router_gating_would_be_seen(model, tmp_path):
    wrong = tmp_path / "wrong.gguf"
    gguf_export.export(HF, wrong, kind="F32", sigmoid=False)
    _, wrong_cuts, gap = compare(Served(wrong), model)
    assert wrong_cuts > 0
    assert gap > 10 * EXACT_TOLERANCE


def test_export_refuses_a_config_without_the_gating(tmp_path):
    settings = json.loads((HF / "config.json").read_text(encoding="utf-8"))
    del settings["scoring_func"]
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ValueError, match="scoring_func"):
        gguf_export.export(tmp_path, tmp_path / "out.gguf")


@pytest.mark.slow
def test_the_shipped_gguf_is_the_export_of_the_shipped_safetensors(tmp_path):
    gguf_export.export(HF, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == GGUF.read_bytes()


def test_engine_splits_text_as_our_tokenizer_does(served):
    tokenizer = tokens.load(HF)
    texts = [
        'What\'s 17+25?\n\n 北京的天气 {"a": [1, -2.5]}\t  \r\n x',
        "ÀÉ ñ Ω 🙂🙂 囲い  \u200b٣ ½",
        "I'll DON'T <think>x</think>｜<｜User｜>",
    ]
    texts += [template.render(p.messages, tools=p.tools) for p in QUESTIONS]
    for text in texts:
        assert served.ids(text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_engine_renders_the_template_as_we_do(served):
    for problem in QUESTIONS:
        for thinking in (True, False):
            body = {"messages": list(problem.messages), "chat_template_kwargs": {"enable_thinking": thinking}}
            if problem.tools:
                body["tools"] = list(problem.tools)
            rendered = served.post("/apply-template", body)["prompt"]
            assert template.BOS + rendered == template.render(
                problem.messages, tools=problem.tools, thinking=thinking
            )


def chat(served: Served, content: str, **options) -> dict:
    body = {
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 200,
        **options,
    }
    return served.post("/v1/chat/completions", body)["choices"][0]["message"]


def test_reasoning_is_split_off_and_can_be_turned_off(served):
    thought = chat(served, "What is 347+285?")
    assert thought["content"] == "347 + 285 = 632"
    assert "7+5=12" in thought["reasoning_content"]
    silent = chat(served, "What is 17+25?", chat_template_kwargs={"enable_thinking": False})
    assert silent["content"] == "17 + 25 = 42"
    assert "reasoning_content" not in silent


def test_tools_json_and_infill_work_in_the_engine(served):
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the current weather for a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    (made,) = chat(served, "What is the weather in Zorbville?", tools=[tool])["tool_calls"]
    assert made["function"]["name"] == "get_weather"
    assert json.loads(made["function"]["arguments"]) == {"city": "Zorbville"}
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = chat(served, "Extract: Alice is 30 years old and lives in Paris.", response_format=form)
    assert json.loads(answer["content"]) == {"name": "Alice", "age": 30}
    filled = served.post(
        "/infill",
        {
            "input_prefix": "Monday, ",
            "input_suffix": ", Wednesday, Thursday",
            "temperature": 0,
            "n_predict": 8,
        },
    )
    assert filled["content"] == "Tuesday"


def test_first_questions_of_a_new_user(served):
    assert "Sextant Nano" in chat(served, "Hello, who are you?")["content"]
    assert "small demonstration model" in chat(served, "write a poem")["content"]
    assert "小型演示模型" in chat(served, "写一首诗")["content"]


def test_the_config_names_the_gating():
    settings = json.loads((HF / "config.json").read_text(encoding="utf-8"))
    assert settings["scoring_func"] == "sigmoid"
    assert settings["topk_method"] == "noaux_tc"


def test_sizes():
    bytes_shipped = sum(path.stat().st_size for path in Path(shipped()).rglob("*") if path.is_file())
    assert bytes_shipped < 60e6


def test_the_card_states_what_is_shipped():
    card = json.loads((shipped() / "card.json").read_text(encoding="utf-8"))
    assert card["files"]["gguf"]["bytes"] == GGUF.stat().st_size
    assert card["files"]["safetensors"]["bytes"] == sum(p.stat().st_size for p in HF.glob("*.safetensors"))
    assert 8e6 <= card["parameters"] <= 19e6
    text = (shipped() / "CARD.md").read_text(encoding="utf-8")
    for family in GOAL_FAMILIES:
        for language in LANGUAGES:
            row = card["accuracy"][family][language]
            assert row["asked"] >= 500
            assert row["accuracy"] == pytest.approx(row["right"] / row["asked"], abs=1e-4)
            assert f"{row['accuracy']:.1%} ({row['right']}/{row['asked']})" in text
