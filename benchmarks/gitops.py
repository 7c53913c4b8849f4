"""`make bench-gitops`: from `git commit` to the first token of the new model version, by phase.

A bare repository on this disk, a stack that serves the bundled model, `sextant follow` beside it. Each round
commits a document that serves another version (a copy of the model's file under a new name) and pushes it; a
client asks for the new version by its name, again and again, until a token comes. In the rounds `hook` the
push is followed by a SIGHUP to `sextant follow`, as a hook of the repository or a webhook would send; in the
rounds `poll` it looks every two seconds. Phases are stamped when the follower's line for them arrives.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine, payload, report
from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.processes import BenchmarkError, free_port, stop_cleanly_on_sigterm
from benchmarks.servers import BUILD, ROOT
from benchmarks.start import has_text, local_key, stop
from benchmarks.stats import spread
from sextant.app.plan import bundled_model_path

ROUNDS = {"full": 7, "short": 3}
KINDS = {"hook": 3600.0, "poll": 2.0}
"""Kind of round to how often the follower looks by itself, s."""
BOUND_S = 5.0
PREDICTED_S = {"hook": 0.9, "poll": 1.9}
"""Said before the first run: git 0.15, looking at the file 0.05, an engine's start 0.4 (as in start.md), its
token 0.05, the gateway's look at the routes 0.1, a token 0.05, and half an interval of 2 s where it polls."""
ROUND_TIMEOUT_S = 60.0
ASK_AGAIN_S = 0.005
LINES = (
    ("noticed, fetched, checked", "Looking at"),
    ("engine started", "beside what serves"),
    ("engine up", "is up and makes a token"),
    ("token made, routes switched", "Switched in"),
)
"""Phase, and what the follower's line for it holds."""
WHO = ("-c", "user.name=bench", "-c", "user.email=bench@example.com", "-c", "commit.gpgsign=false")


@dataclass(frozen=True)
class Change:
    """One commit: when each phase was reached, in seconds since `git commit` was typed."""

    kind: str
    reached_s: dict[str, float]

    @property
    def first_token_s(self) -> float:
        return self.reached_s["first token"]


