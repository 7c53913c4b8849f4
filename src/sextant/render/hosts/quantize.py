"""FP8 weights for NVIDIA's accelerators, made by NVIDIA's Model Optimizer before the engine starts.

For an engine with `precision: modelopt` whose weights are not in FP8 yet. The result is a Hugging Face
checkpoint that vLLM, Triton's vLLM backend, SGLang and TensorRT-LLM read; engines compiled by `trtllm-build`
are not made, since NVIDIA has deprecated them. DeepSeek-V3 and R1 are published in FP8 and need none of this.
"""

from __future__ import annotations

from sextant.render.dumping import text_file
from sextant.render.hosts.places import Ground
from sextant.spec.bundle import File, Step

PRECISION = "modelopt"
FILE = "quantize-fp8.py"
NOTE = (
    f"{FILE} makes FP8 weights with NVIDIA's Model Optimizer after its pages; it has not run on an "
    "accelerator. TensorRT-LLM behind Triton is not rendered: NVIDIA has deprecated its compiled engines, "
    "and the model repository that replaces them reports no token counts, without which nothing is metered."
)


def wanted(ground: Ground) -> bool:
    """Whether a model of the order is to be served from such weights."""
    return any(getattr(served.entry.engine, "precision", None) == PRECISION for served in ground.launched)


def quantize_file() -> File:
    """The program."""
    return text_file(FILE, _PROGRAM)


def install_steps() -> tuple[Step, ...]:
    """What to type before the installation."""
    return (
        Step(
            "Make FP8 weights, on a machine with the accelerators and NVIDIA's Model Optimizer",
            (
                "pip install nvidia-modelopt[hf]",
                f"python3 {FILE} --model BF16_FOLDER --calibration TEXTS --out FP8_FOLDER",
            ),
            "TEXTS has one text a line, some hundreds that look like your requests. FP8_FOLDER is what the "
            "engine reads: put it where the prerequisites say.",
        ),
    )


_PROGRAM = '''\
"""Weights of a Hugging Face model in FP8, by NVIDIA's Model Optimizer. Needs Hopper or newer."""

import argparse
import pathlib
import sys


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--model", required=True, type=pathlib.Path, help="folder of the weights, not in FP8")
    asked.add_argument("--calibration", required=True, type=pathlib.Path, help="texts, one a line")
    asked.add_argument("--out", required=True, type=pathlib.Path, help="new folder for the FP8 weights")
    asked.add_argument("--samples", type=int, default=512)
    asked.add_argument("--tokens", type=int, default=2048, help="longest text")
    given = asked.parse_args()
    if given.out.exists():
        sys.exit(f"error: {given.out} is there already; name a new folder")
    lines = given.calibration.read_text(encoding="utf-8").splitlines()
    texts = [line.strip() for line in lines if line.strip()]
    if len(texts) < 64:
        sys.exit(f"error: {given.calibration} has {len(texts)} texts; expected 64 or more")

    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, device_map="auto", torch_dtype="auto")

    def calibrate(model) -> None:
        for text in texts[: given.samples]:
            read = tokenizer(text, return_tensors="pt", truncation=True, max_length=given.tokens)
            model(**read.to(model.device))

    with torch.inference_mode():
        model = mtq.quantize(model, mtq.FP8_DEFAULT_CFG, calibrate)
        export_hf_checkpoint(model, export_dir=given.out)
    tokenizer.save_pretrained(given.out)
    print(f"{given.out} holds the FP8 weights.")


if __name__ == "__main__":
    main()
'''
