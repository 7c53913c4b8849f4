"""FP8 weights for NVIDIA's accelerators, made by NVIDIA's Model Optimizer before the engine starts.

For an engine with `precision: modelopt` whose weights are not in FP8 yet. The result is a Hugging Face
checkpoint that vLLM, both backends of Triton, SGLang and TensorRT-LLM read as it is. No engine is compiled:
`trtllm-build` is deprecated up to TensorRT-LLM 1.2 and gone after it, and what serves here loads checkpoints.
DeepSeek-V3 and R1 are published in FP8 and need none of this. `build-fp8.sh` does all steps, also in a folder
that `collect.sh` filled; `quantize-fp8.py` is the one that takes accelerators.
"""

from __future__ import annotations

import shlex

from sextant.render.dumping import script_file, text_file
from sextant.render.hosts.places import Ground
from sextant.spec.bundle import File, Step
from sextant.spec.rendering import ServedModel

PRECISION = "modelopt"
FILE = "quantize-fp8.py"
BUILD = "build-fp8.sh"
IMAGE = "trtllm-nvidia"
"""It holds Model Optimizer, and TensorRT-LLM to load the result with."""
NOTE = (
    f"{FILE} makes FP8 weights with NVIDIA's Model Optimizer after its pages; it has not run on an "
    "accelerator. TensorRT-LLM loads them as they are: nothing is compiled, since NVIDIA deprecated "
    "trtllm-build in TensorRT-LLM 1.2 and removed it after that."
)


def wanted(ground: Ground) -> bool:
    """Whether a model of the order is to be served from such weights."""
    return bool(_models(ground))


def quantize_files(ground: Ground) -> tuple[File, ...]:
    """The program, and the script that does all steps."""
    models = " ".join(served.key for served in _models(ground))
    told = f"fp8_models={shlex.quote(models)}\n"
    return (text_file(FILE, _PROGRAM), script_file(BUILD, told + _BUILD))


def install_steps(ground: Ground) -> tuple[Step, ...]:
    """What to type before the installation."""
    inside = (
        "docker run --rm --gpus all --ipc host --user 0 --network none --entrypoint sh "
        '--volume "$(dirname "$PWD"):$(dirname "$PWD")" --workdir "$PWD" '
        f"{ground.order.images.reference(IMAGE)} {BUILD} --calibration TEXTS --load"
    )
    return (
        Step(
            "Make FP8 weights, on a machine with the accelerators and NVIDIA's Model Optimizer",
            (
                "pip install nvidia-modelopt[hf]",
                f"./{BUILD} --model BF16_FOLDER --calibration TEXTS --out FP8_FOLDER",
            ),
            "Wanted: Ada, Hopper or newer; memory of all accelerators together of 1.2 times the weights as "
            "they are; disk of 0.6 times. It takes as long as reading TEXTS takes: minutes for 7 billion "
            "parameters, more than an hour for 70 (estimates). TEXTS has one text a line, some hundreds that "
            "look like your requests. FP8_FOLDER is what the engine reads: put it where the prerequisites "
            "say.",
        ),
        Step(
            "Or in a folder that collect.sh filled, so that the closed machine is brought FP8 weights",
            (inside,),
            "TEXTS lies in this folder. It changes weights/, keeps what it replaces beside this folder, and "
            "writes SHA256SUMS again; with --load TensorRT-LLM answers once from each result.",
        ),
    )


def _models(ground: Ground) -> tuple[ServedModel, ...]:
    return tuple(
        served for served in ground.launched if getattr(served.entry.engine, "precision", None) == PRECISION
    )


_PROGRAM = '''\
"""Weights of a Hugging Face model in FP8, by NVIDIA's Model Optimizer. Needs Hopper or newer."""

import argparse
import json
import pathlib
import shutil
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
    weights_bytes = weighed(given.model, given.out)

    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoModelForCausalLM, AutoTokenizer

    look_at_accelerators(torch, weights_bytes)
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


def weighed(model: pathlib.Path, out: pathlib.Path) -> int:
    """Bytes of the weights; ends where they are quantised already, or their copy would not fit."""
    if not (model / "config.json").is_file():
        sys.exit(f"error: {model} has no config.json; name the folder of a Hugging Face model")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config or (model / "hf_quant_config.json").exists():
        sys.exit(f"error: {model} is quantised already; serve it as it is")
    weights_bytes = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    free_bytes = shutil.disk_usage(out.parent).free
    if free_bytes < 0.6 * weights_bytes:
        sys.exit(f"error: {out.parent} has {free_bytes / 1e9:.1f} GB free; expected {0.6 * weights_bytes / 1e9:.1f}")
    return weights_bytes


def look_at_accelerators(torch, weights_bytes: int) -> None:
    """Ends where there are none that know FP8, or too little memory on all of them."""
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no NVIDIA accelerator; run this where nvidia-smi shows them")
    seen = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    old = [each.name for each in seen if (each.major, each.minor) < (8, 9)]
    if old:
        sys.exit(f"error: {old[0]} does not know FP8; expected Ada, Hopper or newer (CUDA_VISIBLE_DEVICES chooses)")
    memory_bytes = sum(each.total_memory for each in seen)
    if memory_bytes < 1.2 * weights_bytes:
        sys.exit(
            f"error: the accelerators have {memory_bytes / 1e9:.1f} GB together; expected "
            f"{1.2 * weights_bytes / 1e9:.1f}, 1.2 times the weights"
        )


if __name__ == "__main__":
    main()
'''

