"""What the benchmark ran on, and how busy its cores were with anything else."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

PAGE = 4096
FSYNC_SAMPLES = 200
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CoreTimes:
    """CPU seconds of one core since boot."""

    busy_s: float
    steal_s: float
    at_s: float


def fsync_ms(directory: Path) -> float:
    """Median time of an fsync after a 4 KiB append in `directory`, in milliseconds."""
    path = directory / f"fsync-{os.getpid()}"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    times: list[float] = []
    try:
        for _ in range(FSYNC_SAMPLES):
            os.write(handle, b"x" * PAGE)
            start = time.perf_counter()
            os.fsync(handle)
            times.append((time.perf_counter() - start) * 1e3)
    finally:
        os.close(handle)
        path.unlink()
    return median(times)


def core_times(core: int) -> CoreTimes:
    """Busy and stolen time of one core, from /proc/stat (10 ms resolution)."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
            busy = user + nice + system + irq + softirq
            return CoreTimes(busy / TICKS_PER_S, steal / TICKS_PER_S, time.monotonic())
    raise ValueError(f"this machine has no core {core}")


def cpu_model() -> str:
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return match.group(1) if match else platform.processor()


def first_line(*argv: str) -> str:
    """The first line that a program prints for its version, or "missing"."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return "missing"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "missing"


def package_version(python: Path, name: str) -> str:
    """Version of a distribution in another virtual environment."""
    code = f"from importlib.metadata import version; print(version({name!r}))"
    return first_line(str(python), "-c", code)


def own_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def describe(state: Path) -> dict[str, Any]:
    """The machine as every result file records it. `state` is where the ledger will write."""
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    commit = first_line("git", "rev-parse", "--short", "HEAD")
    dirty = first_line("git", "status", "--porcelain", "--untracked-files=no", "src") != "missing"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit + (" with uncommitted changes" if dirty else ""),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": first_line("nginx", "-v").removeprefix("nginx version: "),
        "wrk": first_line("wrk", "-v").split(" Copyright")[0],
        "uvloop": own_version("uvloop"),
        "httptools": own_version("httptools"),
        "fsync_ms": round(fsync_ms(state), 4),
    }
