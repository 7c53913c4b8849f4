"""Triton's model repository for TensorRT-LLM: its configuration by Triton's own message, and its program run
as Triton's Python backend runs it, with stand-ins for what only the image has (`fake_triton_image.py`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tests.catalog.fake_triton_image import (
    LLM,
    InferenceResponse,
    MetricFamily,
    Request,
    TritonError,
    modules,
)
from tests.render.orders import DISTILLED, order

from sextant.base.errors import Unsupported
from sextant.catalog.arguments import capabilities_of, command, remarks, serving_of
from sextant.catalog.images import image_of
from sextant.catalog.triton_trtllm import COUNTS, SCALARS, llm_arguments, repository_files
from sextant.catalog.trtllm import Told
from sextant.operations.verify.triton_config import model_config
from sextant.spec.engine_data import engines
from sextant.spec.rendering import Order

PATIENCE_S = 10.0
FRONT_END = {
    "text_input", "stream", "max_tokens", "stop_words", "top_p", "frequency_penalty", "presence_penalty",
    "seed", "temperature", "exclude_input_in_output", "return_num_input_tokens", "return_num_output_tokens",
}  # fmt: skip
"""What `_create_trtllm_generate_request` of Triton's front end sends, but for LoRA and guided decoding."""


def behind_triton(**engine: object) -> Order:
    return order("on-prem", **{**DISTILLED, "engine": {"kind": "triton", "backend": "tensorrtllm", **engine}})


def told_of(made: Order) -> dict[str, Any]:
    files = command(serving_of(made, made.served[0], model_path="/m", in_container=True)).files
    (text,) = (content for path, content in files.items() if path.endswith("model.json"))
    return json.loads(text)


def test_the_configuration_is_one_by_tritons_own_message() -> None:
    text = repository_files("r1", {})["r1/config.pbtxt"].decode()
    read = text_format.Parse(text, model_config())
    assert (read.backend, read.max_batch_size) == ("python", 0)
    assert read.model_transaction_policy.decoupled
    assert {field.name for field in read.input} == FRONT_END
    assert {field.name for field in read.input if not field.optional} == {"text_input"}
    assert [field.name for field in read.output] == ["text_output", *COUNTS]
    assert set(SCALARS) <= FRONT_END
    with pytest.raises(text_format.ParseError, match="decouple"):
        text_format.Parse(text.replace("decoupled", "decouple"), model_config())


def test_the_plan_reaches_the_engine_by_its_own_names() -> None:
    told = told_of(behind_triton(max_sequences=32, context_tokens=8192, precision="modelopt"))
    assert told == {
        "model": "/m",
        "max_seq_len": 8192,
        "max_batch_size": 32,
        "max_num_tokens": 8192,
        "enable_chunked_prefill": True,
        "kv_cache_config": {"free_gpu_memory_fraction": 0.9},
        "tensor_parallel_size": 1,
    }
    cached = llm_arguments(Told(fp8_cache=True), model_path="/m", context_tokens=0, max_sequences=None)
    assert cached["kv_cache_config"] == {"free_gpu_memory_fraction": 0.9, "dtype": "fp8"}


def test_the_image_and_the_abilities_are_the_backends() -> None:
    made, usual = behind_triton(), order("on-prem", **{**DISTILLED, "engine": {"kind": "triton"}})
    assert image_of(made, made.served[0]).tag.endswith("-trtllm-python-py3")
    assert image_of(usual, usual.served[0]).tag.endswith("-vllm-python-py3")
    argv = command(serving_of(made, made.served[0], model_path="/m", in_container=True)).argv
    assert argv[argv.index("--backend") + 1] == "tensorrtllm"
    assert not capabilities_of(made, made.served[0]).logprobs
    assert capabilities_of(usual, usual.served[0]).logprobs


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (
            {"kind": "triton", "backend": "tensorrtllm", "memory_share": 0.8},
            "share of what the weights leave",
        ),
        (
            {"kind": "vllm", "backend": "tensorrtllm"},
            "the engine vllm has none; remove it, or use kind: trit",
        ),
    ],
)
def test_what_means_nothing_is_refused(engine: dict[str, object], said: str) -> None:
    made = order("on-prem", **{**DISTILLED, "engine": engine})
    with pytest.raises(Unsupported, match=said):
        command(serving_of(made, made.served[0], model_path="/m", in_container=True))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The program, loaded and started as the Python backend does it."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for path, content in repository_files("r1", {"model": "/models/r1", "max_batch_size": None}).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    space: dict[str, Any] = {"__name__": "model"}
    text = (tmp_path / "r1/1/model.py").read_text()
    exec(compile(text, "model.py", "exec"), space)
    made = space["TritonPythonModel"]()
    made.initialize({"model_repository": str(tmp_path / "r1"), "model_version": "1", "model_name": "r1"})
    yield made
    made.finalize()
    assert LLM.made.ended


