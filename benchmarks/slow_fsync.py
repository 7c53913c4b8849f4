"""Runs a process on a disk whose every sync takes so much longer: `load/slow_fsync.c`, preloaded.

    python -m benchmarks.ledger --slow-fsync-ms 4

The real sync still happens. Linux with gcc and a C library that is linked dynamically.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.processes import BenchmarkError

SOURCE = Path(__file__).parent / "load" / "slow_fsync.c"


def slow_fsync_environment(folder: Path, delay_ms: float, count_file: Path | None = None) -> dict[str, str]:
    """Environment variables for a process whose syncs shall take `delay_ms` longer; the shim is compiled into
    `folder`. `count_file` gets one byte for each sync. Raises BenchmarkError with what gcc said."""
    library = folder / "slow_fsync.so"
    if not library.exists() or library.stat().st_mtime < SOURCE.stat().st_mtime:
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        command = ["gcc", *flags, "-o", str(library), str(SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(f"cannot compile {SOURCE}:\n{done.stderr}")
    environment = {"LD_PRELOAD": str(library), "SLOW_FSYNC_US": str(round(delay_ms * 1000))}
    return environment if count_file is None else {**environment, "SLOW_FSYNC_COUNT": str(count_file)}
