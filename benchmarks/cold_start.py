"""`make bench-cold-start`: from starting an engine to its first token, with each measure of a bundle.

vLLM on the processor (`.venv-vllm`, which `make test-vllm` makes) serves a model of 0.5 GB with random
weights. Of each round one start has nothing: program and weights are put out of the page cache, and no
compiled code is kept. The others have one measure each, and one has all. It is no accelerator: what is read
here are the parts and their order, not a card's seconds. Files are put out of the page cache one by one
(`posix_fadvise`), so that nobody else on the machine is slowed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.goals import last_line
from benchmarks.processes import BenchmarkError, free_port, stop_cleanly_on_sigterm
from benchmarks.servers import BUILD, ROOT

VENV = ROOT / ".venv-vllm"
START_TIMEOUT_S = 400.0
STOP_TIMEOUT_S = 20.0
ROUNDS = {"full": 3, "short": 1}
PARTS = {
    "weights, s": r"Loading weights took ([\d.]+) seconds",
    "compile, s": r"torch\.compile (?:takes|took) ([\d.]+) s",
    "profile and warm up, s": r"Initial profiling/warmup run took ([\d.]+) s",
    "engine in all, s": r"init engine .*took ([\d.]+) s",
}
"""What vLLM itself says of a start, in its log."""
AGAIN = "Compiling model again due to a load failure"
"""What it says when it does not take the compiled code that it kept."""


@dataclass(frozen=True)
class Kind:
    """One way to start: what is there before."""

    name: str
    pages: bool = False
    """Program and weights in the page cache, as the DaemonSet of a bundle leaves them on a node."""
    compiled: bool = False
    """Compiled code kept, as the volume of a bundle does."""
    arguments: tuple[str, ...] = ()


KINDS = (
    Kind("nothing kept"),
    Kind("in the page cache", pages=True),
    Kind("compiled code kept", compiled=True),
    Kind("both", pages=True, compiled=True),
    Kind("eager, nothing kept", arguments=("--enforce-eager",)),
    Kind("eager, in the page cache", pages=True, arguments=("--enforce-eager",)),
)
"""Eager is without compiling, which takes most of a start on a processor."""


@dataclass(frozen=True)
class Start:
    """One start, in seconds since the process was started; `parts` as the engine's log names them."""

    kind: str
    ready_s: float
    first_token_s: float
    parts: dict[str, float] = field(default_factory=dict)
    compiled_again: bool = False
    """It did not take the compiled code that was kept."""


def evict(folder: Path) -> int:
    """Puts every file below `folder` out of the page cache; how many bytes were asked for. Pages that a
    running program has mapped stay."""
    found = 0
    for place in folder.rglob("*"):
        if place.is_symlink() or not place.is_file():
            continue
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fdatasync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            found += os.fstat(handle).st_size
        finally:
            os.close(handle)
    return found


def read_all(folder: Path) -> None:
    """Reads every file below `folder` once."""
    for place in folder.rglob("*"):
        if place.is_file():
            with place.open("rb") as opened:
                while opened.read(1 << 22):
                    pass


def start(kind: Kind, model: Path, work: Path) -> Start:
    """One start of that kind, ended again. Raises BenchmarkError when no token comes."""
    cache = work / "cache"
    if not kind.compiled:
        shutil.rmtree(cache, ignore_errors=True)
    for folder in (VENV / "lib", model, *((cache,) if cache.exists() else ())):
        read_all(folder) if kind.pages else evict(folder)
    port, log = free_port(), work / "vllm.log"
    began = time.monotonic()
    process = spawn(kind, model, port, work)
    try:
        until(lambda: answered(port, "GET", "/health"), process, log)
        ready_s = time.monotonic() - began
        body = json.dumps({"model": "m", "prompt": "How are you?", "max_tokens": 1})
        until(lambda: answered(port, "POST", "/v1/completions", body), process, log)
        told = log.read_text()
        return Start(kind.name, ready_s, time.monotonic() - began, parts_of(told), AGAIN in told)
    finally:
        stop(process)


