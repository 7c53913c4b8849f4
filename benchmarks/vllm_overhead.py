"""vLLM through us against bare vLLM on the same machine: tokens a second, and what we add to the first token.

    python -m benchmarks.vllm_overhead --engine-url http://127.0.0.1:8010/v1 --model NAME
    python -m benchmarks.vllm_overhead --model NAME \\
        --launch "vllm serve DIR --served-model-name NAME --port {port}"
    python -m benchmarks.vllm_overhead --document FILE

One engine serves both ways: it runs already, is launched here, or is launched by `sextant up` from a
document. Speed is compared in alternating windows of 1, 64 and 256 streams. The first token at 64 and 256 is
compared within one window, half of whose requests go each way: both halves then wait for the same batches,
whose time is far longer than ours and differs from window to window. Any engine with the OpenAI protocol
will do.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shlex
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine, report, servers
from benchmarks.e2e_window import Due, Load, run_window
from benchmarks.engine import WINDOW_TIMEOUT_S, EngineWindow, Question, window
from benchmarks.engine import Load as StreamLoad
from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.processes import BenchmarkError, Pinned, free_port, stop_cleanly_on_sigterm
from benchmarks.servers import BUILD
from benchmarks.stack import START_TIMEOUT_S, Asked, Cores, Stack, remote_document, running_stack
from benchmarks.stats import percentile, ratio

SPEED_SHARE = 0.97
ADDED_FIRST_TOKEN_P99_MS = 5.0
ANSWER_TOKENS = 128
ROUNDS = {1: 16, 64: 4, 256: 3}
"""Answers that each stream of a window asks, by the number of streams."""
WINDOWS = {"full": 5, "short": 1}
ENGINE_TIMEOUT_S = 900.0


@dataclass
class Level:
    """One concurrency: the windows of each way, and the first-token times of each half of the mixed ones."""

    windows: dict[str, list[EngineWindow]] = field(default_factory=lambda: {"bare": [], "sextant": []})
    first_token_ms: dict[str, list[float]] = field(default_factory=lambda: {"bare": [], "sextant": []})

    @property
    def speed_share(self) -> float:
        speeds = {name: [row.tokens_per_s for row in rows] for name, rows in self.windows.items()}
        return ratio(speeds["sextant"], speeds["bare"])

    def first_token_p_ms(self, way: str, percent: float) -> float:
        """A percentile of the mixed halves; of the alternating windows where there is no mixed one."""
        times = self.first_token_ms[way]
        if times:
            return percentile(times, percent)
        name = "ttft_p99_ms" if percent > 50 else "ttft_p50_ms"
        return percentile([getattr(row, name) for row in self.windows[way]], 50)

    @property
    def added_first_token_p99_ms(self) -> float:
        return self.first_token_p_ms("sextant", 99) - self.first_token_p_ms("bare", 99)


def measure_level(stack: Stack, streams: int, options: argparse.Namespace, work: Path) -> Level:
    """All windows of one concurrency. One of each way before them is not counted."""
    level = Level()
    question = Question(answer_tokens=options.answer_tokens)
    load = StreamLoad(streams, ROUNDS[streams], options.load_cores, question)
    for way in stack.ways:
        window(work, way, load)
    for index in range(WINDOWS[options.form]):
        for way in stack.ways if index % 2 == 0 else tuple(reversed(stack.ways)):
            found = window(work, way, load)
            level.windows[way.name].append(found)
            print(f"  {streams:>3} at once  {way.name:<8} {found.tokens_per_s:>8.0f} tokens/s", flush=True)
        if streams > 1:
            for name, times in mixed_first_tokens(stack, streams, options, work).items():
                level.first_token_ms[name] += times
    return level


def mixed_first_tokens(
    stack: Stack, streams: int, options: argparse.Namespace, work: Path
) -> dict[str, list[float]]:
    """The times to the first token of one closed loop of `streams`, half of them each way."""
    load = Load(work, options.load_cores, streams // 2, options.answer_tokens, WINDOW_TIMEOUT_S)
    due = Due([0] * (streams * ROUNDS[streams]), 0.001)
    halves = run_window(load, stack, stack.ways, due)
    for half in halves.values():
        if half.failed:
            raise BenchmarkError(
                f"{half.way}: {half.failures} of {half.arrivals} requests at {streams} at once"
            )
    return {name: [row.first_ms - row.late_ms for row in half.rows] for name, half in halves.items()}


def goals_of(levels: dict[int, Level]) -> list[Goal]:
    """The two goals at every concurrency."""
    goals: list[Goal] = []
    for streams, level in levels.items():
        goals.append(Goal(f"x_bare_{streams}", level.speed_share, SPEED_SHARE))
        added = level.added_first_token_p99_ms
        goals.append(
            Goal(f"added_first_token_p99_ms_{streams}", added, ADDED_FIRST_TOKEN_P99_MS, at_least=False)
        )
    return goals


def page(facts: dict[str, Any], levels: dict[int, Level], goals: Sequence[Goal]) -> str:
    """The Markdown page of a run."""
    rows = [
        [
            str(streams),
            name,
            report.ranged([row.tokens_per_s for row in level.windows[name]], 0),
            "" if name == "bare" else f"{level.speed_share:.3f}",
            f"{level.first_token_p_ms(name, 50):.2f}",
            f"{level.first_token_p_ms(name, 99):.2f}",
        ]
        for streams, level in levels.items()
        for name in ("bare", "sextant")
    ]
    head = ["at once", "way", "tokens/s", "of bare", "first token p50 ms", "p99 ms"]
    return (
        "# An engine through us against the bare engine\n"
        + report.machine_list(facts)
        + "\n"
        + report.table(head, rows)
        + "\n## Goals\n\n"
        + report.goals_table(goals)
    )


@contextlib.contextmanager
def launched(options: argparse.Namespace, work: Path) -> Iterator[Asked]:
    """What `sextant up` is to start, with the engine before it running where it is not ours to start."""
    if options.document is not None:
        yield Asked(options.document, options.model, options.start_timeout_s)
        return
    if options.model is None:
        raise BenchmarkError("--engine-url and --launch need --model: the engine's own name for the model")
    with contextlib.ExitStack() as stack:
        url = options.engine_url
        if options.launch is not None:
            port = free_port()
            url = f"http://127.0.0.1:{port}/v1"
            argv = [word.replace("{port}", str(port)) for word in shlex.split(options.launch)]
            engine = Pinned("engine", argv, options.engine_cores, work / "engine.log").start()
            stack.callback(engine.stop, 30.0)
            wait_for_models(engine, url, options.engine_timeout_s)
        path = work / "remote.yaml"
        path.write_text(remote_document(url, options.model, key_ref=options.engine_key or ""))
        yield Asked(path, options.model, options.start_timeout_s)


def wait_for_models(engine: Pinned, url: str, timeout_s: float) -> None:
    """Returns once the engine answers. Raises BenchmarkError when it ends or time is up."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        engine.check_alive()
        try:
            opener.open(f"{url}/models", timeout=5).close()
        except urllib.error.HTTPError as error:  # it wants its key: it answers
            error.close()
            return
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise BenchmarkError(f"the engine did not answer within {timeout_s:g} s:\n{engine.log_tail()}")


