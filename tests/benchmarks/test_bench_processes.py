"""Ending a benchmark early: what it started ends with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, time
from pathlib import Path
from benchmarks.processes import Pinned, stop_cleanly_on_sigterm
stop_cleanly_on_sigterm()
child = Pinned("child", [sys.executable, "-c", "import time; time.sleep(60)"], 0, Path(sys.argv[1]) / "log")
child.start()
try:
    print(child.pid, flush=True)
    time.sleep(60)
finally:
    child.stop()
"""


def test_sigterm_stops_the_servers_too(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{child}").exists()
