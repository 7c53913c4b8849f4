"""How long a plan takes: `python -m benchmarks.planner.speed [--keep]`.

One plan, a sweep over the whole catalogue, and importing the CLI: in a running process, everything read and
decided anew each time, and as whole commands from the shell. Each is run `ROUNDS` times in turn with the
others, so that a busy moment meets all of them; the median is held against the goal. Exit code 1 where one
is missed. `--profile` shows instead where the time of one plan in process goes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import machine, report
from benchmarks.goals import Goal, exit_code, last_line
from sextant.cli.plan import tools_of
from sextant.cli.plan_answer import Answer, answer
from sextant.cli.plan_asked import Files, Flags, asked_of

ROUNDS = 15
PAGE = Path(__file__).parents[1] / "results/planner-speed.md"
SEXTANT = Path(sys.executable).with_name("sextant")
PLAN = ("plan", "--model", "deepseek-r1", "--accelerator", "H200", "--count", "8", "--json")
SWEEP = ("plan", "--model", "deepseek-r1", "--requests-per-s", "4", "--json")
IMPORTED = "import sextant.cli.main"
PLAN_S, SWEEP_S, IMPORT_S = 0.3, 3.0, 0.2


def planned(**asked_for: object) -> Answer:
    """What `sextant plan` decides: facts, prices and calibration are read, nothing is kept from before."""
    flags = Flags(model="deepseek-r1", **asked_for)  # type: ignore[arg-type]
    asked = asked_of(flags, Files())
    return answer(asked.question, catalog=asked.catalog, prices=asked.prices, tools=tools_of(asked.prices))


def one_plan() -> Answer:
    """As `PLAN`, in process."""
    return planned(accelerators=("H200",), wishes={"count": 8})


def sweep() -> Answer:
    """As `SWEEP`, in process: every accelerator of the catalogue."""
    return planned(workload={"requests_per_s": 4.0})


def command(*words: str) -> Callable[[], object]:
    """A run of that command, its output thrown away. Raises CalledProcessError where it fails."""
    return lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def imported_s() -> float:
    """Seconds of importing the CLI in an interpreter that has just started."""
    code = f"import time; t = time.perf_counter(); {IMPORTED}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


def seconds(run: Callable[[], object]) -> float:
    """What a run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each thing, one for each round; a first round of all is not counted."""
    runs: Mapping[str, Callable[[], float]] = {
        "one plan, in process": lambda: seconds(one_plan),
        "one plan, whole command": lambda: seconds(command(str(SEXTANT), *PLAN)),
        "sweep of the catalogue, in process": lambda: seconds(sweep),
        "sweep of the catalogue, whole command": lambda: seconds(command(str(SEXTANT), *SWEEP)),
        "import of the CLI": imported_s,
        "sextant version, whole command": lambda: seconds(command(str(SEXTANT), "version")),
        "an empty interpreter": lambda: seconds(command(sys.executable, "-c", "")),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            took_s = run()
            if turn:
                found[name].append(took_s)
    return found


def goals_of(found: Mapping[str, Sequence[float]]) -> list[Goal]:
    """Medians against what is promised; what is only shown for comparison has no goal."""
    bounds = {"one plan": PLAN_S, "sweep of the catalogue": SWEEP_S, "import of the CLI": IMPORT_S}
    return [
        Goal(f"{name}, s", sorted(took_s)[len(took_s) // 2], bound, at_least=False)
        for name, took_s in found.items()
        for start, bound in bounds.items()
        if name.startswith(start)
    ]


def page(found: Mapping[str, Sequence[float]], about: dict[str, object]) -> str:
    """The Markdown page of a run."""
    shown = {name: about[name] for name in ("date", "commit", "cpu", "cores", "python")}
    rows = [[name, report.ranged([one * 1000 for one in took_s], 0)] for name, took_s in found.items()]
    return (
        "# How long a plan takes\n\nCommand: `make bench-planner ARGS=--keep`, or this part alone: "
        "`.venv/bin/python -m benchmarks.planner.speed --keep`.\n\n"
        + report.machine_list(shown)
        + f"- plan: `sextant {' '.join(PLAN)}`\n- sweep: `sextant {' '.join(SWEEP)}`\n\n"
        + report.table(("what", f"ms, median of {len(next(iter(found.values())))} (least to most)"), rows)
        + "\n## Goals\n\n"
        + report.goals_table(goals_of(found))
    )


def profile() -> None:
    """Prints where the time of one plan in process goes, the second of two."""
    one_plan()
    profiler = cProfile.Profile()
    profiler.runcall(one_plan)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(40)


def main() -> int:
    """Measures, prints, and with `--keep` writes `benchmarks/results/planner-speed.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    if options.profile:
        profile()
        return 0
    found = measure(options.rounds)
    with tempfile.TemporaryDirectory(prefix="sextant-bench-") as folder:
        text = page(found, machine.describe(Path(folder)))
    print(text)
    if options.keep:
        PAGE.write_text(text, encoding="utf-8")
    goals = goals_of(found)
    print(last_line("planner-speed", {"rounds": options.rounds}, goals))
    return exit_code(goals)


if __name__ == "__main__":
    raise SystemExit(main())