_BUILD = r"""
# build-fp8.sh --calibration TEXTS [--python PROGRAM] [--load] [--model FOLDER --out FOLDER]
# Makes FP8 weights of a model, looks whether they are, and writes their checksums. Without --model and --out: of each
# model in weights/ of a folder that collect.sh filled, in whose place they are put. --load: TensorRT-LLM loads them too.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"
texts='' model='' out='' python=python3 load=no
while [ $# -gt 0 ]; do
    case $1 in
        --calibration) texts=$2 ;;
        --model) model=${2%/} ;;
        --out) out=${2%/} ;;
        --python) python=$2 ;;
        --load)
            load=yes
            shift
            continue
            ;;
        *) die "unknown argument $1; usage: build-fp8.sh --calibration TEXTS [--python PROGRAM] [--load] [--model FOLDER --out FOLDER]" ;;
    esac
    shift 2
done
[ -f "$texts" ] || die "--calibration must name a file with one text a line; '$texts' is none"
"$python" -c 'import modelopt.torch.export, torch, transformers' 2>/dev/null ||
    die "$python has no nvidia-modelopt; run this in the engine's image, or: $python -m pip install 'nvidia-modelopt[hf]'"
if command -v trtllm-build >/dev/null; then
    say "trtllm-build is here and not used: this bundle's engines load the checkpoint as it is."
fi

sum_up() { # sum_up FOLDER: SHA256SUMS over all other files in it
    rm -f "$1/SHA256SUMS" "$1/SHA256SUMS.sig"
    sums=$(mktemp)
    (cd "$1" && find . -type f | sed 's|^\./||' | LC_ALL=C sort | xargs -d '\n' sha256sum) >"$sums"
    mv "$sums" "$1/SHA256SUMS"
    chmod 644 "$1/SHA256SUMS"
}

made_of() { # made_of FROM TO: FP8 weights of the model in FROM
    say "Quantising $1 …"
    "$python" "$here/quantize-fp8.py" --model "$1" --calibration "$texts" --out "$2" || die "$1 was not quantised"
    "$python" -c 'import json, sys; sys.exit(json.load(open(sys.argv[1]))["quantization"]["quant_algo"] != "FP8")' \
        "$2/hf_quant_config.json" || die "$2/hf_quant_config.json does not say FP8; remove $2 and look at the messages above"
    ls "$2"/*.safetensors >/dev/null 2>&1 || die "$2 holds no weights (*.safetensors)"
    if [ "$load" = yes ]; then
        "$python" -c 'import sys; from tensorrt_llm import LLM; llm = LLM(model=sys.argv[1]); print(llm.generate("1 + 1 =").outputs[0].text); llm.shutdown()' \
            "$2" || die "TensorRT-LLM does not load $2"
    fi
    sum_up "$2"
    say "$(du -sh "$1" | cut -f1) became $(du -sh "$2" | cut -f1): $2"
}

if [ -n "$model" ] || [ -n "$out" ]; then
    [ -d "$model" ] || die "--model must name the folder of the weights; '$model' is none"
    [ -n "$out" ] || die "--out must name a new folder for the FP8 weights"
    made_of "$model" "$out"
    exit 0
fi
[ -e "$here/SHA256SUMS" ] || die "$here was not collected: run ./collect.sh first, or name --model and --out"
for name in $fp8_models; do
    [ -d "$here/weights/$name" ] || die "weights/$name is missing; collect.sh fetches models that have names on a hub"
    kept=$here-$name-before-fp8
    [ ! -e "$kept" ] || die "$kept is there from before; move it away"
    rm -rf "$here/fp8-under-way"
    made_of "$here/weights/$name" "$here/fp8-under-way"
    rm "$here/fp8-under-way/SHA256SUMS"
    mv "$here/weights/$name" "$kept"
    mv "$here/fp8-under-way" "$here/weights/$name"
    say "The weights as they were: $kept"
done
sum_up "$here"
say "SHA256SUMS is written again; carry this folder over, and: sudo ./install-offline.sh"
"""
"""After `fp8_models`, the models of this bundle that it is for."""