def answers(model: Any, request: Request) -> list[InferenceResponse]:
    """All that is sent back, the last of it marked so."""
    model.execute([request])
    assert request.sender.ended.wait(PATIENCE_S)
    return request.sender.sent


def test_a_whole_answer_comes_with_its_counts(model: Any) -> None:
    assert LLM.made.told == {"model": "/models/r1"}
    (answer,) = answers(model, Request("one two three", stream=False, max_tokens=2))
    assert answer.value("text_output") == " three two"
    assert [answer.value(name) for name in COUNTS] == [4, 2]


def test_a_stream_counts_each_piece_and_the_pieces_make_the_answer(model: Any) -> None:
    pieces = answers(model, Request("one two three", stream=True, max_tokens=16))
    assert [piece.value("text_output") for piece in pieces] == [" three", " two", " one"]
    assert {piece.value("num_input_tokens") for piece in pieces} == {4}
    assert sum(piece.value("num_output_tokens") for piece in pieces) == 3


def test_it_measures_itself_under_names_that_are_read(model: Any) -> None:
    answers(model, Request("one two three", stream=True, max_tokens=16))
    answers(model, Request("one two three", stream=False, max_tokens=2))
    answers(model, Request("too long"))
    model.noted.put(None)
    model.notes.join(PATIENCE_S)
    assert MetricFamily.values == {
        "trtllm_num_requests_running": 0.0,
        "trtllm_prompt_tokens_total": 8.0,
        "trtllm_generation_tokens_total": 5.0,
    }
    assert set(MetricFamily.values) <= set(engines()["triton"].metrics)


def test_what_is_asked_for_reaches_the_sampler_and_nothing_else(model: Any) -> None:
    answers(model, Request("<s>a b", temperature=0.0, seed=2**63, stop_words=["x", "終"]))
    answers(model, Request("a b"))
    assert LLM.made.asked == [
        {"temperature": 0.0, "top_p": 1.0, "seed": 2**63, "stop": ["x", "終"], "add_special_tokens": False},
        {"temperature": 1.0, "top_p": 1.0, "stop": None, "add_special_tokens": True},
    ]


def test_the_prompt_is_repeated_where_that_is_asked_for(model: Any) -> None:
    for stream in (False, True):
        pieces = answers(model, Request("a b", stream=stream, exclude_input_in_output=False))
        assert "".join(piece.value("text_output") for piece in pieces) == "a b b a"
        assert sum(piece.value("num_output_tokens") for piece in pieces) == 2


def test_an_error_is_the_one_callers(model: Any) -> None:
    (refused,) = answers(model, Request("too long"))
    assert isinstance(refused.error, TritonError)
    assert "ValueError: the prompt is longer" in str(refused.error)
    assert answers(model, Request("still here"))[-1].error is None


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_frees_the_engine(model: Any, stream: bool) -> None:
    request = Request("endless", stream=stream)
    model.execute([request])
    request.sender.left = True
    assert request.sender.ended.wait(PATIENCE_S)
    last = request.sender.sent[-1].error
    assert last is not None and last.code == TritonError.CANCELLED


def test_a_bundle_says_how_tokens_are_counted_and_what_takes_no_key() -> None:
    (said,) = remarks(behind_triton())
    assert said.startswith("r1-7b: its model repository is Sextant's own") and "usage is exact" in said
    (said,) = remarks(order("on-prem", **{**DISTILLED, "engine": {"kind": "trtllm"}}))
    assert "takes no key" in said and "own usage" in said
    assert remarks(order("on-prem", **{**DISTILLED, "engine": {"kind": "triton"}})) == ()
