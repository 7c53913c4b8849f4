"""A short run of each fuzz target (`fuzz/run.py`; `make fuzz-transport` is the long one)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "fuzz" / "run.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "options", "runs"),
    [
        ("server", (), 20_000),
        ("upstream", (), 20_000),
        ("server", ("--loop", "asyncio"), 1000),
        ("server", ("--loop", "uvloop"), 1000),
        ("server", ("--loop", "asyncio", "--tls"), 300),
        ("server", ("--loop", "uvloop", "--tls"), 300),
        ("upstream", ("--loop", "asyncio"), 1000),
        ("upstream", ("--loop", "uvloop"), 1000),
        ("upstream", ("--loop", "asyncio", "--tls"), 300),
        ("upstream", ("--loop", "uvloop", "--tls"), 300),
    ],
)
def test_short_fuzzing_finds_nothing(
    tmp_path: Path, target: str, options: tuple[str, ...], runs: int
) -> None:
    command = [
        sys.executable,
        str(RUN),
        target,
        *options,
        f"-runs={runs}",
        "-seed=1",
        f"-artifact_prefix={tmp_path}/",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    counted = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    assert counted is not None and int(counted[1]) >= runs
