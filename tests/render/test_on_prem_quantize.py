"""The program that makes FP8 weights: it is there where it is asked for, and does its steps in order.

NVIDIA's packages cannot run here; modules of the same names note what they are told.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.render.host_bundles import text_of
from tests.render.orders import DISTILLED, order

from sextant.render import render

FAKES = {
    "torch": "import contextlib\ninference_mode = contextlib.nullcontext\n",
    "transformers": """
class _Read(dict):
    def to(self, device): return self
class AutoTokenizer:
    @classmethod
    def from_pretrained(cls, path): return cls()
    def __call__(self, text, **told): return _Read(text=text)
    def save_pretrained(self, path): (path / "tokenizer.json").write_text("{}")
class AutoModelForCausalLM:
    device = "cuda"
    seen = 0
    @classmethod
    def from_pretrained(cls, path, **told): return cls()
    def __call__(self, text): self.seen += 1
""",
    "modelopt/torch/quantization": """
FP8_DEFAULT_CFG = "fp8"
def quantize(model, config, loop):
    assert config == "fp8"
    loop(model)
    return model
""",
    "modelopt/torch/export": """
def export_hf_checkpoint(model, export_dir):
    export_dir.mkdir()
    (export_dir / "hf_quant_config.json").write_text(str(model.seen))
""",
}


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    engine = {"kind": "triton", "precision": "modelopt"}
    bundle = render(order("on-prem", **{**DISTILLED, "engine": engine}))
    (tmp_path / "quantize-fp8.py").write_text(text_of(bundle, "quantize-fp8.py"))
    assert '"quantization": "modelopt"' in text_of(bundle, "engine/r1-7b/repository/r1-7b/1/model.json"), (
        "and Triton's model repository says that the weights are"
    )
    assert any("FP8 weights" in step.title for step in bundle.install)
    assert any("not run on an accelerator" in note for note in bundle.notes)
    for name, text in FAKES.items():
        place = tmp_path / f"fake_nvidia/{name}/__init__.py"
        place.parent.mkdir(parents=True)
        place.write_text(text)
    return [
        sys.executable,
        str(tmp_path / "quantize-fp8.py"),
        "--model",
        "bf16",
        "--out",
        str(tmp_path / "fp8"),
    ]


def run(program: list[str], texts: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(texts.parent / "fake_nvidia")}
    command = [*program, "--calibration", str(texts), "--samples", "100"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_weights_are_quantised_by_the_texts_that_are_given(program: list[str], tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.write_text("too few\n" * 10)
    done = run(program, texts)
    assert done.returncode == 1 and "expected 64 or more" in done.stderr
    texts.write_text("What is the balance?\n" * 200)
    done = run(program, texts)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fp8/hf_quant_config.json").read_text() == "100", "as many texts as were asked for"
    assert (tmp_path / "fp8/tokenizer.json").exists()
    assert "is there already" in run(program, texts).stderr


def test_it_is_not_there_where_nobody_asks_for_it() -> None:
    bundle = render(order("on-prem", **DISTILLED))
    assert not [file.path for file in bundle.files if "quantize" in file.path]
