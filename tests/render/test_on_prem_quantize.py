"""The program that makes FP8 weights and the script around it: they are there where they are asked for, do
their steps in order, and leave nothing half done.

NVIDIA's packages cannot run here; modules of the same names note what they are told.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.render.host_bundles import text_of
from tests.render.orders import DISTILLED, order

from sextant.render import render

FAKES = {
    "torch": """
import contextlib, os
from types import SimpleNamespace
inference_mode = contextlib.nullcontext
name, major, minor, gib = os.environ.get("FAKE_GPU", "NVIDIA H200,9,0,140").split(",")
seen = SimpleNamespace(name=name, major=int(major), minor=int(minor), total_memory=float(gib) * 2**30)
cuda = SimpleNamespace(
    is_available=lambda: bool(name), device_count=lambda: 1, get_device_properties=lambda number: seen
)
""",
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
    import json, os
    export_dir.mkdir()
    algorithm = os.environ.get("FAKE_ALGORITHM", "FP8")
    (export_dir / "hf_quant_config.json").write_text(
        json.dumps({"seen": model.seen, "quantization": {"quant_algo": algorithm}})
    )
    (export_dir / "model.safetensors").write_text("fp8")
""",
}


def fake_nvidia(folder: Path) -> Path:
    """Modules with the names of NVIDIA's, and TensorRT-LLM that loads what it is given."""
    load = "class LLM:\n    def __init__(self, model): assert model\n    def generate(self, text):\n"
    load += "        from types import SimpleNamespace as S\n        return S(outputs=[S(text=' 2')])\n"
    load += "    def shutdown(self): pass\n"
    for name, text in {**FAKES, "tensorrt_llm": load}.items():
        place = folder / f"fake_nvidia/{name}/__init__.py"
        place.parent.mkdir(parents=True)
        place.write_text(text)
    return folder / "fake_nvidia"