def spawn(kind: Kind, model: Path, port: int, work: Path) -> subprocess.Popen[bytes]:
    """vLLM with its caches below `work`, in a process group of its own."""
    argv = [str(VENV / "bin" / "vllm"), "serve", str(model), "--served-model-name", "m", "--port", str(port)]
    argv += ["--max-model-len", "1024", "--dtype", "bfloat16", "--max-num-seqs", "4", *kind.arguments]
    variables = {
        "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        "HOME": str(work),
        "VLLM_CACHE_ROOT": str(work / "cache" / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "cache" / "inductor"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with (work / "vllm.log").open("wb") as out:
        return subprocess.Popen(argv, stdout=out, stderr=out, env=variables, start_new_session=True)


def until(done: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    """Asks again and again. Raises BenchmarkError when the process ended or the time is over."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchmarkError(f"vLLM gave no token:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def answered(port: int, method: str, path: str, body: str | None = None) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the engine with all its processes."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def parts_of(log: str) -> dict[str, float]:
    """What the engine's log says that its parts took, in seconds, without parts that it does not name."""
    found = {}
    for name, pattern in PARTS.items():
        told = re.findall(pattern, log)
        if told:
            found[name] = float(told[-1])
    return found


def make_model(folder: Path) -> None:
    """A Qwen2 of 240 M parameters with random weights, made by the engine's own Python."""
    done = subprocess.run(
        [str(VENV / "bin" / "python"), "-c", _MODEL, str(folder), str(ROOT / "tests" / "vllm")],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        raise BenchmarkError(f"the model could not be made:\n{done.stderr[-2000:]}")


def measure(rounds: int, work: Path, kinds: Sequence[Kind] = KINDS) -> list[Start]:
    """All starts of a run, the kinds in turn."""
    model = work / "model"
    make_model(model)
    starts: list[Start] = []
    for _ in range(rounds):
        for kind in kinds:
            starts.append(start(kind, model, work))
            print(f"  {kind.name}: first token after {starts[-1].first_token_s:.1f} s", flush=True)
    return starts


def page(facts: dict[str, Any], starts: Sequence[Start]) -> str:
    """The Markdown page of a run."""
    names = ["ready, s", "first token, s", *PARTS]
    rows = []
    for kind in KINDS:
        own = [each for each in starts if each.kind == kind.name]
        if not own:
            continue
        told: dict[str, list[float]] = {
            "ready, s": [each.ready_s for each in own],
            "first token, s": [each.first_token_s for each in own],
            **{part: [each.parts[part] for each in own if part in each.parts] for part in PARTS},
        }
        again = "yes" if any(each.compiled_again for each in own) else "no"
        shown = (report.ranged(told[name], 1) if told[name] else "-" for name in names)
        rows.append([kind.name, again, *shown])
    return (
        "# Cold start\n"
        + report.machine_list(facts)
        + "\nvLLM on the processor, a model of 0.5 GB: seconds since its process was started, median (low to "
        "high). The parts are from its own log.\n\n"
        + report.table(["what was there before", "compiled again", *names], rows)
    )


_MODEL = """
import sys
sys.path.insert(0, sys.argv[2])
import torch, checkpoint
from transformers import Qwen2Config, Qwen2ForCausalLM
tokenizer = checkpoint._tokenizer("the quick brown fox jumps over the lazy dog. " * 200)
torch.manual_seed(1)
config = Qwen2Config(vocab_size=len(tokenizer), hidden_size=2048, intermediate_size=8192, num_hidden_layers=4,
                     num_attention_heads=16, num_key_value_heads=8, max_position_embeddings=2048)
Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=ROUNDS, default="full")
    parser.add_argument("--eager", action="store_true", help="only the kinds that compile nothing")
    parser.add_argument("--out", type=Path, help="directory for the result files")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    stop_cleanly_on_sigterm()
    out = options.out or (Path(__file__).parent / "results" if options.form == "full" else BUILD)
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="sextant-bench-"))
    try:
        facts = machine.describe(work)
        kinds = [kind for kind in KINDS if kind.arguments or not options.eager]
        starts = measure(ROUNDS[options.form], work, kinds)
    except BenchmarkError as error:
        print(f"the benchmark was stopped: {error}")
        print(last_line("cold-start", {"error": str(error)[:300]}, []))
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    name = "cold-start" if options.form == "full" else f"cold-start-{options.form}"
    content = {"machine": facts, "starts": [dataclasses.asdict(each) for each in starts]}
    (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / f"{name}.md").write_text(page(facts, starts))
    print(page(facts, starts))
    figures = {f"{each.kind} s": round(each.first_token_s, 1) for each in starts}
    print(last_line("cold-start", figures, []))
    return 0


if __name__ == "__main__":
    sys.exit(main())