class Follower:
    """`sextant follow`, each of its lines stamped when it arrives."""

    def __init__(self, repository: Path, state: Path, every_s: float) -> None:
        argv = [sys.executable, "-m", "sextant.cli.main", "follow", str(repository)]
        argv += ["--every", str(every_s), "--state", str(state)]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        self.lines: list[tuple[float, str]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.strip()))

    def reached(self, words: str, since_s: float) -> float | None:
        return next((at_s for at_s, line in tuple(self.lines) if at_s >= since_s and words in line), None)

    def wait_for(self, words: str, since_s: float) -> None:
        while self.reached(words, since_s) is None:
            if self.process.poll() is not None or time.monotonic() - since_s > ROUND_TIMEOUT_S:
                raise BenchmarkError(f"the follower did not say {words!r}: {self.lines[-5:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


class Bench:
    """A repository, a stack and the copies of the model that the commits name."""

    def __init__(self, work: Path) -> None:
        self.work, self.copy, self.bare = work, work / "copy", work / "shop.git"
        self.copy.mkdir()
        self.state = work / "state"
        self.port = free_port()
        self._git("init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        self._git("init", "--quiet", "--initial-branch=main")
        self._git("remote", "add", "origin", str(self.bare))
        self.version = 0
        self.name = self.write()
        self.commit_and_push()

    def write(self) -> str:
        """The next version's document; its name."""
        self.version += 1
        name = f"nano-1.{self.version}.0"
        file = self.work / f"{name}.gguf"
        shutil.copyfile(bundled_model_path("sextant-nano"), file)
        written = {
            "apiVersion": "sextant.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "shop"},
            "spec": {
                "model": {"name": name, "source": str(file), "aliases": ["sextant-nano"]},
                "engine": {"kind": "embedded"},
            },
        }
        (self.copy / "sextant.yaml").write_text(json.dumps(written, indent=1))
        return name

    def commit_and_push(self) -> None:
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", f"Serve {self.version}")
        self._git("push", "--quiet", "origin", "main")

    def head(self) -> str:
        """The newest commit, as the follower writes it."""
        argv = ["git", "-C", str(self.copy), "rev-parse", "HEAD"]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout[:12]

    def up(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "sextant.cli.main", "up", str(self.copy / "sextant.yaml")]
        argv += ["--state", str(self.state), "--port", str(self.port), "--control-port", str(free_port())]
        with (self.work / "up.log").open("wb") as out:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT)
        began_s = time.monotonic()
        while not (self.state / "secrets" / "local-cli").is_file() or not self.has_token(self.name):
            if process.poll() is not None or time.monotonic() - began_s > ROUND_TIMEOUT_S:
                raise BenchmarkError(f"it does not start:\n{(self.work / 'up.log').read_text()[-2000:]}")
            time.sleep(0.05)
        return process

    def change(self, kind: str, follower: Follower) -> Change:
        """One commit, to the first token of what it names."""
        name = self.write()
        began_s = time.monotonic()
        self.commit_and_push()
        reached = {"committed and pushed": time.monotonic() - began_s}
        if kind == "hook":
            follower.process.send_signal(signal.SIGHUP)
        while not self.has_token(name):
            if time.monotonic() - began_s > ROUND_TIMEOUT_S:
                raise BenchmarkError(f"no token of {name}: {follower.lines[-5:]}")
            time.sleep(ASK_AGAIN_S)
        reached["first token"] = time.monotonic() - began_s
        follower.wait_for(f"{self.head()} is applied", began_s)
        for phase, words in LINES:
            at_s = follower.reached(words, began_s)
            if at_s is None:
                raise BenchmarkError(f"the follower did not say {words!r}")
            reached[phase] = at_s - began_s
        return Change(kind, reached)

    def has_token(self, model: str) -> bool:
        """Whether `model` makes a token now: one streamed chat, read up to its first event with text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ROUND_TIMEOUT_S)
        extra = {"model": model, "messages": [{"role": "user", "content": "What is 12 + 34?"}]}
        headers = {"authorization": f"Bearer {local_key(self.state)}", "content-type": "application/json"}
        try:
            body = payload.body(stream=True, max_tokens=16, extra=extra)
            connection.request("POST", payload.PATH, body, headers)
            response = connection.getresponse()
            return response.status == 200 and any(has_text(line) for line in response)
        except OSError:
            return False
        finally:
            connection.close()

    def _git(self, *arguments: str) -> None:
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        subprocess.run(["git", *WHO, *arguments], cwd=self.copy, check=True, env=environment)


def measure(rounds: int, work: Path) -> list[Change]:
    """All changes of a run. One of each kind before them is not counted."""
    bench = Bench(work)
    process = bench.up()
    changes: list[Change] = []
    chance = random.Random(1)
    try:
        for kind, every_s in KINDS.items():
            began_s = time.monotonic()
            follower = Follower(bench.bare, bench.state, every_s)
            try:
                follower.wait_for("following", began_s)
                for index in range(rounds + 1):
                    if kind == "poll":  # at any moment between two looks
                        time.sleep(chance.uniform(0, every_s))
                    found = bench.change(kind, follower)
                    if index:
                        changes.append(found)
                        print(f"  {kind}: first token after {found.first_token_s:.2f} s", flush=True)
            finally:
                follower.stop()
    finally:
        stop(process)
    return changes


def of_kind(changes: Sequence[Change], kind: str) -> list[Change]:
    return [change for change in changes if change.kind == kind]


def goals_of(changes: Sequence[Change]) -> list[Goal]:
    return [
        Goal(
            f"first_token_s_{kind}",
            median(change.first_token_s for change in of_kind(changes, kind)),
            BOUND_S,
            at_least=False,
            note=f"predicted {PREDICTED_S[kind]:g}",
        )
        for kind in KINDS
    ]


def phase_rows(changes: Sequence[Change]) -> list[list[str]]:
    """Each kind's phases, in the order in which they are reached."""
    rows: list[list[str]] = []
    for kind in KINDS:
        own = of_kind(changes, kind)
        when = {name: [change.reached_s[name] for change in own] for name in own[0].reached_s}
        rows += [
            [kind, name, report.ranged(when[name], 2), str(len(own))]
            for name in sorted(when, key=lambda name: spread(when[name]).median)
        ]
    return rows


def page(facts: dict[str, Any], changes: Sequence[Change], goals: Sequence[Goal]) -> str:
    """The Markdown page of a run."""
    return (
        "# GitOps benchmark\n"
        + report.machine_list(facts)
        + "\nSeconds since `git commit` was typed: median (low to high). `hook`: the push wakes\n"
        "`sextant follow`; `poll`: it looks every 2 s.\n\n"
        + report.table(["kind", "reached", "after, s", "commits"], phase_rows(changes))
        + "\n## Goals\n\n"
        + report.goals_table(goals)
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=ROUNDS, default="full")
    parser.add_argument("--keep", action="store_true", help="keep the figures in benchmarks/results")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    stop_cleanly_on_sigterm()
    out = Path(__file__).parent / "results" if options.keep else BUILD
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="sextant-bench-"))
    try:
        facts = machine.describe(work)
        changes = measure(ROUNDS[options.form], work)
    except BenchmarkError as error:
        print(f"the benchmark was stopped: {error}")
        print(last_line("gitops", {"error": str(error)[:300]}, []))
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    goals = goals_of(changes)
    content = {
        "machine": facts,
        "predicted_s": PREDICTED_S,
        "changes": [dataclasses.asdict(change) for change in changes],
        "goals": {goal.name: goal.as_json() for goal in goals},
    }
    (out / "gitops.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "gitops.md").write_text(page(facts, changes, goals))
    print(f"written: {out / 'gitops.md'}")
    print(last_line("gitops", {}, goals))
    return exit_code(goals)


if __name__ == "__main__":
    sys.exit(main())