def measure(options: argparse.Namespace, work: Path) -> tuple[dict[str, Any], dict[int, Level]]:
    """One whole run: the machine, and the levels by concurrency."""
    servers.build_tools()
    facts = machine.describe(work)
    cores = Cores(options.engine_cores, options.other_cores, options.load_cores)
    facts["cores of engine, others, load"] = f"{cores.engine}; {cores.others}; {cores.load}"
    facts["engine"] = str(options.document or options.launch or options.engine_url)
    facts["accelerator"] = machine.first_line("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    facts["tokens an answer"] = options.answer_tokens
    levels: dict[int, Level] = {}
    with launched(options, work) as asked, running_stack(work, cores, asked) as stack:
        facts["model"] = stack.sextant.model
        for streams in options.streams:
            levels[streams] = measure_level(stack, streams, options, work)
    return facts, levels


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--form", choices=WINDOWS, default="full")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--engine-url", help="an engine that runs already: http://127.0.0.1:PORT/v1")
    given.add_argument("--launch", help="the command that starts it, with {port} where its port stands")
    given.add_argument("--document", type=Path, help="a document whose engine `sextant up` launches")
    parser.add_argument(
        "--model", help="the engine's name for the model; with --document: which of its models"
    )
    parser.add_argument("--engine-key", help="reference to the engine's key: env:NAME or file:/path")
    parser.add_argument("--streams", type=int, nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--answer-tokens", type=int, default=ANSWER_TOKENS)
    parser.add_argument("--engine-cores", default="1", help="cores as taskset takes them")
    parser.add_argument("--other-cores", default="0", help="cores of gateway, ledger and control")
    parser.add_argument("--load-cores", default="0", help="cores of the generator")
    parser.add_argument("--engine-timeout-s", type=float, default=ENGINE_TIMEOUT_S)
    parser.add_argument("--start-timeout-s", type=float, default=START_TIMEOUT_S)
    parser.add_argument("--out", type=Path, help="directory for the result files")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    stop_cleanly_on_sigterm()
    out = options.out or BUILD
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="sextant-bench-"))
    try:
        facts, levels = measure(options, work)
    except BenchmarkError as error:
        print(f"the benchmark was stopped: {error}")
        print(last_line("vllm-overhead", {"error": str(error)[:300]}, []))
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    goals = goals_of(levels)
    stored = {str(streams): dataclasses.asdict(level) for streams, level in levels.items()}
    content = {"machine": facts, "levels": stored, "goals": {goal.name: goal.as_json() for goal in goals}}
    (out / "vllm-overhead.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "vllm-overhead.md").write_text(page(facts, levels, goals))
    print(page(facts, levels, goals))
    figures = {
        f"{name}_tokens_per_s_{streams}": round(percentile([row.tokens_per_s for row in rows], 50), 1)
        for streams, level in levels.items()
        for name, rows in level.windows.items()
    }
    print(last_line("vllm-overhead", figures, goals))
    return exit_code(goals)


if __name__ == "__main__":
    sys.exit(main())