def model_folder(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_text("bf16")
    return folder


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
    fake_nvidia(tmp_path)
    return [
        sys.executable,
        str(tmp_path / "quantize-fp8.py"),
        "--model",
        str(model_folder(tmp_path / "bf16")),
        "--out",
        str(tmp_path / "fp8"),
    ]


def run(program: list[str], texts: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(texts.parent / "fake_nvidia"), **more}
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
    told = json.loads((tmp_path / "fp8/hf_quant_config.json").read_text())
    assert told["seen"] == 100, "as many texts as were asked for"
    assert (tmp_path / "fp8/tokenizer.json").exists()
    assert "is there already" in run(program, texts).stderr


def test_it_is_not_there_where_nobody_asks_for_it() -> None:
    bundle = render(order("on-prem", **DISTILLED))
    assert not [file.path for file in bundle.files if "quantize" in file.path or "fp8" in file.path]


@pytest.mark.parametrize(
    ("accelerator", "said"),
    [
        ("NVIDIA A100,8,0,80", "NVIDIA A100 does not know FP8"),
        (",9,0,1", "PyTorch sees no NVIDIA accelerator"),
        ("NVIDIA H200,9,0,0.0000000001", "together; expected"),
    ],
)
def test_accelerators_that_cannot_do_it_are_told_first(
    program: list[str], tmp_path: Path, accelerator: str, said: str
) -> None:
    (tmp_path / "texts").write_text("What is the balance?\n" * 100)
    done = run(program, tmp_path / "texts", FAKE_GPU=accelerator)
    assert done.returncode == 1 and said in done.stderr
    assert not (tmp_path / "fp8").exists()


@pytest.mark.parametrize(
    ("config", "said"), [({"quantization_config": {}}, "quantised already"), (None, "has no config.json")]
)
def test_folders_that_are_none_of_its_business_are_refused(
    program: list[str], tmp_path: Path, config: dict[str, object] | None, said: str
) -> None:
    (tmp_path / "texts").write_text("What is the balance?\n" * 100)
    place = tmp_path / "bf16/config.json"
    place.unlink() if config is None else place.write_text(json.dumps(config))
    done = run(program, tmp_path / "texts")
    assert done.returncode == 1 and said in done.stderr


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """As much of a collected folder as the script looks at."""
    engine = {"kind": "triton", "backend": "tensorrtllm", "precision": "modelopt"}
    bundle = render(order("on-prem", **{**DISTILLED, "engine": engine}))
    folder = tmp_path / "kit"
    folder.mkdir()
    for name in ("build-fp8.sh", "quantize-fp8.py", "lib.sh"):
        (folder / name).write_text(text_of(bundle, name))
    (steps,) = (step for step in bundle.install if "collect.sh filled" in step.title)
    assert "tensorrt-llm/release:" in steps.commands[0] and "build-fp8.sh --calibration" in steps.commands[0]
    fake_nvidia(tmp_path)
    model_folder(folder / "weights/r1-7b")
    (folder / "texts").write_text("What is the balance?\n" * 100)
    (folder / "SHA256SUMS").write_text("of before\n")
    return folder


def build(kit: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(kit.parent / "fake_nvidia"), **variables
    }  # fmt: skip
    told = ("sh", str(kit / "build-fp8.sh"), "--calibration", str(kit / "texts"), "--python", sys.executable)
    return subprocess.run((*told, *more), env=environment, capture_output=True, text=True, check=False)


def sums_of(folder: Path) -> dict[str, str]:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return {path: sum_ for sum_, path in (line.split("  ") for line in lines)}


def test_a_collected_folder_gets_fp8_weights_and_their_checksums(kit: Path) -> None:
    done = build(kit, "--load")
    assert done.returncode == 0, done.stderr
    assert " 2\n" in done.stdout, "TensorRT-LLM answered from them"
    assert (kit / "weights/r1-7b/model.safetensors").read_text() == "fp8"
    assert (kit.parent / "kit-r1-7b-before-fp8/model.safetensors").read_text() == "bf16"
    there = {str(file.relative_to(kit)) for file in kit.rglob("*") if file.is_file()} - {"SHA256SUMS"}
    assert {path: hashlib.sha256((kit / path).read_bytes()).hexdigest() for path in there} == sums_of(kit)
    again = build(kit)
    assert again.returncode == 1 and "is there from before" in again.stderr


def test_a_folder_of_ones_own_is_written_beside_its_source(kit: Path, tmp_path: Path) -> None:
    source, out = model_folder(tmp_path / "mine"), tmp_path / "fp8"
    done = build(kit, "--model", str(source), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert set(sums_of(out)) == {"hf_quant_config.json", "model.safetensors", "tokenizer.json"}
    assert (source / "model.safetensors").read_text() == "bf16"
    assert (kit / "SHA256SUMS").read_text() == "of before\n"


@pytest.mark.parametrize(
    ("spoil", "variables", "said"),
    [
        (lambda kit: None, {"FAKE_ALGORITHM": "NVFP4"}, "does not say FP8"),
        (lambda kit: None, {"FAKE_GPU": "NVIDIA A100,8,0,80"}, "was not quantised"),
        (lambda kit: (kit / "SHA256SUMS").unlink(), {}, "was not collected"),
        (lambda kit: (kit / "weights/r1-7b").rename(kit / "weights/x"), {}, "weights/r1-7b is missing"),
        (lambda kit: (kit / "texts").unlink(), {}, "must name a file with one text a line"),
    ],
)  # fmt: skip
def test_what_goes_wrong_leaves_the_weights_as_they_were(
    kit: Path, spoil: object, variables: dict[str, str], said: str
) -> None:
    spoil(kit)  # type: ignore[operator]
    done = build(kit, **variables)
    assert done.returncode == 1 and said in done.stderr
    (weights,) = (kit / "weights").iterdir()
    assert (weights / "model.safetensors").read_text() == "bf16"
