"""Runs shards of the tests within their budgets: `python tests/shard.py all | fast | NAME …`.

Shards, their paths and budgets stand in `budget.toml`. The last line of output is
`N passed, N failed, N skipped` over everything that ran; the exit status is 1 when a test failed, a shard
took half as long again as its budget, or a test file belongs to no shard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
TOLERANCE = 1.5
"""A shard fails when it takes so many times its budget; it is killed at twice that."""
OWN = "not timing"
"""Which tests of its paths a shard runs, unless it says otherwise."""
NO_TESTS = 5
"""Pytest's exit status when nothing was selected."""
MEMORY = Path("/dev/shm")
MEMORY_LEAST_GIB = 2.0
"""A shard writes to memory only where so much of it is free."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A run of pytest: where, which markers, how long."""

    name: str
    paths: tuple[str, ...]
    marker: str
    budget_s: float
    workers: int = 1
    leaves_out: tuple[str, ...] = ()
    in_memory: bool = False
    """Whether tests write to memory, where the machine offers it: waiting for a disk takes half the time of
    those with databases, and proves nothing while nobody pulls the plug."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one shard; `fault` says why it failed other than by failed tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    fault: str = ""


def read_shards(text: str) -> dict[str, Shard]:
    """The shards of a budget file by name, `fast` among them."""
    table = tomllib.loads(text)
    shards = {
        name: Shard(
            name,
            tuple(entry["paths"]),
            entry.get("marker", OWN),
            entry["budget_s"],
            entry.get("workers", 1),
        )
        for name, entry in table["shard"].items()
    }
    fast = table["fast"]
    shards["fast"] = Shard(
        "fast",
        tuple(fast["paths"]),
        "not slow and not timing",
        fast["budget_s"],
        fast["workers"],
        tuple(fast.get("leaves_out", ())),
        in_memory=True,
    )
    return shards


def homeless(shards: dict[str, Shard], files: list[str]) -> list[str]:
    """The test files that belong to no shard, or to two."""
    homes = [path for shard in shards.values() if shard.marker == OWN for path in shard.paths]
    return [file for file in files if sum(file.startswith(f"{home}/") for home in homes) != 1]


def verdict(shard: Shard, elapsed_s: float) -> str:
    """Empty, or why a shard that took `elapsed_s` fails its budget."""
    if elapsed_s <= shard.budget_s * TOLERANCE:
        return ""
    return f"took {elapsed_s:.0f} s; its budget in tests/budget.toml is {shard.budget_s:.0f} s"


def counts(report: Path) -> Result:
    """The totals of a JUnit report."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return Result(total - failed - skipped, failed, skipped)


@contextlib.contextmanager
def surroundings(shard: Shard) -> Iterator[dict[str, str]]:
    """The environment of a run. What Python compiles is kept, whatever the environment says: tests start
    hundreds of processes, and each would compile the product anew."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if not shard.in_memory or free_gib(MEMORY) < MEMORY_LEAST_GIB:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="sx-", dir=MEMORY) as folder:
        Path(folder).chmod(0o755)  # PostgreSQL and Redis do not run as root
        yield {**given, "TMPDIR": folder}


def free_gib(folder: Path) -> float:
    """What may be written below `folder`; 0 where there is no such folder, or we may not."""
    if not os.access(folder, os.W_OK):
        return 0.0
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize / 2**30


def run(shard: Shard) -> Result:
    """Runs one shard with its output on ours."""
    paths = [path for path in shard.paths if any((ROOT / path).rglob("test_*.py"))]
    if not paths:
        return Result()
    print(f"== {shard.name}: budget {shard.budget_s:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as reports, surroundings(shard) as environment:
        report = Path(reports, "report.xml")
        command = [sys.executable, "-m", "pytest", "-rs", "-m", shard.marker, f"--junitxml={report}", *paths]
        command += [f"--ignore={path}" for path in shard.leaves_out]
        folder = environment.get("TMPDIR", "")
        if folder.startswith(f"{MEMORY}/"):  # pytest's own names would leave sockets too few characters
            command.append(f"--basetemp={folder}/t")
        if shard.workers > 1:
            command += ["-n", str(shard.workers)]
        started = time.monotonic()
        try:
            status = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=shard.budget_s * TOLERANCE * 2,
            ).returncode
        except subprocess.TimeoutExpired:
            return Result(failed=1, fault=f"killed after {shard.budget_s * TOLERANCE * 2:.0f} s")
        elapsed_s = time.monotonic() - started
        result = counts(report) if report.exists() else Result()
    fault = verdict(shard, elapsed_s)
    if status not in (0, 1, NO_TESTS):
        fault = f"pytest ended with status {status}"
    print(f"== {shard.name}: {elapsed_s:.0f} s{', ' + fault if fault else ''}\n", flush=True)
    return dataclasses.replace(result, fault=fault)


def main(names: list[str]) -> int:
    """Runs the named shards; `all` is every one but `fast`."""
    shards = read_shards((TESTS / "budget.toml").read_text())
    wanted = [name for name in shards if name != "fast"] if names == ["all"] else names
    unknown = [name for name in wanted if name not in shards]
    if unknown or not wanted:
        print(f"unknown shard {unknown}; known: all, {', '.join(shards)}", file=sys.stderr)
        return 2
    results = {name: run(shards[name]) for name in wanted}
    faults = [f"{name}: {result.fault}" for name, result in results.items() if result.fault]
    files = sorted(str(file.relative_to(ROOT)) for file in TESTS.rglob("test_*.py"))
    faults += [f"{file} belongs to no shard, or to two" for file in homeless(shards, files)]
    for fault in faults:
        print(f"error: {fault}")
    passed, failed, skipped = (
        sum(getattr(result, key) for result in results.values()) for key in ("passed", "failed", "skipped")
    )
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or faults or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
