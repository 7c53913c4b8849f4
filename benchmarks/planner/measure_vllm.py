"""Measures serving points of our own: vLLM on one accelerator, true shapes, weights of no meaning.

`python -m benchmarks.planner.measure_vllm OUT.csv MODEL…` with the Python that has vLLM (0.26.0 was used) and
aiohttp; models stand in `data/vllm_models.toml`. Speed does not depend on what the weights say, so none are
needed (`--load-format dummy`); the tokenizer is the bundled model's, prompts are sent as token ids, and every
answer has the length that it was asked for. A closed loop of so many callers; each prompt and answer is four
fifths to the whole of the stated length, at random, as the serving points of `serving_points.csv` were taken.
A row has medians over all its requests, the first ones of the burst included. `own_points.py` reads the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import datetime
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "src/sextant/models/nano/hf"
SHAPES = Path(__file__).parent / "data/vllm_models.toml"
COMMON = {
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "q_lora_rank": None,
}
LOADS = [(1024, 256, callers) for callers in (1, 4, 16, 64, 128)] + [
    (4096, 128, callers) for callers in (1, 8, 32)
]
"""Most tokens of a prompt and of an answer, callers."""
LEAST_REQUESTS, ROUNDS, ROUNDS_OF_MANY, MANY = 8, 6, 4, 64
PORT = 8123
PATIENCE_S = 300.0
DEADLINE_S = 600.0
FIRST_ID, LAST_ID = 20, 250
"""Token ids that every tokenizer here has."""


@contextlib.contextmanager
def served(model: str, folder: Path) -> Iterator[str]:
    """vLLM with that model, as the base URL of its API. Raises RuntimeError when it does not come up."""
    shape = tomllib.loads(SHAPES.read_text(encoding="utf-8"))[model]
    (folder / "config.json").write_text(json.dumps({**COMMON, **shape}), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder / name)
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    argv += ["--served-model-name", "m", "--load-format", "dummy", "--port", str(PORT), "--dtype", "bfloat16"]
    argv += ["--max-model-len", "8192", "--max-num-seqs", "256", "--no-enable-prefix-caching"]
    argv += ["--gpu-memory-utilization", "0.9", "--disable-log-stats", "--uvicorn-log-level", "warning"]
    log = folder / "vllm.log"
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_until_ready(process, log)
        yield f"http://127.0.0.1:{PORT}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2)
            return
        time.sleep(1)
    raise RuntimeError(f"vLLM is not ready after {PATIENCE_S:.0f} s or ended: {log.read_text()[-2000:]}")


async def measured(url: str, load: tuple[int, int, int]) -> dict[str, Any]:
    """The medians of one load. Raises RuntimeError when an answer has another length than asked."""
    import aiohttp

    most_input, most_output, callers = load
    chance = random.Random(most_input * 7 + callers)
    rounds = ROUNDS if callers < MANY else ROUNDS_OF_MANY
    left = iter(range(max(LEAST_REQUESTS, rounds * callers)))
    seen: list[tuple[float, float, int, int]] = []
    timeout, connector = aiohttp.ClientTimeout(total=DEADLINE_S), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, read_bufsize=1 << 20) as session:

        async def caller() -> None:
            for _ in left:
                lengths = [chance.randint(most * 4 // 5, most) for most in (most_input, most_output)]
                prompt = [chance.randrange(FIRST_ID, LAST_ID) for _ in range(lengths[0])]
                seen.append((*await _answer(session, url, prompt, lengths[1]), *lengths))

        start_s = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        wall_s = time.perf_counter() - start_s
    ttft_ms, tpot_ms, inputs, outputs = zip(*seen, strict=True)
    return {
        "input_tokens": round(statistics.fmean(inputs), 1),
        "output_tokens": round(statistics.fmean(outputs), 1),
        "concurrency": callers,
        "requests": len(seen),
        "ttft_ms": round(statistics.median(ttft_ms), 2),
        "tpot_ms": round(statistics.median(tpot_ms), 3),
        "ttft_mean_ms": round(statistics.fmean(ttft_ms), 2),
        "output_tokens_per_s": round(sum(outputs) / wall_s, 1),
    }


async def _answer(session: Any, url: str, prompt: list[int], tokens: int) -> tuple[float, float]:
    """TTFT and TPOT in milliseconds; tokens are counted by the usage that each event carries."""
    body = {
        "model": "m",
        "prompt": prompt,
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
        "temperature": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    start_s = first_s = last_s = time.perf_counter()
    at_first = count = 0
    async with session.post(f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            now = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", 0)
            if now > count:
                last_s, count = time.perf_counter(), now
                if not at_first:
                    first_s, at_first = last_s, now
    if count != tokens or count == at_first:
        raise RuntimeError(f"an answer has {count} tokens, {at_first} of them at once; {tokens} were asked")
    return (first_s - start_s) * 1000, (last_s - first_s) * 1000 / (tokens - at_first)


def main() -> None:
    """Serves each model, measures every load, appends a row at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--accelerator", default="h200", help="its name in the planner's catalogue")
    asked = parser.parse_args()
    from importlib.metadata import version

    told = {"accelerator": asked.accelerator, "engine": "vllm", "engine_version": version("vllm")}
    told |= {"precision": "bf16", "kv_precision": "bf16", "tp": 1}
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    for model in asked.models:
        with tempfile.TemporaryDirectory() as folder, served(model, Path(folder)) as url:
            asyncio.run(measured(url, (512, 64, 4)))  # compiles what is compiled late
            for load in LOADS:
                row = {"model": model, **told, **asyncio.run(measured(url, load)), "measured": today}
                new = not asked.out.exists()
                with asked.out.open("a", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, row, lineterminator="\n")
                    if new:
                        writer.writeheader()
                    writer.writerow(row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
